"""``read``: one forward pass of a model, with its layers and the head that makes its logits."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from captum_kmex.exceptions import HeadNotFoundError
from captum_kmex.model.activations import Trace, layer_name, trace
from captum_kmex.model.head import HeadSite, LinearHead
from captum_kmex.model.head_search import find_head, head_output
from captum_kmex.model.layout import ChannelAxis
from captum_kmex.model.prepared import Preparation, channels_last

__all__ = ["HEAD_TAIL", "Reading", "Source", "plain_arithmetic", "read"]

HEAD_TAIL = 48  # module calls before the end among which the tap and the head stand
_MOVED = "its map may have moved"  # never shown: the search that follows has the last word


@dataclass(frozen=True, eq=False)
class Reading:
    """One forward pass as the attributions see it.

    Attributes:
        logits: Float tensor (N, J).
        features: Layer name to float tensor (N, D, H, W), of the layers asked for, in that order.
        tap: Feature map that the head reads (N, D, H, W), if there is a head.
        head: The linear head, verified on this very pass.
        site: Where the head stands, or why there is none; ``None`` if nobody has looked.
        refusal: Why this pass has no head, where one was wanted.
        order: Names of the layers as they ran.
        dtype: The coarsest floating-point type on the way, for tolerances.
        axes: Layer name to the dimension of its channels.
        tap_axis: The same of the module that the tap is read from.
    """

    logits: Tensor
    features: dict[str, Tensor]
    tap: Tensor | None
    head: LinearHead | None
    site: HeadSite | str | None
    refusal: str
    order: tuple[str, ...]
    dtype: torch.dtype
    axes: dict[str, ChannelAxis]
    tap_axis: ChannelAxis

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers asked for, shallow to deep."""
        return tuple(self.features)

    @property
    def linear_head(self) -> LinearHead:
        """The head, where it must be there.

        Raises:
            HeadNotFoundError: There is none.
        """
        if self.head is None:
            raise HeadNotFoundError(self.refusal)
        return self.head

    @property
    def feature_map(self) -> Tensor:
        """The tap, where it must be there.

        Raises:
            HeadNotFoundError: There is no head, and so no map that it reads.
        """
        if self.tap is None:
            raise HeadNotFoundError(self.refusal)
        return self.tap

    @property
    def blocks(self) -> tuple[Tensor, ...]:
        """Their maps."""
        return tuple(self.features.values())


@dataclass(frozen=True, eq=False)
class Source:
    """What is read: a model, and what its user said about it.

    Attributes:
        model: The plain module.
        head: Its linear layer, where the user named it.
        axis: The dimension of its layers' channels, where the user said it.
        preparation: Makes the copy that is run in its place, if there is one.
    """

    model: nn.Module
    head: str | nn.Module | None = None
    axis: ChannelAxis | None = None
    preparation: Preparation | None = None

    def running(self, layers: Sequence[str] = ()) -> nn.Module:
        """Return the module that is run."""
        if self.preparation is None:
            return self.model
        return self.preparation.current(self.model, layers)


def read(
    source: Source,
    inputs: tuple[Tensor, ...],
    layers: Sequence[str],
    args: tuple[object, ...] = (),
    *,
    at_input: bool = False,
    site: HeadSite | str | None = None,
    needs_head: bool = True,
    keeps_refusal: bool = False,
) -> Reading:
    """Run the model once; twice where the head, found before, no longer fits.

    A head counts only if it gives the logits of this very pass. A model without one is
    searched again on every pass, unless ``keeps_refusal``.

    Args:
        source: The model.
        inputs: The images (N, C, H, W), and further tensors that it takes.
        layers: Names of the layers to record, shallow to deep.
        args: Further positional arguments of the model.
        at_input: Record the layers at their input.
        site: What an earlier reading found.
        needs_head: Look for the head.
        keeps_refusal: Believe an earlier reading that there is none.

    Raises:
        ValueError: As ``trace``.
    """
    known = site if isinstance(site, HeadSite) and needs_head else None
    searches = needs_head and known is None and not (keeps_refusal and site is not None)
    passed = _trace(source, inputs, layers, args, at_input, known, searches)
    if searches:
        site = _find(source, passed)
    if not needs_head or not isinstance(site, HeadSite):
        return _reading(passed, layers, at_input, site, needs_head)
    if site.tap not in passed.taps:  # found, but its map is not among those kept
        passed = _trace(source, inputs, layers, args, at_input, site, searches=False)
    tap = site.features(passed.taps[site.tap])
    head = site.read(source.running(layers), tap)
    moved = known is not None and site.may_have_moved(tap, passed.size)
    fault = _MOVED if moved else _fault(source, site, head, tap, passed)
    if fault and known is not None:
        return read(source, inputs, layers, args, at_input=at_input)
    if fault:
        return _reading(passed, layers, at_input, fault)
    return _reading(passed, layers, at_input, site, tap=tap, head=head)


def plain_arithmetic(like: Tensor) -> AbstractContextManager[object]:
    """Switch autocast off, on the device of a tensor: explanations' products need their digits."""
    return torch.autocast(like.device.type, enabled=False)


def _reading(
    passed: Trace,
    layers: Sequence[str],
    at_input: bool,
    site: HeadSite | str | None,
    needs_head: bool = True,
    tap: Tensor | None = None,
    head: LinearHead | None = None,
) -> Reading:
    recorded = passed.entering if at_input else passed.features
    return Reading(
        passed.logits,
        {name: recorded[name] for name in layers},
        tap,
        head,
        site,
        site if needs_head and isinstance(site, str) else "",
        passed.order,
        passed.dtype,
        passed.axes,
        passed.tap_axis,
    )


def _trace(
    source: Source,
    inputs: tuple[Tensor, ...],
    layers: Sequence[str],
    args: tuple[object, ...],
    at_input: bool,
    site: HeadSite | None,
    searches: bool,
) -> Trace:
    """Run the model, or its prepared copy, and record layers, tap and what a search needs."""
    model = source.model
    leaving, entering = ((), layers) if at_input else (layers, ())
    if source.preparation is not None:
        model = source.preparation.compared(model, inputs, leaving, entering, args)
        inputs = channels_last(inputs)
    watched = None if site is None or source.head is None else [site.linear]
    return trace(
        model,
        inputs,
        leaving,
        entering=entering,
        tap=None if site is None else site.tap,
        additional_forward_args=args,
        tail=HEAD_TAIL if searches else 1 if watched else 0,
        watched=watched,
        axes={} if source.axis is None else dict.fromkeys(layers, source.axis),
    )


def _find(source: Source, passed: Trace) -> HeadSite | str:
    linear = None if source.head is None else layer_name(source.model, source.head)
    try:
        return find_head(passed, linear)
    except HeadNotFoundError as error:
        return str(error)


def _fault(source: Source, site: HeadSite, head: LinearHead, tap: Tensor, passed: Trace) -> str:
    """Return what is wrong with a head on this pass, or nothing.

    A head that the user named is held to what it returns, whatever the model makes of it: the
    convergence delta shows the rest.
    """
    expected = passed.logits if source.head is None else head_output(passed, site)
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
