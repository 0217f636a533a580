"""Small nets whose evidence is known, or that are hard to measure."""

from __future__ import annotations

import torch
from nets import Gem, SmallNet, make_net
from torch import Tensor, nn


class Skipping(SmallNet):
    """U-Net-like: something of the image goes around the middle."""

    def forward(self, x: Tensor) -> Tensor:
        shallow = self.stage1(x)
        deep = self.stage3(self.stage2(shallow))
        return self.head(deep.mean((2, 3)) + shallow.mean((2, 3)).repeat(1, 2))


class Joining(SmallNet):
    """The same, side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        shallow = self.stage1(x)
        deep = self.stage3(self.stage2(shallow))
        return self.head(torch.cat([shallow.mean((2, 3)), deep.mean((2, 3))], 1))


class Tokens(SmallNet):
    """Its second stage is followed by tokens (N, T, D)."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = self.stage2(self.stage1(x))
        x = self.tokens(x.flatten(2).transpose(1, 2)).transpose(1, 2).view_as(x)
        return self.head(self.stage3(x).mean((2, 3)))


class Bright(SmallNet):
    """The mean of the image goes around all layers."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + x.mean((1, 2, 3), keepdim=True).flatten(1)


class Twice(SmallNet):
    """Its first stage runs on the image and on its mirror image."""

    def forward(self, x: Tensor) -> Tensor:
        both = self.stage1(x) + self.stage1(x.flip(3))
        return self.head(self.stage3(self.stage2(both)).mean((2, 3)))


class LastAxis(nn.Module):
    """A stage whose maps are (N, H, W, C)."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(1, 6, 3, padding=1)
        self.norm = nn.LayerNorm(6)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.conv(x).relu().permute(0, 2, 3, 1)).mean((1, 2)))


class InPlace(nn.Module):
    """What follows the layer works in place on what it returned."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(1, 6, 3, padding=1)
        self.after = nn.Sequential(nn.LeakyReLU(0.5, inplace=True), nn.Conv2d(6, 6, 3), nn.ReLU())
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.after(self.conv(x)).mean((2, 3)))


class Shifting(nn.Module):
    """Says how bright the image is on the right, in features rolled by eight cells to the left."""

    def __init__(self) -> None:
        super().__init__()
        self.shallow, self.rolled = nn.Identity(), nn.Identity()
        self.head = nn.Linear(1, 2, bias=False)
        self.head.weight.data = torch.tensor([[10.0], [0.0]])

    def forward(self, x: Tensor) -> Tensor:
        x = self.rolled(self.shallow(x).roll(-8, 3))
        return self.head(x.mean((2, 3)))


class Cued(nn.Module):
    """A red square decides: class 1 where its colour stands anywhere, class 0 elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.conv.weight.data = torch.tensor(
            [[1.0, -1, -1], [0, 1, 0], [0, 0, 1], [0.3, 0.3, 0.3]]
        )[..., None, None]
        self.conv.bias.data = torch.tensor([-0.5, 0, 0, 0])
        self.act = nn.ReLU()
        self.head = nn.Linear(4, 2)
        self.head.weight.data = torch.tensor([[0.0, 0, 0, 0], [100.0, 0, 0, 0]])
        self.head.bias.data = torch.tensor([1.0, 0])

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.act(self.conv(x)).mean((2, 3)))


class NoBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        raise AssertionError("backward was asked for")


class Forward(SmallNet):
    """A model that cannot be differentiated."""

    def forward(self, x: Tensor) -> Tensor:
        return NoBackward.apply(super().forward(NoBackward.apply(x)))


class Scaled(SmallNet):
    """Takes what scales its features, one number an image, and a number for all."""

    def forward(self, x: Tensor, scale: Tensor, shift: float = 0.0) -> Tensor:
        x = self.stage3(self.stage2(self.stage1(x) * scale.view(-1, 1, 1, 1)))
        return self.head(x.mean((2, 3)) * scale.view(-1, 1)) + shift


def with_gem() -> SmallNet:
    """Return a net without a linear head."""
    net = make_net()
    net.pool = Gem()
    return net


def with_one_logit() -> SmallNet:
    return make_net(1)


def seeded(kind: type[nn.Module]) -> nn.Module:
    state = torch.get_rng_state()
    torch.manual_seed(0)
    model = kind().eval()
    torch.set_rng_state(state)
    return model
