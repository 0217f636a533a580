"""``KMExAttribution``: class-wise k-means centroids of pooled embeddings as prototypes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from torch import Tensor, nn

from captum_kmex.alignment import AlignmentSums, PrototypeAlignment
from captum_kmex.arguments import checked
from captum_kmex.arguments.inputs import Inputs, check_inputs
from captum_kmex.arguments.targets import Target
from captum_kmex.attributions.fitted_attribution import FittedAttribution
from captum_kmex.attributions.one_bank import one_bank_a_call
from captum_kmex.attributions.prototype_attribution import Layer, logged
from captum_kmex.attributions.saved_settings import restored
from captum_kmex.bank.checks import check_call, check_channels, check_logits
from captum_kmex.bank.prototype_bank import PrototypeBank
from captum_kmex.bank.representatives import Representatives
from captum_kmex.classes import class_logits
from captum_kmex.data.batches import Batch, IndexedBatches
from captum_kmex.data.labels import Labels, class_pairs
from captum_kmex.deployment.evidence import CentroidMargin
from captum_kmex.deployment.models import MarginModel
from captum_kmex.exceptions import HeadNotFoundError
from captum_kmex.explaining.evidence import Question, finish_map
from captum_kmex.explaining.margins import CentroidMargins, squared_distances
from captum_kmex.explaining.votes import Classification
from captum_kmex.fitting.options import Observation
from captum_kmex.fitting.rows import PooledRows, check_squares
from captum_kmex.model.activations import layer_name
from captum_kmex.model.reading import Reading, plain_arithmetic

__all__ = ["KMExAttribution"]


class KMExAttribution(FittedAttribution):
    """Explain a class by the nearest of its k-means centroids, pixel by pixel and exactly.

    The pooled embedding ``h = mean_p h_p`` is classified by the nearest of all classes'
    centroids. Squared distances and their differences are means over pixels, so the map adds up
    to the distance, or to the margin by which a class wins. No head plays a part in it.

    Args:
        model: A classifier that returns logits (N, J).
        layer: The map to pool, by name or module; if ``None``, the one the linear head reads.
        n_prototypes: Prototypes K a class, one number or one a class.
        seed: Seed of the sample and of k-means, an integer of 64 bits.
        layout: ``"channels_first"`` or ``"channels_last"``, the layout of ``layer`` where it
            cannot be told from the modules that made it; ``None`` tells by these.
        output: Which of several outputs tells the classes, by its key, attribute or place.

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
        output: str | int | None = None,
    ) -> None:
        super().__init__(model, layer, None, n_prototypes, seed, layout, output)

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
        images, bank = check_inputs(inputs, self.model), self.bank_
        reading = self.read(images, additional_forward_args, attribute_to_layer_input)
        question = Question.of(target, contrast, class_logits(reading.logits), units)
        with plain_arithmetic(images[0]):
            density, total = CentroidMargins(bank, reading.feature_map).answer(question)
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
        images, at_input = (
            check_inputs(inputs, self.model),
            attribute_to_layer_input or self.bank_.at_input,
        )
        reading = self.read(images, additional_forward_args, at_input)
        question = Question.of(target, contrast, class_logits(reading.logits), units)
        with plain_arithmetic(images[0]):
            _, total = self._margins(reading).answer(question)
        return attributions.flatten(1).sum(1) - total

    @checked
    @one_bank_a_call
    def similarity(self, inputs: Inputs, additional_forward_args: object = None) -> Tensor:
        """Return ``exp(-|h - p_k|)`` for every prototype (N, C*K), in (0, 1].

        Far embeddings underflow to 0; ``predict`` compares distances and does not.
        """
        reading = self.read(inputs, additional_forward_args, self.bank_.at_input)
        with plain_arithmetic(reading.logits):
            pooled = self._margins(reading).pooled
            return (-squared_distances(pooled, self.prototypes).sqrt()).exp()

    @checked
    @one_bank_a_call
    def classify(self, inputs: Inputs, additional_forward_args: object = None) -> Classification:
        """Return the class of the nearest prototype beside the model's logits.

        The scores (N, C) are minus the distance to each class's nearest prototype.
        """
        reading = self.read(inputs, additional_forward_args, self.bank_.at_input)
        with plain_arithmetic(reading.logits):
            nearest, _ = self._margins(reading).nearest
        return Classification(-nearest.sqrt(), nearest.argmin(1), reading.logits)

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
        bank = self.bank_
        reading = self.read(inputs, None, bank.at_input)
        margin = CentroidMargin.of(bank, target, reading.logits, reading.feature_map)
        reader = self._frozen_reader(reading, bank.at_input, reads_tap=not reading.layers)
        return MarginModel(reader, margin).to(self.device)

    @checked
    @one_bank_a_call
    def alignment(self, loader: Iterable[object]) -> PrototypeAlignment:
        """Return class and out cosines of the prototypes on labelled images (Table 1)."""
        bank = self.bank_
        sums = AlignmentSums(self.prototypes, self.prototype_classes, bank.n_classes)
        for batch in IndexedBatches(loader, self.device):
            reading = self.read(batch.inputs, None, bank.at_input)
            rows, classes = class_pairs("target", batch.targets, reading.logits)
            sums.add(self._margins(reading).pooled[rows], classes)
        return sums.result()

    @checked
    @one_bank_a_call
    def read(
        self,
        inputs: Inputs,
        additional_forward_args: object = None,
        attribute_to_layer_input: bool = False,
    ) -> Reading:
        """Run the model once; the map to pool (N, D, h, w) is its ``feature_map``.

        Raises:
            HeadNotFoundError: There is no head that tells which map to pool; pass ``layer``.
            ValueError: Malformed inputs, or others than those that the bank is for.
        """
        images, at_input = check_inputs(inputs, self.model), attribute_to_layer_input
        if not self.is_fitted:
            return self._read_map(images, additional_forward_args, at_input)
        check_call(self.bank_, self.layer_names, images[0], at_input)
        reading = self._read_map(images, additional_forward_args, at_input)
        check_logits(self.bank_, reading.logits)
        check_channels(self.bank_, [reading.feature_map])
        return reading

    @property
    def layer_names(self) -> tuple[str, ...]:
        """The name of ``layer``; none if the map is found by itself."""
        return () if self.layer is None else (layer_name(self.model, self.layer),)

    @property
    def prototypes(self) -> Tensor:
        """The centroids (C*K, D), class by class; their classes are ``prototype_classes``."""
        return self.bank_.codebooks[0].centroids

    @property
    def prototype_classes(self) -> Tensor:
        """The class of each prototype, integer tensor (C*K,)."""
        return self.bank_.codebooks[0].membership

    @property
    def representatives(self) -> Representatives | None:
        """Nearest training images of each prototype; ``None`` if they were not collected."""
        return self.bank_.codebooks[0].representatives

    def _margins(self, reading: Reading) -> CentroidMargins:
        return CentroidMargins(self.bank_, reading.feature_map)

    def _observe(
        self,
        batch: Batch,
        args: object,
        at_input: bool,
        needs_logits: bool = True,  # noqa: ARG002  # prototypes of classes do
    ) -> Observation:
        reading = self._read_map(check_inputs(batch.inputs, self.model), args, at_input)
        return Observation(reading.logits, [PooledRows.of(reading.feature_map)])

    def _read_map(self, images: tuple[Tensor, ...], args: object, at_input: bool) -> Reading:
        """Return the pass, with the map to pool (N, D, h, w) as its tap."""
        names = self.layer_names
        if at_input and not names:
            raise ValueError("attribute_to_layer_input=True needs layer=, the layer to read")
        reading = self._read(images, names, args, at_input, needs_head=not names)
        features = reading.features[names[0]] if names else reading.tap
        if features is None:
            raise HeadNotFoundError(
                f"no layer to pool was found ({reading.refusal}); pass layer=, the last feature map"
            )
        check_squares(features)
        return replace(reading, tap=features)

    @classmethod
    def _for_bank(
        cls, model: nn.Module, bank: PrototypeBank, head: Layer | None
    ) -> KMExAttribution:
        layer = bank.layers[0] if bank.layers else None
        options = restored(bank.settings, None)
        if options.pop("head") is not None or head is not None:
            raise ValueError("KMExAttribution has no head; leave head= out")
        return cls(model, layer, **options)
