"""``ClassifierPrototypes``: a pooled CNN's head columns as its prototypes (eqs. 4, 5, 11)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor, nn

from captum_kmex.alignment import AlignmentSums, PrototypeAlignment
from captum_kmex.arguments import checked
from captum_kmex.arguments.inputs import Inputs, check_inputs
from captum_kmex.arguments.targets import Target
from captum_kmex.attributions.prototype_attribution import (
    Forward,
    Layer,
    PrototypeAttribution,
    logged,
    plain_arithmetic,
)
from captum_kmex.data.batches import class_pairs
from captum_kmex.deployment import ExplainedModel, HeadEvidence, fixed_target
from captum_kmex.exceptions import HeadNotFoundError, NotFittedError
from captum_kmex.explaining.evidence import (
    contrast_targets,
    explained_bias,
    explained_output,
    finish_map,
    head_evidence,
)
from captum_kmex.model.activations import layer_name
from captum_kmex.model.head import HeadSite, LinearHead, is_close

__all__ = ["ClassifierPrototypes"]

_ADVICE = (
    "Use KMExAttribution or LayerKMeansAttribution with fit(), or pass head= (a linear layer) and "
    "layer= (the map it reads) to choose yourself"
)


class ClassifierPrototypes(PrototypeAttribution):
    """Explain a logit by the head's own column: a map that adds up to the logit, no gradient.

    A CNN that pools its last feature map and applies a linear layer is a prototype model,
    ``logit_j = b_j + mean_p <h_p, c_j>``. The feature map (the tap) and the head are found on
    the first forward pass and verified against the model's logits on every one.

    Args:
        model: A classifier that returns logits (N, J).
        layer: The map that the head reads, by name or module; found by itself if ``None``.
        head: The linear layer, by name or module, where it cannot be found; or a linear layer
            of your own on ``layer``, which the convergence delta then compares to the model.
        layout: ``"channels_first"`` or ``"channels_last"``, the layout of ``layer`` where it
            cannot be told from the modules that made it; ``None`` tells by these.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from captum_kmex import ClassifierPrototypes
        >>> model = nn.Sequential(
        ...     nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        ...     nn.Linear(8, 4)).eval()
        >>> x = torch.randn(2, 3, 12, 12)
        >>> attr = ClassifierPrototypes(model)
        >>> maps = attr.attribute(x, target=1)
        >>> maps.shape
        torch.Size([2, 1, 10, 10])
        >>> logits = maps.sum((1, 2, 3)) + model[-1].bias[1]
        >>> torch.allclose(logits, model(x)[:, 1], atol=1e-5)
        True

    Reference:
        Boubekki & Clemmensen, "Post-hoc Self-explanation of CNNs" (2026), eqs. 4, 5 and 11.
    """

    @checked
    def __init__(
        self,
        model: nn.Module,
        layer: Layer | None = None,
        head: Layer | None = None,
        *,
        layout: str | None = None,
    ) -> None:
        super().__init__(model, layer, head, layout)

    @logged
    @checked
    def attribute(
        self,
        inputs: Inputs,
        target: Target = None,
        additional_forward_args: object = None,
        attribute_to_layer_input: bool = False,
        *,
        units: str = "logit",
        contrast: Target = None,
        upsample: str | None = None,
        per_channel: bool = False,
        return_convergence_delta: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Return the map of one logit on the grid of the tap.

        Args:
            inputs: Images (N, C, H, W), or a tuple with the images first.
            target: Class to explain, one or one an image; the model's argmax if ``None``.
            additional_forward_args: Further arguments of the model.
            attribute_to_layer_input: Read ``layer`` at its input.
            units: ``"logit"``: the map sums to logit minus bias; ``"alignment"``:
                ``<h_p, c_j> / |c_j|^2``, 1 where the map equals the column (eq. 11).
            contrast: A second class, "why not this one": explain the difference of logits.
            upsample: ``"input"`` returns the input's shape, channels summing to the map.
            per_channel: Return (N, D, h, w), every channel's share, as
                ``LayerGradientXActivation`` does; this is what ``TCAV`` reads.
            return_convergence_delta: Return also what the map misses of the logit.

        Returns:
            Float tensor (N, 1, h, w), and with ``return_convergence_delta`` a float tensor
            (N,): sum of the map plus bias minus the model's logit.

        Raises:
            HeadNotFoundError: The logits are not affine in a feature map.
            ValueError: Malformed inputs or options.
            TargetError: Malformed target.
        """
        if per_channel and upsample is not None:
            raise ValueError("per_channel=True keeps the layer's grid; leave upsample= out")
        images = check_inputs(inputs)
        passed, features, head = self._read(
            images, additional_forward_args, attribute_to_layer_input
        )
        explained, against = contrast_targets(target, contrast, passed.logits, units)
        with plain_arithmetic(images[0]):
            if per_channel:
                maps = _contributions(head, features, explained, against, units)
            else:
                density = head_evidence(head, features, explained, against, units)
                maps = finish_map(density, images[0], upsample, sums=units == "logit")
        if not return_convergence_delta:
            return maps
        if units != "logit":
            raise ValueError("return_convergence_delta needs units='logit'")
        output = explained_output(passed.logits, explained, against)
        bias = explained_bias(head, explained, against)
        return maps, maps.flatten(1).sum(1) + bias - output

    @torch.no_grad()
    @checked
    def compute_convergence_delta(
        self,
        attributions: Tensor,
        inputs: Inputs,
        target: Target = None,
        additional_forward_args: object = None,
        attribute_to_layer_input: bool = False,
        *,
        contrast: Target = None,
    ) -> Tensor:
        """Return sum of the maps plus bias minus logit (N,), for maps in logit units.

        ``attribute_to_layer_input`` matters only with a head of your own on ``layer``.
        """
        images = check_inputs(inputs)
        passed, _, head = self._read(
            images, additional_forward_args, attribute_to_layer_input, reads_layer=False
        )
        explained, against = contrast_targets(target, contrast, passed.logits, "logit")
        output = explained_output(passed.logits, explained, against)
        return attributions.flatten(1).sum(1) + explained_bias(head, explained, against) - output

    @property
    def prototypes(self) -> Tensor:
        """The head's columns c_j (C, D), or (C, D, H, W) where each position has its own.

        Raises:
            NotFittedError: No image has been seen, so the head has not been looked for.
            HeadNotFoundError: The last pass found none.
        """
        if self._has_own_head():
            own: Tensor = self.head.weight.detach()  # type: ignore[union-attr,operator]
            return own.flatten(1)
        if isinstance(self._site, str):
            raise HeadNotFoundError(f"{self._site}. {_ADVICE}")
        if not isinstance(self._site, HeadSite):
            raise NotFittedError(
                "the head is found on the first forward pass; call attribute(x) once before "
                "reading the prototypes"
            )
        model = self.model if self._preparation is None else self._preparation.current(self.model)
        module = model.get_submodule(self._site.linear)
        weight: Tensor = module.weight.detach()  # type: ignore[operator]
        if self._site.kind != "flatten":
            return weight.flatten(1)
        depth, height, width = self._site.shape
        return weight.reshape(-1, depth, height, width) * (height * width)

    @checked
    def alignment(self, loader: Iterable[object]) -> PrototypeAlignment:
        """Return class and out cosines of the head's columns on labelled images (Table 1).

        Args:
            loader: Yields (images, labels), labels (N,) or multi-hot (N, C).

        Raises:
            HeadNotFoundError: The logits are not affine in a feature map.
            ValueError: No labels, labels out of range, or an empty loader.
        """
        batches = self._batches(loader)
        sums: AlignmentSums | None = None
        for batch in batches:
            passed, features, head = self._read(batch.inputs, None, False)
            if head.columns.ndim != 2:
                raise HeadNotFoundError(
                    "a flattened head has a column for every position; alignment with pooled "
                    "embeddings needs a pooled head"
                )
            columns = head.columns
            if len(columns) == 1:  # a single logit's column speaks for class 1, against class 0
                columns = torch.cat([-columns, columns])
            everyone = torch.arange(len(columns), device=columns.device)
            sums = sums or AlignmentSums(columns, everyone, len(everyone))
            rows, classes = class_pairs("target", batch.targets, passed.logits)
            sums.add(features.mean((2, 3))[rows], classes)
        if sums is None:
            raise ValueError("the loader yielded no batch; pass one with at least one image")
        return sums.result()

    @checked
    def as_module(self, inputs: Tensor, target: int | None = None) -> ExplainedModel:
        """Return a plain module that gives logits and map, for deployment.

        It goes through ``torch.export`` and to ONNX, where it needs nothing of this package. It
        holds a private copy of the model.

        Args:
            inputs: A few images (N, C, H, W), on which the head is found and verified.
            target: The class to explain; each image's argmax if ``None``.

        Raises:
            HeadNotFoundError: The logits are not affine in a feature map.
            ValueError: Malformed inputs.
            TargetError: Malformed target.
        """
        passed, _, head = self._read(check_inputs(inputs), None, False)
        reads_tap = not self._has_own_head()
        passed = replace(passed, layers=() if reads_tap else passed.layers)
        reader = self._frozen_reader(passed, False, reads_tap)
        return ExplainedModel(reader, HeadEvidence(head, fixed_target(target, passed.logits)))

    def _read(
        self,
        images: tuple[Tensor, ...],
        additional_forward_args: object,
        at_input: bool,
        reads_layer: bool = True,
    ) -> tuple[Forward, Tensor, LinearHead]:
        """Run the model; return the pass, the map that the head reads, and the head."""
        if at_input and self.layer is None:
            raise ValueError("attribute_to_layer_input=True needs layer=, the layer to read")
        own = self._has_own_head()
        if own and self.layer is None:
            raise ValueError("a head of your own needs layer=, the map that it reads")
        layers = (
            []
            if self.layer is None or not (own or reads_layer)
            else [layer_name(self.model, self.layer)]
        )
        passed = self._run(images, layers, additional_forward_args, at_input, needs_head=not own)
        if own:
            features = passed.features[layers[0]]
            return passed, features, self._own_head(features, passed.logits)
        if passed.head is None or passed.tap is None:
            raise HeadNotFoundError(f"{passed.refusal}. {_ADVICE}")
        if not layers or layers == [_tap_name(self._site)]:
            return passed, passed.tap, passed.head
        features = passed.features[layers[0]]
        if features.shape != passed.tap.shape or not is_close(features, passed.tap, passed.dtype):
            raise ValueError(
                f"the head does not read layer {layers[0]!r} but {_tap_name(self._site)!r}; "
                "leave layer= out, or pass head= too"
            )
        return passed, features, passed.head


def _tap_name(site: HeadSite | str | None) -> str:
    return site.tap if isinstance(site, HeadSite) else ""


def _contributions(
    head: LinearHead, features: Tensor, target: Tensor, contrast: Tensor | None, units: str
) -> Tensor:
    if units != "logit":
        raise ValueError("per_channel=True needs units='logit'")
    parts = head.contributions(features, target)
    return parts if contrast is None else parts - head.contributions(features, contrast)
