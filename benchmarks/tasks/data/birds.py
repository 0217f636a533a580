"""Figures whose class is made of known parts: integer geometry, drawn again exactly.

After FunnyBirds (Hesse et al., 2023), as small flat pictures: a bird has a beak, a wing and a
tail of two kinds each, and these three choices are its class; all else is chance.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.tasks.data.scenes import Scene, choose, draw_scene
from benchmarks.tasks.data.shapes import SIZE, Colour, Mask, Picture, box, ellipse, polygon

__all__ = ["CLASSES", "PARTS", "SIZE", "Figure", "Pose", "class_names", "partner", "render"]

PARTS: dict[str, tuple[str, str]] = {
    "beak": ("spear", "hook"),
    "wing": ("round", "pointed"),
    "tail": ("fan", "fork"),
}
CLASSES = tuple(product((0, 1), repeat=len(PARTS)))  # a kind of each part

_PART_COLOURS: dict[str, tuple[Colour, Colour]] = {
    "beak": ((245, 140, 10), (225, 40, 140)),
    "wing": ((120, 50, 170), (30, 140, 60)),
    "tail": ((30, 90, 220), (240, 210, 40)),
}
_PLUMAGE: tuple[Colour, ...] = (  # darker or lighter than any backdrop
    (70, 70, 75), (85, 60, 45), (50, 65, 85), (95, 50, 70), (60, 75, 55),
    (235, 235, 225), (245, 220, 190), (205, 230, 240),
)  # fmt: skip
_OWNERS = ("scene", "body", "eye", "hat", "feet", *PARTS)


class Figure(NamedTuple):
    """A picture and what each of its pixels shows.

    Attributes:
        picture: (H, W, 3).
        masks: Visible pixels of the body, the eye, the hat, the feet and each part, (H, W); they
            do not overlap.
    """

    picture: Picture
    masks: dict[str, Mask]

    @property
    def object_mask(self) -> Mask:
        """The whole figure, (H, W)."""
        whole: Mask = np.logical_or.reduce(list(self.masks.values()))
        return whole


@dataclass(frozen=True)
class Pose:
    """All that chance decides about a figure, and nothing of its class.

    Attributes:
        centre: Column and row of the body's centre.
        body: Half width and half height of the body.
        head: Radius of the head.
        growth: Pixels by which each part is larger than its least size, 0 or 1.
        is_mirrored: Whether it looks to the left.
        hat: Kind of hat, 1 or 2, or 0 for none.
        feet: Kind of feet, 1 or 2, or 0 for none.
        colours: Colours of body, hat and feet.
        background: What is behind the figure: a gradient, clutter, and decoys in the parts'
            colours.
        noise: What is added to the picture at the end (H, W, 3).
    """

    centre: tuple[int, int]
    body: tuple[int, int]
    head: int
    growth: dict[str, int]
    is_mirrored: bool
    hat: int
    feet: int
    colours: dict[str, Colour]
    background: Scene
    noise: NDArray[np.int16]

    @classmethod
    def draw(cls, seed: Collection[int]) -> Pose:
        """Return the pose that these numbers stand for."""
        rng = np.random.default_rng(list(seed))
        bright = [colour for pair in _PART_COLOURS.values() for colour in pair]

        def pick(low: int, high: int) -> int:
            return int(rng.integers(low, high + 1))

        return cls(
            centre=(pick(23, 30), pick(25, 38)),
            body=(pick(10, 12), pick(8, 10)),
            head=pick(5, 6),
            growth={part: pick(0, 1) for part in PARTS},
            is_mirrored=pick(0, 1) == 1,
            hat=pick(0, 2),
            feet=pick(0, 2),
            colours={owner: choose(_PLUMAGE, pick) for owner in ("body", "hat", "feet")},
            background=draw_scene(pick, _PLUMAGE, bright),
            noise=rng.integers(-8, 9, (SIZE, SIZE, 3), dtype=np.int16),
        )

    @property
    def scene(self) -> Picture:
        """What is behind the figure, with all of its objects, (H, W, 3)."""
        return self.background.picture()


def class_names() -> tuple[str, ...]:
    """Return names of the eight classes."""
    return tuple(
        " ".join(kinds[k] for kinds, k in zip(PARTS.values(), chosen, strict=True))
        for chosen in CLASSES
    )


def partner(label: int, part: str) -> int:
    """Return the class that differs from this one in this part alone: a minimal pair."""
    at = list(PARTS).index(part)
    chosen = CLASSES[label]
    return CLASSES.index((*chosen[:at], 1 - chosen[at], *chosen[at + 1 :]))


def render(
    label: int,
    pose: Pose,
    drop: Collection[str] = (),
    swap: Mapping[str, int] | None = None,
    clear: Collection[int] = (),
) -> Figure:
    """Draw a figure; the same pose gives the same picture but for what is dropped or swapped.

    Args:
        label: Class, 0 to 7.
        pose: All that is not of the class.
        drop: Parts to leave out; ``"hat"`` and ``"feet"`` too.
        swap: Kind, 0 or 1, of parts that shall not have the kind of the class.
        clear: Numbers of the background's objects to leave out.

    Raises:
        ValueError: A name is none of a part, or a kind is not 0 or 1.
    """
    kinds = dict(zip(PARTS, CLASSES[label], strict=True)) | dict(swap or {})
    unknown = {*kinds, *drop} - {*PARTS, "hat", "feet"}
    if unknown or not set(kinds.values()) <= {0, 1}:
        raise ValueError(
            f"parts are {', '.join(PARTS)} of kind 0 or 1, and hat and feet can be dropped; got "
            f"drop={list(drop)}, swap={swap}"
        )
    owners = np.zeros((SIZE, SIZE), np.uint8)
    for owner, shape in _shapes(pose, kinds):
        if owner not in drop:
            owners[shape] = _OWNERS.index(owner)
    if pose.is_mirrored:
        owners = owners[:, ::-1]
    paint = {"scene": (0, 0, 0), "eye": (20, 20, 20), **pose.colours}
    paint |= {part: _PART_COLOURS[part][kind] for part, kind in kinds.items()}
    table = np.array([paint[owner] for owner in _OWNERS], np.uint8)
    picture = np.where(owners[..., None] > 0, table[owners], pose.background.picture(clear))
    noisy = np.clip(picture + pose.noise, 0, 255).astype(np.uint8)
    return Figure(noisy, {name: owners == i for i, name in enumerate(_OWNERS) if i > 0})


def _shapes(pose: Pose, kinds: Mapping[str, int]) -> list[tuple[str, Mask]]:
    """Return what a figure that looks to the right is painted of, back to front."""
    (x, y), (a, b), r = pose.centre, pose.body, pose.head
    head_x, head_y = x + a - 3, y - b - 1
    grown = pose.growth
    nothing = np.zeros((SIZE, SIZE), bool)
    feet = (nothing, _feet(x, y + b, 0), _feet(x, y + b, 2))[pose.feet]
    hats = (nothing, _hat(head_x, head_y - r + 1), _cap(head_x, head_y - r + 1))
    return [
        ("tail", _TAILS[kinds["tail"]](x - a, y, grown["tail"])),
        ("feet", feet),
        ("body", ellipse(x, y, a, b) | ellipse(head_x, head_y, r, r)),
        ("beak", _BEAKS[kinds["beak"]](head_x + r, head_y, grown["beak"])),
        ("wing", _WINGS[kinds["wing"]](x - 1, y, grown["wing"])),
        ("hat", hats[pose.hat]),
        ("eye", box(head_x + 1, head_y - 2, head_x + 2, head_y - 1)),
    ]


def _spear(x: int, y: int, e: int) -> Mask:
    return polygon((x - 1, y - 4), (x - 1, y + 5), (x + 8 + e, y + 1))


def _hook(x: int, y: int, e: int) -> Mask:
    return polygon((x - 1, y - 5), (x + 3 + e, y - 5), (x + 6 + e, y + 7), (x - 1, y + 4))


def _round_wing(x: int, y: int, e: int) -> Mask:
    return ellipse(x, y, 6 + e, 4 + e)


def _pointed_wing(x: int, y: int, e: int) -> Mask:
    return polygon((x + 6, y - 3), (x + 1, y + 6 + e), (x - 9 - e, y - 8 - e))


def _fan(x: int, y: int, e: int) -> Mask:
    return polygon((x + 3, y - 3), (x - 7 - e, y - 8), (x - 7 - e, y + 6), (x + 3, y + 3))


def _fork(x: int, y: int, e: int) -> Mask:
    upper = polygon((x + 3, y - 4), (x - 9 - e, y - 8), (x, y + 1))
    return upper | polygon((x + 3, y + 4), (x - 9 - e, y + 8), (x, y - 1))


def _feet(x: int, y: int, width: int) -> Mask:
    """Return two legs, thin or with broad toes."""
    legs = [
        box(at - 1, y - 2, at, y + 5) | box(at - 1, y + 4, at + 1 + width, y + 5)
        for at in (x - 4, x + 4)
    ]
    return legs[0] | legs[1]


def _hat(x: int, y: int) -> Mask:
    return box(x - 6, y - 1, x + 6, y) | box(x - 3, y - 6, x + 3, y)


def _cap(x: int, y: int) -> Mask:
    return polygon((x - 5, y), (x + 5, y), (x, y - 7))


_Part = Callable[[int, int, int], Mask]
_BEAKS: tuple[_Part, _Part] = (_spear, _hook)
_WINGS: tuple[_Part, _Part] = (_round_wing, _pointed_wing)
_TAILS: tuple[_Part, _Part] = (_fan, _fork)
