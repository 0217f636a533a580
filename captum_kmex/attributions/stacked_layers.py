"""Several layers of a model, read as one stack: what explanations and fits of it begin with."""

from __future__ import annotations

from collections.abc import Sequence  # noqa: F401  # named in a string

from torch import Tensor

from captum_kmex.arguments import Setting, checked
from captum_kmex.arguments.inputs import Inputs, check_inputs
from captum_kmex.arguments.targets import Target
from captum_kmex.attributions.chosen_layers import LayersAttribution
from captum_kmex.attributions.left_open import check_one_head
from captum_kmex.attributions.one_bank import one_bank_a_call
from captum_kmex.data.batches import Batch
from captum_kmex.explaining.explainer import Explainer
from captum_kmex.explaining.segmenters import (
    ImageClusters,
    PrototypeSegments,
    Segmenter,
    weighted_stack,
)
from captum_kmex.explaining.segments import enlarged_mask
from captum_kmex.explaining.votes import Classification
from captum_kmex.fitting.options import Observation
from captum_kmex.grids import axes_of, grid_of
from captum_kmex.model.reading import plain_arithmetic

__all__ = ["StackedLayersAttribution"]


class StackedLayersAttribution(LayersAttribution):
    """An attribution that reads layers shallow to deep; what it can do without any head.

    Prototypes make the segments, and until there are some each image's own clusters.
    """

    n_clusters = Setting[int]()
    weighting = Setting["str | Sequence[float] | None"]()
    average_top = Setting[bool]()
    vote = Setting[str]()
    surrogate = Setting["str | None"]()

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
        min_area: int = 1,
    ) -> Tensor:
        """Return the segment of each pixel (N, H, W); needs no head, so any model will do.

        Once fitted, a segment is the index of a prototype in ``bank_``; unfitted, of a
        cluster of the image; with ``connected``, of a component, numbered in each image.
        Pieces of fewer than ``min_area`` cells go to the segment that they share most border
        with.
        """
        images = check_inputs(inputs, self.model)
        explainer = self._explainer(
            images,
            additional_forward_args,
            attribute_to_layer_input,
            needs_head=False,
            needs_logits=target is not None or restrict is not None,
        )
        start, question = explainer.depth(depth), explainer.question(target)
        with plain_arithmetic(explainer.logits):
            competition = explainer.competition(question, restrict, connected, min_area)
            return explainer.segments(start, competition).labels

    @checked
    def feature_mask(
        self,
        inputs: Inputs,
        target: Target = None,
        additional_forward_args: object = None,
        attribute_to_layer_input: bool = False,
        *,
        depth: int | str = 0,
        restrict: str | None = None,
        connected: bool = False,
        min_area: int = 1,
    ) -> Tensor:
        """Return the segments of ``segment`` as a ``feature_mask`` of Captum's perturbations.

        ``FeatureAblation``, ``ShapleyValueSampling``, ``KernelShap`` and ``Lime`` then take whole
        segments out of the picture: they measure what ``attribute`` computes, with a forward pass
        or more for each segment.

        Args:
            inputs: Images (N, C, H, W), or a tuple with the images first.
            target: The class that ``restrict`` is about; the model's argmax if ``None``.
            additional_forward_args: Further arguments of the model.
            attribute_to_layer_input: Read the layers at their input.
            depth: Shallowest layer to include.
            restrict: ``"predicted"`` lets only prototypes of the explained class compete.
            connected: Split segments into connected components.
            min_area: Fewest cells of a connected piece.

        Returns:
            Integer tensor (N, 1, H, W), (N, 1, T) or (N, 1, D, H, W) at the size of the input,
            int64, counted from 0 in each image without gaps. Numbers of two images have nothing
            to do with each other.
        """
        images = check_inputs(inputs, self.model)[0]
        labels = self.segment(
            inputs,
            target,
            additional_forward_args,
            attribute_to_layer_input,
            depth=depth,
            restrict=restrict,
            connected=connected,
            min_area=min_area,
        )
        return enlarged_mask(labels, grid_of(images))

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
            ValueError: ``vote`` is neither of the two, or the model had no logits in the fit.
        """
        at_input = self.bank_.at_input
        images = check_inputs(inputs, self.model)
        explainer = self._explainer(images, additional_forward_args, at_input, needs_head=False)
        start = explainer.depth(depth)
        with plain_arithmetic(explainer.logits):
            found = explainer.vote(start)
        if found is None:
            raise ValueError(
                "the model returned no logits in the fit, so its prototypes vote for no class; fit "
                "again with a model that returns logits"
            )
        return found

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
    def read(
        self,
        inputs: Inputs,
        additional_forward_args: object = None,
        attribute_to_layer_input: bool = False,
        *,
        needs_head: bool = True,
    ) -> Explainer:
        """Run the model once; the ``Explainer`` gives all depths, classes and votes of the batch.

        Args:
            inputs: Images (N, C, H, W), or a tuple with the images first.
            additional_forward_args: Further arguments of the model.
            attribute_to_layer_input: Read the layers at their input.
            needs_head: Look for the head too; segments and votes need none.

        Raises:
            ValueError: Malformed inputs or layers, or others than those that the bank is for.
        """
        return self._explainer(
            check_inputs(inputs, self.model),
            additional_forward_args,
            attribute_to_layer_input,
            needs_head,
        )

    @property
    def surrogate_r2(self) -> float | None:
        """R2 of the ridge head that stands in for the model's, if one does."""
        ridge = self._segmenter().ridge_head
        is_left = self._own_head() is not None or self.surrogate == "linearised"
        return None if ridge is None or is_left else ridge.r2

    def _settings(self) -> dict[str, object]:
        return super()._settings() | {
            "n_clusters": self.n_clusters,
            "weighting": self.weighting,
            "average_top": self.average_top,
            "vote": self.vote,
        }

    def _explainer(
        self,
        images: tuple[Tensor, ...],
        args: object,
        at_input: bool,
        needs_head: bool = True,
        needs_logits: bool = True,
    ) -> Explainer:
        """Read a batch whose arguments have been checked."""
        self._choose_layers(images, args)
        names, segmenter = self.layer_names, self._segmenter()
        segmenter.check_call(names, images[0], at_input)
        is_open = self.surrogate is None and not (self.is_fitted and self.bank_.has_logits)
        linearises = is_open or self.surrogate == "linearised"
        needs_head = needs_head and (linearises or segmenter.ridge_head is None)
        reading = self._read_layers(
            names,
            images,
            args,
            at_input,
            needs_head=needs_head,
            linearises=linearises,
            needs_logits=needs_logits,
        )
        segmenter.check_logits(reading.logits)
        return Explainer(reading, segmenter, self.average_top, self._own_head())

    def _segmenter(self) -> Segmenter:
        """Return who makes the segments: the one place where it matters whether there was a fit."""
        if self.is_fitted:
            return PrototypeSegments(self.bank_, self.vote)
        return ImageClusters(self.n_clusters, self.seed, self.weighting or "dimension")

    def _observe(
        self, batch: Batch, args: object, at_input: bool, needs_logits: bool = True
    ) -> Observation:
        images = check_inputs(batch.inputs, self.model)
        before = self._site
        reading = self._read_layers(
            self.layer_names,
            images,
            args,
            at_input,
            keeps_refusal=self._is_head_settled,
            needs_logits=needs_logits,
        )
        self._is_head_settled = before is not None  # two batches have been searched
        self._fit_has_logits = reading.has_logits
        if reading.has_logits:
            check_one_head(before, reading, batch)
        with plain_arithmetic(images[0]):
            stack = weighted_stack(reading.blocks, self.weighting or "balanced")
            has_head = reading.head is not None or self._own_head() is not None
            needs_ridge = reading.has_logits and not has_head
            deepest = reading.blocks[-1]
            pooled = deepest.mean(axes_of(deepest)) if needs_ridge else None
        depths = [stack.suffix(start) for start in range(len(stack.blocks))]
        return Observation(reading.logits, depths, stack.weights, pooled)
