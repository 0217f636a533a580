from __future__ import annotations

import pytest
import torch
from torch import Tensor

from benchmarks.tasks.photographs import paste


@pytest.fixture
def background() -> Tensor:
    return torch.rand(3, 224, 224, generator=torch.Generator().manual_seed(0))


def disc(side: int) -> Tensor:
    """A red disc on transparent green."""
    axis = torch.linspace(-1, 1, side)
    opaque = (axis[:, None] ** 2 + axis**2 <= 1).float()
    return torch.stack([opaque, 1 - opaque, torch.zeros(side, side), opaque])


@pytest.mark.parametrize("share", [0.05, 0.2, 0.35])
def test_object_covers_the_share_asked_for(background: Tensor, share: float) -> None:
    _, mask = paste(disc(150), background, share, (0.3, 0.9))
    assert mask.double().mean() == pytest.approx(share, rel=0.03)


def test_composite_is_the_object_inside_and_the_background_outside(background: Tensor) -> None:
    image, mask = paste(disc(150), background, 0.2, (0.5, 0.5))
    near = torch.nn.functional.max_pool2d(mask[None].float(), 5, 1, 2)[0] > 0
    core = torch.nn.functional.max_pool2d(1 - mask[None].float(), 5, 1, 2)[0] == 0
    assert torch.equal(image[:, ~near], background[:, ~near])
    red = torch.tensor([1.0, 0.0, 0.0])[:, None]
    torch.testing.assert_close(image[:, core], red.expand(-1, int(core.sum())))


def test_colours_of_transparent_pixels_do_not_leak(background: Tensor) -> None:
    cutout = disc(150)
    recoloured = torch.cat([torch.where(cutout[3:] > 0, cutout[:3], 0.7), cutout[3:]])
    one, other = (paste(c, background, 0.1, (0.2, 0.2))[0] for c in (cutout, recoloured))
    torch.testing.assert_close(one, other)


@pytest.mark.parametrize("place", [(0.0, 0.0), (1.0, 1.0)])
def test_object_stays_inside(background: Tensor, place: tuple[float, float]) -> None:
    _, mask = paste(disc(100), background, 0.1, place)
    assert mask.double().mean() == pytest.approx(0.1, rel=0.05)
    corner = mask[:112, :112] if place == (0.0, 0.0) else mask[112:, 112:]
    assert corner.sum() == mask.sum()


def test_small_and_long_objects_cover_less(background: Tensor) -> None:
    _, small = paste(disc(20), background, 0.3, (0.5, 0.5))
    assert small.sum() == pytest.approx(4 * float(disc(20)[3].sum()), rel=0.05)
    long = torch.ones(4, 10, 300)
    _, thin = paste(long, background, 0.3, (0.5, 0.5))
    assert thin.any(0).all()
    assert thin.sum() == 7 * 224
