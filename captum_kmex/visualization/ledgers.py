"""The ledger as a chart: from the bias or the baseline, segment by segment, to the logit."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from captum_kmex.arguments import checked
from captum_kmex.explaining.ledger import LedgerRow
from captum_kmex.explaining.result import ExplanationData
from captum_kmex.explaining.summary import numbers_of
from captum_kmex.text.class_names import ClassNames, class_name
from captum_kmex.visualization.colors import LEADING, NEGATIVE, POSITIVE, TOTAL, segment_color
from captum_kmex.visualization.lettering import PLAIN, column_width, fitted

__all__ = ["draw_ledger", "fewest_segments"]

_MOST_RANKS = 8  # told below the ledger
_PALE = 0.35
_SIZE = 9  # of the labels' letters, in points
_LABELS = 0.42  # of the ledger's width, that the labels take at most


@checked
def draw_ledger(
    rows: Sequence[LedgerRow],
    bias: float,
    output: float,
    ax: Axes,
    class_names: ClassNames | None = None,
    total: str = "logit",
    not_linear: float | None = None,
    base: str = "bias",
) -> None:
    """Draw the account: from the bias, segment by segment, to the logit.

    Measured evidence has its standard deviation as a whisker; a row that cannot be told from none
    is pale.

    Args:
        rows: The image's ledger.
        bias: Where the bars begin.
        output: The logit, where they end.
        ax: Where to draw.
        class_names: Names of the prototypes' classes.
        total: What the bars end at.
        not_linear: What a linearisation leaves over, a bar of its own after the bias.
        base: What the bars begin with.
    """
    n_shown = LEADING if len(rows) > LEADING + 1 else len(rows)
    lines = _lines(rows, n_shown, class_names, _LABELS * column_width(ax))
    before = [(base, bias)] + ([] if not_linear is None else [("not linear", not_linear)])
    labels = [*(label for label, _ in [*before, *lines]), total]
    values = [*(value for _, value in [*before, *lines]), output]
    bars = _draw_bars(values, ax)
    _draw_errors(rows[:n_shown], bars[len(before) - 1 :], ax)
    ax.set_yticks(range(len(labels)), labels, fontsize=_SIZE, **PLAIN)
    for i, tick in enumerate(ax.get_yticklabels()[len(before) : n_shown + len(before)]):
        tick.set_bbox({"fc": (*segment_color(i), 0.45), "ec": "none", "pad": 1.2})
    low, high = ax.get_xlim()
    ax.set_xlim(low - 0.02 * (high - low), high + 0.22 * (high - low))
    digits = 2 if max(map(abs, values)) >= 1 else 3
    for y, value in enumerate(values):
        ax.text(1.0, y, f"{value:+.{digits}f}", transform=ax.get_yaxis_transform(), fontsize=_SIZE,
                ha="right", va="center")  # fmt: skip
    ax.axvline(0, color="black", lw=0.6)
    ax.invert_yaxis()
    ax.tick_params(axis="x", labelsize=_SIZE)
    ax.tick_params(axis="y", length=0)
    ax.spines[["top", "right", "left"]].set_visible(False)


def fewest_segments(explanation: ExplanationData, index: int) -> str:
    """Return the fewest segments that keep the class, and that change it, by their ranks."""
    if explanation.enough is None:
        return ""
    rows = explanation.ledger[index]
    found = {
        "enough": explanation.sufficient(index),
        "needed": explanation.necessary(index),
    }
    ranks = {
        word: " ".join(map(str, numbers_of(rows, segments)))
        for word, segments in found.items()
        if segments is not None and len(segments) <= _MOST_RANKS
    }
    return " · ".join(f"{word}: {numbers}" for word, numbers in ranks.items())


def _draw_errors(rows: Sequence[LedgerRow], bars: Sequence[Rectangle], ax: Axes) -> None:
    """Add what is not known of measured evidence to the bars of the leading rows."""
    for row, bar in zip(rows, bars, strict=False):  # the others together have no error
        if row.error is not None:
            end, middle = bar.get_x() + bar.get_width(), bar.get_y() + bar.get_height() / 2
            ax.errorbar(end, middle, xerr=row.error, color="#333333", elinewidth=0.8, capsize=1.5)
            bar.set_alpha(1.0 if row.is_clear else _PALE)


def _draw_bars(values: Sequence[float], ax: Axes) -> list[Rectangle]:
    """Draw the first and last value from zero, the others each where the one before ended.

    Returns:
        The bars of those between.
    """
    level = values[0]
    bars: list[Rectangle] = []
    ax.barh(0, level, color=TOTAL, height=0.7)
    for y, evidence in enumerate(values[1:-1], start=1):
        color = POSITIVE if evidence >= 0 else NEGATIVE
        bars += ax.barh(y, evidence, left=level, color=color, height=0.7)
        ax.plot([level, level], [y - 1.35, y + 0.35], color="#999999", lw=0.6)
        level += evidence
    last = len(values) - 1
    ax.plot([level, level], [last - 1.35, last + 0.35], color="#999999", lw=0.6)
    ax.barh(last, values[-1], color=TOTAL, height=0.7)
    return bars


def _lines(
    rows: Sequence[LedgerRow], n_shown: int, class_names: ClassNames | None, room: float
) -> list[tuple[str, float]]:
    """Return label and evidence of the leading rows, and of all others together."""
    lines = [
        (_label(i, row, class_names, room), row.evidence) for i, row in enumerate(rows[:n_shown])
    ]
    others = rows[n_shown:]
    if others:
        area = sum(row.area for row in others)
        lines.append((f"{len(others)} others · {area:.0%}", sum(row.evidence for row in others)))
    return lines


def _label(rank: int, row: LedgerRow, class_names: ClassNames | None, room: float) -> str:
    if row.class_index is None:
        return f"{rank + 1} · {row.area:.0%}"
    owner, number = class_name(row.class_index, class_names, ""), row.prototype_number
    return fitted(f"{rank + 1} · {{}} #{number} · {row.area:.0%}", [owner], room, _SIZE)
