"""``LayerKMeansAttribution``: k-means segments of stacked layers, and the evidence in each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

from torch import Tensor, nn

from captum_kmex.arguments import Setting, checked, read_option, resolve_depth
from captum_kmex.arguments.inputs import Inputs, check_inputs
from captum_kmex.arguments.targets import Target
from captum_kmex.attributions.fitted_attribution import Classification, FittedAttribution, restored
from captum_kmex.attributions.one_bank import one_bank_a_call
from captum_kmex.attributions.prototype_attribution import Forward, Layer, logged, plain_arithmetic
from captum_kmex.bank.prototype_bank import PrototypeBank
from captum_kmex.classes import class_of, predicted_classes
from captum_kmex.composite.stack import StackedBlocks, block_weights
from captum_kmex.data.batches import Batch
from captum_kmex.deployment import (
    DistanceVote,
    HeadEvidence,
    SegmentedModel,
    ShareVote,
    fixed_target,
)
from captum_kmex.exceptions import HeadNotFoundError, NotFittedError
from captum_kmex.explaining.evidence import (
    carried_down,
    contrast_targets,
    explained_bias,
    explained_output,
    finish_map,
    head_evidence,
)
from captum_kmex.explaining.ledger import build_ledger
from captum_kmex.explaining.segmentation import (
    Segmentation,
    SegmentOptions,
    segment_by_image,
    segment_by_prototypes,
)
from captum_kmex.explaining.segments import class_scores, predicted_class
from captum_kmex.explaining.votes import distance_scores
from captum_kmex.explanation import Explanation
from captum_kmex.fitting.options import Observation
from captum_kmex.model.activations import layer_name
from captum_kmex.model.head import HeadSite, LinearHead

__all__ = ["LayerKMeansAttribution"]


@dataclass(frozen=True)
class Evidence:
    """What the head says about a class, carried down to one depth.

    Attributes:
        target: Explained class (N,).
        contrast: Class it is contrasted with (N,), or ``None``.
        density: Float tensor (N, 1, H, W); its mean is output minus bias.
        segmentation: Segments of that depth, where they were needed.
        stack: The composite of all layers.
        bias: What the map leaves out (N,).
        output: The explained logit or difference of logits (N,).
    """

    target: Tensor
    contrast: Tensor | None
    density: Tensor
    segmentation: Segmentation | None
    stack: StackedBlocks
    bias: Tensor
    output: Tensor


class LayerKMeansAttribution(FittedAttribution):
    """Explain a logit by dense concept segments of several layers, without gradients.

    Pixels of the stacked layers are assigned to k-means prototypes: of all classes once
    fitted, of the image itself before. The evidence of the head is carried down to the finest
    grid and averaged within segments, so the map still adds up to the logit.

    Args:
        model: A classifier that returns logits (N, J).
        layers: Names or modules, shallow to deep, such as ``["layer2", "layer3", "layer4"]``.
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
        layout: ``"channels_first"`` or ``"channels_last"``, the layout of the layers where it
            cannot be told from the modules that made them; ``None`` tells by these.

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

    n_clusters = Setting[int]()
    weighting = Setting["str | Sequence[float] | None"]()
    average_top = Setting[bool]()
    vote = Setting[str]()

    @checked
    def __init__(
        self,
        model: nn.Module,
        layers: Layer | Sequence[Layer],
        *,
        n_prototypes: int | Mapping[int, int] = 5,
        n_clusters: int = 20,
        weighting: str | Sequence[float] | None = None,
        average_top: bool = False,
        vote: str = "distance",
        head: Layer | None = None,
        seed: int = 0,
        layout: str | None = None,
    ) -> None:
        super().__init__(model, layers, head, n_prototypes, seed, layout)
        self.n_clusters = n_clusters
        self.weighting = weighting
        self.average_top = average_top
        self.vote = vote

    @property
    def layers(self) -> Layer | Sequence[Layer]:
        """The layers: the same as ``layer``, the name under which Captum's tools set them."""
        layers: Layer | Sequence[Layer] = self.layer
        return layers

    @layers.setter
    def layers(self, layers: Layer | Sequence[Layer]) -> None:
        self.layer = layers

    @logged
    @checked
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
        upsample: str | None = None,
        return_convergence_delta: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Return the segment-wise map of one logit on the finest layer's grid.

        Args:
            inputs: Images (N, C, H, W), or a tuple with the images first.
            target: Class to explain; the model's argmax if ``None``.
            additional_forward_args: Further arguments of the model.
            attribute_to_layer_input: Read the layers at their input.
            depth: Shallowest layer to include, by position or name: 0 stacks all layers (B234),
                -1 uses the deepest alone (B4).
            units: ``"logit"``: the map sums to logit minus bias; ``"alignment"``: 1 where the
                deepest map equals the head's column (eq. 11).
            contrast: A second class, "why not this one": explain the difference of logits.
            restrict: ``"predicted"`` lets only prototypes of the explained class compete.
            connected: Split segments into connected components.
            upsample: ``"input"`` returns the input's shape, channels summing to the map.
            return_convergence_delta: Return also what the map misses of the logit.

        Returns:
            Float tensor (N, 1, h, w), and with ``return_convergence_delta`` a float tensor
            (N,): sum of the map plus bias minus the model's logit.

        Raises:
            NotFittedError: The model has no linear head and ``fit`` has not been called.
            ValueError: Malformed inputs, layers or options.
            TargetError: Malformed target.
        """
        images = check_inputs(inputs)
        passed = self._pass(images, additional_forward_args, attribute_to_layer_input)
        options = SegmentOptions(depth, restrict, connected)
        with plain_arithmetic(images[0]):
            evidence = self._explain(passed, target, contrast, units, options)
            maps = finish_map(evidence.density, images[0], upsample, sums=units == "logit")
        if not return_convergence_delta:
            return maps
        if units != "logit":
            raise ValueError("return_convergence_delta needs units='logit'")
        return maps, maps.flatten(1).sum(1) + evidence.bias - evidence.output

    @checked
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
        """Return sum of the maps plus bias minus logit (N,), for maps in logit units."""
        images = check_inputs(inputs)
        at_input = attribute_to_layer_input or (self.is_fitted and self.bank_.at_input)
        passed = self._pass(images, additional_forward_args, at_input)
        explained, against = contrast_targets(target, contrast, passed.logits, "logit")
        head, _ = self._head_and_tap(passed)
        bias = explained_bias(head, explained, against)
        output = explained_output(passed.logits, explained, against)
        return attributions.flatten(1).sum(1) + bias - output

    @logged
    @checked
    @one_bank_a_call
    def explain(
        self,
        inputs: Inputs,
        target: Target = None,
        additional_forward_args: object = None,
        attribute_to_layer_input: bool = False,
        *,
        depth: int | str = 0,
        contrast: Target = None,
        restrict: str | None = None,
        connected: bool = False,
    ) -> Explanation:
        """Return map, segments, class scores, ledger and nearest training patches.

        Args and errors are those of ``attribute``; the map is in logit units.

        Returns:
            An ``Explanation`` of the whole batch.
        """
        images = check_inputs(inputs)
        passed = self._pass(images, additional_forward_args, attribute_to_layer_input)
        options = SegmentOptions(depth, restrict, connected)
        start = resolve_depth(depth, passed.layers)
        with plain_arithmetic(images[0]):
            evidence = self._explain(passed, target, contrast, "logit", options, is_voting=True)
            maps = finish_map(evidence.density, images[0], None, sums=True)
            segments = evidence.segmentation or self._segment(
                evidence.stack,
                start,
                class_of(evidence.target, passed.logits),
                options,
                is_voting=True,
            )
            free = segments if restrict is None else None
            verdict = None
            if self.is_fitted:
                verdict = self._vote(evidence.stack, start, passed.logits, free)
        book = self.bank_.codebooks[start] if self.is_fitted else None
        return Explanation(
            inputs=images[0].detach(),
            layers=passed.layers[start:],
            target=evidence.target,
            contrast=evidence.contrast,
            logits=passed.logits,
            attribution=maps,
            segments=segments.labels,
            ledger=build_ledger(maps, segments.labels, segments.prototypes, book),
            bias=evidence.bias,
            output=evidence.output,
            class_scores=None if verdict is None else verdict.scores,
            prediction=None if verdict is None else verdict.prediction,
            restricted=restrict == "predicted",
            surrogate_r2=self._surrogate_r2(),
        )

    @checked
    @one_bank_a_call
    def segment(
        self,
        inputs: Inputs,
        target: Target = None,
        additional_forward_args: object = None,
        attribute_to_layer_input: bool = False,
        *,
        depth: int | str = 0,
        restrict: str | None = None,
        connected: bool = False,
    ) -> Tensor:
        """Return the segment of each pixel (N, H, W); needs no head, so any model will do.

        Once fitted, a segment is the index of a prototype in ``bank_``; unfitted, of a
        cluster of the image; with ``connected``, of a component, numbered in each image.
        """
        images = check_inputs(inputs)
        passed = self._pass(images, additional_forward_args, attribute_to_layer_input, False)
        explained, _ = contrast_targets(target, None, passed.logits, "logit")
        options = SegmentOptions(depth, restrict, connected)
        with plain_arithmetic(images[0]):
            start = resolve_depth(depth, passed.layers)
            owner = class_of(explained, passed.logits)
            self._check_restriction(options, owner)
            return self._segment(self._stack(passed), start, owner, options).labels

    @checked
    @one_bank_a_call
    def classify(
        self,
        inputs: Inputs,
        additional_forward_args: object = None,
        *,
        depth: int | str = 0,
    ) -> Classification:
        """Return the surrogate's class scores and prediction beside the logits.

        Scores are what ``vote`` says: minus the mean log distance to each class, or the share
        of pixels won by it (eq. 10).

        Raises:
            NotFittedError: ``fit`` has not been called.
            ValueError: ``vote`` is neither of the two.
        """
        images = check_inputs(inputs)
        passed = self._pass(images, additional_forward_args, self.bank_.at_input, False)
        start = resolve_depth(depth, passed.layers)
        with plain_arithmetic(images[0]):
            return self._vote(self._stack(passed), start, passed.logits)

    @checked
    def predict(
        self,
        inputs: Inputs,
        additional_forward_args: object = None,
        *,
        depth: int | str = 0,
    ) -> Tensor:
        """Return the class (N,) that the prototypes of a depth vote for.

        Raises:
            NotFittedError: ``fit`` has not been called.
        """
        return self.classify(inputs, additional_forward_args, depth=depth).prediction

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
        passed = self._pass(check_inputs(inputs), None, bank.at_input)
        start = resolve_depth(depth, passed.layers)
        stack, books = self._stack(passed).suffix(start), bank.codebooks[start:]
        members, by_distance = books[0].membership, self.vote == "distance"
        kind = DistanceVote if by_distance and members.ndim == 1 else ShareVote
        head, tap = self._head_and_tap(passed)
        seen = replace(passed, layers=passed.layers[start:])
        module = SegmentedModel(
            self._frozen_reader(seen, bank.at_input, reads_tap=tap is passed.tap),
            HeadEvidence(head, fixed_target(target, passed.logits)),
            [book.centroids.to(stack.blocks[0]) for book in books],
            stack.weights,
            kind(members, bank.n_classes),
            self.average_top,
        )
        return module.to(passed.logits.device)

    @classmethod
    def _for_bank(
        cls, model: nn.Module, bank: PrototypeBank, head: Layer | None
    ) -> LayerKMeansAttribution:
        return cls(model, list(bank.layers), **restored(bank.settings, head))

    def _settings(self) -> dict[str, object]:
        return super()._settings() | {
            "n_clusters": self.n_clusters,
            "weighting": self.weighting,
            "average_top": self.average_top,
            "vote": self.vote,
        }

    def _layer_names(self) -> tuple[str, ...]:
        layers = cast("Layer | Sequence[Layer]", read_option("layers", self.layers))
        if isinstance(layers, (str, nn.Module)):
            layers = [layers]
        names = tuple(layer_name(self.model, layer) for layer in layers)
        if not names or len(set(names)) < len(names):
            raise ValueError(f"layers must be distinct and at least one; got {list(names)}")
        return names

    def _pass(
        self, images: tuple[Tensor, ...], args: object, at_input: bool, needs_head: bool = True
    ) -> Forward:
        if self.is_fitted:
            self._check_bank(images[0], at_input)
        has_surrogate = self.is_fitted and self.bank_.surrogate is not None
        passed = self._run_layers(images, args, at_input, needs_head and not has_surrogate)
        if self.is_fitted:
            self._check_logits(passed.logits)
        return passed

    def _run_layers(
        self,
        images: tuple[Tensor, ...],
        args: object,
        at_input: bool,
        needs_head: bool = True,
        keeps_refusal: bool = False,
    ) -> Forward:
        names = self._layer_names()
        wants = needs_head and not self._has_own_head()
        passed = self._run(images, names, args, at_input, wants, keeps_refusal)
        ran = [name for name in passed.order if name in names]
        if ran != list(names):
            raise ValueError(
                f"layers must stand shallow to deep; got {list(names)}, they ran as {ran}"
            )
        return passed

    def _observe(self, batch: Batch, args: object, at_input: bool) -> Observation:
        images = check_inputs(batch.inputs)
        before = self._site
        passed = self._run_layers(images, args, at_input, keeps_refusal=self._is_head_settled)
        self._is_head_settled = before is not None  # two batches have been searched
        if before is not None and isinstance(before, str) != isinstance(self._site, str):
            others = "earlier" if isinstance(before, HeadSite) else "these"
            reason, place = passed.refusal or before, batch.indices.tolist()[:3]
            raise ValueError(
                f"some images have no exact head: at batch {place}... {others} "
                f"images have one, and of the others {reason}. Leave the others out, or pass a "
                "model whose logits all come from one head"
            )
        with plain_arithmetic(images[0]):
            stack = self._weighted(passed, "balanced")
            needs_surrogate = passed.head is None and not self._has_own_head()
            deepest = passed.features[passed.layers[-1]]
            pooled = deepest.mean((2, 3)) if needs_surrogate else None
        depths = [stack.suffix(start) for start in range(len(stack.blocks))]
        return Observation(passed.logits, depths, stack.weights, pooled)

    def _stack(self, passed: Forward) -> StackedBlocks:
        """Return the composite: of the bank's weights once fitted, for clustering before."""
        if not self.is_fitted:
            return self._weighted(passed, "dimension")
        blocks = tuple(passed.features[name] for name in passed.layers)
        widths = [block.shape[1] for block in blocks]
        found = self.bank_.codebooks[0].centroids.shape[1]
        if sum(widths) != found:
            raise ValueError(
                f"the bank's prototypes have {found} channels, the layers {sum(widths)} "
                f"{widths}; it was fitted on another model: fit again"
            )
        return StackedBlocks(blocks, self.bank_.weights)

    def _weighted(self, passed: Forward, unless_given: str) -> StackedBlocks:
        """Return the composite by ``weighting``, or by a default."""
        blocks = tuple(passed.features[name] for name in passed.layers)
        weighting = unless_given if self.weighting is None else self.weighting
        return StackedBlocks(blocks, block_weights(weighting, [b.shape[1] for b in blocks]))

    def _head_and_tap(self, passed: Forward) -> tuple[LinearHead, Tensor]:
        """Return the head, or its surrogate, and the map that it reads."""
        deepest = passed.features[passed.layers[-1]]
        if self._has_own_head():
            return self._own_head(deepest, passed.logits), deepest
        if passed.head is not None and passed.tap is not None:
            return passed.head, passed.tap
        if self.is_fitted and self.bank_.surrogate is not None:
            return self.bank_.surrogate.head(deepest), deepest
        if self.is_fitted:
            raise HeadNotFoundError(
                f"{passed.refusal}. The images of the fit had an exact head, so the bank holds no "
                "ridge surrogate of the logits; check these inputs, or fit again"
            )
        raise NotFittedError(
            f"{passed.refusal}. Without such a head a ridge surrogate of the logits is used, "
            "which fit(loader) provides; segment(x) works at once"
        )

    def _explain(
        self,
        passed: Forward,
        target: Target,
        contrast: Target,
        units: str,
        options: SegmentOptions,
        is_voting: bool = False,
    ) -> Evidence:
        """Turn activations into evidence: everything after the forward pass."""
        head, tap = self._head_and_tap(passed)
        explained, against = contrast_targets(target, contrast, passed.logits, units)
        owner = class_of(explained, passed.logits)
        self._check_restriction(options, owner)
        stack, start = self._stack(passed), resolve_depth(options.depth, passed.layers)
        density = head_evidence(head, tap, explained, against, units)

        def segment(depth: int) -> Segmentation:
            votes_here = is_voting and depth == start
            return self._segment(stack, depth, owner, options, votes_here)

        descent = carried_down([density], stack, start, self.average_top, segment)
        for _, found, averaged in descent:
            (density,), segments = found, averaged
        bias = explained_bias(head, explained, against)
        output = explained_output(passed.logits, explained, against)
        return Evidence(explained, against, density, segments, stack, bias, output)

    def _surrogate_r2(self) -> float | None:
        if not self.is_fitted or self._has_own_head() or self.bank_.surrogate is None:
            return None
        return self.bank_.surrogate.r2

    def _check_restriction(self, options: SegmentOptions, target: Tensor) -> None:
        if options.restrict is None:
            return
        if not self.is_fitted:
            raise NotFittedError("restrict needs prototypes; call fit(loader) first")
        self._check_classes(target)

    def _segment(
        self,
        stack: StackedBlocks,
        start: int,
        target: Tensor,
        options: SegmentOptions,
        is_voting: bool = False,
    ) -> Segmentation:
        """Assign the pixels of one depth: to the bank's prototypes, or the image's clusters."""
        stack = stack.suffix(start)
        if not self.is_fitted:
            return segment_by_image(stack, self.n_clusters, options, self.seed)
        is_voting &= self.vote == "distance"
        return segment_by_prototypes(stack, self.bank_.codebooks[start], target, options, is_voting)

    def _vote(
        self,
        stack: StackedBlocks,
        start: int,
        logits: Tensor,
        segments: Segmentation | None = None,
    ) -> Classification:
        """Return class scores and prediction of one depth; ``segments`` of all, where known."""
        book, n_classes = self.bank_.codebooks[start], self.bank_.n_classes
        membership = book.membership.to(logits.device)
        segments = segments or self._segment(
            stack, start, predicted_classes(logits), SegmentOptions(), is_voting=True
        )
        if self.vote == "distance" and membership.ndim == 1:
            if segments.nearness is not None:
                scores = segments.nearness.scores(n_classes)
            else:
                stack = stack.suffix(start)
                scores = distance_scores(stack, book.centroids, membership, n_classes)
            return Classification(scores, scores.argmax(1), logits)
        scores = class_scores(segments.nearest, membership, n_classes)
        found = predicted_class(segments.nearest, segments.distances, membership, n_classes)
        return Classification(scores, found, logits)
