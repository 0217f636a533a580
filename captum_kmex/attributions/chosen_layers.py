"""The layers of an attribution: named by its user, or chosen by the first images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from torch import Tensor, nn

from captum_kmex.arguments import read_option
from captum_kmex.attributions.fitted_attribution import FittedAttribution
from captum_kmex.attributions.left_open import chosen_layers, first_inputs
from captum_kmex.attributions.prototype_attribution import Layer, as_arguments
from captum_kmex.data.batches import IndexedBatches
from captum_kmex.model.activations import layer_name
from captum_kmex.model.reading import Reading

__all__ = ["LayersAttribution"]


class LayersAttribution(FittedAttribution):
    """An attribution that reads several layers, shallow to deep."""

    @property
    def layers(self) -> Layer | Sequence[Layer] | None:
        """The layers: the same as ``layer``, the name under which Captum's tools set them."""
        layers: Layer | Sequence[Layer] | None = self.layer
        return layers

    @layers.setter
    def layers(self, layers: Layer | Sequence[Layer] | None) -> None:
        self.layer = layers

    @property
    def layer_names(self) -> tuple[str, ...]:
        """Names of the layers, shallow to deep.

        Raises:
            ValueError: No layers, one twice, or one that the model lacks; or they were left out,
                and no image has been seen to choose by.
        """
        if self.layers is None:
            raise ValueError(
                "no layers were given, and they are chosen by the first images that are explained; "
                "pass layers=, or call attribute or fit first"
            )
        layers = cast("Layer | Sequence[Layer]", read_option("layers", self.layers))
        if isinstance(layers, (str, nn.Module)):
            layers = [layers]
        names = tuple(layer_name(self.model, layer) for layer in layers)
        if not names or len(set(names)) < len(names):
            raise ValueError(f"layers must be distinct and at least one; got {list(names)}")
        return names

    def _read_layers(
        self,
        names: tuple[str, ...],
        images: tuple[Tensor, ...],
        args: object,
        at_input: bool,
        **options: bool,
    ) -> Reading:
        reading = self._read(images, names, args, at_input, **options)
        ran = [name for name in reading.order if name in names]
        if ran != list(names):
            raise ValueError(
                f"layers must stand shallow to deep; got {list(names)}, they ran as {ran}"
            )
        return reading

    def _look_at(self, batches: IndexedBatches, args: object) -> None:
        if self.layers is None:
            self._choose_layers(first_inputs(batches, self.model), args)

    def _choose_layers(self, images: tuple[Tensor, ...], args: object) -> None:
        """Take the layers that ``suggest_layers`` names, where the user left them out."""
        if self.layers is None:
            found = list(self.bank_.layers) if self.is_fitted else None
            self.layers = found or chosen_layers(self.model, images, as_arguments(args))
