"""One forward pass that records layers and leaves the model as it was."""

from __future__ import annotations

import threading
import warnings
from contextlib import nullcontext

import pytest
import torch
from nets import LAYERS, make_net
from torch import nn

from captum_kmex.exceptions import LayerCallWarning, TrainModeWarning
from captum_kmex.model.activations import layer_name, trace, unwrap
from captum_kmex.model.layout import feature_grid


def hook_count(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


class Failing(nn.Module):
    """Runs its net, then raises."""

    def __init__(self) -> None:
        super().__init__()
        self.net = make_net()

    def forward(self, x):
        self.net(x)
        raise RuntimeError("the model broke")


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(2, 2, 1, bias=False)
        nn.init.constant_(self.layer.weight, 1.0)

    def forward(self, x):
        return self.layer(self.layer(x)).mean((2, 3))


class Keyword(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Identity()

    def forward(self, x):
        return self.layer(input=x).mean((2, 3))


class Returns(nn.Module):
    """Returns what it is told to make of its pooled input."""

    def __init__(self, make) -> None:
        super().__init__()
        self.make = make

    def forward(self, x):
        return self.make(x.mean((2, 3)))


def test_trace_returns_logits_of_the_model(net, images):
    with torch.no_grad():
        expected = net(images)
    assert torch.equal(trace(net, (images,)).logits, expected)


def test_trace_records_outputs_of_layers(net, images):
    passed = trace(net, (images,), LAYERS)
    with torch.no_grad():
        expected = net.stage1(images)
        assert torch.equal(passed.features["stage1"], expected)
        assert torch.equal(passed.features["stage3"], net.stage3(net.stage2(expected)))


def test_trace_records_inputs_of_layers(net, images):
    passed = trace(net, (images,), ["stage1"], entering=["stage2", "stage1"])
    assert torch.equal(passed.entering["stage2"], passed.features["stage1"])
    assert torch.equal(passed.entering["stage1"], images)


def test_trace_records_keyword_inputs(images):
    passed = trace(Keyword(), (images,), entering=["layer"])
    assert torch.equal(passed.entering["layer"], images)


def test_trace_clones_before_inplace_relu(net, images):
    passed = trace(net, (images,), ["stage1.0", "stage1"])
    assert passed.features["stage1.0"].min() < 0
    assert torch.equal(passed.features["stage1.0"].relu(), passed.features["stage1"])


def test_trace_names_layers_in_running_order(net, images):
    assert trace(net, (images,), ["stage3", "stage1", "stage2"]).order == tuple(LAYERS)


def test_trace_records_last_calls_when_asked(net, images):
    assert [call.name for call in trace(net, (images,), tail=3).calls] == ["pool", "drop", "head"]


def test_trace_passes_additional_arguments(images):
    class Scaled(nn.Module):
        def forward(self, x, scale, *, shift=0.0):
            return x.mean((2, 3)) * scale + shift

    passed = trace(Scaled(), (images,), additional_forward_args=(3.0,))
    assert torch.allclose(passed.logits, 3 * images.mean((2, 3)))


def test_trace_keeps_float64(images):
    passed = trace(make_net().double(), (images.double(),), ["stage2"])
    assert passed.features["stage2"].dtype == passed.logits.dtype == torch.float64


def test_trace_widens_bfloat16_but_remembers_it(images):
    passed = trace(make_net().bfloat16(), (images.bfloat16(),), ["stage2"])
    assert passed.features["stage2"].dtype == passed.logits.dtype == torch.float32
    assert passed.dtype == torch.bfloat16


def test_trace_detaches_what_it_records(net, images):
    passed = trace(net, (images.requires_grad_(),), LAYERS)
    assert not any(tensor.requires_grad for tensor in passed.features.values())
    assert not passed.logits.requires_grad


@pytest.mark.parametrize("model", [make_net(), Failing()], ids=["works", "fails"])
@pytest.mark.parametrize("mode", ["train", "eval", "mixed"])
@pytest.mark.filterwarnings("ignore::captum_kmex.exceptions.TrainModeWarning")
def test_trace_leaves_the_model_as_found(images, model, mode):
    model.train(mode != "eval")
    drop = next(m for m in model.modules() if isinstance(m, nn.Dropout))
    if mode == "mixed":
        drop.eval()
    flags = [module.training for module in model.modules()]
    gradients = [parameter.requires_grad for parameter in model.parameters()]
    rng = torch.get_rng_state()
    prefix = "net." if isinstance(model, Failing) else ""
    fails = pytest.raises(RuntimeError, match="the model broke") if prefix else nullcontext()
    with fails:
        trace(model, (images,), [f"{prefix}stage1"], entering=[f"{prefix}stage2"], tail=5)
    assert hook_count(model) == 0
    assert [module.training for module in model.modules()] == flags
    assert [parameter.requires_grad for parameter in model.parameters()] == gradients
    assert torch.equal(torch.get_rng_state(), rng)
    assert torch.is_grad_enabled()


def test_trace_keeps_hooks_of_the_user(net, images):
    seen = []
    net.stage1.register_forward_hook(lambda *_: seen.append(1))
    trace(net, (images,), ["stage1"], tail=48)
    assert (seen, hook_count(net)) == ([1], 1)


def test_trace_reraises_the_models_error(images):
    with pytest.raises(RuntimeError, match="the model broke"):
        trace(Failing(), (images,), ["net.stage1"])


def test_trace_warns_in_training_mode(net, images):
    with pytest.warns(TrainModeWarning, match="explained in evaluation mode"):
        trace(net.train(), (images,))


def test_trace_runs_in_evaluation_mode(net, images):
    expected = trace(net, (images,)).logits
    with pytest.warns(TrainModeWarning, match="call model.eval"):
        assert torch.equal(trace(net.train(), (images,)).logits, expected)


def test_trace_does_not_warn_when_only_a_submodule_trains(net, images):
    net.drop.train()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trace(net, (images,))
    assert net.drop.training


def test_trace_uses_first_of_several_calls(images):
    x = images.expand(-1, 2, -1, -1)
    with pytest.warns(LayerCallWarning, match="'layer' ran 2 times.*its first call is used"):
        passed = trace(Twice(), (x,), ["layer"], tap="layer")
    assert torch.allclose(passed.features["layer"], 2 * x, atol=1e-6)
    assert torch.allclose(passed.taps["layer"], 4 * x, atol=1e-6)  # what the head reads


def test_trace_ignores_calls_of_other_threads(net, images):
    class Spawning(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, x):
            thread = threading.Thread(target=self.net, args=(torch.zeros_like(x),))
            out = self.net(x)
            thread.start()
            thread.join()
            return out

    passed = trace(Spawning(), (images,), ["net.stage1"])
    with torch.no_grad():
        assert torch.equal(passed.features["net.stage1"], net.stage1(images))


def test_trace_raises_when_layer_never_ran(net, images):
    net.unused = nn.Identity()
    with pytest.raises(ValueError, match="layer 'unused' did not run in the forward pass"):
        trace(net, (images,), ["unused"])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")], ids=str)
def test_trace_names_layer_that_is_not_finite(net, images, value):
    with torch.no_grad():
        net.stage2[0].bias[0] = value
        net.stage2[1] = nn.Identity()
    with pytest.raises(ValueError, match="layer 'stage2' holds NaN or Inf"):
        trace(net, (images,), ["stage1", "stage2"])


def test_trace_raises_when_layer_has_no_grid(net, images):
    with pytest.raises(ValueError, match=r"layer 'head' returned shape \(12, 3\).*no grid"):
        trace(net, (images,), ["head"])


def test_trace_raises_when_layer_returns_no_tensor(images):
    class Empty(nn.Module):
        def forward(self, x):
            return None

    model = nn.Sequential()
    model.add_module("empty", Empty())
    outer = Returns(lambda pooled: pooled)
    outer.inner = model
    outer.make = lambda pooled: (model(pooled), pooled)[1]
    with pytest.raises(ValueError, match=r"layer 'inner.empty' returned no tensor"):
        trace(outer, (images,), ["inner.empty"])


def test_trace_takes_first_tensor_of_a_tuple(images):
    class Pair(nn.Module):
        def forward(self, x):
            return x, x + 1

    outer = Returns(lambda pooled: pooled)
    outer.pair = Pair()
    outer.forward = lambda x: outer.pair(x)[0].mean((2, 3))
    assert torch.equal(trace(outer, (images,), ["pair"]).features["pair"], images)


def test_trace_takes_one_output_an_image_as_one_logit(images):
    assert trace(Returns(lambda pooled: pooled[:, 0]), (images,)).logits.shape == (12, 1)


@pytest.mark.parametrize(
    ("make", "got"),
    [
        (lambda p: p[:, :, None], r"\(12, 1, 1\)"),
        (lambda p: p[:5], r"\(5, 1\)"),
        (lambda p: p.sum(), r"\(\)"),
        (lambda p: {"one": p, "other": p}, "dict"),
        (lambda p: (p, p), "tuple"),
    ],
    ids=["3d", "fewer", "scalar", "dict", "tuple"],
)
def test_trace_raises_when_output_is_not_logits(images, make, got):
    with pytest.raises(ValueError, match=f"logits .N, J. for 12 images; got {got}.*Wrap"):
        trace(Returns(make), (images,))


def test_layer_name_accepts_a_module(net):
    assert layer_name(net, net.stage2[0]) == "stage2.0"


@pytest.mark.parametrize("name", ["stage2", "module.stage2", "_orig_mod.stage2"])
def test_layer_name_drops_wrapper_prefixes(net, name):
    assert layer_name(net, name) == "stage2"


def test_layer_name_names_nearest(net):
    with pytest.raises(ValueError, match=r"'stage9' is not in the model SmallNet; did you mean 's"):
        layer_name(net, "stage9")


def test_layer_name_names_top_level(net):
    with pytest.raises(ValueError, match=r"Top level: \['stage1', 'stage2', 'stage3', 'pool'"):
        layer_name(net, "xyz")


def test_layer_name_raises_for_module_of_another_model(net):
    with pytest.raises(ValueError, match="given Conv2d module is not part of the model SmallNet"):
        layer_name(net, nn.Conv2d(1, 1, 1))


def test_layer_name_raises_for_other_types(net):
    with pytest.raises(TypeError, match="a layer is a name or a module; got int"):
        layer_name(net, 3)


def test_unwrap_reaches_module_inside_data_parallel_and_compile(net):
    assert unwrap(nn.DataParallel(net)) is net
    assert unwrap(torch.compile(net)) is net


@pytest.mark.parametrize("prefix", [0, 1, 5], ids=["patches", "class_token", "registers"])
def test_feature_grid_lays_tokens_in_rows(prefix):
    patches = torch.rand(2, 4 * 6, 10)
    tokens = torch.cat([torch.rand(2, prefix, 10), patches], 1)
    expected = patches.transpose(1, 2).reshape(2, 10, 4, 6)
    assert torch.equal(feature_grid(tokens, (32, 48), "a"), expected)


@pytest.mark.parametrize("shape", [(2, 5), (2, 3, 4, 5, 6), (2, 43, 8)], ids=str)
def test_feature_grid_raises_without_grid(shape):
    with pytest.raises(ValueError, match=r"layer 'a' returned shape .* which has no grid"):
        feature_grid(torch.rand(shape), (32, 400), "a")
