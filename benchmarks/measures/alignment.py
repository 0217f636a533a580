"""Where prototypes point (Table 1 of Boubekki & Clemmensen, 2026), and how they cover a class."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.measures.formulas.embeddings import embed_test
from benchmarks.quality.measure import Answers, Column, Measure
from benchmarks.quality.method import Prototypes
from captum_kmex.alignment import AlignmentSums, rescaled

__all__ = ["MEASURES", "coverage"]

_TEXT = """\
Embeddings of the test images against the prototypes (Boubekki & Clemmensen, 2026, Table 1).
*Class cosine*: cosine with the closest prototype of the own class; *out cosine*: with the closest
one of each other class, averaged. *Coverage*: distance to the nearest prototype of the own class
over the mean distance of the class to its own mean; 1 is what the class mean reaches, k-means
with two or more prototypes is below 1 by construction. *Rescaled*: the same after every prototype
was given the mean length of its class's embeddings, for prototypes that have a direction but
no length, such as the head's columns. B4, B34 and B234 cluster pixels: their images are the mean
of the normalised rows that are clustered; all others use the pooled embedding."""


def coverage(rows: Tensor, labels: Tensor, prototypes: Prototypes) -> Tensor:
    """Return each image's distance to its class's nearest prototype over the class's spread.

    Args:
        rows: Embeddings (M, D).
        labels: Their classes (M,).
        prototypes: The prototypes; images of a class that has none get NaN.
    """
    found = rows.new_full((len(rows),), torch.nan)
    for c in labels.unique():
        mine, own = labels == c, prototypes.vectors[prototypes.classes == c]
        if len(own):
            spread = (rows[mine] - rows[mine].mean(0)).norm(dim=1).mean()
            found[mine] = torch.cdist(rows[mine], own.to(rows)).amin(1) / spread
    return found


def _score(answers: Answers) -> dict[str, Tensor]:
    """Score the test images: one value for each."""
    found = answers.method.prototypes()
    prototypes = Prototypes(found.vectors.detach().cpu(), found.classes.cpu())
    rows, labels = embed_test(answers.method, answers.task)
    sums = AlignmentSums(prototypes.vectors, prototypes.classes, answers.task.n_classes)
    own, others = sums.cosines(rows, labels)
    longer = rescaled(prototypes.vectors, prototypes.classes, rows, labels)
    return {
        "class": own,
        "out": others,
        "coverage": coverage(rows, labels, prototypes),
        "rescaled": coverage(rows, labels, Prototypes(longer, prototypes.classes)),
    }


MEASURES = (
    Measure(
        "alignment",
        "Alignment of prototypes",
        {
            "class": Column("class cosine", percent=False),
            "out": Column("out cosine", "low", percent=False),
            "coverage": Column("coverage", "low", percent=False),
            "rescaled": Column("coverage, rescaled", "low", percent=False),
        },
        _score,
        _TEXT,
    ),
)
