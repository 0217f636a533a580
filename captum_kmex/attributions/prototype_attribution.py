"""What the three attributions share: inputs, one forward pass, the head, Captum's contract."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import ParamSpec, TypeVar, cast

import torch
from captum.attr import LayerAttribution
from captum.log import log_usage
from torch import Tensor, nn

from captum_kmex.arguments import Setting
from captum_kmex.arguments.inputs import check_forward_args
from captum_kmex.data.batches import IndexedBatches
from captum_kmex.exceptions import HeadNotFoundError
from captum_kmex.model.activations import Trace, layer_name, trace
from captum_kmex.model.head import HeadSite, LinearHead, linear_head, own_head_misses
from captum_kmex.model.head_search import find_head, head_output
from captum_kmex.model.layout import ChannelAxis
from captum_kmex.model.opaque import plain_model
from captum_kmex.model.prepared import Preparation, channels_last
from captum_kmex.model.reader import ModelReader

__all__ = ["HEAD_TAIL", "Forward", "Layer", "PrototypeAttribution", "logged", "plain_arithmetic"]

Layer = str | nn.Module
_P = ParamSpec("_P")
_R = TypeVar("_R")
_Attribution = TypeVar("_Attribution", bound="PrototypeAttribution")

_LAYOUTS: dict[str, ChannelAxis] = {"channels_first": 1, "channels_last": 3}
_MOVED = "its map may have moved"  # never shown: the search that follows has the last word
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
        head: The linear head, verified on this very pass.
        refusal: Why there is no head.
        layers: Names of the layers asked for, shallow to deep.
        order: Names of the layers as they ran.
        dtype: The coarsest floating-point type on the way, for tolerances.
        axes: Layer name to the dimension of its channels.
        tap_axis: The same of the module that the tap is read from.
    """

    logits: Tensor
    features: dict[str, Tensor]
    tap: Tensor | None
    head: LinearHead | None
    refusal: str
    layers: tuple[str, ...]
    order: tuple[str, ...]
    dtype: torch.dtype
    axes: dict[str, ChannelAxis]
    tap_axis: ChannelAxis


class PrototypeAttribution(LayerAttribution):  # type: ignore[misc]  # captum is untyped here
    """Base of the attributions: one forward pass of a plain module, without gradients."""

    layout = Setting["str | None"]()

    def __init__(
        self, model: nn.Module, layer: object, head: Layer | None, layout: str | None
    ) -> None:
        super().__init__(model, layer)
        self.head = head
        self.layout = layout
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
        return plain_model(self.forward_func, self.get_name())

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

        A head counts only if it gives the logits of this very pass. A model without one is
        searched again on every pass, unless ``keeps_refusal``.
        """
        site = self._site
        is_known = isinstance(site, HeadSite) or (keeps_refusal and site is not None)
        searches = needs_head and not is_known and not self._has_own_head()
        run = partial(self._trace, inputs, layers, additional_forward_args, at_input)
        known = site if isinstance(site, HeadSite) and needs_head else None
        passed = run(known, searches)
        if searches:
            self._site = site = self._find(passed)
        tap = head = None
        if isinstance(site, HeadSite) and needs_head:
            if site.tap not in passed.taps:  # found, but its map is not among those kept
                passed = run(site, False)
            tap = site.features(passed.taps[site.tap])
            head = site.read(self._running(layers), tap)
            moved = not searches and site.may_have_moved(tap, passed.size)
            fault = _MOVED if moved else self._fault(site, head, tap, passed)
            if fault and not searches:
                self._site = None
                return self._run(inputs, layers, additional_forward_args, at_input)
            if fault:
                self._site, tap, head = fault, None, None
        refusal = self._site if needs_head and isinstance(self._site, str) else ""
        recorded = passed.entering if at_input else passed.features
        return Forward(
            passed.logits,
            {name: recorded[name] for name in layers},
            tap,
            head,
            refusal,
            tuple(layers),
            passed.order,
            passed.dtype,
            passed.axes,
            passed.tap_axis,
        )

    def _trace(
        self,
        inputs: tuple[Tensor, ...],
        layers: Sequence[str],
        additional_forward_args: object,
        at_input: bool,
        site: HeadSite | None,
        searches: bool,
    ) -> Trace:
        """Run the model, or its prepared copy, and record layers, tap and what a search needs."""
        model = self.model
        args = additional_forward_args
        args = args if isinstance(args, tuple) else () if args is None else (args,)
        check_forward_args(model, inputs, args)
        leaving, entering = ((), layers) if at_input else (layers, ())
        if self._preparation is not None:
            model = self._preparation.compared(model, inputs, leaving, entering, args)
            inputs = channels_last(inputs)
        watched = None if site is None or self.head is None else [site.linear]
        return trace(
            model,
            inputs,
            leaving,
            entering=entering,
            tap=None if site is None else site.tap,
            additional_forward_args=args,
            tail=HEAD_TAIL if searches else 1 if watched else 0,
            watched=watched,
            axes=self._known_axes(layers),
        )

    def _known_axes(self, layers: Sequence[str]) -> dict[str, ChannelAxis]:
        """Return the dimension of the channels of layers where the user said it."""
        if self.layout is None:
            return {}
        return dict.fromkeys(layers, _LAYOUTS[self.layout])

    def _running(self, layers: Sequence[str] = ()) -> nn.Module:
        """Return the module that explanations run."""
        model = self.model
        return model if self._preparation is None else self._preparation.current(model, layers)

    def _frozen_reader(self, passed: Forward, at_input: bool, reads_tap: bool) -> ModelReader:
        """Return a copy of the model as it is run now, that reads the layers of a pass."""
        site = self._site if reads_tap and isinstance(self._site, HeadSite) else None
        return ModelReader(
            self._running(passed.layers),
            passed.layers,
            at_input,
            site,
            passed.axes,
            passed.tap_axis,
        )

    def _batches(self, loader: Iterable[object]) -> IndexedBatches:
        parameter = next(self.model.parameters(), torch.empty(0))
        return IndexedBatches(loader, parameter.device)

    def _has_own_head(self) -> bool:
        """Whether the user gave a linear layer that is no part of the model."""
        if not isinstance(self.head, nn.Module):
            return False
        return all(module is not self.head for module in self.model.modules())

    def _find(self, passed: Trace) -> HeadSite | str:
        linear = None if self.head is None else layer_name(self.model, self.head)
        try:
            return find_head(passed, linear)
        except HeadNotFoundError as error:
            return str(error)

    def _fault(self, site: HeadSite, head: LinearHead, tap: Tensor, passed: Trace) -> str:
        """Return what is wrong with a head on this pass, or nothing.

        A head that the user named is held to what it returns, whatever the model makes of it:
        the convergence delta shows the rest.
        """
        expected = passed.logits if self.head is None else head_output(passed, site)
        if expected is None:
            return f"the head {site.linear!r} returned no logits (N, J)"
        missed = head.misses(tap, expected, passed.dtype)
        if not missed.any():
            return ""
        image = int(missed.nonzero()[0])
        off = float((head.logits(tap) - expected).abs()[image].max())
        return (
            f"the weights of the head {site.linear!r} on the map of {site.tap!r} give other logits "
            f"than the model: image {image} of the batch is off by {off:.3g}"
        )

    def _own_head(self, features: Tensor, logits: Tensor) -> LinearHead:
        module = cast("nn.Module", self.head)
        head = linear_head(module, features)
        if len(head.columns) != logits.shape[1]:
            raise ValueError(
                f"the head gives {len(head.columns)} logits, the model {logits.shape[1]}; pass a "
                "head with one output a logit"
            )
        with torch.no_grad():
            if own_head_misses(module, head, features):
                raise ValueError(
                    f"the given head ({type(module).__name__}) does not compute weight @ features "
                    "+ bias, so its weights are no prototypes; pass a plain nn.Linear"
                )
        return head


def plain_arithmetic(images: Tensor) -> AbstractContextManager[object]:
    """Switch autocast off: the explanation's own products need their digits."""
    return torch.autocast(images.device.type, enabled=False)
