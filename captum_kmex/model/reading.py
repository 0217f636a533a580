"""``read``: one forward pass of a model, with its layers and the head that makes its logits."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from captum_kmex.exceptions import HeadNotFoundError
from captum_kmex.model.activations import Trace, evaluation, layer_name, trace
from captum_kmex.model.calls import is_linear
from captum_kmex.model.head import HeadSite, LinearHead
from captum_kmex.model.head_search import find_head, head_output
from captum_kmex.model.layout import Layout
from captum_kmex.model.linearised import Head
from captum_kmex.model.prepared import channels_last
from captum_kmex.model.source import Source
from captum_kmex.model.tail import TailCut
from captum_kmex.model.tail_search import find_tail
from captum_kmex.model.tail_sites import ExactTail, LinearisedTail

__all__ = ["HEAD_TAIL", "Reading", "Site", "Source", "plain_arithmetic", "read"]

Site = HeadSite | ExactTail | LinearisedTail

HEAD_TAIL = 48  # module calls before the end among which the tap and the head stand
_NO_LOGITS = "the model returns no logits"
_MOVED = "its map may have moved"  # never shown: the search that follows has the last word


@dataclass(frozen=True, eq=False)
class Reading:
    """One forward pass as the attributions see it.

    Attributes:
        logits: Float tensor (N, J).
        features: Layer name to float tensor ``(N, D, *grid)``, of the layers asked for, in order.
        tap: Feature map that the head reads ``(N, D, *grid)``, if there is a head.
        head: The linear head, verified on this very pass; or the tail of the model, linearised at
            these images, where that will do.
        site: Where the head stands, or why there is none; ``None`` if nobody has looked.
        refusal: Why this pass has no head, where one was wanted.
        order: Names of the layers as they ran.
        dtype: The coarsest floating-point type on the way, for tolerances.
        axes: Layer name to the dimension of its channels.
        tap_axis: The same of the module that the tap is read from.
        has_logits: The logits are the model's; otherwise zeros, of a model that returns none.
    """

    logits: Tensor
    features: dict[str, Tensor]
    tap: Tensor | None
    head: Head | None
    site: Site | str | None
    refusal: str
    order: tuple[str, ...]
    dtype: torch.dtype
    axes: dict[str, Layout]
    tap_axis: Layout
    has_logits: bool

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
        if not isinstance(self.head, LinearHead):
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


def read(
    source: Source,
    inputs: tuple[Tensor, ...],
    layers: Sequence[str],
    args: tuple[object, ...] = (),
    *,
    at_input: bool = False,
    site: Site | str | None = None,
    needs_head: bool = True,
    keeps_refusal: bool = False,
    linearises: bool = False,
    needs_logits: bool = True,
) -> Reading:
    """Run the model once; more often where the head, found before, no longer fits.

    A head counts only if it gives the logits of this very pass. A model without one is
    searched again on every pass, unless ``keeps_refusal``.

    Args:
        source: The model.
        inputs: The images ``(N, C, *size)``, and further tensors that it takes.
        layers: Names of the layers to record, shallow to deep.
        args: Further positional arguments of the model.
        at_input: Record the layers at their input.
        site: What an earlier reading found.
        needs_head: Look for the head.
        keeps_refusal: Believe an earlier reading that there is none.
        linearises: A tail that is not affine, linearised at each image, will do as the head.
        needs_logits: Refuse a model without logits, of which no head is looked for.

    Raises:
        ValueError: As ``trace``.
    """
    run = _Pass(source, inputs, layers, args, at_input, needs_logits)
    if not needs_head or (keeps_refusal and isinstance(site, str)):
        return run.reading(run.trace(), site, needs_head)
    if isinstance(site, (ExactTail, LinearisedTail)) and site.is_for(run.model, inputs[0]):
        found = run.by_tail(site, linearises)
        if found is not None:
            return found
    return run.by_site(site if isinstance(site, HeadSite) else None, linearises)


def plain_arithmetic(like: Tensor) -> AbstractContextManager[object]:
    """Switch autocast off, on the device of a tensor: explanations' products need their digits."""
    return torch.autocast(like.device.type, enabled=False)


@dataclass(frozen=True, eq=False)
class _Pass:
    """What is run, and what is recorded of it."""

    source: Source
    inputs: tuple[Tensor, ...]
    layers: Sequence[str]
    args: tuple[object, ...]
    at_input: bool
    needs_logits: bool = True

    @property
    def model(self) -> nn.Module:
        return self.source.running(self.layers)

    def by_site(self, known: HeadSite | None, linearises: bool) -> Reading:
        """Read by the site of a head, or look for one; and if there is none, by a tail."""
        site: HeadSite | str | None = known
        passed = self.trace(known, searches=known is None)
        if not passed.has_logits:
            return self.reading(passed, _NO_LOGITS)
        if known is None:
            site = _find(self.source, passed)
        if isinstance(site, str) or site is None:
            return self.by_new_tail(passed, str(site), linearises)
        if site.tap not in passed.taps:  # found, but its map is not among those kept
            passed = self.trace(site)
        tap = site.features(passed.taps[site.tap])
        head = site.read(self.model, tap)
        moved = known is not None and site.may_have_moved(tap, passed.size)
        fault = _MOVED if moved else _fault(self.source, site, head, tap, passed)
        if fault and known is not None:
            return self.by_site(None, linearises)
        if fault:
            return self.by_new_tail(passed, fault, linearises)
        return self.reading(passed, site, tap=tap, head=head)

    def by_new_tail(self, passed: Trace, refusal: str, linearises: bool) -> Reading:
        """Look for the tail of a model without a head of its own; ``passed`` is what is left."""
        end = None if self.source.head is None else layer_name(self.source.model, self.source.head)
        if end is not None and not is_linear(self.model.get_submodule(end)):
            return self.reading(passed, refusal)
        with evaluation(self.model, warns=False):  # the user has been told
            tail = find_tail(self.model, self.inputs, self.args, refusal, end)
            if isinstance(tail, str):
                return self.reading(passed, tail)
            found = self.by_tail(tail, linearises)
            if found is None and isinstance(tail, ExactTail):  # of the first image only
                found = self.by_tail(tail.linearised(refusal), linearises)
        return self.reading(passed, refusal) if found is None else found

    def by_tail(self, tail: ExactTail | LinearisedTail, linearises: bool) -> Reading | None:
        """Read by a tail; ``None`` where it does not fit these images, or will not do."""
        if isinstance(tail, LinearisedTail) and not linearises:
            return None
        cut = tail.cut()
        passed = self.trace(cut=cut)
        outcome = None if cut.leaf is None else cut.outcome(passed.outcome)
        if cut.leaf is None or outcome is None or outcome.requires_grad != cut.records:
            return None
        tap, head = tail.on_grid(cut.leaf), tail.head(cut.leaf, outcome)
        is_bad = isinstance(tail, ExactTail) and not tail.holds(cut.leaf, outcome, passed.dtype)
        return None if is_bad or head is None else self.reading(passed, tail, tap=tap, head=head)

    def trace(
        self,
        site: HeadSite | None = None,
        searches: bool = False,
        cut: TailCut | None = None,
    ) -> Trace:
        """Run the model, or its prepared copy, and record layers, tap and what a search needs."""
        source, model, inputs = self.source, self.source.model, self.inputs
        leaving, entering = ((), self.layers) if self.at_input else (self.layers, ())
        if source.preparation is not None:
            model = source.preparation.compared(model, inputs, leaving, entering, self.args)
            inputs = channels_last(inputs)
        watched = None if site is None or source.head is None else [site.linear]
        return trace(
            model,
            inputs,
            leaving,
            entering=entering,
            tap=None if site is None else site.tap,
            additional_forward_args=self.args,
            tail=HEAD_TAIL if searches else 1 if watched else 0,
            watched=watched,
            axes={} if source.axis is None else dict.fromkeys(self.layers, source.axis),
            cut=cut,
            needs_logits=self.needs_logits,
        )

    def reading(
        self,
        passed: Trace,
        site: Site | str | None,
        needs_head: bool = True,
        tap: Tensor | None = None,
        head: Head | None = None,
    ) -> Reading:
        recorded = passed.entering if self.at_input else passed.features
        refusal = site.reason if isinstance(site, LinearisedTail) else site
        tap_axis = passed.tap_axis
        if isinstance(site, (ExactTail, LinearisedTail)):
            tap_axis = site.place.layout
        return Reading(
            passed.logits,
            {name: recorded[name] for name in self.layers},
            tap,
            head,
            site,
            refusal if needs_head and isinstance(refusal, str) else "",
            passed.order,
            passed.dtype,
            passed.axes,
            tap_axis,
            passed.has_logits,
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
