"""Sizes as a person reads them."""


def readable(size_bytes: int) -> str:
    """Return a size in the unit that fits, in powers of 1000: `512 B`, `1.4 kB`, `158 kB`, `97.5 MB`, `3.0 GB`."""
    if size_bytes < 1000:
        return f"{size_bytes} B"
    for unit, factor in (("kB", 1e3), ("MB", 1e6), ("GB", 1e9)):
        size = size_bytes / factor
        if size < 999.5 or unit == "GB":
            break
    return f"{size:.1f} {unit}" if size < 99.95 else f"{size:,.0f} {unit}"
