"""Find the map that the tail of a model reads, and whether the tail is affine in it.

Here alone it is decided whether a model is explained exactly, linearised, or not at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from captum_kmex.model.activations import run
from captum_kmex.model.state import ModelState
from captum_kmex.model.tail import Course, TailCut, Tap
from captum_kmex.model.tail_columns import read_columns
from captum_kmex.model.tail_probe import Inputs, Probe, one_image, probe, repeated
from captum_kmex.model.tail_sites import ExactTail, LinearisedTail
from captum_kmex.model.timeline import Place, Timeline

__all__ = ["find_tail"]

_WINDOWS = (24, 96, 2**20)  # of places before the logits, in which the tail is looked for
_MOST_LOGITS = 2**15
_ALIKE = 1e-3  # of the largest gradient


def find_tail(
    model: nn.Module,
    inputs: tuple[Tensor, ...],
    args: tuple[object, ...],
    reason: str,
    end: str | None = None,
) -> ExactTail | LinearisedTail | str:
    """Find the last map through which an image reaches its logits, and what the tail is.

    The tail is run on other maps in the place of an image's own. If it is affine, its columns
    are read from its gradients: of the last map of most cells in which it is affine, and rather
    of one before the head than of a map of the logits themselves. If not, the last map is what
    is linearised.

    Args:
        model: The unwrapped model.
        inputs: What it gets, the images (N, C, H, W) first.
        args: Its further arguments.
        reason: Why it has no head of the kinds that need no gradient.
        end: Module that ends the tail, where that is not the model.

    Returns:
        The tail; or why there is none, with the reason given.
    """
    try:
        with torch.inference_mode(False):  # what it makes, no tape takes
            given = one_image(inputs, args)
            places = _places(model, given)
            for from_start in (False, True):
                search = _Search(model, given, Course(from_start, end))
                found = search.find(places, reason)
                if found is not None:
                    return found
    except Exception as error:  # the model gets what it did not get from its user
        why = (str(error).strip() or type(error).__name__).splitlines()[0]
        return f"{reason}; and it cannot be run on single images with other maps ({why})"
    return f"{reason}; and no map of more than one cell has a gradient of the logits"


def _places(model: nn.Module, given: Inputs) -> tuple[Place, ...]:
    """Return the maps of a pass; two images tell what belongs to each."""
    inputs, args = repeated(given, 2)
    timeline = Timeline(inputs)
    with timeline.attached(model):
        run(model, inputs, args)
    return timeline.places


@dataclass(frozen=True, eq=False)
class _Search:
    """A search among the maps of a pass.

    Attributes:
        model: The unwrapped model.
        given: What it gets for one image.
        course: How its tail is run.
        open_taps: Where the image reaches the logits by other ways too, as was found out.
    """

    model: nn.Module
    given: Inputs
    course: Course
    open_taps: set[Tap] = field(default_factory=set)

    def find(self, places: Sequence[Place], reason: str) -> ExactTail | LinearisedTail | None:
        """Return the tail, if any map has a gradient."""
        seen: list[Place] = []
        for window in _WINDOWS:
            seen = self.on_the_way(places[-window:])
            found = self.closest(seen)
            if found is not None:
                return self.tail(*found, reason)
            if window >= len(places):
                break
        if not seen:
            return None
        # none is the only way; the last one is better than nothing
        return LinearisedTail(seen[0], None, ModelState(self.model), self.course, reason)

    def on_the_way(self, places: Sequence[Place]) -> list[Place]:
        """Return the places whose cells have a gradient, last first, without those of side ways.

        What reaches the logits through the first place goes through one on the way as well.
        """
        if not places:
            return []
        inputs, args = repeated(self.given, 2)
        first, later = places[0], places[1:]
        cut = TailCut(first.tap, watched=[place.tap for place in later], course=self.course)
        recorded = cut.outcome(run(self.model, inputs, args, cut))
        if cut.leaf is None or not recorded.requires_grad:
            return []
        with torch.enable_grad():
            weights = torch.randn(recorded.shape[1], generator=torch.Generator().manual_seed(0))
            total = (recorded * weights.to(recorded)).sum()
        whole = _gradient(total, cut.leaf)
        if whole is None:  # overwritten on the way, perhaps before the places that come later
            return self.on_the_way(places[(len(places) + 1) // 2 :])
        seen = [(place, cut.seen.get(place.tap)) for place in reversed(later)]
        values = [value for _, value in seen if value is not None and value.requires_grad]
        own = dict(zip(map(id, values), _gradients(total, values), strict=True))
        found = [
            place
            for place, value in seen
            if value is not None and _carries(value, own.get(id(value)), cut.leaf, whole, place)
        ]
        return [*found, first] if first.grid(whole).any() else found

    def closest(self, places: Sequence[Place]) -> tuple[Probe, Tensor | None] | None:
        """Return the place to explain, and its columns where the tail is affine in it."""
        best: tuple[tuple[bool, int], Probe, Tensor] | None = None
        for place in places:  # last first
            found = None if place.tap in self.open_taps else self.probed(place)
            if found is None or not found.is_sealed:
                self.open_taps.add(place.tap)  # no longer window seals it
                continue
            columns = self.columns(found) if found.is_affine else None
            if columns is None or found.misses(columns):
                return (found, None) if best is None else best[1:]
            rank = (not _is_of_logits(columns), place.cells)
            if best is None or rank > best[0]:
                best = rank, found, columns
        return None if best is None else best[1:]

    def probed(self, place: Place) -> Probe | None:
        try:
            return probe(self.model, self.given, place, self.course)
        except RuntimeError:  # an operation without a gradient
            return None

    def columns(self, found: Probe) -> Tensor | None:
        """Return the columns of an affine tail; of very many outputs they are not kept."""
        if found.recorded.shape[1] > _MOST_LOGITS:
            return None
        place, count = found.place, found.recorded.shape[1]
        return read_columns(self.model, self.given, place, self.course, count)

    def tail(self, found: Probe, columns: Tensor | None, reason: str) -> ExactTail | LinearisedTail:
        """Return what was found; the logits of an empty map, where no other input makes them."""
        inputs, args = self.given
        is_known = len(inputs) + len(args) == 1 and bool(found.empty.isfinite().all())
        bias = found.empty if is_known else None
        about = found.place, bias, ModelState(self.model), self.course
        return LinearisedTail(*about, reason) if columns is None else ExactTail(*about, columns)


def _carries(value: Tensor, own: Tensor | None, leaf: Tensor, whole: Tensor, place: Place) -> bool:
    """Whether the cells of a map have a gradient, its own, and the leaf's is theirs alone."""
    if own is None or not place.grid(own).any():
        return False
    through = _gradient(value, leaf, own)
    if through is None:
        return False
    return bool((through - whole).abs().max() <= _ALIKE * whole.abs().max())


def _gradients(of: Tensor, by: Sequence[Tensor]) -> Sequence[Tensor | None]:
    """Return the gradients by several tensors, of which some may have been overwritten."""
    try:
        return torch.autograd.grad(of, by, retain_graph=True, allow_unused=True)
    except RuntimeError:
        return [_gradient(of, one) for one in by]


def _gradient(of: Tensor, by: Tensor, given: Tensor | None = None) -> Tensor | None:
    """Return a gradient; ``None`` where there is none, or what it needs was overwritten."""
    try:
        return torch.autograd.grad(of, by, given, retain_graph=True, allow_unused=True)[0]
    except RuntimeError:
        return None


def _is_of_logits(columns: Tensor) -> bool:
    """Whether a map has a channel for each logit, so that it comes after the head."""
    if columns.shape[0] != columns.shape[1]:
        return False
    others = ~torch.eye(len(columns), dtype=torch.bool, device=columns.device)
    return not columns[others].any()
