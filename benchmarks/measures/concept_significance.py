"""Whether concepts matter to their class more than random images do, by TCAV's own test."""

from __future__ import annotations

from torch import Tensor

from benchmarks.methods.systems.concept_scores import ConceptTested
from benchmarks.quality.measure import Answers, Column, Measure
from benchmarks.quality.method import UnavailableError

__all__ = ["MEASURES"]

_ALPHA = 0.05


def _score(answers: Answers) -> dict[str, Tensor]:
    """Score the concepts: one value for each."""
    if not isinstance(answers.method, ConceptTested):
        raise UnavailableError("its concepts are not tested against chance")
    p, signs, chance = answers.method.significance()
    if not len(p):
        raise UnavailableError("found no concepts")
    significant = p < _ALPHA
    return {
        "significant": significant.double(),
        "corrected": (p < _ALPHA / len(p)).double(),
        "positive": (significant & (signs > chance)).double(),
        "score": signs.double(),
    }


MEASURES = (
    Measure(
        "concept_significance",
        "Concepts that TCAV calls significant",
        {
            "significant": Column("significant"),
            "corrected": Column("after Bonferroni"),
            "positive": Column("significant and for the class"),
            "score": Column("mean TCAV score", better=""),
        },
        _score,
        "Each concept is tested for the class it comes from: its TCAV scores against eight random "
        "sets, and those of random sets against each other, two-sided t-test at .05 (Kim et al., "
        "2018). The values are by concept, not by image. The eight scores of a concept share its "
        "images, so the test is too ready to reject: read every line against that of random "
        "patches, which shows how often chance passes.",
    ),
)
