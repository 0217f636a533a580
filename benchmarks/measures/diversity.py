"""Are all prototypes used, and do they differ?"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor
from torch.nn.functional import normalize
from torch.utils.data import DataLoader

from benchmarks.measures.formulas.columns import fill
from benchmarks.measures.formulas.embeddings import embed_test
from benchmarks.measures.formulas.labels import pixel_labels
from benchmarks.measures.formulas.places import Places, concept_classes, find_places
from benchmarks.quality.measure import Answers, Column, Measure
from benchmarks.quality.method import Prototypes, UnavailableError

__all__ = ["MEASURES", "distinctiveness", "label_entropy", "log_volume", "used_concepts"]

_FEW_PASSES = 10  # a slower method's explained images must do
_N_TEST = 500

_TEXT = f"""\
*Used*: share of prototypes that are the nearest one of some test image, or of some pixel of
{_N_TEST} test images where the prototypes are of pixels. k-means uses all on the training images
by construction; on test images fewer, if a small cluster meets none of them. *Log-volume*: half
the log-determinant of the Gram matrix of a class's prototypes, each of length 1 (Celis et al.,
2018), over their number, averaged over classes: 0 if orthogonal, lower the more alike they are;
more prototypes lower it too. It is minus infinity, and left out, where two of a class are the
same, or more than the space has dimensions. *Labels*: entropy of the labels
(background, rest of the object, each part) at the prototypes' places, over that of equal shares.
*Distinctiveness*: one minus the mean IoU of the boxes of two concepts in the same image (boxes
and places as for part consistency)."""


def log_volume(prototypes: Prototypes) -> Tensor:
    """Return half the log-determinant of the unit prototypes' Gram over their number: ().

    It is averaged over the classes with several prototypes, and NaN if there is none. Where
    prototypes depend on each other linearly it is minus infinity.
    """
    found = []
    for c in prototypes.classes.unique():
        own = normalize(prototypes.vectors[prototypes.classes == c].double(), dim=1)
        if len(own) > 1:
            found.append(torch.linalg.slogdet(own @ own.T).logabsdet / (2 * len(own)))
    return torch.stack(found).mean() if found else torch.tensor(torch.nan)


def used_concepts(segments: Iterable[Tensor], count: int) -> Tensor:
    """Return the share of concepts that win a pixel in some image: ().

    Args:
        segments: Batches of segments (n, h, w), numbered alike in all images.
        count: Number of concepts.
    """
    return torch.tensor(len(torch.cat([s.unique() for s in segments]).unique()) / count)


def label_entropy(places: Places, labels: Tensor, n_labels: int) -> Tensor:
    """Return the normalised entropy of what concepts are seen on: ().

    Args:
        places: Where they are.
        labels: Label of each pixel (n, H, W).
        n_labels: Number of labels.
    """
    found = []
    for k in range(places.centres.shape[1]):
        images = places.present[:, k].nonzero().squeeze(1)
        if len(images):
            y, x = places.centres[images, k].round().long().clamp_min(0).T
            seen = labels[
                images, y.clamp_max(labels.shape[1] - 1), x.clamp_max(labels.shape[2] - 1)
            ]
            found.append(torch.bincount(seen, minlength=n_labels).argmax())
    shares = torch.bincount(torch.stack(found), minlength=n_labels) / len(found)
    entropy: Tensor = torch.special.entr(shares).sum()
    return entropy / math.log(n_labels)


def distinctiveness(places: Places) -> Tensor:
    """Return one minus the mean IoU of each image's pairs of boxes (n,), NaN without a pair."""
    overlaps = places.overlaps()
    above = torch.ones(overlaps.shape[1:]).triu(1).bool()
    return 1 - overlaps[:, above].nanmean(1)


def _score(answers: Answers) -> dict[str, Tensor]:
    return fill(
        {"used": _used, "volume": _volume, "labels": _labels, "distinct": _distinct},
        answers,
        reason="has neither prototypes nor concepts that images share",
    )


def _used(answers: Answers) -> Tensor:
    method, task = answers.method, answers.task
    if method.shares_concepts:
        classes = concept_classes(method)
        count = answers.concepts.maps.shape[1] if classes is None else len(classes)
        return used_concepts(_test_segments(answers), count)
    vectors = method.prototypes().vectors.detach()
    rows, _ = embed_test(method, task)
    return used_concepts([torch.cdist(rows, vectors.to(rows)).argmin(1)], len(vectors))


def _test_segments(answers: Answers) -> Iterator[Tensor]:
    method, task = answers.method, answers.task
    if task.test is None or method.passes > _FEW_PASSES:
        yield answers.segments
        return
    for number, (images, *_) in enumerate(DataLoader(task.test, 50)):
        if number * 50 >= _N_TEST:
            return
        yield method.segments(images, task.predicted(images)).cpu()


def _volume(answers: Answers) -> Tensor:
    found = answers.method.prototypes()
    return log_volume(Prototypes(found.vectors.detach().cpu(), found.classes.cpu()))


def _labels(answers: Answers) -> Tensor:
    if answers.explained.parts is None:
        raise UnavailableError("the task has no parts")
    labels, _ = pixel_labels(answers.explained)
    return label_entropy(find_places(answers), labels, 2 + answers.explained.parts.shape[1])


def _distinct(answers: Answers) -> Tensor:
    return distinctiveness(find_places(answers))


MEASURES = (
    Measure(
        "diversity",
        "Use and diversity of prototypes",
        {
            "used": Column("used on test images"),
            "volume": Column("log-volume a prototype", percent=False),
            "labels": Column("diversity of labels"),
            "distinct": Column("distinctiveness"),
        },
        _score,
        _TEXT,
    ),
)
