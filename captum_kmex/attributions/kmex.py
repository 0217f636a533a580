"""``KMExAttribution``: class-wise k-means centroids of pooled embeddings as prototypes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from captum_kmex.alignment import AlignmentSums, PrototypeAlignment
from captum_kmex.arguments import checked
from captum_kmex.arguments.inputs import Inputs, check_inputs
from captum_kmex.arguments.targets import Target, resolve_target
from captum_kmex.attributions.fitted_attribution import Classification, FittedAttribution, restored
from captum_kmex.attributions.one_bank import one_bank_a_call
from captum_kmex.attributions.prototype_attribution import Forward, Layer, logged, plain_arithmetic
from captum_kmex.bank.prototype_bank import Codebook, PrototypeBank
from captum_kmex.bank.representatives import Representatives
from captum_kmex.classes import class_logits
from captum_kmex.composite.by_class import best_by_class
from captum_kmex.data.batches import Batch, Labels, class_pairs
from captum_kmex.deployment import CentroidMargin, MarginModel, fixed_target
from captum_kmex.exceptions import HeadNotFoundError
from captum_kmex.explaining.evidence import contrast_targets, finish_map
from captum_kmex.fitting.options import Observation
from captum_kmex.fitting.rows import PooledRows, check_squares
from captum_kmex.model.activations import layer_name

__all__ = ["KMExAttribution"]


class KMExAttribution(FittedAttribution):
    """Explain a class by the nearest of its k-means centroids, pixel by pixel and exactly.

    The pooled embedding ``h = mean_p h_p`` is classified by the nearest of all classes'
    centroids. Squared distances and their differences are means over pixels, so the map adds
    up to the distance, or to the margin by which a class wins. The head plays no part in it:
    any model with a feature map will do.

    Args:
        model: A classifier that returns logits (N, J).
        layer: The map to pool, by name or module; if ``None``, the one the linear head reads.
        n_prototypes: Prototypes K a class, one number or one a class.
        seed: Seed of the sample and of k-means, an integer of 64 bits.
        layout: ``"channels_first"`` or ``"channels_last"``, the layout of ``layer`` where it
            cannot be told from the modules that made it; ``None`` tells by these.

    Attributes:
        bank_: The fitted ``PrototypeBank``.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from captum_kmex import KMExAttribution
        >>> model = nn.Sequential(
        ...     nn.Conv2d(1, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        ...     nn.Linear(8, 2)).eval()
        >>> x, y = torch.rand(60, 1, 8, 8), torch.arange(60) % 2
        >>> attr = KMExAttribution(model, n_prototypes=2).fit([(x, y)])
        >>> attr.attribute(x[:3], target=1).shape
        torch.Size([3, 1, 6, 6])
        >>> attr.predict(x[:3]).shape
        torch.Size([3])

    Reference:
        Gautam et al., KMEx, TMLR (2024); Boubekki & Clemmensen (2026).
    """

    _label_modes: tuple[Labels, ...] = ("target", "predicted")
    _has_masses = True

    @checked
    def __init__(
        self,
        model: nn.Module,
        layer: Layer | None = None,
        *,
        n_prototypes: int | Mapping[int, int] = 5,
        seed: int = 0,
        layout: str | None = None,
    ) -> None:
        super().__init__(model, layer, None, n_prototypes, seed, layout)

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
        units: str = "margin",
        contrast: Target = None,
        upsample: str | None = None,
        return_convergence_delta: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Return the evidence of each pixel for a class's nearest prototype.

        Args:
            inputs: Images (N, C, H, W), or a tuple with the images first.
            target: Class to explain, of a single logit 0 or 1; the model's own if ``None``.
            additional_forward_args: Further arguments of the model.
            attribute_to_layer_input: Read ``layer`` at its input.
            units: ``"margin"``: the map sums to ``|h - b|^2 - |h - a|^2``, a the nearest
                prototype of the target and b that of any other class (or of ``contrast``),
                positive where the pixel speaks for the target; ``"distance"``: it sums to
                ``|h - a|^2``.
            contrast: The class whose nearest prototype is b.
            upsample: ``"input"`` returns the input's shape, channels summing to the map.
            return_convergence_delta: Return also sum of the map minus margin or distance.

        Returns:
            Float tensor (N, 1, h, w), and with ``return_convergence_delta`` a float tensor (N,).

        Raises:
            NotFittedError: ``fit`` has not been called.
            ValueError: Malformed inputs or options, or a class without prototypes.
            TargetError: Malformed target.
        """
        if contrast is not None and units == "distance":
            raise ValueError("contrast needs units='margin'; a distance has no second class")
        images = check_inputs(inputs)
        passed, features = self._inspect(images, additional_forward_args, attribute_to_layer_input)
        explained, against = contrast_targets(target, contrast, class_logits(passed.logits), units)
        with plain_arithmetic(images[0]):
            density, total = self._evidence(features, explained, against, units)
            maps = finish_map(density, images[0], upsample, sums=True)
        if return_convergence_delta:
            return maps, maps.flatten(1).sum(1) - total
        return maps

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
        units: str = "margin",
    ) -> Tensor:
        """Return sum of the maps minus margin or distance (N,)."""
        maps, delta = self.attribute(
            inputs,
            target,
            additional_forward_args,
            attribute_to_layer_input or self.bank_.at_input,
            contrast=contrast,
            units=units,
            return_convergence_delta=True,
        )
        return delta + attributions.flatten(1).sum(1) - maps.flatten(1).sum(1)

    @checked
    @one_bank_a_call
    def similarity(self, inputs: Inputs, additional_forward_args: object = None) -> Tensor:
        """Return ``exp(-|h - p_k|)`` for every prototype (N, C*K), in (0, 1].

        Far embeddings underflow to 0; ``predict`` compares distances and does not.
        """
        images = check_inputs(inputs)
        _, features = self._inspect(images, additional_forward_args, self.bank_.at_input)
        with plain_arithmetic(images[0]):
            return (-self._distances(features.mean((2, 3))).sqrt()).exp()

    @checked
    @one_bank_a_call
    def classify(self, inputs: Inputs, additional_forward_args: object = None) -> Classification:
        """Return the class of the nearest prototype beside the model's logits.

        The scores (N, C) are minus the distance to each class's nearest prototype.
        """
        images = check_inputs(inputs)
        passed, features = self._inspect(images, additional_forward_args, self.bank_.at_input)
        with plain_arithmetic(images[0]):
            distances = self._distances(features.mean((2, 3)))
        nearest, _ = self._class_nearest(distances)
        return Classification(-nearest.sqrt(), nearest.argmin(1), passed.logits)

    @checked
    @one_bank_a_call
    def as_module(self, inputs: Tensor, target: int | None = None) -> MarginModel:
        """Return a plain module that gives logits, map and prediction, for deployment.

        It goes through ``torch.export`` and to ONNX, where it needs nothing of this package. It
        holds a private copy of the model, and of the prototypes as they are now.

        Args:
            inputs: A few images (N, C, H, W), on which the map to pool is found.
            target: The class to explain, by its margin; each image's own if ``None``.

        Raises:
            NotFittedError: ``fit`` has not been called.
            ValueError: Malformed inputs, or a class without prototypes.
            TargetError: Malformed target.
        """
        at_input = self.bank_.at_input
        passed, features = self._inspect(check_inputs(inputs), None, at_input)
        logits = passed.logits
        self._check_classes(resolve_target(target, class_logits(logits)))
        if len(self.prototype_classes.unique()) < 2:
            raise ValueError("a margin needs prototypes of two classes; fit more classes")
        target = fixed_target(target, class_logits(logits))
        centroids, classes = self.prototypes.to(features), self.prototype_classes
        margin = CentroidMargin(centroids, classes, self.bank_.n_classes, target)
        reader = self._frozen_reader(passed, at_input, reads_tap=not passed.layers)
        return MarginModel(reader, margin).to(logits.device)

    @checked
    @one_bank_a_call
    def alignment(self, loader: Iterable[object]) -> PrototypeAlignment:
        """Return class and out cosines of the prototypes on labelled images (Table 1)."""
        book = self._book
        sums = AlignmentSums(book.centroids, book.membership, self.bank_.n_classes)
        for batch in self._batches(loader):
            passed, features = self._inspect(batch.inputs, None, self.bank_.at_input)
            rows, classes = class_pairs("target", batch.targets, passed.logits)
            sums.add(features.mean((2, 3))[rows], classes)
        return sums.result()

    @property
    def prototypes(self) -> Tensor:
        """The centroids (C*K, D), class by class; their classes are ``prototype_classes``."""
        return self._book.centroids

    @property
    def prototype_classes(self) -> Tensor:
        """The class of each prototype, integer tensor (C*K,)."""
        return self._book.membership

    @property
    def representatives(self) -> Representatives | None:
        """Nearest training images of each prototype; ``None`` if they were not collected."""
        return self._book.representatives

    @property
    def _book(self) -> Codebook:
        return self.bank_.codebooks[0]

    def _observe(self, batch: Batch, args: object, at_input: bool) -> Observation:
        passed, features = self._features(check_inputs(batch.inputs), args, at_input)
        return Observation(passed.logits, [PooledRows(features.mean((2, 3)))])

    def _inspect(
        self, images: tuple[Tensor, ...], args: object, at_input: bool
    ) -> tuple[Forward, Tensor]:
        """Return the pass and the map, once they are known to be those that the bank is for."""
        self._check_bank(images[0], at_input)
        passed, features = self._features(images, args, at_input)
        self._check_logits(passed.logits)
        width = self.prototypes.shape[1]
        if features.shape[1] != width:
            raise ValueError(
                f"the bank's prototypes have {width} channels, the map {features.shape[1]}; it "
                "was fitted on another model: fit again"
            )
        return passed, features

    def _features(
        self, images: tuple[Tensor, ...], args: object, at_input: bool
    ) -> tuple[Forward, Tensor]:
        """Return the pass and the map to pool (N, D, h, w)."""
        if self.layer is not None:
            name = layer_name(self.model, self.layer)
            passed = self._run(images, [name], args, at_input, needs_head=False)
            check_squares(passed.features[name])
            return passed, passed.features[name]
        if at_input:
            raise ValueError("attribute_to_layer_input=True needs layer=, the layer to read")
        passed = self._run(images, [], args, False)
        if passed.tap is None:
            raise HeadNotFoundError(
                f"no layer to pool was found ({passed.refusal}); pass layer=, the last feature map"
            )
        check_squares(passed.tap)
        return passed, passed.tap

    def _layer_names(self) -> tuple[str, ...]:
        return () if self.layer is None else (layer_name(self.model, self.layer),)

    def _distances(self, embeddings: Tensor) -> Tensor:
        """Return squared distances (N, C*K), by differences so that none is negative."""
        prototypes = self.prototypes.to(embeddings)
        mode = "donot_use_mm_for_euclid_dist"
        return torch.cdist(embeddings, prototypes, compute_mode=mode).square()

    def _class_nearest(self, distances: Tensor) -> tuple[Tensor, Tensor]:
        """Return each class's least distance (N, C), inf without prototypes, and its index."""
        best, index = best_by_class(-distances, self.prototype_classes, self.bank_.n_classes)
        return -best, index

    def _evidence(
        self, features: Tensor, target: Tensor, contrast: Tensor | None, units: str
    ) -> tuple[Tensor, Tensor]:
        """Return the density (N, 1, h, w) and what its mean must be (N,)."""
        pooled = features.mean((2, 3))
        least, index = self._class_nearest(self._distances(pooled))
        self._check_classes(target)
        own = least.gather(1, target.unsqueeze(1)).squeeze(1)
        a = self._chosen(index, target, features)
        if units == "distance":
            offset = (pooled - a.flatten(1))[..., None, None]
            return ((features - a) * offset).sum(1, keepdim=True), own
        if contrast is None:
            rivals = least.scatter(1, target.unsqueeze(1), torch.inf)
            if not torch.isfinite(rivals).any(1).all():
                raise ValueError(
                    f"a margin needs prototypes of a second class, the bank has only class "
                    f"{int(target[0])}; fit more classes, or use units='distance'"
                )
            contrast = rivals.argmin(1)
        self._check_classes(contrast)
        b = self._chosen(index, contrast, features)
        other = least.gather(1, contrast.unsqueeze(1)).squeeze(1)
        # |h-b|^2 - |h-a|^2 = 2 <h - (a+b)/2, a - b>, a mean over pixels
        return 2 * ((features - (a + b) / 2) * (a - b)).sum(1, keepdim=True), other - own

    def _chosen(self, index: Tensor, classes: Tensor, like: Tensor) -> Tensor:
        chosen = index.gather(1, classes.unsqueeze(1)).squeeze(1)
        return self.prototypes.to(like)[chosen][..., None, None]

    @classmethod
    def _for_bank(
        cls,
        model: nn.Module,
        bank: PrototypeBank,
        head: Layer | None,
    ) -> KMExAttribution:
        layer = bank.layers[0] if bank.layers else None
        options = restored(bank.settings, None)
        if options.pop("head") is not None or head is not None:
            raise ValueError("KMExAttribution has no head; leave head= out")
        return cls(model, layer, **options)
