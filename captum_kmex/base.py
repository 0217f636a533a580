"""What the three attributions share: inputs, one forward pass, the head, Captum's contract."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import ParamSpec, TypeVar, cast

import torch
from captum.attr import LayerAttribution
from captum.log import log_usage
from torch import Tensor, nn

from captum_kmex.activations import Trace, layer_name, trace, unwrap
from captum_kmex.arguments import read_option
from captum_kmex.batches import IndexedBatches
from captum_kmex.checks import check_forward_args
from captum_kmex.deployment_parts import ModelReader
from captum_kmex.exceptions import HeadNotFoundError
from captum_kmex.grids import feature_grid
from captum_kmex.head import HeadSite, LinearHead, find_head, is_close, linear_head
from captum_kmex.preparation import Preparation, channels_last

__all__ = ["HEAD_TAIL", "Forward", "Layer", "PrototypeAttribution", "logged", "plain_arithmetic"]

Layer = str | nn.Module
_P = ParamSpec("_P")
_R = TypeVar("_R")
_Attribution = TypeVar("_Attribution", bound="PrototypeAttribution")

HEAD_TAIL = 48  # module calls before the end among which the tap and the head stand


def logged(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Wrap a public method in Captum's usage log; Captum calls what is inside by itself."""
    return cast("Callable[_P, _R]", log_usage()(function))


@dataclass(frozen=True)
class Forward:
    """One forward pass as the attributions see it.

    Attributes:
        logits: Float tensor (N, J).
        features: Layer name to float tensor (N, D, H, W).
        tap: Feature map that the head reads (N, D, H, W), if there is a head.
        head: The linear head, verified on this very pass, or given by the user.
        refusal: Why there is no head.
        layers: Names of the layers asked for, shallow to deep.
        order: Names of the layers as they ran.
        dtype: The coarsest floating-point type on the way, for tolerances.
    """

    logits: Tensor
    features: dict[str, Tensor]
    tap: Tensor | None
    head: LinearHead | None
    refusal: str
    layers: tuple[str, ...]
    order: tuple[str, ...]
    dtype: torch.dtype


class PrototypeAttribution(LayerAttribution):  # type: ignore[misc]  # captum is untyped here
    """Base of the attributions: one forward pass of a plain module, without gradients."""

    def __init__(self, model: nn.Module, layer: object, head: Layer | None) -> None:
        super().__init__(model, layer)
        self.head = head
        self._site: HeadSite | str | None = None
        self._preparation: Preparation | None = None

    @classmethod
    def get_name(cls: type[PrototypeAttribution]) -> str:
        """Return the class name; Captum would split it at every capital."""
        return cls.__name__

    def has_convergence_delta(self) -> bool:
        """Return ``True``: the maps add up to a number that can be checked."""
        return True

    @property
    def multiplies_by_inputs(self) -> bool:
        """``True``: the map is a share of the output, not a sensitivity."""
        return True

    @property
    def model(self) -> nn.Module:
        """The module inside any wrapper."""
        return unwrap(cast("nn.Module", read_option("model", self.forward_func)))

    @property
    def is_prepared(self) -> bool:
        """Whether explanations run a prepared copy of the model."""
        return self._preparation is not None

    def prepare(self: _Attribution) -> _Attribution:
        """Explain from now on with a private copy of the model that runs faster.

        In the copy, batch norms are folded into the convolutions before them and weights lie
        channels-last; without such batch norms, only the latter. Features differ by rounding.
        The first explanation runs the model too and compares. The copy is made again when
        parameters, buffers, modules or hooks of the model change, but writes through
        ``tensor.data`` and to inference tensors go unseen: call ``prepare`` after them.

        Returns:
            The object itself. Banks, files and copies do not hold the prepared weights.

        Raises:
            ValueError: The model cannot be copied, or not be traced by ``torch.fx``; the
                message has the reason. The object stays as it was.

        Note:
            The weights take twice the memory. Models of few convolutions gain little.
        """
        model = self.model
        layers = [self.layer] if isinstance(self.layer, (str, nn.Module)) else self.layer or ()
        preparation = Preparation()
        preparation.current(model, [layer_name(model, layer) for layer in layers])
        self._preparation = preparation
        return self

    def _run(
        self,
        inputs: tuple[Tensor, ...],
        layers: Sequence[str],
        additional_forward_args: object,
        at_input: bool,
        needs_head: bool = True,
        keeps_refusal: bool = False,
    ) -> Forward:
        """Run the model once; twice where the head, found before, no longer fits.

        A model without a head is searched again on every pass, unless ``keeps_refusal``.
        """
        model = self.model
        args = additional_forward_args
        args = args if isinstance(args, tuple) else () if args is None else (args,)
        check_forward_args(model, inputs, args)
        leaving, entering = ((), layers) if at_input else (layers, ())
        if self._preparation is not None:
            model = self._preparation.compared(model, inputs, leaving, entering, args)
            inputs = channels_last(inputs)
        site = self._site
        is_known = isinstance(site, HeadSite) or (keeps_refusal and site is not None)
        looks_for_head = needs_head and not is_known and not self._has_own_head()
        known_tap = site.tap if isinstance(site, HeadSite) and needs_head else None
        passed = trace(
            model,
            inputs,
            leaving,
            entering=entering,
            tap=known_tap,
            additional_forward_args=args,
            tail=HEAD_TAIL if looks_for_head else 0,
        )
        if looks_for_head:
            self._site = site = self._find(passed, inputs[0])
        tap = head = None
        if isinstance(site, HeadSite) and needs_head:
            tap = site.features(_tap_output(passed, site.tap, inputs[0]))
            head = site.read(model, tap)
            if not looks_for_head and not self._verifies(head, tap, passed):
                self._site = None
                return self._run(inputs, layers, additional_forward_args, at_input)
        recorded = passed.entering if at_input else passed.features
        refusal = site if isinstance(site, str) else ""
        features = {name: recorded[name] for name in layers}
        return Forward(
            passed.logits,
            features,
            tap,
            head,
            refusal,
            tuple(layers),
            passed.order,
            passed.dtype,
        )

    def _frozen_reader(
        self, layers: Sequence[str], at_input: bool = False, *, reads_tap: bool = True
    ) -> ModelReader:
        """Return a copy of the model as it is run now, that reads these layers."""
        model = self.model
        if self._preparation is not None:
            model = self._preparation.current(model, layers)
        site = self._site if reads_tap and isinstance(self._site, HeadSite) else None
        return ModelReader(model, layers, at_input, site)

    def _batches(self, loader: Iterable[object]) -> IndexedBatches:
        parameter = next(self.model.parameters(), torch.empty(0))
        return IndexedBatches(loader, parameter.device)

    def _has_own_head(self) -> bool:
        """Whether the user gave a linear layer that is no part of the model."""
        if not isinstance(self.head, nn.Module):
            return False
        return all(module is not self.head for module in self.model.modules())

    def _find(self, passed: Trace, images: Tensor) -> HeadSite | str:
        linear = None if self.head is None else layer_name(self.model, self.head)
        try:
            return find_head(passed, (images.shape[-2], images.shape[-1]), linear)
        except HeadNotFoundError as error:
            return str(error)

    def _verifies(self, head: LinearHead, tap: Tensor, passed: Trace) -> bool:
        if self.head is not None:  # the user's choice: the convergence delta shows the rest
            return True
        return is_close(head.logits(tap), passed.logits, passed.dtype)

    def _own_head(self, features: Tensor, logits: Tensor) -> LinearHead:
        head = linear_head(cast("nn.Module", self.head), features)
        if len(head.columns) != logits.shape[1]:
            raise ValueError(
                f"the head gives {len(head.columns)} logits, the model {logits.shape[1]}; pass a "
                "head with one output a logit"
            )
        return head


def _tap_output(passed: Trace, name: str, images: Tensor) -> Tensor:
    if name in passed.features:
        return passed.features[name]
    call = next(call for call in reversed(passed.calls) if call.name == name)
    size = (images.shape[-2], images.shape[-1])
    return feature_grid(cast("Tensor", call.output), size, name, call.module).contiguous()


def plain_arithmetic(images: Tensor) -> AbstractContextManager[object]:
    """Switch autocast off: the explanation's own products need their digits."""
    return torch.autocast(images.device.type, enabled=False)
