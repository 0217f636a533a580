"""Tails of models: what stands between a map (N, 5, 9, 13) and four logits."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from nets import Gem
from torch import Tensor, nn

WIDTH, GRID, N_LOGITS = 5, (9, 13), 4
Make = Callable[[], list[nn.Module]]


class Do(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Beside(nn.Module):
    """Several modules on the same input, joined."""

    def __init__(self, join: Callable[[list[Tensor]], Tensor], *modules: nn.Module) -> None:
        super().__init__()
        self.parts, self.join = nn.ModuleList(modules), join

    def forward(self, x: Tensor) -> Tensor:
        return self.join([part(x) for part in self.parts])


class LowRank(nn.Module):
    """An adapter beside a linear layer, not merged into it."""

    def __init__(self) -> None:
        super().__init__()
        self.base, self.down = nn.Linear(WIDTH, N_LOGITS), nn.Linear(WIDTH, 2, bias=False)
        self.up = nn.Linear(2, N_LOGITS, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + 0.5 * self.up(self.down(x))


class Masked(nn.Linear):
    """A linear layer that uses other weights than it shows."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.clamp_min(0), self.bias)


class Cosine(nn.Linear):
    """A head that compares directions."""

    def forward(self, x: Tensor) -> Tensor:
        return 7 * F.linear(F.normalize(x, dim=1), F.normalize(self.weight, dim=1))


class Attending(nn.Module):
    """Weighs the positions by what stands there."""

    def __init__(self) -> None:
        super().__init__()
        self.weigh = nn.Conv2d(WIDTH, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return (x * self.weigh(x).flatten(1).softmax(1).view(len(x), 1, *x.shape[2:])).sum((2, 3))


def pool() -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten()]


def head(width: int = WIDTH) -> nn.Linear:
    return nn.Linear(width, N_LOGITS)


def hooked() -> nn.Module:
    module = head()
    module.register_forward_hook(lambda _m, _i, out: 3 * out + 1)
    return module


def pyramid() -> list[nn.Module]:
    levels = [nn.Sequential(nn.AdaptiveAvgPool2d(n), nn.Flatten()) for n in (1, 2, 3)]
    return [Beside(lambda parts: torch.cat(parts, 1), *levels), head(WIDTH * 14)]


def normed() -> nn.Module:
    return torch.nn.utils.parametrizations.weight_norm(nn.Linear(WIDTH, N_LOGITS))


def mean_of_heads() -> list[nn.Module]:
    return [*pool(), Beside(lambda z: torch.stack(z).mean(0), head(), head(), head())]


def joined_heads() -> list[nn.Module]:
    return [*pool(), Beside(lambda z: torch.cat(z, 1), nn.Linear(WIDTH, 1), nn.Linear(WIDTH, 3))]


def residual() -> list[nn.Module]:
    branch = nn.Sequential(nn.Conv2d(WIDTH, WIDTH, 3, padding=1), nn.BatchNorm2d(WIDTH))
    return [Beside(lambda parts: parts[0] + parts[1], nn.Identity(), branch), *pool(), head()]


AFFINE: dict[str, Make] = {
    "batch_norm": lambda: [*pool(), nn.BatchNorm1d(WIDTH), head()],
    "batch_norm_of_logits": lambda: [*pool(), head(), nn.BatchNorm1d(N_LOGITS)],
    "batch_norm_of_map": lambda: [nn.BatchNorm2d(WIDTH), *pool(), nn.Linear(WIDTH, 6), head(6)],
    "dropout": lambda: [*pool(), nn.Dropout(), nn.Linear(WIDTH, 6), nn.Dropout(), head(6)],
    "two_linear": lambda: [*pool(), nn.Linear(WIDTH, 7), head(7)],
    "three_linear": lambda: [*pool(), nn.Linear(WIDTH, 7), nn.Linear(7, 3), head(3)],
    "temperature": lambda: [*pool(), head(), Do(lambda z: z / 2.5)],
    "adjusted_logits": lambda: [*pool(), head(), Do(lambda z: z - torch.arange(4.0).to(z))],
    "mean_of_heads": mean_of_heads,
    "joined_heads": joined_heads,
    "low_rank": lambda: [*pool(), LowRank()],
    "masked": lambda: [*pool(), Masked(WIDTH, N_LOGITS)],
    "weight_norm": lambda: [*pool(), normed(), Do(lambda z: 2 * z)],
    "hooked": lambda: [*pool(), hooked()],
    "kernel_of_the_map": lambda: [nn.Conv2d(WIDTH, N_LOGITS, GRID), nn.Flatten()],
    "convolution_and_mean": lambda: [nn.Conv2d(WIDTH, N_LOGITS, 3, padding=1), *pool()],
    "strided": lambda: [nn.Conv2d(WIDTH, N_LOGITS, 3, 2, 2, 2), *pool()],
    "grouped": lambda: [nn.Conv2d(WIDTH, 10, 3, groups=5), *pool(), head(10)],
    "transposed": lambda: [nn.ConvTranspose2d(WIDTH, N_LOGITS, 3, 2), *pool()],
    "sum": lambda: [Do(lambda h: h.sum((2, 3))), head()],
    "sum_by_module": lambda: [nn.LPPool2d(1, GRID), nn.Flatten(), nn.Linear(WIDTH, 6), head(6)],
    "overlapping_pools": lambda: [nn.AvgPool2d(3, 1), *pool(), nn.Linear(WIDTH, 6), head(6)],
    "pyramid": pyramid,
    "corner": lambda: [Do(lambda h: h[:, :, :2, :3].flatten(1)), head(WIDTH * 6)],
    "residual": residual,
    "norm_of_map": lambda: [nn.LayerNorm([WIDTH, *GRID]), *pool(), nn.Linear(WIDTH, 6), head(6)],
    "no_head": pool,
}

NOT_AFFINE: dict[str, Make] = {
    "mlp": lambda: [*pool(), nn.Linear(WIDTH, 16), nn.ReLU(), head(16)],
    "flattened_mlp": lambda: [nn.Flatten(), nn.Linear(WIDTH * 117, 16), nn.GELU(), head(16)],
    "hardswish": lambda: [*pool(), nn.Linear(WIDTH, 16), nn.Hardswish(), head(16)],
    "gem": lambda: [Gem(), nn.Flatten(), head()],
    "max": lambda: [nn.AdaptiveMaxPool2d(1), nn.Flatten(), head()],
    "attention": lambda: [Attending(), head()],
    "softmax": lambda: [*pool(), head(), nn.Softmax(1)],
    "squared": lambda: [*pool(), head(), Do(torch.square)],
    "functional_relu": lambda: [Do(lambda h: (h - 0.3).relu().mean((2, 3))), head()],
}

NORMED: dict[str, Make] = {  # affine once the scale is held
    "layer_norm": lambda: [*pool(), nn.LayerNorm(WIDTH), head()],
    "group_norm": lambda: [nn.GroupNorm(1, WIDTH), *pool(), nn.LayerNorm(WIDTH), head()],
    "cosine": lambda: [*pool(), Cosine(WIDTH, N_LOGITS)],
    "rms_norm": lambda: [*pool(), nn.RMSNorm(WIDTH), head()],
}


def model_of(make: Make, seed: int = 0) -> nn.Sequential:
    """Return body and tail, in double precision; batch norms have statistics that do something."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        body = nn.Sequential(nn.Conv2d(1, WIDTH, 3, padding=1), nn.ReLU())
        model = nn.Sequential(body, *make())
        for part in model.modules():
            if isinstance(part, nn.modules.batchnorm._BatchNorm):
                part.running_mean.normal_()
                part.running_var.uniform_(0.5, 2)
                nn.init.normal_(part.weight)
                nn.init.normal_(part.bias)
            elif isinstance(part, (nn.LayerNorm, nn.GroupNorm)):
                nn.init.normal_(part.weight)
                nn.init.normal_(part.bias)
    return model.double().eval()


def images(count: int = 3, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 1, *GRID, generator=generator, dtype=torch.float64)


def at_tap(model: nn.Sequential, site: object) -> int:
    """Return how many modules of a chain stand before the tap."""
    return int(site.tap.split(".")[0]) + (0 if site.at_input else 1)


def gradient_times_map(model: nn.Sequential, before: int, x: Tensor, target: int) -> Tensor:
    """Return gradient times map by autograd alone (N, 1, h, w)."""
    with torch.no_grad():
        found = model[:before](x)
    found.requires_grad_()
    (gradient,) = torch.autograd.grad(model[before:](found)[:, target].sum(), found)
    return (found * gradient).sum(1, keepdim=True).detach()
