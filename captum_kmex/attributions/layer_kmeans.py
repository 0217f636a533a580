"""``LayerKMeansAttribution``: k-means segments of stacked layers, and the evidence in each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from captum_kmex.arguments import checked
from captum_kmex.arguments.inputs import Inputs, check_inputs
from captum_kmex.arguments.measured import Measured
from captum_kmex.arguments.targets import Target
from captum_kmex.attributions.explained_layers import ExplainedLayersAttribution
from captum_kmex.attributions.one_bank import one_bank_a_call
from captum_kmex.attributions.one_position import one_position_a_call
from captum_kmex.attributions.prototype_attribution import Layer, logged
from captum_kmex.attributions.saved_settings import restored
from captum_kmex.bank.prototype_bank import PrototypeBank
from captum_kmex.deployment.evidence import HeadEvidence, fixed_head, fixed_target
from captum_kmex.deployment.models import SegmentedModel
from captum_kmex.deployment.vote import PrototypeVote
from captum_kmex.exceptions import NotFittedError
from captum_kmex.explaining.evidence import finish_map
from captum_kmex.model.reading import plain_arithmetic

__all__ = ["LayerKMeansAttribution"]


class LayerKMeansAttribution(ExplainedLayersAttribution):
    """Explain a logit by dense concept segments of several layers, without gradients.

    Pixels of the stacked layers are assigned to k-means prototypes: of all classes once
    fitted, of the image itself before. The evidence of the head is carried down to the finest
    grid and averaged within segments, so the map still adds up to the logit.

    Args:
        model: A classifier that returns logits (N, J).
        layers: Names or modules, shallow to deep, such as ``["layer2", "layer3", "layer4"]``.
            ``None`` takes what ``suggest_layers`` names for the first images, with a warning.
        n_prototypes: Prototypes K a class for ``fit``, one number or one a class; the size
            of the single codebook if ``fit(labels=None)``.
        n_clusters: Clusters an image, for unfitted use, at most its pixels (a warning says when
            they are fewer). Few make segments the size of objects, but maps less precise.
        weighting: Weight of each block in the composite: ``"balanced"``, ``"nave"`` (the
            shallowest weighs most), ``"dimension"``, or one number a layer (see
            ``block_weights``). ``None`` is ``"balanced"`` for fitted prototypes, which then
            classify best, and ``"dimension"`` for an image's own clusters, whose maps are then
            the most precise. A smaller ``depth`` does not change a block's weight.
        average_top: Average within the segments of the deepest layer too, instead of using
            the head's map there as it is: with an image's own clusters, maps are no better.
        vote: How the fitted prototypes classify. ``"distance"``: the class whose prototypes lie
            nearest to the image's pixels, by mean log distance; ``"share"``: the paper's rule,
            the class whose prototypes win most pixels (eq. 10), which is also how class-agnostic
            prototypes vote. It may be changed after ``fit``.
        head: The linear layer, where it cannot be found, or one of your own on the last layer.
        seed: Seed of the sample and of k-means, an integer of 64 bits.
        surrogate: What makes the maps where the logits are not affine in a feature map:
            ``"linearised"``, the model's tail linearised at each image, or ``"ridge"``, a
            regression of the logits that ``fit`` makes. ``None`` is the latter once there was a
            fit, else the former. It may be changed after ``fit``.
        layout: ``"channels_first"`` or ``"channels_last"``, the layout of the layers where it
            cannot be told from the modules that made them; ``None`` tells by these.
        output: Which of several outputs to explain, by its key, attribute or place; ``None`` where
            there is one, or it is named ``logits``.

    Attributes:
        bank_: The fitted ``PrototypeBank``.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from captum_kmex import LayerKMeansAttribution
        >>> model = nn.Sequential(
        ...     nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, 2), nn.ReLU(),
        ...     nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2)).eval()
        >>> x, y = torch.rand(8, 1, 12, 12), torch.arange(8) % 2
        >>> attr = LayerKMeansAttribution(model, ["1", "3"])
        >>> attr.attribute(x).shape
        torch.Size([8, 1, 10, 10])
        >>> result = attr.fit([(x, y)]).explain(x)
        >>> evidence = sum(row.evidence for row in result.ledger[0])
        >>> abs(evidence + result.bias[0] - result.output[0]) < 1e-5
        tensor(True)

    Reference:
        Boubekki & Clemmensen, "Post-hoc Self-explanation of CNNs" (2026), eqs. 6-11;
        Boubekki et al., NAVE (2024), for unfitted use.
    """

    @checked
    def __init__(
        self,
        model: nn.Module,
        layers: Layer | Sequence[Layer] | None = None,
        *,
        n_prototypes: int | Mapping[int, int] = 5,
        n_clusters: int = 20,
        weighting: str | Sequence[float] | None = None,
        average_top: bool = False,
        vote: str = "distance",
        head: Layer | None = None,
        seed: int = 0,
        surrogate: str | None = None,
        layout: str | None = None,
        output: str | int | None = None,
    ) -> None:
        super().__init__(model, layers, head, n_prototypes, seed, layout, output)
        self.n_clusters = n_clusters
        self.weighting = weighting
        self.average_top = average_top
        self.vote = vote
        self.surrogate = surrogate

    @logged
    @checked
    @one_position_a_call
    @one_bank_a_call
    def attribute(
        self,
        inputs: Inputs,
        target: Target = None,
        additional_forward_args: object = None,
        attribute_to_layer_input: bool = False,
        *,
        depth: int | str = 0,
        units: str = "logit",
        contrast: Target = None,
        restrict: str | None = None,
        connected: bool = False,
        min_area: int = 1,
        segments: Tensor | np.ndarray | None = None,
        evidence: str | Measured = "allocated",
        upsample: str | None = None,
        return_convergence_delta: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Return the segment-wise map of one logit on the finest layer's grid.

        Args:
            inputs: Images (N, C, H, W), or a tuple with the images first.
            target: Class to explain; the model's argmax if ``None``. Of outputs (N, J, H, W) a
                tuple (class, row, column), or a list with one an image, as Captum has them.
            additional_forward_args: Further arguments of the model.
            attribute_to_layer_input: Read the layers at their input.
            depth: Shallowest layer to include, by position or name: 0 stacks all layers (B234),
                -1 uses the deepest alone (B4).
            units: ``"logit"``: the map sums to logit minus bias; ``"alignment"``: 1 where the
                deepest map equals the head's column (eq. 11).
            contrast: A second class, "why not this one": explain the difference of logits.
            restrict: ``"predicted"`` lets only prototypes of the explained class compete.
            connected: Split segments into connected components.
            min_area: Fewest cells of a connected piece on this depth's grid; smaller ones go to
                the segment that they share most border with.
            segments: Your own segments (N, 1, H, W), or (1, 1, H, W) for all images, on any grid:
                whole numbers from 0, with gaps. The map is then the head's, averaged within
                them on their grid, whatever the depth.
            evidence: ``"allocated"``: the head's own, carried down in the one forward pass;
                ``"measured"``, or ``Measured(...)`` with options: parts are removed and the
                network is run again; the map sums to logit minus that with everything removed.
            upsample: ``"input"`` returns the input's shape, channels summing to the map.
            return_convergence_delta: Return also what the map misses of the logit.

        Returns:
            Float tensor (N, 1, h, w), and with ``return_convergence_delta`` a float tensor
            (N,): sum of the map plus bias (of measured evidence, the logit with everything
            removed), plus what a linearisation leaves over, minus the model's logit.

        Raises:
            NotFittedError: No head can be read or linearised, and ``fit`` has not been called.
            ValueError: Malformed inputs, layers or options.
            TargetError: Malformed target.
        """
        images = check_inputs(inputs, self.model)
        explainer = self._explainer(images, additional_forward_args, attribute_to_layer_input)
        start, question = explainer.depth(depth), explainer.question(target, contrast, units)
        how = explainer.competition(question, restrict, connected, min_area, segments)
        if evidence != "allocated":
            measure = self._measuring(explainer, images, additional_forward_args, evidence)
            (found,) = measure([question], start, how)
            maps = finish_map(found.density, images[0], upsample, sums=True)
            delta = found.delta(maps, question.output(explainer.logits))
            return (maps, delta) if return_convergence_delta else maps
        with plain_arithmetic(images[0]):
            density = explainer.density(question, start, how)
            maps = finish_map(density, images[0], upsample, sums=units == "logit")
        if not return_convergence_delta:
            return maps
        if units != "logit":
            raise ValueError("return_convergence_delta needs units='logit'")
        return maps, question.delta(maps, explainer.head, explainer.logits)

    @checked
    @one_position_a_call
    @one_bank_a_call
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
        """Return sum of the maps plus bias minus logit (N,), for allocated maps in logit units.

        Of measured ones ``attribute(..., return_convergence_delta=True)`` tells.
        """
        at_input = attribute_to_layer_input or (self.is_fitted and self.bank_.at_input)
        explainer = self._explainer(
            check_inputs(inputs, self.model), additional_forward_args, at_input
        )
        question = explainer.question(target, contrast)
        return question.delta(attributions, explainer.head, explainer.logits)

    @checked
    @one_bank_a_call
    def as_module(
        self, inputs: Tensor, target: int | None = None, *, depth: int | str = 0
    ) -> SegmentedModel:
        """Return a plain module that gives logits and explanation, for deployment.

        It goes through ``torch.export`` and to ONNX, where it needs nothing of this package. It
        holds a private copy of the model, and of the prototypes as they are now.

        Args:
            inputs: A few images (N, C, H, W), on which the head is found and verified.
            target: The class to explain; each image's argmax if ``None``.
            depth: Shallowest layer to include, as in ``attribute``.

        Raises:
            NotFittedError: ``fit`` has not been called; clusters of an image's own come from
                loops that no graph can hold.
            ValueError: Malformed inputs, layers or options.
            TargetError: Malformed target.
        """
        if not self.is_fitted:
            raise NotFittedError(
                "as_module needs prototypes: an image's own clusters come from loops that no graph "
                "holds. Call fit(loader), or fit(images, labels=None) where there are no labels; "
                "ClassifierPrototypes(model).as_module(x) needs no fit"
            )
        bank = self.bank_
        images = check_inputs(inputs, self.model)
        explainer = self._explainer(images, None, bank.at_input)
        start = explainer.depth(depth)
        reading, logits = explainer.reading, explainer.logits
        head, tap = explainer.head_and_map
        stack, books = explainer.stack.suffix(start), bank.codebooks[start:]
        seen = replace(reading, features=dict(list(reading.features.items())[start:]))
        module = SegmentedModel(
            self._frozen_reader(seen, bank.at_input, reads_tap=tap is reading.tap),
            HeadEvidence(fixed_head(head), fixed_target(target, logits)),
            [book.centroids.to(stack.blocks[0]) for book in books],
            stack.weights,
            PrototypeVote(self.vote, books[0].membership, bank.n_classes),
            self.average_top,
        )
        with torch.no_grad():  # what is kept for this size is then constant in an export
            module.to(logits.device)(images[0])
        return module

    @classmethod
    def _for_bank(
        cls, model: nn.Module, bank: PrototypeBank, head: Layer | None
    ) -> LayerKMeansAttribution:
        return cls(model, list(bank.layers), **restored(bank.settings, head))
