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
from captum_kmex.attributions.one_position import one_position_a_call
from captum_kmex.attributions.prototype_attribution import Layer, PrototypeAttribution, logged
from captum_kmex.data.batches import IndexedBatches
from captum_kmex.data.labels import class_pairs
from captum_kmex.deployment.evidence import HeadEvidence, fixed_head, fixed_target
from captum_kmex.deployment.models import ExplainedModel
from captum_kmex.exceptions import HeadNotFoundError, NotFittedError
from captum_kmex.explaining.evidence import Question, finish_map
from captum_kmex.grids import axes_of
from captum_kmex.model.activations import layer_name
from captum_kmex.model.head import is_close, own_head, weights
from captum_kmex.model.reading import Reading, Site, plain_arithmetic
from captum_kmex.model.tail_sites import LinearisedTail

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
        output: Which of several outputs to explain, by its key, attribute or place; ``None`` where
            there is one, or it is named ``logits``.

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
        output: str | int | None = None,
    ) -> None:
        super().__init__(model, layer, head, layout, output)

    @logged
    @checked
    @one_position_a_call
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
            target: Class to explain, one or one an image; the model's argmax if ``None``. Of
                outputs (N, J, H, W) a tuple (class, row, column), or a list of them.
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
        images = check_inputs(inputs, self.model)
        reading = self.read(images, additional_forward_args, attribute_to_layer_input)
        head, features = reading.linear_head, reading.feature_map
        question = Question.of(target, contrast, reading.logits, units)
        with plain_arithmetic(images[0]):
            if per_channel:
                maps = question.contributions(head, features)
            else:
                density = question.density(head, features)
                maps = finish_map(density, images[0], upsample, sums=units == "logit")
        if not return_convergence_delta:
            return maps
        if units != "logit":
            raise ValueError("return_convergence_delta needs units='logit'")
        return maps, question.delta(maps, head, reading.logits)

    @torch.no_grad()
    @checked
    @one_position_a_call
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
        reading = self._read_head(
            check_inputs(inputs, self.model),
            additional_forward_args,
            attribute_to_layer_input,
            False,
        )
        question = Question.of(target, contrast, reading.logits, "logit")
        return question.delta(attributions, reading.linear_head, reading.logits)

    @property
    def prototypes(self) -> Tensor:
        """The head's columns c_j (C, D), or (C, D, H, W) where each position has its own.

        Raises:
            NotFittedError: No image has been seen, so the head has not been looked for.
            HeadNotFoundError: The last pass found none.
        """
        own = self._own_head()
        if own is not None:
            return weights(own)[0].detach().flatten(1)
        site = self._site
        if isinstance(site, (str, LinearisedTail)):
            raise HeadNotFoundError(f"{getattr(site, 'reason', site)}. {_ADVICE}")
        if site is None:
            raise NotFittedError(
                "the head is found on the first forward pass; call attribute(x) once before "
                "reading the prototypes"
            )
        return site.columns(self._source().running())

    @checked
    def alignment(self, loader: Iterable[object]) -> PrototypeAlignment:
        """Return class and out cosines of the head's columns on labelled images (Table 1).

        Args:
            loader: Yields (images, labels), labels (N,) or multi-hot (N, C).

        Raises:
            HeadNotFoundError: The logits are not affine in a feature map.
            ValueError: No labels, labels out of range, or an empty loader.
        """
        sums: AlignmentSums | None = None
        for batch in IndexedBatches(loader, self.device):
            reading = self.read(batch.inputs)
            columns = reading.linear_head.columns
            if columns.ndim != 2:
                raise HeadNotFoundError(
                    "a flattened head has a column for every position; alignment with pooled "
                    "embeddings needs a pooled head"
                )
            if len(columns) == 1:  # a single logit's column speaks for class 1, against class 0
                columns = torch.cat([-columns, columns])
            everyone = torch.arange(len(columns), device=columns.device)
            sums = sums or AlignmentSums(columns, everyone, len(everyone))
            rows, classes = class_pairs("target", batch.targets, reading.logits)
            features = reading.feature_map
            sums.add(features.mean(axes_of(features))[rows], classes)
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
        reading = self.read(inputs)
        head, reads_tap = fixed_head(reading.linear_head), self._own_head() is None
        seen = replace(reading, features={}) if reads_tap else reading
        reader = self._frozen_reader(seen, False, reads_tap)
        return ExplainedModel(reader, HeadEvidence(head, fixed_target(target, reading.logits)))

    @checked
    def read(
        self,
        inputs: Inputs,
        additional_forward_args: object = None,
        attribute_to_layer_input: bool = False,
    ) -> Reading:
        """Run the model once; the reading has the head and, as its ``feature_map``, what it reads.

        Raises:
            HeadNotFoundError: The logits are not affine in a feature map.
            ValueError: Malformed inputs, or a ``layer`` that the head does not read.
        """
        images = check_inputs(inputs, self.model)
        return self._read_head(images, additional_forward_args, attribute_to_layer_input, True)

    def _read_head(
        self, images: tuple[Tensor, ...], args: object, at_input: bool, reads_layer: bool
    ) -> Reading:
        """Run the model; compare ``layer`` with what the head reads if ``reads_layer``."""
        if at_input and self.layer is None:
            raise ValueError("attribute_to_layer_input=True needs layer=, the layer to read")
        own = self._own_head()
        if own is not None and self.layer is None:
            raise ValueError("a head of your own needs layer=, the map that it reads")
        reads_layer = self.layer is not None and (reads_layer or own is not None)
        layers = [layer_name(self.model, self.layer)] if reads_layer else []
        reading = self._read(images, layers, args, at_input)
        if own is not None:
            features = reading.blocks[0]
            return replace(reading, tap=features, head=own_head(own, features, reading.logits))
        if reading.head is None:
            raise HeadNotFoundError(f"{reading.refusal}. {_ADVICE}")
        return _at_layer(reading) if layers else reading


def _at_layer(reading: Reading) -> Reading:
    """Return a reading whose head reads the layer that the user named.

    Raises:
        ValueError: It reads another one.
    """
    tap, (layer,), (features,) = _tap_name(reading.site), reading.layers, reading.blocks
    if layer == tap:
        return reading
    read = reading.feature_map
    if features.shape != read.shape or not is_close(features, read, reading.dtype):
        raise ValueError(
            f"the head does not read layer {layer!r} but {tap!r}; leave layer= out, or pass "
            "head= too"
        )
    return replace(reading, tap=features)


def _tap_name(site: Site | str | None) -> str:
    return "" if site is None or isinstance(site, str) else site.tap
