"""The report's overview, fit for JSON: scores, usage, confusable prototypes, provenance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from captum_kmex._version import __version__
from captum_kmex.bank.prototype_bank import Codebook, PrototypeBank
from captum_kmex.report.prototypes import Neighbours, group_of, purity
from captum_kmex.report.subject import Subject
from captum_kmex.report.tally import Tally

__all__ = ["describe_depths", "overview_scores", "provenance"]

_PAIRS = 6


def overview_scores(tally: Tally) -> dict[str, object]:
    """Return the model's accuracy, overall and by class, and every image's verdicts."""
    label, prediction = (
        torch.tensor(values) for values in (tally.verdicts.label, tally.verdicts.prediction)
    )
    known = label >= 0
    by_class = {
        c: [int((label == c).sum()), int(((label == c) & (prediction == c)).sum())]
        for c in label[known].unique().tolist()
    }
    return {
        "labelled": int(known.sum()),
        "accuracy": _share(prediction[known] == label[known]),
        "byClass": by_class,
        "verdicts": vars(tally.verdicts),
    }


def describe_depths(
    layers: Sequence[str], n_depths: int, bank: PrototypeBank | None, tally: Tally
) -> list[dict[str, object]]:
    """Return each depth's layers and, after a fit, how its prototypes do on the images."""
    depths: list[dict[str, object]] = []
    for depth in range(min(len(layers), n_depths)):
        entry: dict[str, object] = {"layers": list(layers[depth:])}
        if bank is not None:
            entry |= _depth_scores(bank.codebooks[depth], tally, depth)
        depths.append(entry)
    return depths


def _depth_scores(book: Codebook, tally: Tally, depth: int) -> dict[str, object]:
    label, prediction, vote = (
        torch.tensor(values)
        for values in (
            tally.verdicts.label,
            tally.verdicts.prediction,
            tally.verdicts.votes[depth],
        )
    )
    won, known, blank = tally.won[depth], label >= 0, tally.is_blank(depth)
    pixels = won.sum(1).double()
    return {
        "prototypes": len(won),
        "used": int((pixels > 0).sum()),
        "accuracy": _share(vote[known] == label[known]),
        "fidelity": _share(vote == prediction),
        "purity": float((purity(won, book).nan_to_num() * pixels).sum() / pixels.sum()),
        "owner": group_of(book).tolist(),
        "blank": int(blank.sum()),
        "near": _near_pairs(book, blank),
        "traded": _traded_pairs(won.masked_fill(blank[:, None], 0), book),
    }


def _near_pairs(book: Codebook, blank: Tensor) -> list[list[float]]:
    """Return pairs of prototypes of different classes, nearest first, and their distances.

    Those of blank ground are alike in all classes, and are left out.
    """
    near = Neighbours.of(book)
    pairs: dict[tuple[int, int], float] = {}
    for k in near.distance.argsort().tolist():
        other = int(near.index[k])
        if blank[k] or blank[other]:
            continue
        if len(pairs) < _PAIRS and near.distance[k].isfinite():
            pairs.setdefault((min(k, other), max(k, other)), round(float(near.distance[k]), 4))
    return [[*pair, distance] for pair, distance in pairs.items()]


def _traded_pairs(won: Tensor, book: Codebook) -> list[list[float]]:
    """Return pairs of classes that win most of each other's pixels.

    Each is two classes, the prototype of either that wins most in the other's images (-1 where
    none does), and the share of both classes' pixels that changes sides.
    """
    if book.is_agnostic:
        return []
    groups, n_classes = group_of(book), won.shape[1]
    lost = torch.zeros(n_classes, n_classes, dtype=torch.int64).index_add_(0, groups, won)
    pixels = won.sum(0)
    both = (lost + lost.T).double() / (pixels[:, None] + pixels).clamp_min(1)
    both = both.triu(1).flatten()
    pairs: list[list[float]] = []
    for place in both.argsort(descending=True)[:_PAIRS].tolist():
        a, b = divmod(place, n_classes)
        if both[place] > 0:
            strongest = _strongest(won[:, b], groups == a), _strongest(won[:, a], groups == b)
            pairs.append([a, b, *strongest, round(float(both[place]), 4)])
    return pairs


def _strongest(pixels: Tensor, is_member: Tensor) -> int:
    """Return the member with most pixels; -1 where it has none."""
    most, index = torch.where(is_member, pixels, 0).max(0)
    return int(index) if most > 0 else -1


def provenance(subject: Subject, evidence: str) -> list[list[str]]:
    """Return where the numbers come from, as pairs of a name and a text."""
    others = [["methods", ", ".join(subject.methods)]] if subject.methods else []
    versions = ["versions", f"captum_kmex {__version__}, torch {torch.__version__}"]
    attribution = subject.main
    if attribution is None:
        return [*others, versions]
    lines = [["layers", ", ".join(attribution.layer_names)], ["evidence", evidence], *others]
    if not attribution.is_fitted:
        return [
            *lines,
            ["clusters", f"{attribution.n_clusters} an image, seed {attribution.seed}"],
            versions,
        ]
    bank = attribution.bank_
    about: Mapping[str, object] = bank.provenance
    seen, kept = (_total(about.get(name)) for name in ("rows_seen", "rows_kept"))
    lines += [
        ["fitted on", f"{about.get('n_images', '?')} images, {seen} rows seen, {kept} kept"],
        ["vote", str(attribution.vote)],
        ["block weights", ", ".join(f"{weight:.4g}" for weight in bank.weights)],
    ]
    lines += [[name, _text(about[key])] for name, key in _FIELDS.items() if key in about]
    return [*lines, ["model fingerprint", bank.fingerprint.weights[:16]]]


_FIELDS = {"fit": "options", "versions": "versions"}


def _total(rows: object) -> str:
    return f"{sum(map(int, rows)):,}" if isinstance(rows, Sequence) else "?"


def _text(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {part}" for key, part in value.items())
    return str(value)


def _share(hits: Tensor) -> float | None:
    return float(hits.double().mean()) if len(hits) else None
