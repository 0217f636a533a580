"""What the tail of a model does to other maps than an image's own: affine or not, and how."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from captum_kmex.model.activations import run
from captum_kmex.model.head import LinearHead, resolution
from captum_kmex.model.layout import Layout
from captum_kmex.model.tail import Course, TailCut
from captum_kmex.model.timeline import Place

__all__ = ["Inputs", "Probe", "one_image", "probe", "repeated"]

Inputs = tuple[tuple[Tensor, ...], tuple[object, ...]]

_TOLERANCE = 1e-4  # of what a map adds to any logit
_ROUNDINGS = 64  # of the logits themselves
_ZERO, _ALIKE = 3, 1  # rows of a probe
_MIDDLES = ((4, 0, 1), (5, 1, 2), (6, 1, _ZERO))  # each row, and the two that it lies between
_OTHER_IMAGE = 7
_ROWS = 8
_LOUD = 64  # times the map's own root mean square: far enough for a kink behind any bias


@dataclass(frozen=True, eq=False)
class Probe:
    """The logits that a tail makes of some maps in the place of an image's own.

    Attributes:
        place: The map that the tail reads.
        leaf: The maps, as the module has them, a leaf of the tape.
        recorded: Their logits (R, J), with the tape.
    """

    place: Place
    leaf: Tensor
    recorded: Tensor

    @property
    def empty(self) -> Tensor:
        """The logits (J,) of an empty map."""
        return self._wide[_ZERO]

    @property
    def is_sealed(self) -> bool:
        """The image reaches the logits through the map alone."""
        return self._agree(self._wide[_OTHER_IMAGE], self._wide[_ALIKE])

    @property
    def is_affine(self) -> bool:
        """The logits of the middle of two maps are the middle of their logits."""
        wide = self._wide
        return all(self._agree(wide[i], (wide[a] + wide[b]) / 2) for i, a, b in _MIDDLES)

    def misses(self, columns: Tensor) -> bool:
        """Whether these columns give other logits of any of the maps."""
        grids, dtype = self.place.grid(self.leaf.detach()).to(columns), self.recorded.dtype
        head = LinearHead(columns, self.empty.to(columns))
        return bool(head.misses(grids, self._wide.to(columns), dtype).any())

    @property
    def _wide(self) -> Tensor:
        found = self.recorded.detach()
        return found.to(torch.promote_types(found.dtype, torch.float32))

    def _agree(self, ours: Tensor, theirs: Tensor) -> bool:
        """Compare to what the map adds to any logit here, and to rounding."""
        spread = (theirs - self.empty).abs().amax()
        rounding = resolution(self.recorded.dtype, self.recorded) * self._wide.abs().amax()
        allowed = _TOLERANCE * spread + _ROUNDINGS * rounding
        return bool(((ours - theirs).abs() <= allowed).all())  # nothing agrees with NaN


def probe(model: nn.Module, given: Inputs, place: Place, course: Course) -> Probe:
    """Run a model on other maps in the place of an image's own.

    Args:
        model: The unwrapped model.
        given: Inputs and further arguments of one image.
        place: Where the maps go.
        course: How the tail is run.

    Raises:
        RuntimeError: The tail cannot be recorded.
    """
    inputs, args = repeated(given, _ROWS)
    images = inputs[0].clone()
    images[_OTHER_IMAGE] = images[0].flip(tuple(range(1, images[0].ndim))) / 2

    def others(found: Tensor) -> Tensor:
        return _other_maps(found, place.layout)

    cut = TailCut(place.tap, others, course=course)
    with torch.enable_grad():
        recorded = cut.outcome(run(model, (images, *inputs[1:]), args, cut))
    if cut.leaf is None or not recorded.requires_grad:
        raise RuntimeError(f"no gradient of the logits reaches {place.tap}")
    return Probe(place, cut.leaf, recorded)


def one_image(inputs: tuple[Tensor, ...], args: tuple[object, ...]) -> Inputs:
    """Return the first image's part of what a model gets."""
    return _rows((inputs, args), len(inputs[0]), [0])


def repeated(given: Inputs, count: int) -> Inputs:
    """Return the inputs of one image as often as asked for."""
    return _rows(given, 1, [0] * count)


def _rows(given: Inputs, total: int, rows: list[int]) -> Inputs:
    """Pick images; as in Captum, the first dimension of a tensor is that of the images."""

    def picked(value: object) -> object:
        is_batch = isinstance(value, Tensor) and value.ndim > 0 and len(value) == total
        return value[rows] if is_batch else value  # type: ignore[index]

    inputs, args = given
    return tuple(picked(x) for x in inputs), tuple(picked(arg) for arg in args)  # type: ignore[misc]


def _other_maps(found: Tensor, layout: Layout) -> Tensor:
    """Return maps for the rows of a probe, of which some might be an image's, and some not.

    What a rectifier lets pass of a map is one thing for maps of the image's own signs, and
    another for maps of all signs.
    """
    own, channels = found[0], 0 if layout == 1 else -1
    generator = torch.Generator().manual_seed(0)
    one = _shuffled(own, channels, generator)
    two = _noise(own, channels, generator)
    rows = [own, one, two, torch.zeros_like(own), (own + one) / 2, (one + two) / 2, one / 2, one]
    return torch.stack(rows)


def _noise(own: Tensor, channels: int, generator: torch.Generator) -> Tensor:
    """Return a map of noise of all signs, that of each channel by itself and at each position."""
    noise = torch.randn(own.movedim(channels, -1).shape, generator=generator)
    noise += torch.randn(noise.shape[-1], generator=generator)  # or pooling would leave nothing
    root = own.square().mean(dtype=torch.promote_types(own.dtype, torch.float32)).sqrt()
    return (noise.to(root) * _LOUD * root).movedim(-1, channels).to(own.dtype).contiguous()


def _shuffled(own: Tensor, channels: int, generator: torch.Generator) -> Tensor:
    """Return a map with its vectors at other positions, some channels louder, some silent."""
    last = own.movedim(channels, -1)
    rows = last.reshape(-1, last.shape[-1])
    order = torch.randperm(len(rows), generator=generator).to(own.device)
    volumes = [8 ** (2 * torch.rand(count, generator=generator) - 1) for count in rows.shape]
    volumes[1] *= torch.rand(rows.shape[1], generator=generator) > 0.3
    by_row, by_channel = (volume.to(own) for volume in volumes)
    louder = rows[order] * by_row.unsqueeze(1) * by_channel
    return louder.view_as(last).movedim(-1, channels).contiguous()
