"""Settings of our segments beside the default ones: each weighting, and the paper's vote."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor

from benchmarks.methods.captum_kmex import LayerKMeans
from benchmarks.quality.method import Method, Prototypes, UnavailableError

__all__ = ["METHODS"]


class PaperVote(LayerKMeans):
    """Fitted prototypes that vote by the pixels they win (eq. 10); all else is as without."""

    def __init__(self, n_layers: int) -> None:
        super().__init__(n_layers, True, vote="share")

    def maps(self, inputs: Tensor, targets: Tensor) -> Tensor:
        raise UnavailableError("the vote changes predictions alone")

    def segments(self, inputs: Tensor, targets: Tensor) -> Tensor:
        raise UnavailableError("the vote changes predictions alone")

    def prototypes(self) -> Prototypes:
        raise UnavailableError("the vote changes predictions alone")


METHODS: dict[str, Callable[[], Method]] = {}
for _name, _n_layers in {"B4": 1, "B34": 2, "B234": 3}.items():
    METHODS[f"{_name} fitted, share vote"] = partial(PaperVote, _n_layers)
for _weighting in ("nave", "dimension"):  # balanced is the default once fitted
    METHODS[f"B234 fitted, {_weighting}"] = partial(LayerKMeans, 3, True, weighting=_weighting)
for _weighting in ("balanced", "nave"):  # dimension is the default before
    METHODS[f"B234 unfitted, {_weighting}"] = partial(LayerKMeans, 3, False, weighting=_weighting)
