"""Draw a comparison: throughput and p99 of each stage, with their intervals."""

import warnings
from pathlib import Path

from loadtest.errors import SettingsError, reason
from loadtest.printable import printable
from loadtest.report.compare.matching import Comparison
from loadtest.report.compare.text import TITLES
from loadtest.report.intervals import Estimate

_LABEL_LENGTH, _NAME_LENGTH = 60, 20
_MOST_NAMES = 12
_PANELS = {"throughput_rows_per_s": 1, "p99_us": 1000}


def draw(comparison: Comparison, path: Path) -> None:
    """Draw throughput and p99 with error bars, in the format that the file's name ends with.

    Raises:
        SettingsError: The picture cannot be written.
    """
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(11, 4.5), layout="constrained")
    panels = drawing.subplots(1, 2)
    names = [_short(row.name, _NAME_LENGTH) for row in comparison.rows]
    shown = range(0, len(names), -(-len(names) // _MOST_NAMES))
    for panel, (figure, scale) in zip(panels, _PANELS.items(), strict=True):
        for side, labels in enumerate(comparison.labels):
            sides = [(row.changes[figure].first, row.changes[figure].second)[side] for row in comparison.rows]
            known = [(place, one) for place, one in enumerate(sides) if one is not None]
            panel.errorbar(
                [place + (side - 0.5) * 0.15 for place, _ in known],
                [one.value / scale for _, one in known],
                yerr=[[_margin(one, below=below) / scale for _, one in known] for below in (True, False)],
                fmt="os"[side],
                capsize=3,
                label=f"{'AB'[side]} = {_short(', '.join(labels), _LABEL_LENGTH)}",
            )
        panel.set(title=TITLES[figure], xlim=(-0.5, len(names) - 0.5), ylim=(0, None))
        panel.set_xticks([*shown], [names[place] for place in shown], rotation=30, ha="right", parse_math=False)
        panel.grid(alpha=0.3)
    for text in drawing.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center").get_texts():
        text.set_parse_math(False)  # a path may contain dollar signs
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph")  # a name may have letters that the font lacks
            drawing.savefig(path)
    except (OSError, ValueError) as error:
        fix = "give a file name that ends in .png or .svg, in a directory you can write to"
        raise SettingsError(path, f"the picture cannot be written: {reason(error)}", fix) from error


def _margin(one: Estimate, *, below: bool) -> float:
    interval = one.interval
    if interval is None:
        return 0.0
    return one.value - interval[0] if below else interval[1] - one.value


def _short(label: str, length: int) -> str:
    """Return the end of a long label; the drawing has no room for all of it."""
    shown = printable(label)
    return shown if len(shown) <= length else f"…{shown[-length:]}"
