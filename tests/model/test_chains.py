"""Generated heads and tails: the map adds up to the logit, exactly or with what is left over."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from nets import Gem
from torch import Tensor, nn

from captum_kmex import (
    ClassifierPrototypes,
    HeadNotFoundError,
    KMExAttribution,
    LayerKMeansAttribution,
)

N_CHAINS = 320
N_CLASSES = 3
WIDTH = 6
GRID = (5, 4)


class Do(nn.Module):
    """A function as a module without a telling name."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class CatPool(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([F.adaptive_avg_pool2d(x, 1), F.adaptive_max_pool2d(x, 1)], 1)


class Cosine(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return 10 * F.linear(F.normalize(x, dim=1), F.normalize(self.weight, dim=1))


class Masked(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return F.linear(x, self.weight * (self.weight > 0), self.bias)


class LowRank(nn.Module):
    """An adapter beside a linear layer, not merged into it."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.base, self.down = nn.Linear(inputs, outputs), nn.Linear(inputs, 2, bias=False)
        self.up = nn.Linear(2, outputs, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.up(self.down(x))


class Temperature(nn.Linear):
    """The same weights, and logits divided afterwards."""

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x) / 2.5


def hooked(module: nn.Module, hook: Callable[..., object], before: bool = False) -> nn.Module:
    register = module.register_forward_pre_hook if before else module.register_forward_hook
    register(hook)
    return module


def on_map(rng: random.Random, width: int) -> tuple[nn.Module, int]:
    """Return something that takes a map to a map, and its width."""
    wider = width * 2
    kinds: list[tuple[Callable[[], nn.Module], int]] = [
        (lambda: nn.ReLU(), width),
        (lambda: nn.ReLU(inplace=True), width),
        (lambda: nn.LeakyReLU(), width),
        (lambda: nn.Dropout(), width),
        (lambda: nn.Identity(), width),
        (lambda: nn.BatchNorm2d(width), width),
        (lambda: nn.GroupNorm(2, width), width),
        (lambda: nn.AvgPool2d(2), width),
        (lambda: nn.MaxPool2d(2), width),
        (lambda: nn.AdaptiveAvgPool2d(2), width),
        (lambda: nn.Conv2d(width, wider, 1), wider),
        (lambda: nn.Conv2d(width, wider, 3, 2, 1), wider),
        (lambda: nn.Conv2d(width, width, 3, padding=1, groups=width), width),
        (lambda: Do(lambda h: h * torch.sigmoid(h)), width),
        (lambda: Do(lambda h: F.relu(h)), width),
        (lambda: Do(lambda h: h.permute(0, 1, 3, 2)), width),
    ]
    make, out = rng.choice(kinds)
    return make(), out


def pooling(rng: random.Random, width: int, cells: int) -> tuple[list[nn.Module], int]:
    """Return something that takes a map to a table, and its width; a mean in two cases of five."""
    if rng.random() < 0.4:
        return [nn.AdaptiveAvgPool2d(1), nn.Flatten()], width
    kinds: list[tuple[Callable[[], list[nn.Module]], int]] = [
        (lambda: [nn.AdaptiveMaxPool2d(1), nn.Flatten()], width),
        (lambda: [Gem(), nn.Flatten()], width),
        (lambda: [CatPool(), nn.Flatten()], 2 * width),
        (lambda: [Do(lambda h: h.mean((2, 3)))], width),
        (lambda: [Do(lambda h: h.sum((2, 3)))], width),
        (lambda: [Do(lambda h: F.adaptive_avg_pool2d(h, 1)), nn.Flatten()], width),
        (lambda: [Do(lambda h: h.amax((2, 3), keepdim=True)), nn.Flatten()], width),
        (lambda: [nn.Flatten()], width * cells),
    ]
    make, out = rng.choice(kinds)
    return make(), out


def on_table(rng: random.Random, width: int) -> list[nn.Module]:
    """Return something between pooling and head; mostly nothing."""
    kinds: list[Callable[[], list[nn.Module]]] = [
        lambda: [nn.BatchNorm1d(width)],
        lambda: [nn.LayerNorm(width)],
        lambda: [nn.Linear(width, width)],
        lambda: [nn.Linear(width, width), nn.ReLU()],
        lambda: [nn.Dropout()],
        lambda: [Do(lambda h: F.normalize(h, dim=1))],
    ]
    return rng.choice(kinds)() if rng.random() < 0.3 else []


def linear(rng: random.Random, width: int) -> list[nn.Module]:
    """Return a head of a table; a plain one in two cases of five."""
    if rng.random() < 0.4:
        return [nn.Linear(width, N_CLASSES)]
    norm = torch.nn.utils.parametrizations
    kinds: list[Callable[[], list[nn.Module]]] = [
        lambda: [nn.Linear(width, N_CLASSES, bias=False)],
        lambda: [Cosine(width, N_CLASSES)],
        lambda: [Masked(width, N_CLASSES)],
        lambda: [Temperature(width, N_CLASSES)],
        lambda: [LowRank(width, N_CLASSES)],
        lambda: [norm.weight_norm(nn.Linear(width, N_CLASSES))],
        lambda: [norm.spectral_norm(nn.Linear(width, N_CLASSES))],
        lambda: [hooked(nn.Linear(width, N_CLASSES), lambda _m, _i, out: 2 * out)],
        lambda: [hooked(nn.Linear(width, N_CLASSES), lambda _m, _i, out: None)],
        lambda: [hooked(nn.Linear(width, N_CLASSES), lambda _m, i: (i[0] + 1,), before=True)],
        lambda: [nn.Linear(width, N_CLASSES), nn.Softmax(1)],
        lambda: [nn.Linear(width, N_CLASSES), Do(lambda z: z - 1)],
    ]
    return rng.choice(kinds)()


def convolutional(rng: random.Random, width: int) -> list[nn.Module]:
    kinds: list[Callable[[], nn.Module]] = [
        lambda: nn.Conv2d(width, N_CLASSES, 1),
        lambda: nn.Conv2d(width, N_CLASSES, 1, bias=False),
        lambda: nn.Conv2d(width, N_CLASSES, 1, stride=2),
        lambda: nn.Conv2d(width, N_CLASSES, 1, padding=1),
        lambda: nn.Conv2d(width, N_CLASSES, 3, padding=1),
        lambda: hooked(nn.Conv2d(width, N_CLASSES, 1), lambda _m, _i, out: out + 1),
    ]
    rest = [[nn.ReLU()], [nn.Dropout()], []]
    pools = [
        [nn.AdaptiveAvgPool2d(1), nn.Flatten()],
        [Do(lambda h: h.mean((2, 3)))],
        [Do(lambda h: h.sum((2, 3)))],
        [nn.AdaptiveMaxPool2d(1), nn.Flatten()],
    ]
    conv = rng.choice(kinds)()
    if rng.random() < 0.3:  # pooled first
        return [nn.AdaptiveAvgPool2d(1), conv, Do(lambda h: h.mean((2, 3)))]
    return [conv, *rng.choice(rest), *rng.choice(pools)]


def chain(seed: int) -> nn.Sequential:
    """Return a random classifier of images (N, 1, 5, 4)."""
    rng = random.Random(seed)
    torch.manual_seed(seed)
    body = nn.Sequential(nn.Conv2d(1, WIDTH, 3, padding=1), nn.ReLU())
    modules, width = [body], WIDTH
    for _ in range(rng.randrange(3)):
        module, width = on_map(rng, width)
        modules.append(module)
    with torch.no_grad():
        grid = nn.Sequential(*modules).eval()(torch.rand(2, 1, *GRID))
    if rng.random() < 0.25:
        modules += convolutional(rng, width)
    else:
        pool, out = pooling(rng, width, grid[0, 0].numel())
        modules += [*pool, *on_table(rng, out), *linear(rng, out)]
    model = nn.Sequential(*modules)
    for part in model.modules():  # statistics and weights that do something
        if isinstance(part, (nn.BatchNorm1d, nn.BatchNorm2d)):
            part.running_mean.normal_()
            part.running_var.uniform_(0.5, 2)
    return model.eval()


def images(seed: int) -> Tensor:
    return torch.randn(4, 1, *GRID, generator=torch.Generator().manual_seed(seed))


def head_bias(attribution: ClassifierPrototypes, x: Tensor) -> Tensor:
    head = attribution.read(x).head
    return head.left_out_bias(torch.arange(N_CLASSES))


def assert_exact(maps: Tensor, bias: Tensor, logits: Tensor) -> None:
    scale = (logits - bias).abs().amax(1).clamp_min(1e-3)
    target = torch.zeros(len(logits), dtype=torch.int64)
    off = (maps.flatten(1).sum(1) + bias[0] - logits.gather(1, target[:, None]).squeeze(1)).abs()
    assert (off <= 1e-4 * scale + 1e-5).all(), off / scale


def last_convolution_leaves_one_cell(model: nn.Sequential, x: Tensor) -> bool:
    for module in model:
        x = module(x)
        is_conv = isinstance(module, nn.Conv2d) and x[0, 0].numel() == 1
        if is_conv and (max(module.kernel_size) > 1 or module.stride != (1, 1)):
            return True
    return False


def drawn(step: int, usual: int) -> list[object]:
    """Return every step-th seed, of which every usual-th is not slow."""
    slow = pytest.mark.slow
    return [
        pytest.param(seed, marks=[] if seed % usual == 0 else slow)
        for seed in range(0, N_CHAINS, step)
    ]


@pytest.mark.parametrize("seed", drawn(step=1, usual=5))
def test_chain_is_exact_or_refused(seed):
    with torch.random.fork_rng(devices=[]):
        model = chain(seed)
    plain, layered = ClassifierPrototypes(model), LayerKMeansAttribution(model, ["0"], n_clusters=3)
    for x in (images(seed)[:2], images(seed + 1)[:2], 5 * images(seed + 2)[:2]):
        with torch.no_grad():
            logits = model(x)
        try:
            maps = plain.attribute(x, target=0)
        except HeadNotFoundError:
            assert_linearised(layered, model, x)
            assert not is_affine(model, x)
            continue
        assert_exact(maps, head_bias(plain, x), logits)
        assert_exact(layered.attribute(x, target=0), head_bias(plain, x), logits)
        with torch.no_grad():
            assert maps[0].numel() > 1 or last_convolution_leaves_one_cell(model, x)


def assert_linearised(attribution: LayerKMeansAttribution, model: nn.Module, x: Tensor) -> None:
    found = attribution.explain(x, target=0)
    assert found.head == "linearised"
    total = found.attribution.flatten(1).sum(1) + found.bias + found.not_linear
    with torch.no_grad():
        torch.testing.assert_close(total, model(x)[:, 0], rtol=1e-4, atol=1e-5)


def is_affine(model: nn.Sequential, x: Tensor) -> bool:
    """Whether what follows the last map of several cells takes middles to middles.

    One middle that is missed tells; loud maps may lie where a softmax is flat, faint ones on one
    side of every kink.
    """
    with torch.no_grad():
        maps = [x]
        for module in model:
            maps.append(module(maps[-1].clone()))
        last = max(i for i, value in enumerate(maps) if value.ndim == 4 and value[0, 0].numel() > 1)
        own = maps[last].double()
        tail = copy.deepcopy(model[last:]).double()
        generator = torch.Generator().manual_seed(0)
        for scale in (0.1, 1, 10):
            noise = torch.randn(own.shape, generator=generator, dtype=own.dtype)
            one, other = scale * noise, own + scale
            middle = tail((one + other) / 2)
            off = (middle - (tail(one.clone()) + tail(other.clone())) / 2).abs().max()
            if off >= 1e-6 * middle.abs().max():
                return False
    return True


@pytest.mark.parametrize("seed", drawn(step=8, usual=24))
def test_fitted_chain_is_exact_or_says_what_it_misses(seed):
    with torch.random.fork_rng(devices=[]):
        model = chain(seed)
    x, labels = torch.cat([images(seed + i) for i in range(6)]), torch.arange(24) % N_CLASSES
    attribution = LayerKMeansAttribution(model, ["0"], n_prototypes=2)
    attribution.fit([(x, labels)], n_representatives=0)
    maps, delta = attribution.attribute(x, target=0, return_convergence_delta=True)
    with torch.no_grad():
        logits = model(x)
    surrogate = attribution.bank_.surrogate
    if surrogate is None:
        assert_exact(maps, head_bias(ClassifierPrototypes(model), x), logits)
        exported = ClassifierPrototypes(model).as_module(x, target=0)(x)
        assert_exact(
            exported["attribution"], head_bias(ClassifierPrototypes(model), x), exported["logits"]
        )
    else:
        bias = surrogate.bias[0]
        assert torch.allclose(delta, maps.flatten(1).sum(1) + bias - logits[:, 0], atol=1e-5)
        assert maps[0].numel() > 1
    try:
        kmex = KMExAttribution(model, n_prototypes=2).fit([(x, labels)], n_representatives=0)
    except HeadNotFoundError:
        return
    _, delta = kmex.attribute(x, target=0, return_convergence_delta=True)
    assert delta.abs().max() < 1e-3


def test_chains_are_of_both_kinds():
    """Neither outcome is an accident: many generated chains are explained, many refused."""
    outcomes = []
    for seed in range(0, N_CHAINS, 4):
        with torch.random.fork_rng(devices=[]):
            model = chain(seed)
        try:
            ClassifierPrototypes(model).attribute(images(seed), target=0)
            outcomes.append(True)
        except HeadNotFoundError:
            outcomes.append(False)
    assert 15 < sum(outcomes) < 70
