"""TCAV by Captum: scores of concepts for classes, and whether chance explains them."""

from __future__ import annotations

import tempfile
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any
from uuid import uuid4

import numpy as np
import torch
from captum.concept import TCAV, Classifier, Concept
from numpy.typing import NDArray
from scipy.stats import ttest_ind_from_stats
from sklearn.exceptions import ConvergenceWarning
from sklearn.svm import SVC
from torch import Tensor, nn
from torch.utils.data import DataLoader

__all__ = ["ConceptScores", "ConceptTested", "p_values", "score_concepts"]

_ALPHA = 0.01
_MAX_ITER = 20_000  # most problems take dozens; of some with equal images libsvm finds no end


@dataclass(frozen=True)
class ConceptScores:
    """TCAV scores of K concepts, each for the class that it comes from.

    Attributes:
        sign_count: Share of the class's images whose logit grows towards the concept, mean over
            the controls, float tensor (K,).
        chance: The same of random images against random images, (K,).
        p_values: Of a two-sided t-test of the controls' sign counts against those of random
            against random images, (K,).
    """

    sign_count: Tensor
    chance: Tensor
    p_values: Tensor


class ConceptTested(ABC):
    """A method whose concepts were tested against chance."""

    @abstractmethod
    def significance(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return by concept, for its own class: p-value, sign count, that of chance; (K,) each."""


class _Hinge(Classifier):  # type: ignore[misc]  # captum has no types
    """The problem of Captum's own classifier (hinge loss, alpha .01), solved and not sampled."""

    def __init__(self) -> None:
        pass

    def train_and_eval(
        self, dataloader: Iterable[tuple[Tensor, Tensor]], **options: Any
    ) -> dict[str, Any]:
        inputs, labels = zip(*dataloader, strict=True)
        x, y = torch.cat(inputs).numpy(), torch.cat(labels).numpy()
        model = SVC(kernel="linear", C=1 / (_ALPHA * len(y)), max_iter=_MAX_ITER)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            self._fitted = model.fit(x, y)
        return {}

    def weights(self) -> Tensor:
        normal = torch.tensor(self._fitted.coef_[0]).float()
        return torch.stack([-normal, normal])

    def classes(self) -> list[int]:
        return [int(c) for c in self._fitted.classes_]


def score_concepts(
    model: nn.Module,
    layer: str,
    examples: Sequence[Tensor],
    classes: Sequence[int],
    controls: Sequence[Tensor],
    images: Sequence[Tensor],
) -> ConceptScores:
    """Score each concept for its class with ``captum.concept.TCAV``.

    Each concept is told from each of R sets of random images, which gives R scores; each random
    set is told from the next, which gives R scores of chance (Kim et al., 2018, section 3.3).
    Vectors live in a folder of this call's own, which is then deleted.

    Args:
        model: The network.
        layer: Name of the layer. Where all that follows is affine (pooling and the head), the
            gradient is the same for all images, and a sign count is 0 or 1.
        examples: Images of each concept, K float tensors (n, C, H, W).
        classes: The class of each concept.
        controls: Random images, R >= 2 float tensors (n, C, H, W).
        images: Images of every class, J float tensors (n, C, H, W).
    """
    random = [_concept(i, found) for i, found in enumerate(controls)]
    shown = [_concept(len(random) + k, found) for k, found in enumerate(examples)]
    by_concept = [[[concept, against] for against in random] for concept in shown]
    by_chance = [[one, other] for one, other in zip(random, random[1:] + random[:1], strict=True)]
    signs = torch.empty(len(shown), len(random))
    chance = torch.empty_like(signs)
    with tempfile.TemporaryDirectory() as folder:
        tcav = TCAV(model, [layer], model_id=uuid4().hex, classifier=_Hinge(), save_path=folder)
        # else interpret would run the model again for each set: it asks for the vectors by layer
        # and name, and they are kept by name and layer
        tcav.compute_cavs([*chain(*by_concept), *by_chance], force_train=True)
        for target in sorted(set(classes)):
            own = [k for k, c in enumerate(classes) if c == target]
            sets = [*chain(*(by_concept[k] for k in own)), *by_chance]
            found = tcav.interpret(images[target], sets, target=target)
            counts = [found[f"{a.id}-{b.id}"][layer]["sign_count"][0] for a, b in sets]
            scores = torch.stack(counts).detach().view(-1, len(random))
            signs[own], chance[own] = scores[:-1], scores[-1]
    return ConceptScores(signs.mean(1), chance.mean(1), p_values(signs, chance))


def p_values(scores: Tensor, chance: Tensor) -> Tensor:
    """Return the p-values (K,) of two-sided t-tests of scores (K, R) against (K, R).

    Scores that are all alike on both sides differ for certain or not at all: p is 0 or 1.
    """
    ours, theirs = scores.double().T.numpy(), chance.double().T.numpy()
    fixed = (np.ptp(ours, 0) == 0) & (np.ptp(theirs, 0) == 0)
    with np.errstate(all="ignore"):
        p = ttest_ind_from_stats(*_moments(ours), *_moments(theirs)).pvalue
    return torch.from_numpy(np.where(fixed, ours[0] == theirs[0], p))


def _moments(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64], int]:
    """Return mean and standard deviation over the first axis, and the number of values."""
    return values.mean(0), values.std(0, ddof=1), len(values)


def _concept(number: int, images: Tensor) -> Concept:
    # one batch: captum keeps a file a batch and may read them in another order
    return Concept(number, f"set {number}", DataLoader(list(images), len(images)))  # type: ignore[arg-type]
