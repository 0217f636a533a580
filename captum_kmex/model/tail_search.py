"""Find the map that the tail of a model reads, and whether the tail is affine in it.

Here alone it is decided whether a model is explained exactly, linearised, or not at all.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from captum_kmex.model.activations import run
from captum_kmex.model.state import ModelState
from captum_kmex.model.tail import TailCut
from captum_kmex.model.tail_probe import Inputs, Probe, one_image, probe, repeated
from captum_kmex.model.tail_sites import ExactTail, LinearisedTail
from captum_kmex.model.timeline import Place, Timeline

__all__ = ["find_tail"]

_WINDOWS = (24, 96, 2**20)  # of places before the logits, in which the tail is looked for
_ALIKE = 1e-3  # of the largest gradient


def find_tail(
    model: nn.Module,
    inputs: tuple[Tensor, ...],
    args: tuple[object, ...],
    reason: str,
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

    Returns:
        The tail; or why there is none, with the reason given.
    """
    try:
        with torch.inference_mode(False):  # what it makes, no tape takes
            found = _find(model, inputs, args, reason)
    except Exception as error:  # the model gets what it did not get from its user
        return f"{reason}; and it cannot be run on single images with other maps ({error})"
    if found is None:
        return f"{reason}; and no map of more than one cell has a gradient of the logits"
    return found


def _find(
    model: nn.Module, inputs: tuple[Tensor, ...], args: tuple[object, ...], reason: str
) -> ExactTail | LinearisedTail | None:
    given = one_image(inputs, args)
    places, has_others = _places(model, given), len(inputs) + len(args) > 1
    for from_start in (False, True):
        seen: list[Place] = []
        for window in _WINDOWS:
            seen = _on_the_way(model, given, places[-window:], from_start)
            found = _closest(model, given, seen, from_start)
            if found is not None:
                return _tail(model, *found, from_start, has_others, reason)
            if window >= len(places):
                break
        if seen:  # none is the only way; the last one is better than nothing
            return LinearisedTail(seen[0], None, ModelState(model), from_start, reason)
    return None


def _places(model: nn.Module, given: Inputs) -> tuple[Place, ...]:
    """Return the maps of a pass; two images tell what belongs to each."""
    inputs, args = repeated(given, 2)
    timeline = Timeline(inputs)
    with timeline.attached(model):
        run(model, inputs, args)
    return timeline.places


def _on_the_way(
    model: nn.Module, given: Inputs, places: Sequence[Place], from_start: bool
) -> list[Place]:
    """Return the places whose cells have a gradient, last first, without those of side ways.

    What reaches the logits through the first place goes through one on the way as well.
    """
    if not places:
        return []
    inputs, args = repeated(given, 2)
    first, later = places[0], places[1:]
    cut = TailCut(first.tap, watched=[place.tap for place in later], from_start=from_start)
    recorded = run(model, inputs, args, cut)
    if cut.leaf is None or not recorded.requires_grad:
        return []
    weights = torch.randn(recorded.shape[1], generator=torch.Generator().manual_seed(0))
    total = (recorded * weights.to(recorded)).sum()
    whole = _gradient(total, cut.leaf)
    if whole is None:
        return []
    tensors = ((place, cut.seen.get(place.tap)) for place in reversed(later))
    found = [
        place
        for place, value in tensors
        if value is not None and _carries(total, value, cut.leaf, whole, place)
    ]
    return [*found, first] if first.grid(whole).any() else found


def _carries(total: Tensor, value: Tensor, leaf: Tensor, whole: Tensor, place: Place) -> bool:
    """Whether the cells of a map have a gradient, and the leaf's is theirs alone."""
    own = _gradient(total, value) if value.requires_grad else None
    if own is None or not place.grid(own).any():
        return False
    through = _gradient(value, leaf, own)
    if through is None:
        return False
    return bool((through - whole).abs().max() <= _ALIKE * whole.abs().max())


def _gradient(of: Tensor, by: Tensor, given: Tensor | None = None) -> Tensor | None:
    """Return a gradient; ``None`` where there is none, or what it needs was overwritten."""
    try:
        return torch.autograd.grad(of, by, given, retain_graph=True, allow_unused=True)[0]
    except RuntimeError:
        return None


def _closest(
    model: nn.Module, given: Inputs, places: Sequence[Place], from_start: bool
) -> tuple[Probe, Tensor | None] | None:
    """Return the place to explain, and its columns where the tail is affine in it.

    Args:
        model: The unwrapped model.
        given: What it gets for one image.
        places: Those on the way, last first.
        from_start: The model switches gradients off itself.
    """
    best: tuple[tuple[bool, int], Probe, Tensor] | None = None
    for place in places:
        found = _probed(model, given, place, from_start)
        if found is None or not found.is_sealed:
            continue
        columns = found.columns() if found.is_affine else None
        if columns is None or found.misses(columns):
            return (found, None) if best is None else best[1:]
        rank = (not _is_of_logits(columns), place.cells)
        if best is None or rank > best[0]:
            best = rank, found, columns
    return None if best is None else best[1:]


def _probed(model: nn.Module, given: Inputs, place: Place, from_start: bool) -> Probe | None:
    try:
        return probe(model, given, place, from_start)
    except RuntimeError:  # an operation without a gradient
        return None


def _is_of_logits(columns: Tensor) -> bool:
    """Whether a map has a channel for each logit, so that it comes after the head."""
    if columns.ndim > 2 or columns.shape[0] != columns.shape[1]:
        return False
    return not (columns - columns.diagonal().diag()).any()


def _tail(
    model: nn.Module,
    found: Probe,
    columns: Tensor | None,
    from_start: bool,
    has_others: bool,
    reason: str,
) -> ExactTail | LinearisedTail:
    """Return what was found, without the logits of an empty map where others have a part in it."""
    is_known = not has_others and bool(found.empty.isfinite().all())
    about = found.place, found.empty if is_known else None, ModelState(model), from_start
    return LinearisedTail(*about, reason) if columns is None else ExactTail(*about, columns)
