"""A prepared copy explains as the model does, and says so where it cannot."""

from __future__ import annotations

import copy
import logging
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import timm
import torch
import torchvision.models as zoo
from nets import LAYERS, calibrate
from torch import Tensor, nn

from captum_kmex import ClassifierPrototypes, KMExAttribution, LayerKMeansAttribution
from captum_kmex.attributions.prototype_attribution import PrototypeAttribution
from captum_kmex.exceptions import TrainModeWarning
from captum_kmex.model.activations import trace
from captum_kmex.model.prepared import Preparation, channels_last, prepared_copy

pytestmark = [
    pytest.mark.filterwarnings("ignore::captum_kmex.exceptions.FewRowsWarning"),
    pytest.mark.filterwarnings("ignore:prepare:DeprecationWarning"),
]

QUICK = {"n_init": 2, "n_representatives": 0}
ROUNDING = {"rtol": 1e-4, "atol": 1e-5}  # some ten float32 products of folded weights, values ~ 1


class NormNet(nn.Module):
    """Three stages of convolution, batch norm and ReLU, the last two also as a residual block."""

    def __init__(self, n_classes: int = 3) -> None:
        super().__init__()
        self.stage1 = self.stage(1, 8)
        self.stage2 = self.stage(8, 12)
        self.stage3 = self.stage(12, 16)
        self.skip = nn.Sequential(nn.Conv2d(12, 16, 1, 2, bias=False), nn.BatchNorm2d(16))
        self.relu = nn.ReLU(inplace=True)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(16, n_classes)

    @staticmethod
    def stage(inner: int, outer: int) -> nn.Sequential:
        conv = nn.Conv2d(inner, outer, 3, 2 if inner > 1 else 1, 1, bias=False)
        return nn.Sequential(conv, nn.BatchNorm2d(outer), nn.ReLU(inplace=True))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stage2(self.stage1(x))
        x = self.relu(self.stage3(x) + self.skip(x))
        return self.head(self.drop(x.mean((2, 3))))


def calibrated(model: nn.Module, x: Tensor) -> nn.Module:
    """Return a model whose batch norms are not fresh: those would fold to nothing."""
    calibrate(model, x, torch.Generator().manual_seed(0))
    return model.eval()


def build(kind: type[nn.Module], x: Tensor) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return calibrated(kind(), x)


@pytest.fixture
def x(images: Tensor) -> Tensor:
    return images


@pytest.fixture
def net(x: Tensor) -> nn.Module:
    return build(NormNet, x)


def prototypes(model: nn.Module, is_prepared: bool = True) -> PrototypeAttribution:
    attribution = ClassifierPrototypes(model)
    return attribution.prepare() if is_prepared else attribution


def kmex(model: nn.Module, is_prepared: bool = True) -> PrototypeAttribution:
    attribution = KMExAttribution(model, n_prototypes=2)
    return attribution.prepare() if is_prepared else attribution


def kmeans(model: nn.Module, is_prepared: bool = True) -> PrototypeAttribution:
    attribution = LayerKMeansAttribution(model, LAYERS, n_prototypes=2)
    return attribution.prepare() if is_prepared else attribution


@pytest.fixture(params=[prototypes, kmex, kmeans], ids=lambda make: make.__name__)
def make(request, x, labels):
    """Build one of the three attributions, fitted where it needs to be."""

    def fitted(model: nn.Module, is_prepared: bool = True) -> PrototypeAttribution:
        attribution = request.param(model, is_prepared)
        if request.param is kmex:
            attribution.fit([(x, labels)], **QUICK)
        return attribution

    return fitted


def twin_of(attribution: PrototypeAttribution) -> nn.Module:
    return attribution._preparation.current(attribution.model)


def outputs(model: nn.Module, x: Tensor, names: list[str]) -> dict[str, Tensor]:
    return trace(model, (x,), names).features


# ---------------------------------------------------------------- the copy


def test_copy_gives_the_features_of_the_model(net, x):
    twin = prepared_copy(net, LAYERS)
    names = [*LAYERS, "stage1.1", "skip", "skip.1", "relu"]
    expected, found = outputs(net, x, names), outputs(twin, *channels_last((x,)), names)
    for name in names:
        torch.testing.assert_close(found[name], expected[name], **ROUNDING)
    torch.testing.assert_close(twin(x), net(x), **ROUNDING)


def test_copy_in_double_agrees_to_double_precision(net, x):
    net.double()
    torch.testing.assert_close(prepared_copy(net)(x.double()), net(x.double()), rtol=0, atol=1e-12)


def test_every_batch_norm_is_folded(net, x):
    twin = prepared_copy(net)
    for name in ("stage1", "stage2", "stage3", "skip"):
        conv, norm = twin.get_submodule(name)[:2]
        before = conv(torch.zeros(1, conv.in_channels, 4, 4))
        assert norm(before) is before
        assert conv.weight.is_contiguous(memory_format=torch.channels_last)


def test_copy_keeps_the_names_of_the_model(net):
    names = [name for name, _ in net.named_modules()]
    assert [name for name, _ in prepared_copy(net).named_modules()] == names


@pytest.mark.parametrize("layer", ["stage2.0", "stage2.1"])
def test_convolution_or_norm_that_is_read_is_not_folded(net, x, layer):
    twin = prepared_copy(net, [layer])
    passed = trace(net, (x,), ["stage2.0"], entering=["stage2.1"])
    found = trace(twin, (x,), ["stage2.0"], entering=["stage2.1"])
    torch.testing.assert_close(found.features["stage2.0"], passed.features["stage2.0"], **ROUNDING)
    torch.testing.assert_close(found.entering["stage2.1"], passed.entering["stage2.1"], **ROUNDING)
    assert twin.stage1[1](x) is x  # the others are


def test_layer_that_ends_between_convolution_and_norm_keeps_its_output(x):
    class Wrapped(NormNet):
        def __init__(self) -> None:
            super().__init__()
            conv, norm, relu = self.stage2
            self.stage2 = nn.Sequential(nn.Sequential(conv), nn.Sequential(norm, relu))

    net = build(Wrapped, x)
    expected = outputs(net, x, ["stage2.0"])["stage2.0"]
    found = outputs(prepared_copy(net, ["stage2.0"]), x, ["stage2.0"])["stage2.0"]
    torch.testing.assert_close(found, expected, **ROUNDING)
    folded = outputs(prepared_copy(net), x, ["stage2.0"])["stage2.0"]
    assert not torch.allclose(folded, expected, **ROUNDING)


class TwiceRead(NormNet):
    """The convolution's output goes to the batch norm and past it."""

    def forward(self, x: Tensor) -> Tensor:
        raw = self.stage2[0](self.stage1(x))
        x = self.stage3(self.stage2[1](raw).relu() + raw)
        return self.head(x.mean((2, 3)))


class SharedConv(NormNet):
    """One convolution runs twice, with a batch norm after its first call only."""

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.stage1(x), self.stage1[0](x)])
        return self.head(self.stage3(self.stage2(x)).mean((2, 3)).unflatten(0, (2, -1)).sum(0))


class SharedNorm(NormNet):
    """One batch norm runs twice, after two convolutions."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.stage2(self.stage1(x))
        x = self.stage3[1](self.stage3[0](x)).relu() + self.stage3[1](self.skip[0](x))
        return self.head(x.mean((2, 3)))


class BatchStatistics(NormNet):
    """A batch norm without running statistics depends on the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.skip[1] = nn.InstanceNorm2d(16)
        self.norm = nn.BatchNorm2d(1, track_running_stats=False)
        self.conv = nn.Conv2d(1, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.norm(self.conv(x)))


class NormWithoutParameters(NormNet):
    """No scale, no shift, and a convolution that has a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.stage2[0] = nn.Conv2d(8, 12, 3, 2, 1)
        self.stage2[1] = nn.BatchNorm2d(12, affine=False)


class TiedWeights(NormNet):
    """Two convolutions share a weight; each has its own batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.stage3[0] = nn.Conv2d(12, 16, 1, 2, bias=False)
        self.stage3[0].weight = self.skip[0].weight


class Aliased(NormNet):
    """A module with two names, used by the second."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = self.stage1[0], self.stage1[1]

    def forward(self, x: Tensor) -> Tensor:
        x = self.stage3(self.stage2(self.norm(self.first(x)).relu()))
        return self.head(x.mean((2, 3)))


@pytest.mark.parametrize(
    "kind", [TwiceRead, SharedConv, SharedNorm, BatchStatistics, NormWithoutParameters], ids=str
)
def test_copy_is_right_where_folding_is_not_plain(kind, x):
    net = build_calibrated_affine(kind, x)
    torch.testing.assert_close(prepared_copy(net)(x), net(x), **ROUNDING)


def build_calibrated_affine(kind: type[nn.Module], x: Tensor) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = kind().eval()
    generator = torch.Generator().manual_seed(0)
    for norm in net.modules():
        if isinstance(norm, nn.BatchNorm2d) and norm.running_mean is not None:
            norm.running_mean.normal_(0, 0.5, generator=generator)
            norm.running_var.uniform_(0.2, 2, generator=generator)
    return net


@pytest.mark.parametrize("kind", [TiedWeights, Aliased], ids=lambda kind: kind.__name__)
def test_copy_is_right_with_shared_tensors_and_names(kind, x):
    net = build(kind, x)
    torch.testing.assert_close(prepared_copy(net)(x), net(x), **ROUNDING)


@pytest.mark.parametrize("function", ["spectral_norm", "parametrized", "weight_norm"])
def test_reparametrised_convolution_is_not_folded(net, x, function):
    wrap = {
        "spectral_norm": nn.utils.spectral_norm,
        "parametrized": nn.utils.parametrizations.spectral_norm,
        "weight_norm": nn.utils.parametrizations.weight_norm,
    }[function]
    wrap(net.stage2[0])
    net.eval()
    with torch.no_grad():
        expected = net(x)
    twin = prepared_copy(net)
    torch.testing.assert_close(twin(x), expected, **ROUNDING)
    assert twin.stage2[1](x.expand(-1, 12, -1, -1)) is not x


def test_model_without_batch_norm_is_only_laid_out_anew(x):
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(784, 3)).eval()
    twin = prepared_copy(model)
    assert torch.equal(twin[0].weight, model[0].weight)
    torch.testing.assert_close(twin(x), model(x), **ROUNDING)


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "densenet121"])
def test_batch_norms_of_timm_are_folded_with_their_activation(name):
    model = timm.create_model(name, num_classes=5)
    x = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    calibrated(model, x)
    twin = prepared_copy(model)
    assert sum(type(module).__name__ == "_FoldedNormAct" for module in twin.modules()) > 40
    # a hundred layers of random weights
    with torch.no_grad():
        found, expected = twin(x), model(x)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-3 * float(expected.abs().max()))


# ---------------------------------------------------------------- explanations


def test_maps_and_segments_are_those_of_the_model(net, x):
    ours, plain = kmeans(net), kmeans(net, False)
    for depth in range(3):
        same = ours.segment(x, depth=depth) == plain.segment(x, depth=depth)
        assert same.float().mean() >= 0.999
        maps, expected = ours.attribute(x, depth=depth), plain.attribute(x, depth=depth)
        torch.testing.assert_close(maps, expected, **ROUNDING)
        assert maps.is_contiguous()


def test_map_of_a_prepared_attribution_is_the_plain_one(make, net, x):
    ours, plain = make(net), make(net, False)
    assert ours.is_prepared
    assert not plain.is_prepared
    torch.testing.assert_close(ours.attribute(x), plain.attribute(x), **ROUNDING)


def test_prepared_map_is_complete(make, net, x):
    _, delta = make(net).attribute(x, target=1, return_convergence_delta=True)
    assert delta.abs().max() < 1e-5


def test_layers_are_read_at_their_input(net, x):
    layers = ["stage2", "stage3", "drop"]
    options = {"attribute_to_layer_input": True}
    expected = LayerKMeansAttribution(net, layers[:2]).segment(x, **options)
    found = LayerKMeansAttribution(net, layers[:2]).prepare().segment(x, **options)
    assert (found == expected).float().mean() >= 0.999


def test_norm_is_read_at_its_input(net, x):
    options = {"attribute_to_layer_input": True}
    layers = ["stage2.1", "stage3.1"]
    expected = LayerKMeansAttribution(net, layers).segment(x, **options)
    found = LayerKMeansAttribution(net, layers).prepare().segment(x, **options)
    assert (found == expected).float().mean() >= 0.999


def test_layers_chosen_after_prepare_keep_their_meaning(net, x):
    ours = kmeans(net)
    ours.attribute(x)
    ours.layers = ["stage1.0", "stage2.0", "stage3.0"]
    plain = LayerKMeansAttribution(net, ours.layers)
    assert (ours.segment(x) == plain.segment(x)).float().mean() >= 0.999


@pytest.mark.parametrize("is_prepared", [True, False], ids=["on-copy", "on-model"])
def test_bank_serves_with_and_without_preparation(net, x, labels, tmp_path, is_prepared):
    fitted = kmeans(net, is_prepared).fit([(x, labels)], **QUICK)
    fitted.save(tmp_path / "bank.safetensors")
    other = LayerKMeansAttribution.load(tmp_path / "bank.safetensors", net)
    assert not other.is_prepared
    expected = fitted.segment(x)
    if not is_prepared:
        other.prepare()
    assert (other.segment(x) == expected).float().mean() >= 0.999
    torch.testing.assert_close(other.attribute(x), fitted.attribute(x), **ROUNDING)


def test_fit_on_the_copy_finds_the_prototypes_of_the_model(net, x, labels):
    ours = kmex(net).fit([(x, labels)], **QUICK)
    plain = kmex(net, False).fit([(x, labels)], **QUICK)
    torch.testing.assert_close(ours.prototypes, plain.prototypes, **ROUNDING)
    assert ours.bank_.fingerprint == plain.bank_.fingerprint


def test_prototypes_are_the_head_weights(net, x):
    attribution = prototypes(net)
    attribution.attribute(x)
    assert torch.equal(attribution.prototypes, net.head.weight)


def test_prototypes_of_a_folded_head_are_those_of_the_map(x):
    """The head of the copy is the convolution with its norm; the model's own is refused."""
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 3, 1), nn.BatchNorm2d(3),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    )  # fmt: skip
    attribution = prototypes(calibrated(model, x))
    maps = attribution.attribute(x, target=1)
    expected = torch.einsum("ndhw,d->nhw", model[:2](x), attribution.prototypes[1]) / 196
    torch.testing.assert_close(maps[:, 0], expected.detach(), **ROUNDING)


def test_wrapped_model_is_prepared(net, x):
    expected = kmeans(net, False).attribute(x)
    for wrapped in (nn.DataParallel(net), torch.compile(net, backend="eager")):
        torch.testing.assert_close(kmeans(wrapped).attribute(x), expected, **ROUNDING)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_narrow_model_is_prepared(net, x, dtype):
    net.to(dtype)
    maps, delta = prototypes(net).attribute(x.to(dtype), target=1, return_convergence_delta=True)
    assert maps.dtype == torch.float32
    assert delta.abs().max() < 0.03 * net(x.to(dtype)).float().abs().max()


def test_prepared_copy_works_under_autocast(net, x):
    with torch.autocast("cpu", torch.bfloat16):
        maps, delta = prototypes(net).attribute(x, target=1, return_convergence_delta=True)
    assert torch.isfinite(maps).all()
    assert delta.abs().max() < 0.03 * net(x).abs().max()


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad], ids=lambda m: m.__name__)
def test_preparing_in_a_gradient_mode_serves_outside_of_it(net, x, mode):
    with mode():
        attribution = kmeans(net)
    torch.testing.assert_close(
        attribution.attribute(x.requires_grad_()), kmeans(net, False).attribute(x), **ROUNDING
    )


def test_additional_arguments_with_defaults_take_the_traced_path(x):
    class Optional(NormNet):
        def forward(self, x: Tensor, scale: Tensor | None = None, flip: bool = False) -> Tensor:
            x = x if scale is None else x * scale
            return super().forward(x.flip(3) if flip else x)

    net = build(Optional, x)
    args = (torch.tensor(0.5), True)
    torch.testing.assert_close(
        kmeans(net).attribute(x, None, args),
        kmeans(net, False).attribute(x, None, args),
        **ROUNDING,
    )


# ---------------------------------------------------------------- the user's world


def test_model_is_left_as_found(make, net, x):
    net.stage2.train()
    before = copy.deepcopy(net.state_dict())
    flags = [module.training for module in net.modules()]
    tensors = [(p, p.data_ptr(), p.stride(), p.requires_grad) for p in net.parameters()]
    make(net).attribute(x)
    assert [module.training for module in net.modules()] == flags
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert [(p, p.data_ptr(), p.stride(), p.requires_grad) for p in net.parameters()] == tensors
    assert [type(module) for module in net.stage1] == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU]
    assert not any(module._forward_hooks for module in net.modules())


def test_training_model_is_explained_in_evaluation_mode_with_a_warning(net, x):
    expected = kmeans(net, False).attribute(x)
    net.train()
    attribution = kmeans(net)
    for _ in range(2):
        with pytest.warns(TrainModeWarning, match=r"call model\.eval\(\)"):
            maps = attribution.attribute(x)
        torch.testing.assert_close(maps, expected, **ROUNDING)
    assert all(module.training for module in net.modules())


def test_users_hooks_run_once_an_explanation_after_the_comparison(net, x):
    seen: list[nn.Module] = []
    net.stage2.register_forward_hook(lambda module, *_: seen.append(module))
    net.stage2.register_forward_pre_hook(lambda module, _: seen.append(module))
    attribution = ClassifierPrototypes(net, "relu").prepare()
    assert not seen  # tracing runs none
    attribution.attribute(x)
    seen.clear()
    attribution.attribute(x)
    assert len(seen) == 2


@pytest.mark.parametrize("layer", ["stage2", "stage2.0", "stage2.1"])
def test_hooks_that_change_the_features_are_explained(net, x, layer):
    plain, ours = kmeans(net, False), kmeans(net)
    unchanged = ours.attribute(x, target=0)
    handle = net.get_submodule(layer).register_forward_hook(lambda *given: given[2] * 0.1)
    changed = ours.attribute(x, target=0)
    torch.testing.assert_close(changed, plain.attribute(x, target=0), **ROUNDING)
    assert not torch.allclose(changed, unchanged, **ROUNDING)
    handle.remove()
    assert torch.equal(ours.attribute(x, target=0), unchanged)


def test_hooks_may_hold_what_cannot_be_copied(net, x):
    class Hook:
        def __init__(self) -> None:
            self.lock, self.count = threading.Lock(), 0

        def __call__(self, *_: object) -> None:
            with self.lock:
                self.count += 1

    hook = Hook()
    net.stage1.register_forward_hook(hook)
    net.stage1.register_full_backward_hook(hook)
    prototypes(net).attribute(x)
    assert hook.count > 0


@pytest.mark.parametrize(
    "duplicate",
    [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))],
    ids=["deepcopy", "pickle"],
)
def test_duplicate_is_prepared_for_its_own_model(net, x, duplicate):
    attribution = kmeans(net)
    expected = attribution.attribute(x, target=1)
    twin = duplicate(attribution)
    assert twin.is_prepared
    assert twin._preparation._copy is None
    assert torch.equal(twin.attribute(x, target=1), expected)
    with torch.no_grad():
        twin.model.head.weight.mul_(2)
    torch.testing.assert_close(twin.attribute(x, target=1), 2 * expected)
    assert torch.equal(attribution.attribute(x, target=1), expected)


@pytest.mark.slow
def test_threads_share_a_prepared_attribution(net, images):
    batches = [images[i : i + 3] * (1 + 0.01 * i) for i in range(9)]
    expected = [kmeans(net).attribute(batch) for batch in batches]
    attribution = pickle.loads(pickle.dumps(kmeans(net)))  # every thread finds no copy at first
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(attribution.attribute, batches * 3))
    for maps, wanted in zip(found, expected * 3, strict=True):
        torch.testing.assert_close(maps, wanted, **ROUNDING)
    assert not any(module._forward_hooks for module in attribution.model.modules())


def test_other_threads_run_their_models_while_one_is_prepared(net, x):
    other, stop = build(NormNet, x), threading.Event()
    expected = other(x)

    def run() -> None:
        while not stop.is_set():
            torch.testing.assert_close(other(x), expected)

    with ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(run) for _ in range(2)]
        for _ in range(10):
            prepared_copy(net)
        stop.set()
    for each in runs:
        each.result()


# ---------------------------------------------------------------- staleness


def train_step(net: nn.Module, optimiser: type[torch.optim.Optimizer]) -> None:
    step = optimiser(net.parameters(), lr=0.01)
    net(torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(0))).sum().backward()
    step.step()


def replace_head(net: nn.Module) -> None:
    net.head = nn.Linear(16, 3, bias=False)


def replace_activation(net: nn.Module) -> None:
    net.stage2[2] = nn.Hardtanh()


def load(net: nn.Module) -> None:
    net.load_state_dict({name: value * 1.5 for name, value in net.state_dict().items()})


def set_data(net: nn.Module) -> None:
    net.stage2[0].weight.data = net.stage2[0].weight.data * 2


def round_to_half_and_back(net: nn.Module) -> None:
    net.stage1[0].weight.data.mul_(1.2345)
    net.half().float()


CHANGES = {
    "sgd": lambda net: train_step(net, torch.optim.SGD),
    "adam": lambda net: train_step(net, torch.optim.Adam),
    "load": load,
    "statistics": lambda net: net.stage3[1].running_mean.add_(1),
    "head": replace_head,
    "activation": replace_activation,
    "data": set_data,
    "half-and-back": round_to_half_and_back,
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_maps_follow_a_model_that_changes(net, x, change):
    ours = kmeans(net)
    before = ours.attribute(x, target=0)
    change(net)
    maps = ours.attribute(x, target=0)
    torch.testing.assert_close(maps, kmeans(net, False).attribute(x, target=0), **ROUNDING)
    assert not torch.equal(maps, before)


def test_model_moved_to_double_is_prepared_again(net, x):
    ours = kmeans(net)
    ours.attribute(x)
    net.double()
    maps, delta = ours.attribute(x.double(), return_convergence_delta=True)
    assert maps.dtype == torch.float64
    assert delta.abs().max() < 1e-12


def test_copy_is_kept_while_the_model_stays(net, x, caplog):
    ours = kmeans(net)
    twin = twin_of(ours)
    with caplog.at_level(logging.INFO, "captum_kmex"):
        ours.attribute(x)
        ours.attribute(x, depth=1)
        net(x)
        assert twin_of(ours) is twin
        assert not caplog.records
        load(net)
        ours.attribute(x)
    assert "prepared again" in caplog.text
    assert twin_of(ours) is not twin


def test_model_of_inference_tensors_is_prepared(x):
    with torch.inference_mode():
        net = build(NormNet, x)
    ours = kmeans(net)
    torch.testing.assert_close(ours.attribute(x), kmeans(net, False).attribute(x), **ROUNDING)


def test_preparation_that_fails_leaves_no_stale_copy(net, x):
    ours = kmeans(net)
    ours.attribute(x)
    net.stage2.append(Branching())
    for _ in range(2):
        with pytest.raises(ValueError, match="cannot be traced"):
            ours.attribute(x)


# ---------------------------------------------------------------- refusals


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


def test_model_that_cannot_be_traced_is_refused(net):
    net.stage2.append(Branching())
    attribution = ClassifierPrototypes(net)
    message = r"NormNet cannot be prepared.*cannot be traced by torch\.fx \(TraceError.*without"
    with pytest.raises(ValueError, match=message):
        attribution.prepare()
    assert not attribution.is_prepared


def test_model_that_cannot_be_copied_is_refused(net):
    net.lock = threading.Lock()
    with pytest.raises(ValueError, match=r"it cannot be copied \(TypeError: cannot pickle"):
        ClassifierPrototypes(net).prepare()


def test_model_that_takes_another_path_than_its_trace_is_refused(x):
    class Sly(NormNet):
        def forward(self, x: Tensor) -> Tensor:
            raw = self.stage1[0](x)
            y = self.stage1[1](raw)
            if isinstance(raw, Tensor):  # false for what torch.fx passes
                y = y + raw
            return self.head(self.stage3(self.stage2(y)).mean((2, 3)))

    attribution = ClassifierPrototypes(build(Sly, x)).prepare()
    for _ in range(2):
        with pytest.raises(ValueError, match=r"'logits' of the prepared copy is off by .* trace"):
            attribution.attribute(x)


def test_unknown_layer_is_refused_with_its_name(net):
    with pytest.raises(ValueError, match="layer 'nowhere' is not in the model"):
        LayerKMeansAttribution(net, ["nowhere"]).prepare()


def test_preparation_holds_nothing_when_pickled():
    assert pickle.loads(pickle.dumps(Preparation()))._copy is None


# ---------------------------------------------------------------- real architectures

RESNET = ["layer2", "layer3", "layer4"]
FAMILIES = {
    "resnet18": (RESNET, 20),
    "resnet34": (RESNET, 36),
    "resnext50_32x4d": (RESNET, 53),
    "densenet121": (["features.denseblock3", "features"], 59),
    "mobilenet_v2": (["features.10", "features"], 52),
    "regnet_x_400mf": (["trunk_output.block3", "trunk_output.block4"], 71),
    "vgg11_bn": (["features.14", "features"], 8),
    "squeezenet1_1": (["features.7", "features.12"], 0),
    "swin_t": (["features.5", "features.7"], 0),
}


@pytest.mark.zoo
@pytest.mark.parametrize("name", FAMILIES)
def test_segments_of_a_family_are_those_of_the_model(name):
    layers, n_folded = FAMILIES[name]
    x = torch.randn(4, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    x[..., :48] += 1
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = calibrated(getattr(zoo, name)(weights=None, num_classes=7), x)
    # prototypes are given: k-means of an image may end elsewhere for a rounding's sake
    ours = LayerKMeansAttribution(model, layers, n_prototypes=20).fit([x], labels=None)
    before = ours.segment(x)
    ours.prepare()
    folded = [m for m in twin_of(ours).modules() if type(m).__name__ == "_FoldedNorm"]
    assert len(folded) == n_folded
    assert (ours.segment(x) == before).float().mean() >= 0.999


@pytest.mark.parametrize("kind", [ClassifierPrototypes, KMExAttribution, LayerKMeansAttribution])
def test_prepare_says_at_the_callers_line_that_it_will_go(
    kind: type[PrototypeAttribution],
) -> None:
    model = NormNet().eval()
    layers = (["stage2", "stage3"],) if kind is LayerKMeansAttribution else ()
    attribution = kind(model, *layers)
    with pytest.warns(DeprecationWarning, match="A faster forward pass") as found:
        attribution.prepare()
    assert [warning.filename for warning in found] == [__file__]
    assert attribution.is_prepared
