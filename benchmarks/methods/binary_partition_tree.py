"""ShapBPT: Owen values of the regions of a picture's binary partition tree, in its own package."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.quality.method import Method
from benchmarks.quality.task import Task

__all__ = ["METHODS"]

_EVALUATIONS = 100  # as in the package's manual; it has no default
_BOUNDS = 2  # evaluations besides: the whole picture, and nothing of it


class ShapBpt(Method):
    """The package at its defaults; what is masked is in the mean colour.

    One class is explained, by its probability: the regions that matter most for it are split
    first. Grey pictures have three equal channels, which the package asks for.
    """

    family = "Others"
    source = "Rashid et al. (2026), shap-bpt, the manual's 100 evaluations"
    passes = _EVALUATIONS + _BOUNDS

    def fit(self, task: Task, seed: int) -> None:
        try:
            import shap_bpt
        except ImportError as error:  # it is compiled where it is installed
            raise ImportError("needs shap-bpt: pip install shap-bpt (and a C compiler)") from error
        self._explainer, self._task = shap_bpt.Explainer, task

    def maps(self, inputs: Tensor, targets: Tensor) -> Tensor:
        return torch.stack([self._one(x, t) for x, t in zip(inputs, targets, strict=True)])

    def _one(self, image: Tensor, target: Tensor) -> Tensor:
        @torch.no_grad()
        def chance(masks: NDArray[np.bool_]) -> NDArray[np.float32]:
            kept = torch.from_numpy(masks)[:, None]
            logits: Tensor = self._task.model(image * kept)
            found: NDArray[np.float32] = logits.softmax(1)[:, [int(target)]].numpy()
            return found

        picture = self._task.pictures(image[None])[0].expand(3, -1, -1)
        colours = (picture * 255).round().byte().permute(1, 2, 0).contiguous().numpy()
        explainer = self._explainer(chance, colours, 1)
        (found,) = explainer.explain_instance(_EVALUATIONS)
        return torch.from_numpy(found).float()


METHODS: dict[str, Callable[[], Method]] = {"ShapBPT": ShapBpt}
