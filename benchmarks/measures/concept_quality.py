"""Do segments and concepts follow the parts of objects?"""

from __future__ import annotations

import torch
from sklearn.metrics import normalized_mutual_info_score
from torch import Tensor

from benchmarks.measures.formulas.columns import fill
from benchmarks.measures.formulas.labels import majority, part_centres, pixel_labels
from benchmarks.measures.formulas.places import concept_classes, find_places
from benchmarks.quality.measure import Answers, Column, Measure
from benchmarks.quality.method import UnavailableError

__all__ = ["MEASURES", "consistency"]

_SHARE = 0.8
_MIN_IMAGES = 4  # so that one image in four must not decide

_TEXT = """\
Every pixel has a label: the background, a part, or the rest of the object. *Purity of segments*:
share of an image's pixels whose label is the most frequent one of their segment; *parts found*:
the same among the pixels of parts alone, so that the background does not help; *NMI*: normalised
mutual information of segments and labels. Many small segments are pure by construction, hence
their number. *Of concepts*: the same for segments that are shared between images, with the
labels counted over all images: the area-weighted mean of max P(label | concept), as PIP-Net's
purity (Nauta et al., 2023). *Part consistency* (Huang et al., 2023): share of concepts that hit
one part in at least 80 % of the images of their class (or, without classes, that have the
concept) where the part is visible, four images at least; a hit is a part's centroid in a box of
72/224 of the image's side around the concept's place: the maximum of its map, or the inmost cell
of its segment."""


def consistency(hits: Tensor, counted: Tensor) -> Tensor:
    """Return the share of concepts that hit one part in 80 % of the images: a single value.

    Args:
        hits: Whether a concept hits a part in an image, boolean tensor (n, K, P).
        counted: Whether the image counts for the concept and shows the part, likewise.
    """
    total = counted.sum(0)  # (K, P)
    rates = (hits & counted).sum(0) / total
    enough = total >= _MIN_IMAGES
    is_known = enough.any(1)
    return ((rates >= _SHARE) & enough).any(1)[is_known].double().mean()


def _score(answers: Answers) -> dict[str, Tensor]:
    pixel_labels(answers.explained)  # says so where nothing is annotated
    scores = {
        "parts": _parts,
        "nmi": _nmi,
        "purity": _purity,
        "segments": _counts,
        "concept_parts": _concept_parts,
        "concept_purity": _concept_purity,
        "consistency": _consistency,
    }
    return fill(scores, answers, reason="gives neither segments nor concepts that images share")


def _parts(answers: Answers) -> Tensor:
    return _mean(_right(answers), pixel_labels(answers.explained)[1])


def _purity(answers: Answers) -> Tensor:
    return _mean(_right(answers))


def _nmi(answers: Answers) -> Tensor:
    pairs = zip(answers.pixel_segments, pixel_labels(answers.explained)[0], strict=True)
    shared = [normalized_mutual_info_score(y.flatten(), s.flatten()) for s, y in pairs]
    return torch.tensor(shared, dtype=torch.float64)


def _counts(answers: Answers) -> Tensor:
    return torch.tensor([float(len(s.unique())) for s in answers.segments])


def _concept_parts(answers: Answers) -> Tensor:
    return _mean(_right_concepts(answers), pixel_labels(answers.explained)[1])


def _concept_purity(answers: Answers) -> Tensor:
    return _mean(_right_concepts(answers))


def _right(answers: Answers) -> Tensor:
    """Return whether pixels (n, H, W) have the most frequent label of their segment."""
    labels, _ = pixel_labels(answers.explained)
    pairs = zip(answers.pixel_segments, labels, strict=True)
    return torch.stack([majority(s, y) == y for s, y in pairs])


def _right_concepts(answers: Answers) -> Tensor:
    """Return whether pixels (n, H, W) have the most frequent label of their concept."""
    if not answers.method.shares_concepts:
        raise UnavailableError("its segments are each image's own")
    labels, _ = pixel_labels(answers.explained)
    return majority(answers.pixel_segments, labels) == labels


def _consistency(answers: Answers) -> Tensor:
    parts = answers.explained.parts
    if parts is None:
        raise UnavailableError("the task has no parts")
    places, classes = find_places(answers), concept_classes(answers.method)
    counted = places.present
    if classes is not None:
        counted &= (classes < 0) | (classes == answers.explained.targets[:, None])
    visible = parts.any(3).any(2)
    return consistency(places.hits(part_centres(parts)), counted[..., None] & visible[:, None])


def _mean(right: Tensor, where: Tensor | None = None) -> Tensor:
    """Return the share of right pixels (n, H, W) of each image, NaN where none is asked for."""
    if where is None:
        return right.double().mean((1, 2))
    return (right & where).sum((1, 2)).double() / where.sum((1, 2))


MEASURES = (
    Measure(
        "concept_quality",
        "Segments, concepts and parts",
        {
            "parts": Column("parts found by segments"),
            "concept_parts": Column("parts found by concepts"),
            "consistency": Column("part consistency"),
            "nmi": Column("NMI"),
            "purity": Column("purity of segments"),
            "concept_purity": Column("purity of concepts"),
            "segments": Column("segments an image", "", percent=False),
        },
        _score,
        _TEXT,
    ),
)
