"""A tail is read by what it computes: exactly where it is affine, linearised where it is not."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from nets import make_net
from tails import (
    AFFINE,
    GRID,
    NORMED,
    NOT_AFFINE,
    Do,
    at_tap,
    gradient_times_map,
    head,
    images,
    model_of,
    pool,
)
from torch import Tensor, nn

from captum_kmex import (
    ClassifierPrototypes,
    HeadNotFoundError,
    KMExAttribution,
    LayerKMeansAttribution,
)
from captum_kmex.model.tail_search import find_tail
from captum_kmex.model.tail_sites import ExactTail, LinearisedTail

affine = pytest.mark.parametrize("make", AFFINE.values(), ids=AFFINE)
not_affine = pytest.mark.parametrize(
    "make", (NOT_AFFINE | NORMED).values(), ids=NOT_AFFINE | NORMED
)


@affine
def test_affine_tail_is_exact_for_every_logit_and_image(make):
    model, x = model_of(make), images()
    attribution = ClassifierPrototypes(model)
    with torch.no_grad():
        logits = model(x)
    for target in range(logits.shape[1]):
        for batch in (x, images(2, seed=1) * 10):  # the second call believes the first
            maps, delta = attribution.attribute(batch, target, return_convergence_delta=True)
            assert maps[0].numel() > 1
            assert delta.abs().max() < 1e-9


@affine
def test_map_of_an_affine_tail_is_gradient_times_map_of_the_whole_model(make):
    model, x = model_of(make), images()
    attribution = ClassifierPrototypes(model)
    site = attribution.read(x).site
    for target in (0, 3):
        expected = gradient_times_map(model, at_tap(model, site), x, target)
        torch.testing.assert_close(attribution.attribute(x, target), expected, rtol=0, atol=1e-9)


@affine
def test_prototypes_of_an_affine_tail_are_its_jacobian(make):
    model, x = model_of(make), images()
    attribution = ClassifierPrototypes(model)
    site = attribution.read(x).site
    before, columns = at_tap(model, site), attribution.prototypes
    with torch.no_grad():
        features = model[:before](x[:1])
    jacobian = torch.autograd.functional.jacobian(model[before:], features)[0, :, 0]
    cells = features[0, 0].numel()
    wide = columns if columns.ndim == 4 else columns[:, :, None, None].expand_as(jacobian)
    torch.testing.assert_close(wide, jacobian * cells, rtol=0, atol=1e-9)


@affine
def test_bias_of_an_affine_tail_is_what_it_makes_of_nothing(make):
    model, x = model_of(make), images()
    found = ClassifierPrototypes(model).read(x)
    before = at_tap(model, found.site)
    with torch.no_grad():
        nothing = model[before:](torch.zeros_like(model[:before](x)))[0]
    torch.testing.assert_close(found.linear_head.bias, nothing, rtol=0, atol=1e-9)


@affine
def test_affine_tail_needs_no_ridge_head_in_a_fit_and_tells_kmex_its_map(make):
    model, x, labels = model_of(make), images(12), torch.arange(12)
    labels = labels % model(x[:1]).shape[1]
    layers = LayerKMeansAttribution(model, ["0"], n_prototypes=1).fit([(x, labels)])
    assert layers.bank_.surrogate is None
    assert layers.explain(x[:2]).head == "exact"
    kmex = KMExAttribution(model, n_prototypes=1).fit([(x, labels)])
    _, delta = kmex.attribute(x, target=1, return_convergence_delta=True)
    assert delta.abs().max() < 1e-6


@affine
def test_affine_tail_is_exported_with_its_columns(make):
    model, x = model_of(make), images()
    attribution = ClassifierPrototypes(model)
    found = attribution.as_module(x, target=2)(x)
    torch.testing.assert_close(found["attribution"], attribution.attribute(x, 2))
    total = found["attribution"].sum((1, 2, 3)) + found["bias"]
    torch.testing.assert_close(total, model(x)[:, 2].detach(), rtol=0, atol=1e-9)


@affine
def test_changed_weights_are_read_anew(make):
    model, x = model_of(make), images()
    attribution = ClassifierPrototypes(model)
    attribution.attribute(x, 1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1 + 1e-6)  # too little for a miss to be seen
    attribution.attribute(x, 1)
    _, delta = attribution.attribute(x, 1, return_convergence_delta=True)
    assert delta.abs().max() < 1e-9


@not_affine
def test_tail_that_is_not_affine_has_no_fixed_prototypes(make):
    attribution = ClassifierPrototypes(model_of(make))
    for _ in range(2):
        with pytest.raises(HeadNotFoundError):
            attribution.attribute(images())
    with pytest.raises(HeadNotFoundError):
        _ = attribution.prototypes


@not_affine
def test_tail_that_is_not_affine_makes_maps_at_once(make):
    model, x = model_of(make), images()
    attribution = LayerKMeansAttribution(model, ["0"], n_clusters=4)
    result = attribution.explain(x, 1)
    sums = [sum(row.evidence for row in rows) for rows in result.ledger]
    total = torch.tensor(sums, dtype=torch.float64)
    total = total + result.bias + result.not_linear
    torch.testing.assert_close(total, model(x)[:, 1].detach(), rtol=0, atol=1e-9)
    assert result.head == "linearised"
    assert result.delta.abs().max() < 1e-9
    _, delta = attribution.attribute(x, 1, return_convergence_delta=True)
    assert delta.abs().max() < 1e-9
    assert (result.attribution.flatten(1).std(1) > 0).all()


@pytest.mark.parametrize("make", NOT_AFFINE.values(), ids=NOT_AFFINE)
def test_linearised_map_is_gradient_times_map_of_the_whole_model(make):
    model, x = model_of(make), images()
    attribution = LayerKMeansAttribution(model, ["0"], n_clusters=4)
    for target in (0, 3):
        expected = gradient_times_map(model, 1, x, target)
        found = attribution.explain(x, target, depth=-1)
        torch.testing.assert_close(found.attribution, expected, rtol=0, atol=1e-9)
        with torch.no_grad():
            bias = model[1:](torch.zeros(1, 5, *GRID).double())[0, target]
        torch.testing.assert_close(found.bias, bias.expand(3), rtol=0, atol=1e-9)


@not_affine
def test_contrast_of_a_linearised_tail_is_the_difference(make):
    model, x = model_of(make), images()
    attribution = LayerKMeansAttribution(model, ["0"], n_clusters=4)
    one, other = (attribution.explain(x, target) for target in (2, 0))
    both = attribution.explain(x, 2, contrast=0)
    for name in ("attribution", "bias", "not_linear", "output"):
        expected = getattr(one, name) - getattr(other, name)
        torch.testing.assert_close(getattr(both, name), expected, rtol=0, atol=1e-9)
    assert both.delta.abs().max() < 1e-9


@pytest.mark.parametrize("make", NORMED.values(), ids=NORMED)
def test_with_its_scale_held_a_normalised_tail_leaves_nothing_over(make):
    """A layer norm's own gradient times its input is zero in sum, whatever the logit is."""
    model, x = model_of(make), images()
    found = LayerKMeansAttribution(model, ["0"], n_clusters=4).explain(x, 1)
    assert found.not_linear.abs().max() < 1e-4 * found.output.abs().max()
    plain = gradient_times_map(model, 1, x, 1).sum((1, 2, 3))
    assert plain.abs().max() < 1e-2 * found.attribution.sum((1, 2, 3)).abs().max()


@not_affine
def test_a_fits_ridge_head_makes_the_maps_unless_the_linearised_tail_is_asked_for(make):
    model, x, labels = model_of(make), images(12), torch.arange(12) % 4
    attribution = LayerKMeansAttribution(model, ["0"], n_prototypes=1).fit([(x, labels)])
    ridge = attribution.explain(x[:2], 1)
    assert (ridge.head, ridge.not_linear) == ("ridge", None)
    assert ridge.surrogate_r2 == attribution.surrogate_r2
    attribution.surrogate = "linearised"
    linear = attribution.explain(x[:2], 1)
    assert linear.head == "linearised"
    assert linear.surrogate_r2 is None
    assert attribution.surrogate_r2 is None
    assert linear.delta.abs().max() < 1e-9
    assert torch.equal(linear.segments, ridge.segments)
    assert linear.prediction is not None
    with pytest.raises(HeadNotFoundError, match="gradient, which no graph holds"):
        attribution.as_module(x)


def test_linearised_maps_that_a_fit_changes_are_announced():
    model, x, labels = model_of(NOT_AFFINE["mlp"]), images(12), torch.arange(12) % 4
    attribution = LayerKMeansAttribution(model, ["0"], n_prototypes=1)
    attribution.attribute(x)
    with pytest.warns(UserWarning, match="ridge head of this fit makes the maps from now on"):
        attribution.fit([(x, labels)])


def test_ridge_head_that_is_asked_for_needs_a_fit():
    attribution = LayerKMeansAttribution(
        model_of(NOT_AFFINE["mlp"]), ["0"], n_clusters=4, surrogate="ridge"
    )
    with pytest.raises(ValueError, match=r"surrogate of the logits is used, which fit\("):
        attribution.attribute(images())


# ---------------------------------------------------------------- where the map stands


class MadeByFunction(nn.Module):
    """A map that no module returns, before a pooling module."""

    def __init__(self, function) -> None:
        super().__init__()
        self.conv, self.gate = nn.Conv2d(1, 5, 3, padding=1), nn.Conv2d(1, 5, 3, padding=1)
        self.pool, self.fc, self._function = nn.AdaptiveAvgPool2d(1), head(), function

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.pool(self._function(self.conv(x), self.gate(x))).flatten(1))


FUNCTIONS = {
    "leaky_relu": lambda h, _: F.leaky_relu(h),
    "silu": lambda h, _: F.silu(h),
    "gated": lambda h, g: h * g.sigmoid(),
    "residual": lambda h, g: h + g.relu(),
}
functions = pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)


@functions
def test_map_made_by_a_function_is_read_at_the_input_of_the_pooling(function):
    model, x = MadeByFunction(function).double().eval(), images()
    attribution = ClassifierPrototypes(model)
    maps, delta = attribution.attribute(x, 1, return_convergence_delta=True)
    site = attribution.read(x).site
    assert (site.tap, site.at_input) == ("pool", True)
    assert delta.abs().max() < 1e-9
    with torch.no_grad():
        features = function(model.conv(x), model.gate(x))
        expected = (features * model.fc.weight[1][:, None, None]).sum(1, keepdim=True) / 117
    torch.testing.assert_close(maps, expected, rtol=0, atol=1e-9)
    torch.testing.assert_close(attribution.prototypes, model.fc.weight.detach())


@functions
def test_layer_and_head_may_be_named_as_the_message_proposes(function):
    model, x = MadeByFunction(function).double().eval(), images()
    named = ClassifierPrototypes(model, layer="pool", head="fc").attribute(x, 1)
    torch.testing.assert_close(named, ClassifierPrototypes(model).attribute(x, 1))


@functions
def test_map_read_at_an_input_is_exported(function):
    model, x = MadeByFunction(function).double().eval(), images()
    attribution = ClassifierPrototypes(model)
    module = attribution.as_module(x, target=1)
    torch.testing.assert_close(module(x)["attribution"], attribution.attribute(x, 1))
    layers = LayerKMeansAttribution(model, ["conv"], n_prototypes=1)
    layers.fit([(images(8), torch.arange(8) % 4)])
    found = layers.as_module(x, target=1)(x)
    torch.testing.assert_close(found["attribution"], layers.attribute(x, 1))


class Bypassed(nn.Module):
    """A sum in a function, before a functional pooling: no module's map is all that is read."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.fc = nn.Conv2d(1, 5, 1), nn.Conv2d(1, 5, 1), head()

    def forward(self, x: Tensor) -> Tensor:
        return self.fc((self.one(x).relu() + self.two(x).relu()).mean((2, 3)))


def test_map_that_an_image_can_bypass_is_not_exact():
    model, x = Bypassed().double().eval(), images()
    with pytest.raises(HeadNotFoundError, match="no module's map has its input as spatial mean"):
        ClassifierPrototypes(model).attribute(x)
    found = LayerKMeansAttribution(model, ["two"], n_clusters=3).explain(x, 1)
    assert found.head == "linearised"
    assert found.delta.abs().max() < 1e-9


# ---------------------------------------------------------------- further inputs


class WithTable(nn.Module):
    """A table concatenated to the embedding."""

    def __init__(self, gates: bool = False) -> None:
        super().__init__()
        self.conv, self.mix, self.fc = nn.Conv2d(1, 5, 3), nn.Linear(8, 6), head(6)
        self.gates = gates

    def forward(self, x: Tensor, table: Tensor) -> Tensor:
        pooled = self.conv(x).relu_().mean((2, 3))
        if self.gates:
            pooled = pooled * table.sum(1, keepdim=True)
        return self.fc(self.mix(torch.cat([pooled, table], 1)))


class WithTableAndModules(WithTable):
    def __init__(self, gates: bool = False) -> None:
        super().__init__(gates)
        self.body = nn.Sequential(self.conv, nn.ReLU())

    def forward(self, x: Tensor, table: Tensor) -> Tensor:
        pooled = self.body(x).mean((2, 3))
        if self.gates:
            pooled = pooled * table.sum(1, keepdim=True)
        return self.fc(self.mix(torch.cat([pooled, table], 1)))


@pytest.mark.parametrize("as_input", [False, True], ids=["argument", "input"])
def test_part_of_a_table_stands_in_the_bias_of_each_image(as_input):
    model, x = WithTableAndModules().double().eval(), images()
    table = torch.randn(3, 3, dtype=torch.float64)
    given = ((x, table), None, None) if as_input else (x, None, table)
    attribution = ClassifierPrototypes(model)
    for _ in range(2):
        maps, delta = attribution.attribute(
            given[0], 1, additional_forward_args=given[2], return_convergence_delta=True
        )
        assert delta.abs().max() < 1e-9
    with torch.no_grad():
        bias = model.fc(model.mix(torch.cat([torch.zeros(3, 5).double(), table], 1)))[:, 1]
        torch.testing.assert_close(maps.sum((1, 2, 3)) + bias, model(x, table)[:, 1])
    layers = LayerKMeansAttribution(model, ["body"], n_clusters=3)
    found = layers.explain(given[0], 1, additional_forward_args=given[2])
    torch.testing.assert_close(found.bias, bias)
    assert (found.head, found.not_linear) == ("exact", None)


def test_table_that_changes_the_columns_is_not_exact():
    model, x = WithTableAndModules(gates=True).double().eval(), images()
    table = torch.randn(3, 3, dtype=torch.float64)
    with pytest.raises(HeadNotFoundError):
        ClassifierPrototypes(model).attribute(x, 1, additional_forward_args=table)
    layers = LayerKMeansAttribution(model, ["body"], n_clusters=3)
    found = layers.explain(x, 1, additional_forward_args=table)
    assert found.head == "linearised"
    assert found.delta.abs().max() < 1e-9


def test_module_with_a_further_input_is_not_exported():
    model, x = WithTableAndModules().double().eval(), images()
    attribution = ClassifierPrototypes(model)
    with pytest.raises(HeadNotFoundError, match="further inputs have a part in the bias"):
        attribution.as_module((x, torch.randn(3, 3, dtype=torch.float64)))


# ---------------------------------------------------------------- what a pass leaves behind


def settings_of(model: nn.Module) -> list[object]:
    state = [(p.requires_grad, p.grad, p._version) for p in model.parameters()]
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    return [state, hooks, torch.is_grad_enabled(), [m.training for m in model.modules()]]


@pytest.mark.parametrize("make", [AFFINE["low_rank"], NOT_AFFINE["mlp"]], ids=["affine", "mlp"])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.enable_grad, torch.inference_mode])
def test_a_recorded_tail_leaves_everything_as_it_was(make, mode):
    model, x = model_of(make), images()
    plain = LayerKMeansAttribution(model, ["0"], n_clusters=3).attribute(x, 1)
    before = settings_of(model)
    with mode():
        found = LayerKMeansAttribution(model, ["0"], n_clusters=3).attribute(x.clone(), 1)
        assert not found.requires_grad
    torch.testing.assert_close(found.clone(), plain)
    assert settings_of(model) == before


def test_backbone_is_never_recorded():
    model, x = model_of(NOT_AFFINE["mlp"]), images()
    grads = []
    model[0][0].register_forward_hook(lambda _m, _i, out: grads.append(out.requires_grad))
    attribution = LayerKMeansAttribution(model, ["0"], n_clusters=3)
    attribution.attribute(x)
    assert not any(grads)


def test_linearised_pass_runs_the_model_once():
    model, x, calls = model_of(NOT_AFFINE["mlp"]), images(), []
    model[0][0].register_forward_hook(lambda _m, _i, out: calls.append(len(out)))
    attribution = LayerKMeansAttribution(model, ["0"], n_clusters=3)
    attribution.attribute(x)
    calls.clear()
    attribution.attribute(x)
    assert calls == [3]


class Frozen(nn.Module):
    """Switches gradients off itself, as probes on a frozen backbone do."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 5, 3), nn.ReLU())
        self.mlp = nn.Sequential(*pool(), nn.Linear(5, 16), nn.ReLU(), head(16))

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            features = self.body(x)
        return self.mlp(features)


def test_model_that_switches_gradients_off_itself_is_linearised():
    model, x = Frozen().double().eval(), images()
    found = LayerKMeansAttribution(model, ["body"], n_clusters=3).explain(x, 1)
    features = model.body(x).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(model.mlp(features)[:, 1].sum(), features)
    expected = (features * gradient).sum(1, keepdim=True).detach()
    torch.testing.assert_close(found.attribution, expected)


def test_model_that_nothing_can_be_read_of_is_refused():
    model = nn.Sequential(nn.Flatten(), nn.Linear(117, 8), nn.ReLU(), nn.Linear(8, 3)).double()
    model.eval()
    for attribution in (ClassifierPrototypes(model), LayerKMeansAttribution(model, ["0"])):
        with pytest.raises(ValueError, match=r"no map of more than one cell|has no grid"):
            attribution.attribute(images())


@pytest.mark.parametrize("make", [AFFINE["batch_norm"], NOT_AFFINE["mlp"]], ids=["affine", "mlp"])
def test_attribution_with_a_tail_can_be_copied_and_pickled(make):
    import copy
    import pickle

    nn_model, x = nn.Sequential(*model_of(make)), images()
    attribution = LayerKMeansAttribution(nn_model, ["0"], n_clusters=3)
    maps = attribution.attribute(x, 1)
    for twin in (copy.deepcopy(attribution), pickle.loads(pickle.dumps(attribution))):
        torch.testing.assert_close(twin.attribute(x, 1), maps)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("make", [AFFINE["batch_norm"], NOT_AFFINE["mlp"]], ids=["affine", "mlp"])
def test_tails_are_read_in_other_precisions(make, dtype):
    model, x = model_of(make).to(dtype), images().to(dtype)
    found = LayerKMeansAttribution(model, ["0"], n_clusters=3).explain(x, 1)
    tolerance = 1e-5 if dtype == torch.float32 else 0.05
    assert found.delta.abs().max() < tolerance
    assert found.head == ("exact" if make is AFFINE["batch_norm"] else "linearised")


def test_reason_for_what_cannot_be_run_alone_is_told():
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = model_of(NOT_AFFINE["mlp"])

        def forward(self, x: Tensor) -> Tensor:
            if len(x) != 3:
                raise ValueError("three images, please")
            return self.net(x)

    found = find_tail(Fixed(), (images(),), (), "it is so")
    assert found == (
        "it is so; and it cannot be run on single images with other maps (three images, please)"
    )


def test_sites_tell_what_they_are():
    exact = find_tail(model_of(AFFINE["two_linear"]), (images(),), (), "why")
    linear = find_tail(model_of(NOT_AFFINE["mlp"]), (images(),), (), "why")
    assert isinstance(exact, ExactTail)
    assert isinstance(linear, LinearisedTail)
    assert (exact.tap, linear.reason) == ("0", "why")


def test_map_of_the_logits_themselves_is_the_last_resort():
    """A rectified 3x3 convolution as the head: only the map of the logits is affine."""
    model = model_of(lambda: [nn.Conv2d(5, 4, 3, padding=1), nn.ReLU(), *pool()])
    found = ClassifierPrototypes(model).read(images())
    assert found.site.tap == "2"
    torch.testing.assert_close(found.linear_head.columns, torch.eye(4, dtype=torch.float64))


def test_side_way_through_a_function_is_seen():
    """What a later module gets beside the map is part of no map, and so the map is not exact."""
    side = Do(lambda h: h)

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.side, self.fc = nn.Conv2d(1, 5, 1), side, head(6)

        def forward(self, x: Tensor) -> Tensor:
            h = self.side(self.body(x).relu())
            return self.fc(torch.cat([h.mean((2, 3)), x.mean((2, 3))], 1))

    model = Model().double().eval()
    with pytest.raises(HeadNotFoundError):
        ClassifierPrototypes(model).attribute(images())


@pytest.mark.parametrize("seed", range(8))
def test_kinks_beyond_the_features_own_scale_are_found(seed):
    torch.manual_seed(seed)
    net, x = make_net(), torch.rand(4, 1, 16, 16)
    net.head = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    with torch.no_grad():
        net.head[0].bias.mul_(3)  # no unit changes sides on maps like the image's own
    with pytest.raises(HeadNotFoundError, match="further layers stand between pooling and logits"):
        ClassifierPrototypes(net).attribute(x)
