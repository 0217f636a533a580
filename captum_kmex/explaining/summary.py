"""An explanation told in words: its headline, its sum, and its ledger as a table."""

from __future__ import annotations

from collections.abc import Sequence

from captum_kmex.classes import class_logits, class_of
from captum_kmex.explaining.ledger import LedgerRow
from captum_kmex.explaining.result import ExplanationData
from captum_kmex.text.class_names import ClassNames, class_name
from captum_kmex.text.counts import counted

__all__ = ["headline", "ledger_table", "numbers_of", "prototype_name", "summary"]

_MOST = 5  # images that a summary lists


def headline(
    explanation: ExplanationData, index: int, names: ClassNames | None
) -> tuple[str, list[str]]:
    """Return what is explained of an image: a template, and the names of classes in it."""
    owner = int(class_of(explanation.target, explanation.logits)[index])
    name = class_name(owner, names)
    if explanation.contrast is not None:
        other = class_name(int(explanation.contrast[index]), names)
        return f"{{}}, not {{}}: {float(explanation.output[index]):+.2f}", [name, other]
    share = float(class_logits(explanation.logits).softmax(1)[index, owner])
    return f"{{}} (p = {share:.2f})", [name]


def prototype_name(row: LedgerRow, names: ClassNames | None, prefix: str = "class ") -> str | None:
    """Return what a row's prototype is called, such as "cat #1"; ``None`` if there is none."""
    if row.class_index is None:
        return None
    return f"{class_name(row.class_index, names, prefix)} #{row.prototype_number}"


def numbers_of(rows: Sequence[LedgerRow], segments: Sequence[int]) -> list[int]:
    """Return the numbers that segments are shown by: their places in the ledger, from 1."""
    order = [row.segment for row in rows]
    return [order.index(segment) + 1 for segment in segments]


def ledger_table(
    explanation: ExplanationData, index: int, names: ClassNames | None
) -> list[dict[str, object]]:
    """Return an image's ledger as rows of columns; see ``Explanation.ledger_table``."""
    rows = explanation.ledger[index]
    table = [_row(number, row, names) for number, row in enumerate(rows, start=1)]
    if explanation.evidence != "measured":
        return table
    fewest = {"enough": explanation.enough, "needed": explanation.needed}
    for line, row in zip(table, rows, strict=True):
        line |= {
            "error": row.error,
            "is_clear": row.is_clear,
            "removed": row.removed,
            "kept": row.kept,
            "ties": tuple(numbers_of(rows, row.ties)),
        }
        for word, found in fewest.items():
            own = None if found is None else found[index]
            line[word] = None if own is None else row.segment in own
    return table


def _row(number: int, row: LedgerRow, names: ClassNames | None) -> dict[str, object]:
    owner = None if row.class_index is None else class_name(row.class_index, names)
    return {
        "number": number,
        "prototype": prototype_name(row, names),
        "class": owner,
        "area": row.area,
        "evidence": row.evidence,
        "segment": row.segment,
        "prototype_index": row.prototype,
    }


def summary(explanation: ExplanationData) -> list[str]:
    """Return a line about a batch, and one about each of its first images."""
    count, names = len(explanation), explanation.class_names
    lines = [f"{counted(count, 'image')}, {explanation.origin}, {explanation.evidence} evidence"]
    for i in range(min(count, _MOST)):
        template, found = headline(explanation, i, names)
        lines.append(f"{i}: {template.format(*found)}; {_sum(explanation, i)}")
    if count > _MOST:
        lines.append(f"and {count - _MOST} more")
    return lines


def _sum(explanation: ExplanationData, i: int) -> str:
    rows = explanation.ledger[i]
    base = "all removed" if explanation.evidence == "measured" else "bias"
    terms = [(base, float(explanation.bias[i]))]
    if explanation.not_linear is not None:
        terms.append(("not linear", float(explanation.not_linear[i])))
    terms.append((counted(len(rows), "segment"), sum(row.evidence for row in rows)))
    total = "logit" if explanation.contrast is None else "difference"
    told = " + ".join(f"{name} {value:.2f}" for name, value in terms)
    return f"{total} {float(explanation.output[i]):.2f} = {told}"
