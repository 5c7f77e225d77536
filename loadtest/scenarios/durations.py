"""Say how long something takes, in the two largest units."""

_UNITS = (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1))


def describe_seconds(seconds: float) -> str:
    """Return a duration as people say it: `0.3 s`, `55 s`, `1 h 2 min`; 59.6 s is `1 min`."""
    if seconds < 10:
        return f"{seconds:.2g} s"
    left = round(seconds)
    parts = []
    for unit, size in _UNITS:
        count, left = divmod(left, size)
        parts.append((count, unit))
    while len(parts) > 1 and not parts[0][0]:
        del parts[0]
    return " ".join(f"{count:,} {unit}" for count, unit in parts[:2] if count)
