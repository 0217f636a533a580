"""The head is found, verified and read exactly; what is not affine is refused with its reason."""

from __future__ import annotations

import contextlib
import copy

import pytest
import torch
import torch.nn.functional as F
from nets import Gem, make_net
from torch import Tensor, nn

from captum_kmex import ClassifierPrototypes, HeadNotFoundError, LayerKMeansAttribution
from captum_kmex.model.activations import trace
from captum_kmex.model.head import LinearHead
from captum_kmex.model.head_search import find_head


@pytest.fixture(autouse=True)
def _seeded():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.fixture
def x() -> Tensor:
    return torch.rand(3, 1, 9, 13)


def conv_relu(inputs: int = 1, outputs: int = 5, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1), nn.ReLU())


class Functional(nn.Module):
    """A body, then whatever the test wants, then a linear layer."""

    def __init__(self, body: nn.Module, between, width: int = 5, after=None) -> None:
        super().__init__()
        self.body, self.head = body, nn.Linear(width, 4)
        self._between, self._after = between, after

    def forward(self, x: Tensor) -> Tensor:
        out = self.head(self._between(self.body(x)))
        return out if self._after is None else self._after(out)


def pooled() -> nn.Module:
    pool = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(), nn.Linear(5, 4)]
    return nn.Sequential(conv_relu(), *pool)


def functional_pooling() -> nn.Module:
    return Functional(conv_relu(), lambda h: h.mean((2, 3)))


def functional_relu() -> nn.Module:
    """Return a net with a ReLU that is no module after its last module, as DenseNet has."""
    body = nn.Sequential(nn.Conv2d(1, 5, 3, padding=1), nn.BatchNorm2d(5))
    return Functional(body, lambda h: F.adaptive_avg_pool2d(F.relu(h, inplace=True), 1).flatten(1))


def inplace_relu() -> nn.Module:
    body = nn.Sequential(nn.Conv2d(1, 5, 3, padding=1))
    relu = nn.ReLU(inplace=True)
    return nn.Sequential(body, relu, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 4))


def flattened() -> nn.Module:
    return nn.Sequential(conv_relu(), nn.Flatten(), nn.Linear(5 * 9 * 13, 4))


def convolution() -> nn.Module:
    return nn.Sequential(conv_relu(), nn.Conv2d(5, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def rectified() -> nn.Module:
    """Return a head that is convolution, ReLU, pooling, as SqueezeNet's."""
    tail = [nn.Conv2d(5, 4, 1), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(conv_relu(), nn.Dropout(), *tail)


def pool_then_convolution() -> nn.Module:
    return nn.Sequential(conv_relu(), nn.AdaptiveAvgPool2d(1), nn.Conv2d(5, 4, 1), nn.Flatten())


def no_bias() -> nn.Module:
    tail = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 4, bias=False)]
    return nn.Sequential(conv_relu(), *tail)


AFFINE = {
    "pooled": (pooled, "0", "pooled"),
    "functional_pooling": (functional_pooling, "body", "pooled"),
    "functional_relu": (functional_relu, "body", "pooled"),
    "inplace_relu": (inplace_relu, "1", "pooled"),
    "flattened": (flattened, "0", "flatten"),
    "convolution": (convolution, "0", "convolution"),
    "rectified": (rectified, "0", "convolution"),
    "pool_then_convolution": (pool_then_convolution, "0", "pooled"),
    "no_bias": (no_bias, "0", "pooled"),
}
affine = pytest.mark.parametrize("case", AFFINE.values(), ids=AFFINE)


@affine
def test_head_is_found_where_it_stands(case, x):
    make, tap, kind = case
    found = find_head(trace(make().eval(), (x,), tail=48))
    assert found.kind == kind
    # a ReLU, a dropout or their container may name the same map
    assert found.tap.split(".")[0] in {tap, "1"}


@affine
def test_head_gives_logits_of_the_model(case, x):
    model = case[0]().eval()
    found = find_head(trace(model, (x,), tail=48))
    features = found.features(trace(model, (x,), tap=found.tap).taps[found.tap])
    with torch.no_grad():
        # sums of some hundred terms of order 1
        assert torch.allclose(found.read(model, features).logits(features), model(x), atol=1e-5)


@affine
@pytest.mark.parametrize("target", range(4))
def test_map_sums_to_logit_minus_bias(case, x, target):
    model = case[0]().eval()
    maps, delta = ClassifierPrototypes(model).attribute(
        x, target=target, return_convergence_delta=True
    )
    assert maps.shape == (3, 1, 9, 13)
    with torch.no_grad():
        scale = model(x).abs().max()
    assert delta.abs().max() < 1e-5 * max(1.0, float(scale))


@affine
def test_second_call_reads_the_same_head(case, x):
    attr = ClassifierPrototypes(case[0]().eval())
    assert torch.equal(attr.attribute(x, target=2), attr.attribute(x, target=2))


@affine
def test_fine_tuned_model_stays_exact(case, x):
    model = case[0]().eval()
    attr = ClassifierPrototypes(model)
    before = attr.attribute(x, target=1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        scale = float(model(x).abs().max())
    after, delta = attr.attribute(x, target=1, return_convergence_delta=True)
    assert not torch.allclose(after, before)
    assert delta.abs().max() < 1e-5 * max(1.0, scale)


@affine
def test_map_by_channel_adds_up_to_map(case, x):
    attr = ClassifierPrototypes(case[0]().eval())
    parts = attr.attribute(x, target=1, per_channel=True)
    delta = parts.sum(1, keepdim=True) - attr.attribute(x, target=1)
    if case[2] == "convolution" and "rectified" in case[0].__name__:
        delta = delta[attr.attribute(x, target=1) == 0]  # an open gate passes the bias too
    assert delta.abs().max() < 1e-5


def test_rectified_head_counts_its_bias_inside_the_map(x):
    model = rectified().eval()
    with torch.no_grad():
        model[2].bias.copy_(torch.tensor([-5.0, 0.5, 0.5, 0.5]))  # one gate is shut
        expected = model(x)[:, 3]
    maps = ClassifierPrototypes(model).attribute(x, target=3)
    assert torch.allclose(maps.sum((1, 2, 3)), expected, atol=1e-5)


def test_rectified_head_stays_exact_on_a_one_cell_map():
    model = nn.Sequential(conv_relu(1, 5, 4), nn.Conv2d(5, 4, 1), nn.ReLU()).eval()
    model.extend([nn.AdaptiveAvgPool2d(1), nn.Flatten()])
    with torch.no_grad():
        model[1].bias.copy_(torch.tensor([-5.0, 5.0, -5.0, 5.0]))  # two gates are shut
    x = torch.rand(3, 1, 4, 4)
    _, delta = ClassifierPrototypes(model).attribute(x, target=0, return_convergence_delta=True)
    assert delta.abs().max() < 1e-5


@pytest.mark.parametrize(
    ("tail", "grid"),
    [
        ([nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 4)], (4, 6)),
        ([nn.MaxPool2d(2), nn.Flatten(), nn.Linear(5 * 24, 4)], (4, 6)),
        ([nn.AdaptiveAvgPool2d((2, 3)), nn.Flatten(), nn.Linear(5 * 6, 4)], (2, 3)),
    ],
    ids=["max_then_global", "max_then_flatten", "adaptive_then_flatten"],
)
def test_tap_may_be_the_output_of_a_spatial_pooling(x, tail, grid):
    model = nn.Sequential(nn.Conv2d(1, 5, 3, padding=1), nn.ReLU(), *tail).eval()
    maps, delta = ClassifierPrototypes(model).attribute(x, return_convergence_delta=True)
    assert maps.shape == (3, 1, *grid)
    assert delta.abs().max() < 1e-5


def test_flattened_head_has_a_column_for_each_position(x):
    model = flattened().eval()
    attr = ClassifierPrototypes(model)
    attr.attribute(x)
    weight = model[2].weight.detach()
    assert torch.equal(attr.prototypes, weight.view(4, 5, 9, 13) * (9 * 13))


def test_flattened_map_is_position_wise_product(x):
    model = flattened().eval()
    maps = ClassifierPrototypes(model).attribute(x, target=2)
    with torch.no_grad():
        products = (model[0](x) * model[2].weight[2].view(5, 9, 13)).sum(1, keepdim=True)
    assert torch.allclose(maps, products, atol=1e-6)


@pytest.mark.parametrize(
    "case", [AFFINE["pooled"], AFFINE["convolution"]], ids=["linear", "convolution"]
)
def test_prototypes_are_columns_of_the_head(case, x):
    model = case[0]().eval()
    attr = ClassifierPrototypes(model)
    attr.attribute(x)
    head = next(m for m in reversed(list(model.modules())) if hasattr(m, "weight"))
    assert torch.equal(attr.prototypes, head.weight.detach().flatten(1))


def mlp() -> nn.Module:
    tail = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 4)]
    return nn.Sequential(conv_relu(), *tail)


def norm_between() -> nn.Module:
    tail = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(5), nn.Linear(5, 4)]
    return nn.Sequential(conv_relu(), *tail)


class ClassToken(nn.Module):
    """Tokens with a class token in front, of which the head reads only that."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.mix, self.head = conv_relu(), nn.Linear(5, 5), nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([tokens.square().mean(1, keepdim=True), tokens], 1)
        return self.head(self.mix(tokens)[:, 0])


def softmax() -> nn.Module:
    return nn.Sequential(pooled(), nn.Softmax(1))


def max_pooled() -> nn.Module:
    return nn.Sequential(conv_relu(), nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(5, 4))


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (mlp, "further layers stand between pooling and logits .*Linear '3'"),
        (norm_between, "a normalisation stands between .*LayerNorm '3'"),
        (ClassToken, "it reads a class token, not a pooled map"),
        (softmax, "output is not the output of a linear layer .*'0.4'.*without softmax"),
        (max_pooled, "no module's map has its input as spatial mean .*AdaptiveMaxPool2d '1'"),
    ],
    ids=["mlp", "norm", "class_token", "softmax", "max_pooling"],
)
def test_head_that_is_not_affine_is_refused_with_its_reason(make, reason, x):
    with pytest.raises(HeadNotFoundError, match=reason):
        ClassifierPrototypes(make().eval()).attribute(x)


def test_refusal_names_the_way_out(x):
    with pytest.raises(HeadNotFoundError, match=r"LayerKMeansAttribution with fit\(\), or pass he"):
        ClassifierPrototypes(mlp().eval()).attribute(x)


def test_prototypes_of_refused_head_raise_its_reason(x):
    attr = ClassifierPrototypes(mlp().eval())
    with pytest.raises(HeadNotFoundError, match="further layers"):
        attr.attribute(x)
    with pytest.raises(HeadNotFoundError, match="further layers"):
        _ = attr.prototypes


@pytest.fixture
def strided() -> nn.Module:
    """Eight times smaller at the tap, as a ResNet is thirty-two times."""
    tail = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)]
    stages = [conv_relu(1, 5, 2), conv_relu(5, 5, 2), conv_relu(5, 6, 2)]
    return nn.Sequential(*stages, *tail).eval()


def test_tap_of_one_cell_is_the_module_before_pooling(strided):
    found = find_head(trace(strided, (torch.rand(2, 1, 8, 8),), tail=48))
    assert (found.tap, found.shape) == ("2", (6, 1, 1))


def test_tap_found_on_small_inputs_serves_large_ones(strided):
    attr = ClassifierPrototypes(strided)
    assert attr.attribute(torch.rand(2, 1, 8, 8)).shape == (2, 1, 1, 1)
    maps, delta = attr.attribute(torch.rand(2, 1, 33, 47), return_convergence_delta=True)
    assert maps.shape == (2, 1, 5, 6)
    assert delta.abs().max() < 1e-5


def test_tap_is_found_again_when_it_no_longer_fits(x):
    model = functional_relu().eval()
    with torch.no_grad():
        model.body[1].bias.fill_(50.0)  # all positive: the functional ReLU cannot be seen
    attr = ClassifierPrototypes(model)
    attr.attribute(x)
    with torch.no_grad():
        model.body[1].bias.fill_(0.0)
    _, delta = attr.attribute(x, return_convergence_delta=True)
    assert delta.abs().max() < 1e-5


def test_external_head_reads_the_given_layer(x):
    model, probe = mlp().eval(), nn.Linear(5, 4)
    maps, delta = ClassifierPrototypes(model, "0", head=probe).attribute(
        x, target=1, return_convergence_delta=True
    )
    with torch.no_grad():
        features = model[0](x)
        ours = probe(features.mean((2, 3)))[:, 1]
        theirs = model(x)[:, 1]
    assert torch.allclose(maps.sum((1, 2, 3)) + probe.bias[1].detach(), ours, atol=1e-5)
    assert torch.allclose(delta, ours - theirs, atol=1e-5)


def test_external_head_needs_a_layer(x):
    with pytest.raises(ValueError, match="a head of your own needs layer="):
        ClassifierPrototypes(mlp().eval(), head=nn.Linear(5, 4)).attribute(x)


def test_external_head_of_other_width_raises(x):
    attr = ClassifierPrototypes(mlp().eval(), "0", head=nn.Linear(7, 4))
    with pytest.raises(ValueError, match="reads 7 features, the map before it has 5 channels"):
        attr.attribute(x)


def test_external_head_of_other_kind_raises(x):
    attr = ClassifierPrototypes(mlp().eval(), "0", head=nn.Flatten())
    with pytest.raises(TypeError, match="a head is a Linear or 1x1 Conv2d; got Flatten"):
        attr.attribute(x)


def test_external_head_serves_layer_kmeans(x):
    model, probe = mlp().eval(), nn.Linear(5, 4)
    attr = LayerKMeansAttribution(model, ["0.0", "0"], head=probe, n_clusters=2)
    maps = attr.attribute(x, target=1)
    with torch.no_grad():
        expected = probe(model[0](x).mean((2, 3)))[:, 1] - probe.bias[1]
    assert torch.allclose(maps.sum((1, 2, 3)), expected, atol=1e-5)


def test_head_named_by_user_is_taken(x):
    net = make_net()
    by_name = ClassifierPrototypes(net, head="head").attribute(x, target=0)
    by_module = ClassifierPrototypes(net, head=net.head).attribute(x, target=0)
    found = ClassifierPrototypes(net).attribute(x, target=0)
    assert torch.equal(by_name, found)
    assert torch.equal(by_module, found)


def test_head_named_by_user_survives_scaled_logits(x):
    net = Functional(conv_relu(), lambda h: h.mean((2, 3)), after=lambda out: 2 * out).eval()
    maps, delta = ClassifierPrototypes(net, head="head").attribute(
        x, target=0, return_convergence_delta=True
    )
    with torch.no_grad():
        logit = net(x)[:, 0]
    # map and bias make half the scaled logit, and the delta says so
    assert torch.allclose(delta, -logit / 2, atol=1e-5)
    assert torch.allclose(maps.sum((1, 2, 3)), logit / 2 - net.head.bias[0].detach(), atol=1e-5)


def test_head_that_is_no_linear_layer_is_refused(x):
    with pytest.raises(HeadNotFoundError, match="head 'pool' is not a Linear or 1x1 Conv2d"):
        ClassifierPrototypes(make_net(), head="pool").attribute(x)


def test_layer_that_head_does_not_read_is_refused(x):
    with pytest.raises(ValueError, match="the head does not read layer 'stage2' but 'stage3'"):
        ClassifierPrototypes(make_net(), "stage2").attribute(x)


def test_attribution_with_found_head_can_be_copied(x):
    attr = ClassifierPrototypes(make_net())
    maps = attr.attribute(x, target=0)
    assert torch.equal(copy.deepcopy(attr).attribute(x, target=0), maps)


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 3, 2)], ids=["pooled", "position_wise"])
def test_evidence_has_logit_minus_bias_as_mean(shape):
    head = LinearHead(torch.randn(shape, dtype=torch.float64), torch.randn(4).double())
    features = torch.randn(2, 5, 3, 2, dtype=torch.float64)
    target = torch.tensor([3, 1])
    expected = (head.logits(features) - head.bias).gather(1, target[:, None]).squeeze(1)
    assert torch.allclose(head.evidence(features, target).mean((1, 2, 3)), expected, atol=1e-13)


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 3, 2)], ids=["pooled", "position_wise"])
def test_evidence_equals_loop_over_positions(shape):
    head = LinearHead(torch.randn(shape, dtype=torch.float64), torch.zeros(4).double())
    features = torch.randn(2, 5, 3, 2, dtype=torch.float64)
    found = head.evidence(features, torch.tensor([3, 1]))
    for i, j in enumerate([3, 1]):
        for y in range(3):
            for z in range(2):
                column = head.columns[j] if len(shape) == 2 else head.columns[j, :, y, z]
                assert found[i, 0, y, z].item() == pytest.approx(
                    float(features[i, :, y, z] @ column)
                )


# ---------------------------------------------------------------- heads by what they compute


class Cosine(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return 7 * F.linear(F.normalize(x, dim=1), F.normalize(self.weight, dim=1))


class Masked(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.clamp_min(0), self.bias)


class Adapted(nn.Linear):
    """Low-rank weights beside its own, not merged."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.down, self.up = (
            nn.Parameter(torch.rand(2, inputs)),
            nn.Parameter(torch.rand(outputs, 2)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + x @ self.down.T @ self.up.T


class Padded(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, (1, 1, 1, 1), mode="reflect")[..., ::2, ::2])


def linear_with_hook(hook, before: bool = False) -> nn.Module:
    head = nn.Linear(5, 4)
    (head.register_forward_pre_hook if before else head.register_forward_hook)(hook)
    return head


def tail_of(head: nn.Module) -> nn.Module:
    return nn.Sequential(conv_relu(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)


def convolution_of(head: nn.Module) -> nn.Module:
    return nn.Sequential(conv_relu(), head, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def grouped() -> nn.Module:
    tail = [nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 4, 1, groups=4), nn.Flatten()]
    return nn.Sequential(conv_relu(1, 8), *tail)


OTHERWISE = {  # what computes something else than its weights say, affine all the same
    "masked": lambda: tail_of(Masked(5, 4)),
    "adapted": lambda: tail_of(Adapted(5, 4)),
    "hook": lambda: tail_of(linear_with_hook(lambda _m, _i, out: 3 * out)),
    "pre-hook": lambda: tail_of(linear_with_hook(lambda _m, i: (i[0] * 2,), True)),
    "strided": lambda: convolution_of(nn.Conv2d(5, 4, 1, stride=2)),
    "padded": lambda: convolution_of(nn.Conv2d(5, 4, 1, padding=1)),
    "strided-subclass": lambda: convolution_of(Padded(5, 4, 1)),
    "grouped": grouped,
}
REFUSED = {  # what is not affine, and the class that is named
    "cosine": (lambda: tail_of(Cosine(5, 4)), "Cosine"),
    "hook": (lambda: tail_of(linear_with_hook(lambda _m, _i, out: out.square())), "Linear"),
    "pre-hook": (lambda: tail_of(linear_with_hook(lambda _m, i: (i[0].sin(),), True)), "map"),
}
otherwise = pytest.mark.parametrize("make", OTHERWISE.values(), ids=OTHERWISE)
refused = pytest.mark.parametrize(("make", "kind"), REFUSED.values(), ids=REFUSED)


def named_head(model: nn.Module) -> str:
    return next(
        n for n, m in reversed(list(model.named_modules())) if isinstance(m, (nn.Linear, nn.Conv2d))
    )


@otherwise
@pytest.mark.parametrize("is_named", [False, True], ids=["found", "named"])
def test_head_is_read_by_what_it_computes(make, is_named, x):
    model = make().eval()
    head = named_head(model) if is_named else None
    plain = ClassifierPrototypes(model, head=head)
    layers = LayerKMeansAttribution(model, ["0"], n_clusters=2, head=head)
    with torch.no_grad():
        logits = model(x)
    for target in range(4):
        for attribution in (plain, layers):
            for _ in range(2):
                maps, delta = attribution.attribute(x, target, return_convergence_delta=True)
                assert delta.abs().max() < 1e-4 * logits.abs().max()
        exported = plain.as_module(x, target=target)(x)
        torch.testing.assert_close(exported["attribution"], plain.attribute(x, target))
    assert maps[0].unique().numel() > 1


@otherwise
def test_head_that_is_affine_needs_no_ridge_head(make, x):
    model = make().eval()
    images, labels = x.repeat(4, 1, 1, 1) + 0.1 * torch.rand(12, 1, 9, 13), torch.arange(12) % 4
    attribution = LayerKMeansAttribution(model, ["0"], n_prototypes=1).fit([(images, labels)])
    assert attribution.bank_.surrogate is None
    _, delta = attribution.attribute(images, target=2, return_convergence_delta=True)
    assert delta.abs().max() < 1e-5


@refused
def test_head_that_computes_something_else_is_refused_by_name(make, kind, x):
    model = make().eval()
    attribution = ClassifierPrototypes(model)
    for _ in range(2):
        with pytest.raises(ValueError, match=kind):
            attribution.attribute(x)
    with pytest.raises(HeadNotFoundError, match=kind):
        ClassifierPrototypes(model).as_module(x)


@refused
def test_head_that_computes_something_else_is_linearised_at_once(make, kind, x):
    model = make().eval()
    attribution = LayerKMeansAttribution(model, ["0"], n_clusters=2)
    for _ in range(2):
        found = attribution.explain(x)
        assert found.head == "linearised"
        assert found.delta.abs().max() < 1e-5


@refused
def test_head_that_computes_something_else_gets_a_ridge_head_by_a_fit(make, kind, x):
    model = make().eval()
    images, labels = x.repeat(4, 1, 1, 1) + 0.1 * torch.rand(12, 1, 9, 13), torch.arange(12) % 4
    attribution = LayerKMeansAttribution(model, ["0"], n_prototypes=1).fit([(images, labels)])
    assert attribution.bank_.surrogate is not None
    maps, delta = attribution.attribute(images, target=2, return_convergence_delta=True)
    with torch.no_grad():
        missing = maps.sum((1, 2, 3)) + attribution.bank_.surrogate.bias[2] - model(images)[:, 2]
    assert torch.allclose(delta, missing, atol=1e-5)
    assert maps[0].unique().numel() > 1


@refused
def test_head_named_by_the_user_must_compute_what_its_weights_say(make, kind, x):
    model = make().eval()
    with pytest.raises(HeadNotFoundError, match=kind):
        ClassifierPrototypes(model, head=named_head(model)).attribute(x)


@pytest.mark.parametrize(
    "own", [Cosine(5, 4), Masked(5, 4), Adapted(5, 4)], ids=["cosine", "masked", "adapted"]
)
def test_own_head_must_compute_what_its_weights_say(own, x):
    with pytest.raises(ValueError, match=rf"given head \({type(own).__name__}\) does not compute"):
        ClassifierPrototypes(mlp().eval(), "0", head=own).attribute(x)


def test_hook_registered_after_the_first_call_is_noticed(x):
    model = pooled().eval()
    attribution = ClassifierPrototypes(model)
    attribution.attribute(x)
    handle = model[4].register_forward_hook(lambda _m, _i, out: out.square())
    with pytest.raises(HeadNotFoundError, match="forward hook"):
        attribution.attribute(x)
    handle.remove()
    attribution.attribute(x)


@pytest.mark.parametrize("factor", [1e-8, 1.0, 1e6], ids=str)
def test_a_large_bias_does_not_hide_a_wrong_head(factor, x):
    model = tail_of(Masked(5, 4)).eval()
    with torch.no_grad():
        model[0][0].weight.mul_(factor)
        model[0][0].bias.mul_(factor)
        model[3].weight[0, 0] = -1
        model[3].bias.fill_(factor * 50)
        expected = (model[0](x) * model[3].weight[0].clamp_min(0)[:, None, None]).sum(1) / 117
    maps = ClassifierPrototypes(model).attribute(x, 0)[:, 0]
    assert (maps - expected).abs().max() < 1e-4 * expected.abs().max()


def test_every_image_of_a_batch_is_held_to_its_own_scale(x):
    """The first image's logits are a million times larger, and must not excuse the second's."""
    model = tail_of(Adapted(5, 4)).eval()
    with torch.no_grad():
        model[3].down.mul_(1e-3)
    batch = torch.stack([1e6 * x[0], x[1]])

    class OnlySmall(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = model

        def forward(self, images: Tensor) -> Tensor:
            pooled = self.net[:3](images)
            plain = self.net[3].weight, self.net[3].bias
            exact = F.linear(pooled, *plain)
            return torch.cat([exact[:1], self.net[3](pooled[1:])])

    with pytest.raises(HeadNotFoundError):
        ClassifierPrototypes(OnlySmall().eval()).attribute(batch)


# ---------------------------------------------------------------- pooling by what it does


class Summary(nn.Module):
    """Average and maximum side by side."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([F.adaptive_avg_pool2d(x, 1), F.adaptive_max_pool2d(x, 1)], 1)


class Named(nn.Module):
    """A plain mean whose name says nothing of pooling."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3), keepdim=True)


class Poolside(nn.Conv2d):
    """No pooling, whatever its name."""


ONE_CELL = {
    "gem": [Gem(), nn.Flatten(), nn.Linear(5, 4)],
    "max": [nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(5, 4)],
    "max-by-kernel": [nn.MaxPool2d((9, 13)), nn.Flatten(), nn.Linear(5, 4)],
    "mean-and-max": [Summary(), nn.Flatten(), nn.Linear(10, 4)],
    "amax": [nn.Flatten(2), Functional(nn.Identity(), lambda h: h.amax(2))],
    "functional-then-convolutions": [
        Functional(nn.Identity(), lambda h: F.adaptive_avg_pool2d(h, 1), after=None),
    ],
    "power": [nn.LPPool2d(2, (9, 13)), nn.Flatten(), nn.Linear(5, 4)],
}
ONE_CELL["functional-then-convolutions"][0].head = nn.Sequential(
    nn.Conv2d(5, 7, 1), nn.ReLU(), nn.Conv2d(7, 4, 1), nn.Flatten()
)


@pytest.mark.parametrize("tail", ONE_CELL.values(), ids=ONE_CELL)
def test_pooled_cell_is_no_map(tail, x):
    model = nn.Sequential(conv_relu(), *copy.deepcopy(tail)).eval()
    with pytest.raises(HeadNotFoundError):
        ClassifierPrototypes(model).attribute(x)
    images, labels = x.repeat(4, 1, 1, 1) + 0.1 * torch.rand(12, 1, 9, 13), torch.arange(12) % 4
    fitted = LayerKMeansAttribution(model, ["0"], n_prototypes=2).fit([(images, labels)])
    assert fitted.bank_.surrogate is not None
    assert (fitted.attribute(images).flatten(1).std(1) > 0).all()


@pytest.mark.parametrize(
    "pool",
    [Named(), nn.AdaptiveAvgPool2d(1), nn.AvgPool2d((9, 13))],
    ids=["unnamed", "adaptive", "kernel"],
)
def test_mean_is_found_under_any_name(pool, x):
    model = nn.Sequential(conv_relu(), pool, nn.Flatten(), nn.Linear(5, 4)).eval()
    maps, delta = ClassifierPrototypes(model).attribute(x, return_convergence_delta=True)
    assert maps.shape == (3, 1, 9, 13)
    assert delta.abs().max() < 1e-5


@pytest.mark.parametrize(
    "last",
    [nn.Conv2d(5, 6, (9, 13)), Poolside(5, 6, (9, 13)), nn.Conv2d(5, 6, 3, stride=20, padding=1)],
    ids=["kernel", "misleading-name", "stride"],
)
def test_network_whose_last_convolution_leaves_one_cell_goes_on_working(last, x):
    model = nn.Sequential(conv_relu(), last, nn.ReLU(), nn.Dropout(), nn.Flatten(), nn.Linear(6, 4))
    maps, delta = ClassifierPrototypes(model.eval()).attribute(x, return_convergence_delta=True)
    assert maps.shape == (3, 1, 1, 1)
    assert delta.abs().max() < 1e-5


@pytest.mark.parametrize(
    "pool", [Gem(), Summary(), nn.AdaptiveMaxPool2d(1)], ids=["gem", "both", "max"]
)
def test_tap_found_on_one_cell_is_not_the_pooling_on_larger_images(pool):
    width = 10 if isinstance(pool, Summary) else 5
    model = nn.Sequential(conv_relu(1, 5, 4), pool, nn.Flatten(), nn.Linear(width, 4)).eval()
    attribution = ClassifierPrototypes(model)
    with contextlib.suppress(HeadNotFoundError):  # exact: on one cell every pooling is
        attribution.attribute(torch.rand(2, 1, 4, 4))
    with pytest.raises(HeadNotFoundError):
        attribution.attribute(torch.rand(2, 1, 16, 16))


# ---------------------------------------------------------------- decided once in a fit


class Moody(nn.Module):
    """Scales the logits of images brighter than the others."""

    def __init__(self, level: float) -> None:
        super().__init__()
        self.net, self.level = pooled().eval(), level

    def forward(self, x: Tensor) -> Tensor:
        bright = x.amax((1, 2, 3)) > self.level
        return self.net(x) * torch.where(bright, 2.0, 1.0)[:, None]


@pytest.mark.parametrize("odd", [0, 1, 25, 49], ids=str)
def test_one_odd_image_stops_a_fit_with_an_exact_head(odd):
    images, labels = torch.rand(50, 1, 9, 13), torch.arange(50) % 4
    images[odd] += 5
    loader = list(zip(images.split(1), labels.split(1), strict=True))
    attribution = LayerKMeansAttribution(Moody(3.0).eval(), ["net.0"], n_prototypes=1)
    with pytest.raises(
        ValueError, match=rf"at batch \[{max(odd, 1)}\].*have one, and of the others"
    ):
        attribution.fit(loader)
    assert not attribution.is_fitted


def test_odd_image_after_a_fit_with_an_exact_head_is_refused():
    images, labels = torch.rand(24, 1, 9, 13), torch.arange(24) % 4
    attribution = LayerKMeansAttribution(Moody(3.0).eval(), ["net.0"], n_prototypes=1)
    attribution.fit([(images, labels)])
    with pytest.raises(HeadNotFoundError, match="images of the fit had an exact head"):
        attribution.attribute(images + 5)
    _, delta = attribution.attribute(images, return_convergence_delta=True)
    assert delta.abs().max() < 1e-5


# ---------------------------------------------------------------- modules that run twice


class Siamese(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.head = conv_relu(), nn.Linear(5, 4)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        one, two = (self.encoder(x).mean((2, 3)) for x in (first, second))
        return self.head((one - two).abs())


@pytest.mark.filterwarnings("ignore::captum_kmex.exceptions.LayerCallWarning")
def test_segments_of_a_siamese_model_are_those_of_the_explained_picture(x):
    model, other = Siamese().eval(), torch.rand(3, 1, 9, 13)
    alone = nn.Sequential(model.encoder, nn.AdaptiveAvgPool2d(1), nn.Flatten(), model.head).eval()
    expected = LayerKMeansAttribution(alone, ["0"], n_clusters=3).segment(x)
    attribution = LayerKMeansAttribution(model, ["encoder"], n_clusters=3)
    assert torch.equal(attribution.segment((x, other)), expected)
    assert torch.equal(attribution.segment(x, additional_forward_args=(other,)), expected)
