"""A frozen copy of a model that returns the maps of some layers beside its logits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from captum_kmex.grids import grid_of
from captum_kmex.model.copies import copied
from captum_kmex.model.head import HeadSite
from captum_kmex.model.hooks import Recorder
from captum_kmex.model.layout import Layout, feature_grid
from captum_kmex.model.modes import evaluated
from captum_kmex.model.outputs import as_logits
from captum_kmex.model.tail_sites import ExactTail

__all__ = ["ModelReader"]


class ModelReader(nn.Module):
    """A frozen copy of a model that returns its logits and the maps of chosen layers.

    Args:
        model: The unwrapped model; it is copied.
        layers: Layer names, shallow to deep.
        at_input: Read the layers at their input.
        site: Where the map that the head reads is found; ``None`` takes the deepest layer.
        axes: Dimension of the channels of each layer.
        tap_axis: The same of the module that the head's map is read from.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[str],
        at_input: bool,
        site: HeadSite | ExactTail | None,
        axes: Mapping[str, Layout],
        tap_axis: Layout,
    ) -> None:
        super().__init__()
        self.model = evaluated(copied(model)).requires_grad_(False)
        self.layers, self.at_input, self.site = tuple(layers), at_input, site
        self.tap_axis = tap_axis
        self.axes = dict(axes) if site is None else {site.tap: tap_axis} | dict(axes)

    def forward(self, images: Tensor) -> tuple[Tensor, tuple[Tensor, ...], Tensor]:
        """Return logits (N, J), the layers' maps ``(N, D_l, *grid)``, and the head's map."""
        leaving, entering = ((), self.layers) if self.at_input else (self.layers, ())
        tap = None if self.site is None else self.site.tap
        enters = self.site is not None and self.site.at_input
        inside = (tap,) if enters and tap is not None and tap not in entering else ()
        at_end = None if enters else tap
        recorder = Recorder(leaving, (*entering, *inside), at_end, self.axes, images.ndim)
        with recorder.attached(self.model):
            output = self.model(images)
        if not isinstance(output, Tensor):
            output = as_logits(output, images)
        records = recorder.inputs if self.at_input else recorder.outputs
        blocks = tuple(
            self._grid(records[name], name, images, self.axes[name]) for name in self.layers
        )
        if self.site is None:
            read = blocks[-1]
        else:
            tapped = recorder.inputs.get(self.site.tap) if enters else recorder.tap_output
            read = self.site.features(self._grid(tapped, self.site.tap, images, self.tap_axis))
        wide = torch.promote_types(output.dtype, torch.float32)
        return output.to(wide).view(images.shape[0], -1), blocks, read

    def _grid(self, record: Tensor | None, name: str, images: Tensor, axis: Layout) -> Tensor:
        if record is None:
            raise ValueError(f"layer {name!r} returned no tensor; choose a layer that returns one")
        return feature_grid(record, grid_of(images), name, axis).contiguous()
