"""The page of the models."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from benchmarks.models.measure import Record
from benchmarks.page import join, table

__all__ = ["page"]

_HEADS = ("model", "map", "read at", "grid", "left over", "why not exact")
_KINDS = ("exact", "linearised", "refused", "not measured")
_ABOUT = """# Models

Which classifiers `LayerKMeansAttribution(model).explain(x)` explains with no argument, written by
`python -m benchmarks models`: classifiers of torchvision and the smallest models of each family of
timm, with random weights (those that start at zero drawn anew) and two small images of noise. The
command goes on where it stopped: what is not in the tables has not been tried yet.

*Exact*: the logits are affine in the map, so map and bias are the logit, to 1e-4 of the logits'
range. *Linearised*: they are not, and the map is gradient times map of the tail; "left over" is the
largest part of a logit, as a share of the logits' range, that neither map nor bias account for
([method](method.md)). With random weights that tells of the architecture, not of a trained model.
*Refused*: no map, and why."""


def page(records: Sequence[Record]) -> str:
    """Return the page."""
    return (
        join(
            [
                _ABOUT,
                _summary(records),
                *(_part(records, source) for source in ("torchvision", "timm")),
            ]
        )
        + "\n"
    )


def _summary(records: Sequence[Record]) -> str:
    counts = Counter((_source(record), record["kind"]) for record in records)
    lines = [
        [source, *(str(counts[source, kind]) for kind in _KINDS)]
        for source in ("torchvision", "timm")
    ]
    measured = [record for record in records if record["kind"] != "not measured"]
    mapped = sum(record["kind"] in ("exact", "linearised") for record in measured)
    share = f"{mapped} of {len(measured)} ({mapped / max(1, len(measured)):.1%}) give a map."
    return join([table(["", *_KINDS], lines, "--:"), share])


def _part(records: Sequence[Record], source: str) -> str:
    own = sorted((r for r in records if _source(r) == source), key=lambda record: record["name"])
    return join([f"## {source}", table(_HEADS, [_line(record) for record in own])])


def _line(record: Record) -> list[str]:
    left = record.get("left")
    grid = "x".join(map(str, record.get("grid", [])))
    why = _shortened(record.get("why") or "")
    return [
        record["name"].partition("/")[2],
        record["kind"],
        f"`{record['tap']}`" if "tap" in record else "",
        grid,
        "" if left is None else f"{left:.1%}",
        why,
    ]


def _source(record: Record) -> str:
    return str(record["name"].partition("/")[0])


def _shortened(reason: str) -> str:
    """Return what of a reason stands in a table."""
    plain = reason.split("was found, but ")[-1].replace("|", "/").replace("\n", " ")
    return plain if len(plain) <= 120 else f"{plain[:117]}..."
