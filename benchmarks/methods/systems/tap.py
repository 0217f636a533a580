"""The map before pooling and the linear head of a task's network, for methods that need both."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from benchmarks.quality.method import UnavailableError
from captum_kmex.exceptions import HeadNotFoundError
from captum_kmex.model.activations import trace, unwrap
from captum_kmex.model.head_search import find_head

__all__ = ["Tap"]

_TAIL = 64  # last module calls among which the head is looked for
_BATCH = 100


class Tap:
    """Reads the tap ``h`` of images; ``logit_j = b_j + mean_p <h_p, c_j>``.

    Args:
        model: The classifier, in evaluation mode.
        images: A few of its images (N, C, H, W), on which the head is looked for.

    Attributes:
        site: Where tap and head stand in the model.
        columns: The head's columns c_j, float tensor (J, D).
        bias: Float tensor (J,).

    Raises:
        UnavailableError: The logits are not linear in the mean of a map.
    """

    def __init__(self, model: nn.Module, images: Tensor) -> None:
        self._model = unwrap(model)
        self._device = next(model.parameters()).device
        few = images[:2].to(self._device)
        try:
            passed = trace(self._model, (few,), tail=_TAIL)
            self.site = find_head(passed)
        except HeadNotFoundError as error:
            raise UnavailableError(f"needs a pooled linear head: {error}") from error
        head = self.site.read(self._model, self.features(few))
        if head.columns.ndim != 2 or head.rectified:
            raise UnavailableError("needs a linear head on the pooled map")
        self.columns, self.bias = head.columns, head.bias

    def features(self, images: Tensor) -> Tensor:
        """Return the maps (N, D, h, w) that are pooled, on the CPU."""
        return torch.cat([self._pass(part) for part in images.split(_BATCH)])

    def rows(self, images: Tensor) -> Tensor:
        """Return the vectors of all positions, float tensor (N * h * w, D), image by image."""
        return self.features(images).movedim(1, 3).flatten(0, 2)

    def _pass(self, images: Tensor) -> Tensor:
        passed = trace(self._model, (images.to(self._device),), tap=self.site.tap)
        return self.site.features(passed.taps[self.site.tap]).cpu()
