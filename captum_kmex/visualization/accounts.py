"""What stands beside the maps of an explanation, of signals, pictures and volumes alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from matplotlib.axes import Axes
from matplotlib.gridspec import SubplotSpec

from captum_kmex.explaining.ledger import LedgerRow, Patch
from captum_kmex.explaining.result import ExplanationData
from captum_kmex.explaining.summary import headline
from captum_kmex.text.class_names import ClassNames, class_name
from captum_kmex.text.counts import counted
from captum_kmex.visualization.colors import Color, segment_color
from captum_kmex.visualization.ledgers import draw_ledger, fewest_segments
from captum_kmex.visualization.lettering import PLAIN, column_width, fitted
from captum_kmex.visualization.pictures import Canvas

__all__ = [
    "SCALE",
    "SIZE",
    "TITLE",
    "draw_account",
    "draw_patches",
    "patched_rows",
    "write_evidence_title",
    "write_headline",
    "write_segment_title",
]

TITLE = 0.87  # of a column's width, beside which the ledger's labels need theirs
SIZE = 9.5  # of letters, in points
SCALE = "logit, if all cells were so"
_PATCHED = 4  # leading segments whose nearest training patches are drawn


def draw_account(
    explanation: ExplanationData, index: int, ax: Axes, class_names: ClassNames | None
) -> None:
    """Draw the ledger of an image, and the fewest segments below it if they were measured."""
    bias, output = float(explanation.bias[index]), float(explanation.output[index])
    total = "logit" if explanation.contrast is None else "difference"
    measured = explanation.evidence == "measured"
    base = "all removed" if measured else "bias"
    left = None if explanation.not_linear is None else float(explanation.not_linear[index])
    draw_ledger(explanation.ledger[index], bias, output, ax, class_names, total, left, base)
    r2 = explanation.surrogate_r2
    surrogate = "" if r2 is None else f" (of a surrogate, R² = {r2:.2f})"
    surrogate = surrogate if left is None else ", linearised"
    ax.set_title(f"ledger: {base} + segments = {total}{surrogate}", fontsize=SIZE)
    ax.set_xlabel(fewest_segments(explanation, index), fontsize=9)


def write_headline(
    explanation: ExplanationData, index: int, class_names: ClassNames | None, ax: Axes
) -> None:
    """Write what is explained above a picture."""
    template, names = headline(explanation, index, class_names)
    ax.set_title(fitted(template, names, TITLE * column_width(ax), SIZE), fontsize=SIZE, **PLAIN)


def write_segment_title(explanation: ExplanationData, index: int, ax: Axes) -> None:
    """Write above segments how many there are, and below them what they come from."""
    restricted = ", own prototypes only" if explanation.restricted else ""
    ax.set_title(counted(len(explanation.ledger[index]), "segment") + restricted, fontsize=SIZE)
    origin = fitted("{}", [explanation.origin], TITLE * column_width(ax), 9)
    ax.set_xlabel(origin, fontsize=9, **PLAIN)


def write_evidence_title(
    explanation: ExplanationData, class_names: ClassNames | None, ax: Axes, is_signed: bool
) -> None:
    """Write above a map what its colours mean."""
    title = "red for, blue against" if is_signed else "evidence, all of it for"
    if explanation.logits.shape[1] == 1:
        names = [class_name(c, class_names) for c in (1, 0)]
        room = TITLE * column_width(ax)
        title = fitted("red: {}, blue: {}", names, room, SIZE)
    ax.set_title(title, fontsize=SIZE, **PLAIN)


def draw_patches(
    figure: Canvas,
    spec: SubplotSpec,
    patched: Sequence[LedgerRow],
    rows: Sequence[LedgerRow],
    dataset: Sequence[object],
    draw: Callable[[Patch, Sequence[object], Color, Axes], None],
) -> list[Axes]:
    """Draw up to three nearest training patches of each of the leading segments.

    Args:
        figure: Where to draw.
        spec: The place in it.
        patched: What ``patched_rows`` returned.
        rows: The ledger, whose order gives numbers and colours.
        dataset: The training set of the fit.
        draw: Draws one patch in a colour: of a signal, a picture or a volume.
    """
    cells = spec.subgridspec(1, 3 * _PATCHED)
    axes = []
    for i, row in enumerate(patched):
        rank = rows.index(row)
        for j, patch in enumerate(row.representatives[:3]):
            ax = figure.add_subplot(cells[0, 3 * i + j])
            draw(patch, dataset, segment_color(rank), ax)
            ax.set_title(f"{rank + 1}: d={patch.distance:.2f}", fontsize=9)
            axes.append(ax)
    return axes


def patched_rows(explanation: ExplanationData, index: int) -> list[LedgerRow]:
    """Return the leading rows of an image that have training patches."""
    return [row for row in explanation.ledger[index][:_PATCHED] if row.representatives]
