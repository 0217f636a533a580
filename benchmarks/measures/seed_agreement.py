"""What another seed of the method changes."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

import torch
from torch import Tensor

from benchmarks.measures.formulas.agreement import map_correlation, matched_cosine, rand_index
from benchmarks.measures.formulas.columns import fill
from benchmarks.measures.formulas.embeddings import embed
from benchmarks.quality.measure import Answers, Column, Measure
from benchmarks.quality.method import Method, Prototypes, UnavailableError

__all__ = ["MEASURES"]

_STEP = 1000
_N_PROBES = 8
_REASON = "gives neither maps, segments nor prototypes that two seeds have in common"

_TEXT = """\
The method is fitted with two seeds. *Segments*: adjusted Rand index of the segments (1 is
equal, 0 is chance), whatever their numbers. *Maps*: Pearson correlation of the maps. *Prototypes*:
cosine of the prototypes after the best one-to-one pairing within each class; it is left out where
the seed changes the space as well. Methods that no seed changes agree by construction and are
not in the table."""


def _score(answers: Answers) -> dict[str, Tensor]:
    if not answers.method.seeded:
        raise UnavailableError("no seed changes it: agreement is 1 by construction")
    if answers.seed != answers.preset.seeds[0]:
        raise UnavailableError("is asked of the first seed alone")
    if not _is_comparable(answers):
        raise UnavailableError(_REASON)
    other = replace(answers, method=answers.refit(answers.seed + _STEP))
    return fill(
        {"segments": _segments, "maps": _maps, "prototypes": _prototypes},
        answers,
        other,
        reason=_REASON,
    )


def _is_comparable(answers: Answers) -> bool:
    """Whether there is something to compare, before the cost of a second fit."""
    method, one = answers.method, answers.sample.first(1)
    for question in (method.maps, method.segments):
        with suppress(UnavailableError):
            question(one.inputs, one.targets)
            return True
    with suppress(UnavailableError):
        method.prototypes()
        # in a space of its own, which another seed changes
        return type(method).embed is Method.embed
    return False


def _segments(answers: Answers, other: Answers) -> Tensor:
    return rand_index(answers.segments, other.segments)


def _maps(answers: Answers, other: Answers) -> Tensor:
    return map_correlation(answers.maps, other.maps)


def _prototypes(answers: Answers, other: Answers) -> Tensor:
    one, two = answers.method.prototypes(), other.method.prototypes()
    probes = answers.sample.inputs[:_N_PROBES]
    a, b = (embed(x.method, x.task, probes) for x in (answers, other))
    if a.shape != b.shape or not torch.allclose(a, b, rtol=1e-3, atol=1e-5):
        raise UnavailableError("the seed changes the space of the prototypes")
    return matched_cosine(
        *(Prototypes(p.vectors.detach().cpu(), p.classes.cpu()) for p in (one, two))
    )


MEASURES = (
    Measure(
        "seed_agreement",
        "Agreement between seeds",
        {
            "segments": Column("segments (ARI)", percent=False),
            "maps": Column("maps (correlation)", percent=False),
            "prototypes": Column("matched prototypes (cosine)", percent=False),
        },
        _score,
        _TEXT,
    ),
)
