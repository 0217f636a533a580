"""What the two fitted attributions share: the bank, its life cycle and its checks."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

import torch
from captum.concept import Concept
from torch import Tensor, nn

from captum_kmex.arguments import Setting, checked, checked_by_all
from captum_kmex.arguments.inputs import Inputs, check_choice
from captum_kmex.attributions.fit_subject import FitSubject
from captum_kmex.attributions.left_open import tell_of_ridge_head
from captum_kmex.attributions.one_bank import bank_of, one_bank_a_call
from captum_kmex.attributions.prototype_attribution import Layer, PrototypeAttribution
from captum_kmex.attributions.saved_settings import OWN_HEAD, kept_counts, name_of
from captum_kmex.bank.checks import check_layers
from captum_kmex.bank.prototype_bank import PrototypeBank
from captum_kmex.concepts import to_concepts
from captum_kmex.data.batches import Batch, IndexedBatches, Labels
from captum_kmex.distributed import check_alike, together, world_size
from captum_kmex.exceptions import NotFittedError
from captum_kmex.explaining.votes import Classification
from captum_kmex.fitting.checkpoint import Checkpoint, held
from captum_kmex.fitting.options import FitOptions, Observation
from captum_kmex.fitting.run import Fit
from captum_kmex.model.activations import layer_name
from captum_kmex.model.head import HeadSite
from captum_kmex.model.tail_sites import ExactTail, LinearisedTail

__all__ = ["Classification", "FittedAttribution"]

_Fitted = TypeVar("_Fitted", bound="FittedAttribution")


class FittedAttribution(PrototypeAttribution):
    """An attribution with a ``PrototypeBank``, which ``fit`` or ``load`` gives it."""

    n_prototypes = Setting[int | Mapping[int, int]]()
    seed = Setting[int]()
    _label_modes: tuple[Labels, ...] = ("target", "predicted", None)
    _has_masses = False  # rows are sampled by their norm too

    def __init__(
        self,
        model: nn.Module,
        layer: object,
        head: Layer | None,
        n_prototypes: int | Mapping[int, int],
        seed: int,
        layout: str | None,
        output: str | int | None,
    ) -> None:
        super().__init__(model, layer, head, layout, output)
        self.n_prototypes = n_prototypes
        self.seed = seed
        self.own_bank: PrototypeBank | None = None  # ``bank_`` is the one of the present call
        self._is_head_settled = False  # during a fit, whether there is one
        self._fit_has_logits = True

    @property
    def is_fitted(self) -> bool:
        """Whether there are prototypes."""
        return bank_of(self) is not None

    @property
    def bank_(self) -> PrototypeBank:
        """The fitted prototypes.

        Raises:
            NotFittedError: ``fit`` has not been called.
        """
        bank = bank_of(self)
        if bank is None:
            raise NotFittedError(
                f"this {self.get_name()} is not fitted, and what was asked for needs its "
                "prototypes; call fit(loader) first, or load(path, model)"
            )
        return bank

    @checked_by_all
    def fit(
        self: _Fitted,
        loader: Iterable[object],
        *,
        labels: Labels = "target",
        classes: Sequence[int] | None = None,
        n_init: int = 10,
        max_iter: int = 100,
        refine: int = 0,
        memory_budget: int = 2 * 2**30,
        n_representatives: int = 5,
        patch_search: str = "sample",
        checkpoint: str | os.PathLike[str] | None = None,
        checkpoint_interval: float = 60.0,
        additional_forward_args: object = None,
        attribute_to_layer_input: bool = False,
        show_progress: bool = False,
    ) -> _Fitted:
        """Cluster the features of each class in one pass of bounded memory.

        ``LayerKMeansAttribution`` clusters the pixels of every depth, ``KMExAttribution`` pooled
        embeddings. The training patches nearest to each prototype are found among the rows kept on
        the way. A shuffled ``DataLoader`` is read in data-set order; the result depends on the data
        and the seed, not on the batch size. Switch random augmentation off.

        Under an initialised ``torch.distributed`` group every process calls ``fit`` with its own
        shard, best a ``DataLoader`` with a ``DistributedSampler``, and ends with the same bank.

        Args:
            loader: A ``DataLoader`` or iterable of (images, labels), or of images where no
                labels are needed, or of dicts with one image tensor and ``"label"``. Labels are
                integers (N,) or multi-hot (N, C); of a single logit 0 or 1, its sign.
            labels: ``"target"``: the loader's labels; ``"predicted"``: the model's; ``None``:
                one class-agnostic codebook whose clusters vote by the predictions in them
                (not for ``KMExAttribution``, which is class-wise).
            classes: Fit only these classes; by default every class must have images.
            n_init: Starts of k-means, up to 1,000.
            max_iter: Most Lloyd steps on the sampled rows, up to 100,000.
            refine: Further passes, up to 1,000, each one Lloyd step over all rows; none is kept.
            memory_budget: Bytes for the sampled rows of all classes and depths, of each process.
            n_representatives: Nearest training patches kept of each prototype, up to 1,000.
            patch_search: Where they are looked for: ``"sample"``, among the sampled rows, in the
                same pass; ``"exact"``, among all rows, in one further pass.
            checkpoint: File for the progress. A fit that was interrupted goes on from there
                and ends as it would have; the file is deleted at the end.
            checkpoint_interval: Seconds between two saves, at least; 0 saves after every batch.
            additional_forward_args: Further arguments of the model.
            attribute_to_layer_input: Read the layers at their input.
            show_progress: Show progress bars.

        Returns:
            The object itself, fitted. An earlier fit is kept if this one fails.

        Raises:
            ValueError: No or bad labels, a class without samples, fewer rows than prototypes,
                an empty loader, or bad layers; a checkpoint of another fit or of other data,
                damaged, or in use; processes that differ in model, options or data set.
            TypeError: ``loader`` yields no batches, or an option is of another type.
            RuntimeError: The fit failed on another process of the group.
        """
        with together():
            check_choice("labels", labels, self._label_modes)
            groups = (labels, None if classes is None else tuple(classes))
            sizes = (n_init, max_iter, refine, self.seed, memory_budget, n_representatives)
            options = FitOptions(self.n_prototypes, *groups, *sizes, patch_search)
            batches = IndexedBatches(loader, self.device, self.model)
            at_input = bool(attribute_to_layer_input)
            self._look_at(batches, additional_forward_args)
            about = (at_input, self._settings(), self._has_masses)
            subject = FitSubject(name_of(type(self)), self.model, self.layer_names, *about)
            is_kept = checkpoint is not None
            identity = subject.identity(options) if is_kept or world_size() > 1 else {}
        check_alike(identity | {"data": batches.kind()})
        batches.check_shards()

        def observe(batch: Batch) -> Observation:
            return self._observe(batch, additional_forward_args, at_input, labels is not None)

        with held(checkpoint):
            identity |= batches.identity() if is_kept else {}
            check = subject.progress_check(options, identity)
            kept = Checkpoint(checkpoint, identity, checkpoint_interval, check)
            self._is_head_settled = False
            before = self._site
            self._site = before if isinstance(before, (HeadSite, ExactTail)) else None
            with torch.no_grad():
                found = Fit(batches, observe, options, kept, show_progress).run()
            self.own_bank = subject.bank(found, options, self._fit_has_logits)
        if isinstance(before, LinearisedTail) and self.own_bank.surrogate is not None:
            tell_of_ridge_head(getattr(self, "surrogate", None))
        return self

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the bank to a safetensors file; see ``PrototypeBank.save``."""
        self.bank_.save(path)

    @classmethod
    @checked
    def load(
        cls: type[_Fitted],
        path: str | os.PathLike[str],
        model: nn.Module,
        *,
        strict: bool = True,
        head: Layer | None = None,
    ) -> _Fitted:
        """Read a fitted bank for the model it was fitted on.

        Args:
            path: A file written by ``save``.
            model: The model of the fit.
            strict: Refuse another model's bank; otherwise accept it if the shapes fit.
            head: As in the constructor of ``LayerKMeansAttribution``.

        Raises:
            ValueError: The file is damaged, foreign, or fitted on another model or layer.
        """
        return cls.from_bank(PrototypeBank.load(path), model, strict=strict, head=head)

    @classmethod
    @checked
    def from_bank(
        cls: type[_Fitted],
        bank: PrototypeBank,
        model: nn.Module,
        *,
        strict: bool = True,
        head: Layer | None = None,
    ) -> _Fitted:
        """Return an attribution with the prototypes of a bank; see ``load``.

        Raises:
            ValueError: The bank was fitted by another method, or on another model or layer.
        """
        if bank.method != name_of(cls):
            raise ValueError(
                f"the bank was fitted by {bank.method}, not by {name_of(cls)}; use "
                f"{bank.method}.load"
            )
        attribution = cls._for_bank(model, bank, head)
        check_layers(bank, attribution.layer_names)
        if strict:
            bank.check_model(attribution.model)
        attribution.own_bank = bank
        return attribution

    @classmethod
    def _for_bank(
        cls: type[_Fitted], model: nn.Module, bank: PrototypeBank, head: Layer | None
    ) -> _Fitted:
        """Return an unfitted object with a bank's layers."""
        raise NotImplementedError

    def classify(self, inputs: Inputs, additional_forward_args: object = None) -> Classification:
        """Return the surrogate's scores and prediction beside the model's logits."""
        raise NotImplementedError

    @checked
    def predict(self, inputs: Inputs, additional_forward_args: object = None) -> Tensor:
        """Return the class (N,) that the prototypes predict.

        Raises:
            NotFittedError: ``fit`` has not been called.
        """
        return self.classify(inputs, additional_forward_args).prediction

    @checked
    @one_bank_a_call
    def to_concepts(
        self,
        dataset: Sequence[object],
        prototypes: Sequence[int] | None = None,
        *,
        depth: int | str = 0,
        context: float = 0.25,
        batch_size: int = 16,
    ) -> list[Concept]:
        """Return prototypes as Captum concepts, for TCAV on concepts nobody had to collect.

        Args:
            dataset: The training set of the fit.
            prototypes: Which prototypes; all if ``None``.
            depth: Which codebook, by position or name of its shallowest layer.
            context: Least side of a crop, as a share of the image's; 1 takes whole images.
            batch_size: Patches a batch.

        Raises:
            NotFittedError: ``fit`` has not been called.
            ValueError: The bank has no representatives, or a prototype is out of range.
        """
        return to_concepts(
            self.bank_, dataset, prototypes, depth=depth, context=context, batch_size=batch_size
        )

    @property
    def layer_names(self) -> tuple[str, ...]:
        """Names of the layers, shallow to deep; none if the map is found by itself."""
        raise NotImplementedError

    def _settings(self) -> dict[str, object]:
        """Return the constructor's options, fit for JSON; ``_for_bank`` reads them."""
        head = OWN_HEAD if self._own_head() is not None else self.head
        named = head if head in (None, OWN_HEAD) else layer_name(self.model, head)
        counts = kept_counts(self.n_prototypes)
        chosen = {} if self.output is None else {"output": self.output}
        about = {"n_prototypes": counts, "seed": self.seed, "layout": self.layout, "head": named}
        return about | chosen

    def _look_at(self, batches: IndexedBatches, args: object) -> None:
        """Choose by the first batch what the user left open."""

    def _observe(
        self, batch: Batch, args: object, at_input: bool, needs_logits: bool
    ) -> Observation:
        """Run the model on a batch of the fit."""
        raise NotImplementedError
