"""What Captum and its users rely on, for each of the three attributions, fitted or not."""

from __future__ import annotations

import copy
import functools
import inspect
import pickle
import random
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import captum.attr
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from nets import LAYERS, SmallNet, make_net
from torch import Tensor, nn

from captum_kmex import ClassifierPrototypes, KMExAttribution, LayerKMeansAttribution
from captum_kmex.attributions.prototype_attribution import PrototypeAttribution
from captum_kmex.exceptions import LayerCallWarning, TrainModeWarning

pytestmark = pytest.mark.filterwarnings("ignore::captum_kmex.exceptions.FewRowsWarning")

Make = Callable[..., PrototypeAttribution]
CLASSES = [ClassifierPrototypes, KMExAttribution, LayerKMeansAttribution]
QUICK = {"n_init": 2, "n_representatives": 0}


def training_data(dtype: torch.dtype = torch.float32) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(2)
    return [(torch.rand(12, 1, 16, 16, generator=generator).to(dtype), torch.arange(12) % 3)]


def prototypes(model: nn.Module, **_: object) -> ClassifierPrototypes:
    return ClassifierPrototypes(model)


def kmex(model: nn.Module, **fit: object) -> KMExAttribution:
    fit = {"loader": training_data()} | QUICK | fit
    return KMExAttribution(model, n_prototypes=2).fit(**fit)


def kmeans(model: nn.Module, **_: object) -> LayerKMeansAttribution:
    return LayerKMeansAttribution(model, LAYERS, n_clusters=3)


def kmeans_fitted(model: nn.Module, **fit: object) -> LayerKMeansAttribution:
    fit = {"loader": training_data()} | QUICK | fit
    return LayerKMeansAttribution(model, LAYERS, n_prototypes=2).fit(**fit)


IDS = ["prototypes", "kmex", "kmeans", "kmeans-fitted"]


@pytest.fixture(params=[prototypes, kmex, kmeans, kmeans_fitted], ids=IDS)
def make(request: pytest.FixtureRequest) -> Make:
    return request.param


@pytest.fixture
def x(images: Tensor) -> Tensor:
    return images[:4].clone()


@functools.cache
def made_once(make: Make) -> PrototypeAttribution:
    return make(make_net())


@pytest.fixture
def attribution(make: Make, net: SmallNet) -> PrototypeAttribution:
    """A copy of one fit, on the net of the test."""
    made = made_once(make)
    return copy.deepcopy(made, {id(made.model): net})


def n_hooks(model: nn.Module) -> int:
    return sum(
        len(module._forward_hooks) + len(module._forward_pre_hooks) + len(module._backward_hooks)
        for module in model.modules()
    )


def flags(model: nn.Module) -> list[bool]:
    return [module.training for module in model.modules()]


# ---------------------------------------------------------------- Captum's surface


def test_attribute_is_logged_outermost_and_can_be_unwrapped(attribution, x):
    inner = attribution.attribute.__wrapped__
    assert not hasattr(inner, "__wrapped__")
    assert torch.equal(inner(attribution, x), attribution.attribute(x))


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_constructor_never_runs_the_model(kind):
    class Untouchable(SmallNet):
        def forward(self, x: Tensor) -> Tensor:
            raise AssertionError("the constructor ran the model")

    model = Untouchable()
    layers = LAYERS if kind is LayerKMeansAttribution else "stage3"
    assert kind(model, layers).forward_func is model
    assert n_hooks(model) == 0


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_constructor_does_not_look_up_layers(kind, net):
    assert isinstance(kind(net, ["nowhere"]), captum.attr.LayerAttribution)


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_attribute_keeps_captum_argument_order(kind):
    parameters = list(inspect.signature(kind.attribute).parameters.values())[1:]
    names = [parameter.name for parameter in parameters]
    captums = ["inputs", "target", "additional_forward_args", "attribute_to_layer_input"]
    assert names[:4] == captums
    assert [parameter.default for parameter in parameters[1:4]] == [None, None, False]
    assert all(p.kind is inspect.Parameter.KEYWORD_ONLY for p in parameters[4:])


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_get_name_is_the_class_name(kind):
    assert kind.get_name() == kind.__name__


def test_attribution_is_one_of_captum(attribution):
    assert isinstance(attribution, captum.attr.Attribution)
    assert isinstance(attribution, captum.attr.LayerAttribution)
    assert attribution.has_convergence_delta()
    assert attribution.multiplies_by_inputs


def test_interpolate_of_captum_applies_to_the_map(attribution, x):
    maps = attribution.attribute(x)
    assert captum.attr.LayerAttribution.interpolate(maps, (16, 16)).shape == (4, 1, 16, 16)


# ---------------------------------------------------------------- what comes in and out


def test_attribute_takes_a_tensor_or_a_tuple_and_returns_one_tensor(attribution, x):
    alone, inside = attribution.attribute(x), attribution.attribute((x,))
    assert isinstance(alone, Tensor)
    assert isinstance(inside, Tensor)
    assert torch.equal(alone, inside)


def test_map_is_float_contiguous_detached_finite_and_one_channel(attribution, x):
    maps = attribution.attribute(x.requires_grad_())
    assert maps.ndim == 4
    assert maps.shape[:2] == (4, 1)
    assert maps.dtype == torch.float32
    assert maps.is_contiguous()
    assert not maps.requires_grad
    assert maps.grad_fn is None
    assert torch.isfinite(maps).all()


def test_map_upsampled_to_the_input_keeps_its_sum(attribution, x):
    maps = attribution.attribute(x, target=1)
    full = attribution.attribute(x, target=1, upsample="input")
    assert full.shape == x.shape
    assert full.is_contiguous()
    torch.testing.assert_close(full.sum((1, 2, 3)), maps.sum((1, 2, 3)))


def test_convergence_delta_agrees_with_compute_convergence_delta(attribution, x):
    maps, delta = attribution.attribute(x, target=1, return_convergence_delta=True)
    assert delta.shape == (4,)
    again = attribution.compute_convergence_delta(maps, x, target=1)
    torch.testing.assert_close(again, delta)
    shifted = attribution.compute_convergence_delta(maps + 1, x, target=1)
    torch.testing.assert_close(shifted, delta + maps[0].numel())


def test_image_gets_the_same_map_alone_and_in_a_batch(attribution, x):
    together = attribution.attribute(x, target=1)
    alone = torch.cat([attribution.attribute(x[i : i + 1], target=1) for i in range(4)])
    torch.testing.assert_close(alone, together)


def test_attribute_leaves_the_inputs_as_they_were(attribution, x):
    before = x.clone()
    attribution.attribute(x)
    assert torch.equal(x, before)


# ---------------------------------------------------------------- targets

SAME_TARGETS = {
    "int": 1,
    "negative": -2,
    "numpy-int": np.int64(1),
    "numpy-small-int": np.uint8(1),
    "numpy-0d": np.array(1),
    "0-d": torch.tensor(1),
    "one-element": torch.tensor([1]),
    "1-d": torch.tensor([1, 1, 1, 1]),
    "1-d-negative": torch.tensor([1, -2, 1, -2]),
    "int32": torch.tensor([1, 1, 1, 1], dtype=torch.int32),
    "uint8": torch.tensor([1, 1, 1, 1], dtype=torch.uint8),
    "list": [1, 1, 1, 1],
    "tuple": (1,),
    "list-of-tuples": [(1,)] * 4,
    "list-of-numpy": [np.int64(1)] * 4,
    "list-of-0-d": [torch.tensor(1)] * 4,
    "numpy-array": np.array([1, 1, 1, 1]),
}


@pytest.mark.parametrize("target", SAME_TARGETS.values(), ids=SAME_TARGETS.keys())
def test_targets_of_every_kind_agree(attribution, x, target):
    assert torch.equal(attribution.attribute(x, target), attribution.attribute(x, target=1))


def test_target_one_an_image_explains_each_by_its_own(attribution, x):
    mixed = attribution.attribute(x, target=[0, 1, 2, -1])
    each = [attribution.attribute(x, target=j)[i] for i, j in enumerate([0, 1, 2, 2])]
    torch.testing.assert_close(mixed, torch.stack(each))


def test_target_defaults_to_the_argmax_of_the_model(attribution, net, x):
    expected = attribution.attribute(x, target=net(x).argmax(1))
    assert torch.equal(attribution.attribute(x), expected)


MALFORMED = {
    "out-of-range": (3, "target 3 is out of range for 3 logits"),
    "below-range": (-4, "target -4 is out of range for 3 logits"),
    "one-out-of-range": ([0, 1, 2, 3], "target 3 is out of range"),
    "huge": (10**30, "target"),
    "float": (1.0, "must be an integer.*got float"),
    "float-tensor": (torch.tensor([1.0] * 4), r"got Tensor of torch\.float32"),
    "complex-tensor": (torch.tensor([1 + 0j] * 4), r"got Tensor of torch\.complex64"),
    "bool": (True, "got bool"),
    "bool-tensor": (torch.tensor([True] * 4), r"got Tensor of torch\.bool"),
    "string": ("cat", "got str 'cat'"),
    "too-few": ([0, 1], r"one for each of 4 images; got shape \(2,\)"),
    "2-d": (torch.zeros(4, 1, dtype=torch.int64), r"got shape \(4, 1\)"),
    "empty": (torch.zeros(0, dtype=torch.int64), r"got shape \(0,\)"),
    "list-of-tuples": ([(0, 1)] * 4, r"got list \[\(0, 1\)"),
    "tuple": ((1, 1, 1, 1), "has 4 indices in a tuple, but the logits .* have one dimension"),
    "ragged": ([(0,), (0, 1)], "target has 2 indices"),
    "list-with-none": ([0, None, 1, 2], "must be an integer"),
    "dictionary": ({"class": 1}, "got dict"),
}


@pytest.mark.filterwarnings("error:Casting complex values")
@pytest.mark.parametrize(("target", "message"), MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed_target_is_both_an_assertion_and_a_value_error(attribution, x, target, message):
    with pytest.raises(ValueError, match=message) as raised:
        attribution.attribute(x, target=target)
    assert isinstance(raised.value, AssertionError)


# ---------------------------------------------------------------- copies


@pytest.mark.parametrize("is_used", [False, True], ids=["fresh", "used"])
@pytest.mark.parametrize(
    "duplicate",
    [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))],
    ids=["deepcopy", "pickle"],
)
def test_copy_gives_the_same_maps_and_holds_no_hooks(attribution, x, duplicate, is_used):
    if is_used:
        attribution.attribute(x)
    twin = duplicate(attribution)
    assert n_hooks(twin.model) == 0
    assert twin.model is not attribution.model
    assert torch.equal(twin.attribute(x), attribution.attribute(x))


def test_copy_follows_its_own_model(net, x):
    attribution = ClassifierPrototypes(net, net.stage3)
    twin = copy.deepcopy(attribution)
    before = attribution.attribute(x, target=1)
    with torch.no_grad():
        twin.model.head.weight.mul_(2)
    torch.testing.assert_close(twin.attribute(x, target=1), 2 * before)
    assert torch.equal(attribution.attribute(x, target=1), before)


# ---------------------------------------------------------------- the user's world


def test_attribute_restores_partial_training_flags(attribution, net, x):
    expected = attribution.attribute(x)
    net.drop.train()
    net.stage2.train()
    before = flags(net)
    assert torch.equal(attribution.attribute(x), expected)
    assert flags(net) == before


def test_attribute_explains_a_training_model_in_evaluation_mode(attribution, net, x):
    expected = attribution.attribute(x)
    net.train()
    with pytest.warns(TrainModeWarning, match=r"call model\.eval\(\)"):
        maps = attribution.attribute(x)
    assert torch.equal(maps, expected)
    assert all(flags(net))


def test_attribute_does_not_touch_batch_norm_statistics(make, x):
    net = make_net()
    net.stage2.append(nn.BatchNorm2d(6))
    attribution = make(net.eval())
    net.train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.warns(TrainModeWarning, match="training mode"):
        attribution.attribute(x)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_attribute_removes_its_hooks_and_keeps_the_users(attribution, net, x):
    calls = []
    handle = net.stage3.register_forward_hook(lambda *_: calls.append(1))
    attribution.attribute(x)
    attribution.attribute(x)
    assert n_hooks(net) == 1
    assert len(calls) >= 2
    handle.remove()


def test_attribute_keeps_gradients_and_gradient_flags(attribution, net, x):
    net.stage1[0].weight.requires_grad_(False)
    x.requires_grad_()
    net(x).sum().backward()
    gradients = {name: p.grad for name, p in net.named_parameters()}
    values = {name: None if g is None else g.clone() for name, g in gradients.items()}
    own = x.grad.clone()
    wanted = [p.requires_grad for p in net.parameters()]
    attribution.attribute(x)
    assert [p.requires_grad for p in net.parameters()] == wanted
    assert x.requires_grad
    assert torch.equal(x.grad, own)
    for name, parameter in net.named_parameters():
        assert parameter.grad is gradients[name]
        assert values[name] is None or torch.equal(parameter.grad, values[name])


def test_attribute_and_fit_leave_random_states_and_defaults(make, net, x):
    torch.manual_seed(5)
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    make(net).attribute(x)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002
    assert random.getstate() == before[2]
    assert torch.get_default_dtype() == torch.float32
    assert torch.is_grad_enabled()


def test_attribute_leaves_the_world_as_found_after_an_error_in_the_model(attribution, net, x):
    class Failing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("the model is broken")

    net.eval()
    net.drop = Failing()
    net.stage2.train()
    before = flags(net)
    state = torch.get_rng_state()
    with pytest.raises(RuntimeError, match="the model is broken"):
        attribution.attribute(x)
    assert flags(net) == before
    assert n_hooks(net) == 0
    assert torch.is_grad_enabled()
    assert torch.equal(torch.get_rng_state(), state)


def test_attribute_works_again_after_an_error_in_the_model(attribution, net, x):
    expected = attribution.attribute(x)
    head, net.head = net.head, nn.Linear(5, 3)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        attribution.attribute(x)
    net.head = head
    assert torch.equal(attribution.attribute(x), expected)


# ---------------------------------------------------------------- threads


@pytest.mark.slow
def test_threads_sharing_one_attribution_get_their_own_maps(make, images):
    attribution = make(make_net())
    batches = [images[i : i + 3] * (1 + 0.01 * i) for i in range(9)]
    alone = make(make_net())
    expected = [alone.attribute(batch) for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(attribution.attribute, batches * 3))
    for maps, wanted in zip(found, expected * 3, strict=True):
        torch.testing.assert_close(maps, wanted)
    assert n_hooks(attribution.model) == 0


def test_threads_sharing_a_training_model_never_see_it_train(make, x):
    """The first call ends, and gives the flags back, while the second is still running."""

    class Watched(SmallNet):
        def forward(self, x: Tensor) -> Tensor:
            if threading.current_thread() is second:
                second_entered.set()
                first_left.wait(2)
            elif threading.current_thread() is first:
                first_entered.set()
                second_entered.wait(0.5)  # an implementation may make the second call wait
            seen.append(any(flags(self)))
            return super().forward(x)

    first_entered, second_entered, first_left = (threading.Event() for _ in range(3))
    first = second = None
    seen: list[bool] = []
    net = Watched().eval()
    attribution = make(net)
    attribution.attribute(x)
    net.train()
    seen.clear()

    def explain() -> None:
        attribution.attribute(x)
        if threading.current_thread() is first:
            first_left.set()

    first, second = threading.Thread(target=explain), threading.Thread(target=explain)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TrainModeWarning)
        first.start()
        first_entered.wait(2)
        second.start()
        first.join()
        second.join()
    assert seen == [False, False]
    assert all(flags(net))


# ---------------------------------------------------------------- modes, formats and wrappers


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, torch.enable_grad])
def test_attribute_gives_the_same_map_in_gradient_modes(attribution, x, mode):
    expected = attribution.attribute(x)
    with mode():
        maps = attribution.attribute(x)
    assert torch.equal(maps, expected)


def test_fit_in_inference_mode_serves_outside_of_it(make, net, x):
    expected = make(net).attribute(x)
    with torch.inference_mode():
        attribution = make(net)
    assert torch.equal(attribution.attribute(x.requires_grad_()), expected)


def test_attribute_works_on_inference_tensors(attribution, x):
    with torch.inference_mode():
        inputs = x * 1
    assert torch.equal(attribution.attribute(inputs), attribution.attribute(x))


def check_narrow(attribution: PrototypeAttribution, x: Tensor, scale: Tensor) -> None:
    """In a narrow dtype the map is wide, finite and nearly complete."""
    maps, delta = attribution.attribute(x, target=1, return_convergence_delta=True)
    assert maps.dtype == torch.float32
    assert torch.isfinite(maps).all()
    assert delta.abs().max() < 0.03 * scale  # a few roundings of bfloat16, 2**-8 each


def test_attribute_works_under_autocast(attribution, net, x):
    with torch.autocast("cpu", torch.bfloat16):
        check_narrow(attribution, x, net(x).float().abs().max())


def test_fit_works_under_autocast(make, net, x):
    with torch.autocast("cpu", torch.bfloat16):
        attribution = make(net)
    check_narrow(attribution, x, net(x).abs().max())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_attribute_works_on_narrow_models(make, x, dtype):
    net = make_net().to(dtype)
    try:
        logits = net(x.to(dtype))
    except RuntimeError as error:
        pytest.skip(f"this CPU has no {dtype} convolution: {error}")
    attribution = make(net, loader=training_data(dtype))
    check_narrow(attribution, x.to(dtype), logits.float().abs().max())


def test_attribute_on_a_double_model_is_double_and_agrees_with_float(make, net, x):
    expected = make(net).attribute(x, target=1)
    attribution = make(make_net().double(), loader=training_data(torch.float64))
    maps, delta = attribution.attribute(x.double(), target=1, return_convergence_delta=True)
    assert maps.dtype == torch.float64
    assert delta.abs().max() < 1e-12
    torch.testing.assert_close(maps.float(), expected, rtol=1e-4, atol=1e-6)


def test_attribute_gives_the_same_map_in_channels_last(make, net, x):
    expected = make(net).attribute(x)
    attribution = make(make_net().to(memory_format=torch.channels_last))
    maps = attribution.attribute(x.contiguous(memory_format=torch.channels_last))
    assert maps.is_contiguous()
    torch.testing.assert_close(maps, expected)


def compiled(model: nn.Module) -> nn.Module:
    return torch.compile(model, backend="eager")


def compiled_in_place(model: nn.Module) -> nn.Module:
    model.compile(backend="eager")
    return model


WRAPPERS = {
    "data-parallel": nn.DataParallel,
    "compiled": compiled,
    "compiled-in-place": compiled_in_place,
    "compiled-data-parallel": lambda model: compiled(nn.DataParallel(model)),
    "data-parallel-compiled": lambda model: nn.DataParallel(compiled(model)),
}


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS.keys())
@pytest.mark.slow
def test_attribute_gives_the_same_map_on_wrapped_models(make, net, x, wrap):
    expected = make(net).attribute(x)
    wrapped = wrap(make_net())
    wrapped(x)  # compile before our hooks come
    attribution = make(wrapped)
    assert torch.equal(attribution.attribute(x), expected)
    assert torch.equal(attribution.attribute(x), expected)
    assert n_hooks(wrapped) == 0


def test_layer_names_of_the_wrapper_are_understood(net, x):
    expected = ClassifierPrototypes(net, "stage3").attribute(x)
    for name in ("module.stage3", "_orig_mod.stage3", "stage3"):
        wrapped = nn.DataParallel(net)
        assert torch.equal(ClassifierPrototypes(wrapped, name).attribute(x), expected)


@torch._dynamo.config.patch(cache_size_limit=1)  # it traces our hooks, slowly: once is enough
def test_attribute_works_with_a_stage_compiled_in_place(make, net, x):
    expected = make(net).attribute(x)
    other = make_net()
    other.stage3.compile(backend="eager")
    other(x)
    assert torch.equal(make(other).attribute(x), expected)


# ---------------------------------------------------------------- further arguments and layers


class ScaledNet(SmallNet):
    def forward(self, x: Tensor, scale: float, shift: Tensor | None = None) -> Tensor:
        return super().forward(x * scale if shift is None else x * scale + shift)


def scaled_net() -> ScaledNet:
    net = ScaledNet().eval()
    net.load_state_dict(make_net().state_dict())
    return net


@pytest.mark.parametrize(
    ("arguments", "factor", "offset"),
    [(0.5, 0.5, 0.0), ((0.5,), 0.5, 0.0), ((0.5, torch.tensor(0.1)), 0.5, 0.1)],
    ids=["bare", "tuple", "two"],
)
def test_additional_forward_args_reach_the_model(make, net, x, arguments, factor, offset):
    attribution = make(scaled_net(), additional_forward_args=1.0)
    maps = attribution.attribute(x, None, arguments)
    torch.testing.assert_close(maps, make(net).attribute(x * factor + offset))
    delta = attribution.compute_convergence_delta(maps, x, None, arguments)
    assert delta.abs().max() < 1e-5


def test_inputs_of_two_tensors_reach_the_model(make, net, x):
    class Sum(SmallNet):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return super().forward(x + y)

    both = Sum().eval()
    both.load_state_dict(net.state_dict())
    images, labels = training_data()[0]
    attribution = make(both, loader=[((images, torch.zeros_like(images)), labels)])
    maps = attribution.attribute((0.75 * x, 0.25 * x))
    torch.testing.assert_close(maps, make(net).attribute(x))


@pytest.mark.parametrize("is_fitted", [False, True], ids=["unfitted", "fitted"])
def test_kmeans_at_the_input_of_the_next_layers_equals_the_output_of_these(net, x, is_fitted):
    ours = LayerKMeansAttribution(net, LAYERS, n_prototypes=2)
    next_ = LayerKMeansAttribution(net, ["stage2", "stage3", "pool"], n_prototypes=2)
    if is_fitted:
        ours.fit(training_data(), **QUICK)
        next_.fit(training_data(), attribute_to_layer_input=True, **QUICK)
    maps = next_.attribute(x, attribute_to_layer_input=True)
    torch.testing.assert_close(maps, ours.attribute(x))
    assert next_.compute_convergence_delta(maps, x).abs().max() < 1e-5


def test_kmex_at_the_input_of_the_pooling_equals_the_tap(net, x):
    ours = kmex(net)
    pool = KMExAttribution(net, "pool", n_prototypes=2)
    pool.fit(training_data(), attribute_to_layer_input=True, **QUICK)
    maps = pool.attribute(x, attribute_to_layer_input=True)
    torch.testing.assert_close(maps, ours.attribute(x))
    assert torch.equal(pool.predict(x), ours.predict(x))
    torch.testing.assert_close(pool.similarity(x), ours.similarity(x))


def test_kmex_delta_of_a_bank_fitted_at_the_input(net, x):
    pool = KMExAttribution(net, "pool", n_prototypes=2)
    pool.fit(training_data(), attribute_to_layer_input=True, **QUICK)
    maps = pool.attribute(x, attribute_to_layer_input=True)
    assert pool.compute_convergence_delta(maps, x).abs().max() < 1e-5


def test_prototypes_at_the_input_of_the_pooling_equal_the_tap(net, x):
    pool = ClassifierPrototypes(net, "pool")
    maps = pool.attribute(x, attribute_to_layer_input=True)
    assert torch.equal(maps, ClassifierPrototypes(net).attribute(x))


def test_prototypes_delta_of_a_map_at_the_input(net, x):
    pool = ClassifierPrototypes(net, "pool")
    maps = pool.attribute(x, attribute_to_layer_input=True)
    assert pool.compute_convergence_delta(maps, x).abs().max() < 1e-5


# ---------------------------------------------------------------- hook traps


class SharedReluNet(nn.Module):
    """One ReLU module for both stages, as in torchvision's own blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 1, 1)
        self.relu = nn.ReLU(inplace=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.conv2(self.relu(self.conv1(x))))
        return self.head(x.mean((2, 3)))

    def last_map(self, x: Tensor) -> Tensor:
        return self.conv2(self.conv1(x).relu()).relu()


@pytest.fixture
def shared() -> SharedReluNet:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return SharedReluNet().eval()


def test_module_called_twice_warns_and_gives_its_last_call(shared, x):
    attribution = ClassifierPrototypes(shared, "relu")
    with pytest.warns(LayerCallWarning, match="layer 'relu' ran 2 times"):
        maps = attribution.attribute(x, target=1)
    features = shared.last_map(x)
    expected = torch.einsum("ndhw,d->nhw", features, shared.head.weight[1]) / features[0, 0].numel()
    torch.testing.assert_close(maps[:, 0], expected.detach())


def test_tap_found_by_itself_does_not_warn_about_shared_modules(shared, x):
    """The user did not choose it, and it is verified: there is nothing to change."""
    attribution = ClassifierPrototypes(shared)
    for _ in range(2):
        maps = attribution.attribute(x, target=1)
        total = maps.sum((1, 2, 3)) + shared.head.bias[1].detach()
        torch.testing.assert_close(total, shared(x)[:, 1].detach())


@pytest.mark.parametrize("function", [F.relu_, F.relu, torch.relu_], ids=["relu_", "relu", "torch"])
def test_functional_relu_after_the_last_module_belongs_to_the_tap(x, function):
    class DenseNetLike(SmallNet):
        def forward(self, x: Tensor) -> Tensor:
            x = function(self.stage3[0](self.stage2(self.stage1(x))))
            return self.head(x.mean((2, 3)))

    net = DenseNetLike().eval()
    net.load_state_dict(make_net().state_dict())
    maps = ClassifierPrototypes(net).attribute(x)
    torch.testing.assert_close(maps, ClassifierPrototypes(make_net()).attribute(x))


def test_in_place_relu_after_a_layer_does_not_overwrite_its_record(net, x):
    before = net.stage1[0](x).detach()
    assert before.min() < 0
    attribution = LayerKMeansAttribution(net, ["stage1.0", "stage3"], n_clusters=2)
    segments = attribution.segment(x)
    rectified = LayerKMeansAttribution(net, ["stage1", "stage3"], n_clusters=2).segment(x)
    plain = nn.Sequential(net.stage1[0], nn.Identity())
    net.stage1 = nn.Sequential(plain, nn.ReLU())
    kept = LayerKMeansAttribution(net, ["stage1.0", "stage3"], n_clusters=2).segment(x)
    assert torch.equal(segments, kept)
    assert not torch.equal(segments, rectified)
