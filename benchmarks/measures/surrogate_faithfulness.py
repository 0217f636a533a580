"""Do a method's concepts or segments, added up, give the network's outputs for every class?"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import torch
from torch import Tensor

from benchmarks.measures.formulas.labels import majority, pixel_labels
from benchmarks.measures.formulas.perturbation import logits, perturbed_sample
from benchmarks.methods.systems.tap import Tap
from benchmarks.quality.measure import Answers, Column, Measure
from benchmarks.quality.method import OURS, ConceptMaps, UnavailableError
from benchmarks.quality.task import Sample, Task

__all__ = ["MEASURES", "added_up", "dealt_anew", "output_errors", "purity_gain"]

_TEXT = """\
SURF (Kumar et al., 2026): the explanation alone is made to predict the outputs of all classes, by
sums and nothing that is fitted. Here a class's output is the head's bias (of measured evidence,
what is left with everything removed) plus what the concepts are worth for it: importance times
mean activation, or, where a method says what a concept adds in this image, that. *Logits*: mean
absolute error; *probabilities*: half the sum of the absolute errors (earth mover's distance). An
empty explanation, the bias alone, stands beside. A ledger whose rows add up to the logit scores 0
because it adds up and for no other reason: **the same ledger over a random partition**, pixels
dealt anew to segments of the same sizes, stands in the next column and scores the same. So read
the purity with it: the share of pixels with the most frequent label (background, object, part) of
their segment, less that of the dealt segments, which is 0 for a random partition."""


def added_up(found: ConceptMaps) -> Tensor:
    """Return what concepts add to the explained class's output (N,), bias apart.

    Where the importance is the same in all images it is a class's, and is multiplied by the
    concepts' mean activations; else it is what each concept adds in that image.
    """
    worth = found.importance.double()
    if len(worth) > 1 and torch.allclose(worth, worth[:1].expand_as(worth)):
        worth = worth * found.maps.double().mean((2, 3))
    return worth.sum(1)


def output_errors(true: Tensor, given: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean absolute error of logits, and the half L1 distance of probabilities.

    Args:
        true: The network's logits (n, J).
        given: The explanation's (n, J).

    Returns:
        Two double tensors (n,).
    """
    x, y = true.double(), given.double()
    return (x - y).abs().mean(1), (x.softmax(1) - y.softmax(1)).abs().sum(1) / 2


def dealt_anew(segments: Tensor, seed: int) -> Tensor:
    """Return segments (n, h, w) of the same sizes whose pixels were drawn at random."""
    dice = torch.Generator().manual_seed(seed)
    flat = segments.flatten(1)
    order = torch.rand(flat.shape, generator=dice).argsort(1)
    return flat.gather(1, order).view_as(segments)


def purity_gain(segments: Tensor, labels: Tensor, seed: int) -> Tensor:
    """Return each image's purity less that of its segments dealt anew (n,)."""
    both = [_purity(s, labels) for s in (segments, dealt_anew(segments, seed))]
    return both[0] - both[1]


def _purity(segments: Tensor, labels: Tensor) -> Tensor:
    pairs = zip(segments, labels, strict=True)
    return torch.stack([(majority(s, y) == y).double().mean() for s, y in pairs])


@lru_cache(maxsize=4)
def _network(task: Task, sample: Sample, count: int) -> tuple[Tensor, Tensor]:
    """Return logits (n, J) and the head's bias (J,), once for all methods."""
    images = sample.inputs[:count]
    return logits(task, images).double(), Tap(task.model, images).bias.double().cpu()


def _score(answers: Answers) -> dict[str, Tensor]:
    some = perturbed_sample(answers)
    few = replace(answers, sample=some)
    true, bias = _network(answers.task, answers.sample, len(some))
    questions = [replace(few, sample=_for_class(some, c)) for c in range(len(bias))]
    columns = [_outputs(question) for question in questions]
    bases = torch.stack([_base(q, b) for q, b in zip(questions, bias, strict=True)], 1)
    logit, chance = output_errors(true, bases + torch.stack([c for c, _ in columns], 1))
    empty, _ = output_errors(true, bias.expand_as(true))
    scores = {"logits": logit, "probabilities": chance, "empty": empty}
    if all(dealt is not None for _, dealt in columns):
        dealt = torch.stack([d for _, d in columns if d is not None], 1)
        scores["dealt"] = output_errors(true, bases + dealt)[0]
    try:
        segments = few.pixel_segments
        scores["purity"] = purity_gain(segments, pixel_labels(some)[0], answers.seed)
    except UnavailableError:
        return scores
    return scores


def _for_class(sample: Sample, c: int) -> Sample:
    return replace(sample, targets=torch.full_like(sample.targets, c))


def _base(answers: Answers, bias: Tensor) -> Tensor:
    """Return what the class's outputs are without anything (n,): the method's, or the bias ()."""
    try:
        return answers.ask(answers.method.base).double()
    except UnavailableError:
        return bias.expand(len(answers.sample))


def _outputs(answers: Answers) -> tuple[Tensor, Tensor | None]:
    """Return what adds up for the class (n,), and for a ledger what does so when dealt anew."""
    try:
        return added_up(answers.concepts), None
    except UnavailableError:
        pass
    if answers.method.family != OURS:
        raise UnavailableError("gives neither concepts with an importance nor a ledger in logits")
    maps, dealt = answers.maps.double(), dealt_anew(answers.segments, answers.seed)
    rows = torch.zeros(len(maps), int(dealt.max()) + 1).double()
    rows.scatter_add_(1, dealt.flatten(1), maps.flatten(1))
    return maps.sum((1, 2)), rows.sum(1)


MEASURES = (
    Measure(
        "surrogate_faithfulness",
        "Outputs from concepts and ledgers (SURF)",
        {
            "logits": Column("error of the logits", better="low", percent=False),
            "dealt": Column("the same, random partition", better="", percent=False),
            "empty": Column("bias alone", better="", percent=False),
            "probabilities": Column("error of the probabilities", better="low", percent=False),
            "purity": Column("purity of segments above a random partition"),
        },
        _score,
        _TEXT,
    ),
)
