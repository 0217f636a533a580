"""Single units as detectors of parts, and learned mixtures of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from captum.attr import LayerActivation, LayerGradientXActivation
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, interpolate

from benchmarks.quality.method import ConceptMaps, Method, UnavailableError
from benchmarks.quality.task import Task

__all__ = ["METHODS"]

_N_ANNOTATED = 64  # validation images with part masks
_SHARE = 0.005  # of the pixels that a unit's mask covers
_EVERY = 5  # pixels learned from, one in so many
_STEPS, _RATE = 200, 0.1


class NetworkDissection(Method):
    """Every unit is a concept, its activation the map; the measure picks a unit for each part.

    The paper ranks no units for a class. Importance here is the gradient times the activation,
    summed: to first order what the logit loses without the unit, exactly so for the units of
    the layer before the pooling.

    Args:
        n_layers: How many of the last layers have their units dissected.
    """

    family = "units"
    source = "Bau et al. (2017), written from the paper"
    passes = 4.0

    def __init__(self, n_layers: int) -> None:
        self._n_layers = n_layers

    def fit(self, task: Task, seed: int) -> None:
        if task.sample("validation", 1).parts is None:
            raise UnavailableError("needs images with part masks")
        layers = [task.model.get_submodule(name) for name in task.layers[-self._n_layers :]]
        self._activation = LayerActivation(task.model, layers)
        self._products = LayerGradientXActivation(task.model, layers)
        self._gradient = LayerGradientXActivation(task.model, layers, multiply_by_inputs=False)

    def concepts(self, inputs: Tensor, targets: Tensor) -> ConceptMaps:
        products = self._products.attribute(inputs, targets)
        importance = torch.cat([p.detach().sum((2, 3)) for p in products], 1)
        return ConceptMaps(self._units(inputs).clamp_min(0), importance)

    def _units(self, inputs: Tensor) -> Tensor:
        """Return all units' activations on the finest grid (N, U, h, w)."""
        with torch.no_grad():
            return _on_one_grid(self._activation.attribute(inputs))


class Net2Vec(NetworkDissection):
    """A mixture of thresholded units for each part, learned from part masks of other images.

    A unit is 1 where it exceeds the value that .5 % of the pixels exceed; a part is
    ``sigmoid(sum_u w_u M_u)``, trained on the class-balanced cross-entropy of the pixels and
    cut at one half. The paper stops at the masks. Importance here is the derivative of the
    logit along ``w``, summed over the grid.
    """

    source = "Fong & Vedaldi (2018), written from the paper"

    def fit(self, task: Task, seed: int) -> None:
        super().fit(task, seed)
        sample = task.sample("validation", _N_ANNOTATED)
        if sample.parts is None:
            raise UnavailableError("needs images with part masks")
        units = torch.cat([self._units(x) for x in sample.inputs.split(16)])
        self._thresholds = unit_thresholds(units, _SHARE)
        masks = self._masks(units, tuple(sample.parts.shape[2:]))
        pixels, parts = (x.permute(0, 2, 3, 1).flatten(0, 2) for x in (masks, sample.parts))
        self._weights = learn_mixtures(pixels[::_EVERY], parts[::_EVERY])

    def concepts(self, inputs: Tensor, targets: Tensor) -> ConceptMaps:
        masks = self._masks(self._units(inputs), tuple(inputs.shape[2:]))
        logits = torch.einsum("nuhw,pu->nphw", masks, self._weights)
        gradients = _on_one_grid(self._gradient.attribute(inputs, targets)).detach()
        importance = torch.einsum("nuhw,pu->np", gradients, self._weights)
        return ConceptMaps((logits.sigmoid() - 0.5).clamp_min(0), importance)

    def _masks(self, units: Tensor, size: tuple[int, ...]) -> Tensor:
        scaled = interpolate(units, size, mode="bilinear", align_corners=False)
        return (scaled > self._thresholds[:, None, None]).float()


def unit_thresholds(units: Tensor, share: float) -> Tensor:
    """Return the value (U,) that so large a share of each unit's activations (N, U, h, w) exceed.

    At least 0, so that a unit that is nearly always off is not on everywhere.
    """
    flat = units.transpose(0, 1).flatten(1)
    return torch.quantile(flat, 1 - share, dim=1).clamp_min(0)


def learn_mixtures(masks: Tensor, parts: Tensor) -> Tensor:
    """Return the weights (P, U) that tell each part's pixels from the others.

    Logistic regression without intercept, both kinds of pixel weighing as much (Fong & Vedaldi,
    2018, eq. 3), by full-batch Adam.

    Args:
        masks: Which units are on, float tensor (M, U).
        parts: Which parts are there, boolean tensor (M, P).
    """
    truth = parts.to(masks.dtype)
    share = truth.mean(0)
    balance = torch.where(parts, 1 - share, share)
    weights = nn.Parameter(masks.new_zeros(parts.shape[1], masks.shape[1]))
    optimizer = torch.optim.Adam([weights], _RATE)
    for _ in range(_STEPS):
        loss = binary_cross_entropy_with_logits(masks @ weights.T, truth, balance)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return weights.detach()


def _on_one_grid(layers: tuple[Tensor, ...]) -> Tensor:
    """Return the channels of all layers on the finest layer's grid."""
    size = max((tuple(layer.shape[2:]) for layer in layers), key=lambda s: s[0] * s[1])
    scaled = [interpolate(x, size, mode="bilinear", align_corners=False) for x in layers]
    return torch.cat(scaled, 1)


_DEPTHS = {"B4": 1, "B234": 3}
METHODS: dict[str, Callable[[], Method]] = {}
for _name, _n_layers in _DEPTHS.items():
    METHODS[f"Network Dissection ({_name})"] = partial(NetworkDissection, _n_layers)
    METHODS[f"Net2Vec ({_name})"] = partial(Net2Vec, _n_layers)
