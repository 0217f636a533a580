"""Measured maps add up to the model's logit, whatever the model, the layer and the options."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from nets import LAYERS, make_net
from odd_nets import InPlace, LastAxis, Scaled, seeded, with_gem, with_one_logit
from torch import Tensor

from captum_kmex import LayerKMeansAttribution, Measured

FEW = "ignore::captum_kmex.exceptions.FewPixelsWarning"
pytestmark = [
    pytest.mark.filterwarnings(FEW),
    pytest.mark.filterwarnings("ignore::captum_kmex.exceptions.FewRowsWarning"),
]
EXACT = 1e-9
HALF = Measured(passes="half")


def drawn(n: int = 2, size=(16, 16)) -> Tensor:
    return torch.rand(n, 1, *size, generator=torch.Generator().manual_seed(3)).double()


def unfitted(model=None, layers=LAYERS, **options) -> LayerKMeansAttribution:
    return LayerKMeansAttribution((model or make_net()).double(), layers, **options)


@pytest.fixture(scope="module")
def class_wise() -> LayerKMeansAttribution:
    attr = unfitted(n_prototypes=2)
    return attr.fit([(drawn(12), torch.arange(12) % 3)], n_init=1, n_representatives=1)


@pytest.fixture(scope="module")
def class_agnostic() -> LayerKMeansAttribution:
    return unfitted(n_prototypes=6).fit([drawn(12)], labels=None, n_init=1, n_representatives=1)


@pytest.fixture(params=["unfitted", "class_wise", "class_agnostic"])
def attr(request) -> LayerKMeansAttribution:
    return unfitted() if request.param == "unfitted" else request.getfixturevalue(request.param)


def adds_up(attr, x, target=None, evidence: str | Measured = HALF, **options) -> bool:
    """Whether maps and ledger add up to the model's logit, and the baseline is what it gives."""
    result = attr.explain(x, target, evidence=evidence, **options)
    maps, delta = attr.attribute(
        x, target, evidence=evidence, return_convergence_delta=True, **options
    )
    sums = torch.stack(
        [
            result.attribution.new_tensor([row.evidence for row in rows]).sum()
            for rows in result.ledger
        ]
    )
    return (
        torch.equal(maps, result.attribution)
        and result.evidence == "measured"
        and float(delta.abs().max()) < EXACT
        and float(result.delta.abs().max()) < EXACT
        and float((sums + result.bias - result.output).abs().max()) < EXACT
    )


def test_fitted_or_not_it_adds_up(attr):
    x = drawn()
    assert adds_up(attr, x)
    assert adds_up(attr, x, target=[0, 2], contrast=1)


@pytest.mark.parametrize("depth", [0, 1, -1, "stage2", "stage3"])
def test_every_depth_adds_up_on_its_own_grid(depth):
    attr, x = unfitted(), drawn()
    grids = {0: 16, 1: 8, -1: 4, "stage2": 8, "stage3": 4}
    assert attr.attribute(x, evidence=HALF, depth=depth).shape == (2, 1, grids[depth], grids[depth])
    assert adds_up(attr, x, depth=depth)


@pytest.mark.parametrize("at", ["input", *LAYERS])
@pytest.mark.parametrize("size", [(16, 16), (66, 9)], ids=str)
def test_every_place_adds_up(at, size):
    assert adds_up(unfitted(), drawn(size=size), evidence=Measured(at=at, passes="half"))


@pytest.mark.parametrize(
    "model",
    [with_gem(), with_one_logit(), seeded(LastAxis), seeded(InPlace)],
    ids=["no head", "one logit", "channels last", "in place"],
)
def test_every_model_adds_up(model):
    layers = LAYERS if hasattr(model, "stage1") else ["norm" if hasattr(model, "norm") else "conv"]
    attr, x = unfitted(model, layers), drawn()
    assert adds_up(attr, x)
    assert adds_up(attr, x, evidence=Measured(at=layers[0], passes="half"))


def blank_of(fill: str | Tensor, features: Tensor) -> Tensor:
    if isinstance(fill, Tensor):
        return fill.expand_as(features)
    if fill == "zero":
        return torch.zeros_like(features)
    return features.mean((2, 3), keepdim=True).expand_as(features)


@pytest.mark.parametrize("fills", [["mean"], ["zero"], ["own"], ["own", "zero", "mean"]], ids=str)
@pytest.mark.parametrize("at", ["input", "stage2"])
def test_bias_is_the_output_with_everything_removed(fills, at):
    x, net, target = drawn(), make_net().double(), torch.tensor([2, 0])
    with torch.no_grad():
        features = x if at == "input" else net.stage2(net.stage1(x))
        own = torch.rand(1, *features.shape[1:]).double()
        fills = [own if fill == "own" else fill for fill in fills]
        rest = net if at == "input" else lambda f: net.head(net.stage3(f).mean((2, 3)))
        logits = torch.stack([rest(blank_of(fill, features)) for fill in fills]).mean(0)
    for baseline in [fills] + fills * (len(fills) == 1):
        options = Measured(at=at, passes="half", baseline=baseline)
        assert adds_up(unfitted(net), x, target, options)
        result = unfitted(net).explain(x, target, evidence=options)
        assert torch.allclose(result.bias, logits.gather(1, target[:, None])[:, 0], atol=EXACT)


def test_several_fills_are_averaged():
    x, attr = drawn(1), unfitted()

    def found(fills) -> tuple[np.ndarray, ...]:
        result = attr.explain(x, 1, evidence=Measured(at="input", passes="half", baseline=fills))
        by_number = sorted(result.ledger[0], key=lambda row: row.segment)
        values = ([row.removed for row in by_number], [row.kept for row in by_number])
        return (result.bias.numpy(), *map(np.array, values))

    alone, both = [found(fill) for fill in ("zero", "blur")], found(["zero", "blur"])
    for i in range(3):
        assert np.allclose(both[i], (alone[0][i] + alone[1][i]) / 2)


def test_upsampled_map_sums_to_the_same():
    attr, x = unfitted(), drawn()
    maps, delta = attr.attribute(
        x, 1, evidence=HALF, depth=1, upsample="input", return_convergence_delta=True
    )
    plain = attr.attribute(x, 1, evidence=HALF, depth=1)
    assert maps.shape == x.shape
    assert torch.allclose(maps.sum((1, 2, 3)), plain.sum((1, 2, 3)), atol=EXACT)
    assert delta.abs().max() < EXACT


def test_model_without_a_head_needs_no_fit():
    attr, x = unfitted(with_gem()), drawn()
    result = attr.explain(x, 0, evidence=HALF)
    with torch.no_grad():
        blank = attr.model(x.mean((2, 3), keepdim=True).expand_as(x))
    assert torch.allclose(result.bias, blank[:, 0], atol=EXACT)
    assert result.surrogate_r2 is None
    assert result.class_scores is None


def test_contrast_the_other_way_round_is_the_same_with_another_sign():
    attr, x = unfitted(), drawn()
    one = attr.attribute(x, 0, contrast=2, evidence=HALF)
    other = attr.attribute(x, 2, contrast=0, evidence=HALF)
    assert torch.allclose(one, -other, atol=EXACT)


def test_single_logit_below_zero_is_explained_as_one_above():
    net, x = with_one_logit(), drawn()
    attr = unfitted(net)
    one = attr.explain(x, evidence=HALF)
    net.head.weight.data.neg_(), net.head.bias.data.neg_()
    other = attr.explain(x, evidence=HALF)
    assert torch.allclose(one.attribution, -other.attribution, atol=EXACT)
    assert one.enough == other.enough


@pytest.mark.parametrize("count", [1, 2], ids=["one image", "two"])
@pytest.mark.parametrize("at", ["input", "stage1"])
def test_further_arguments_go_with_their_image(count, at):
    attr, x = unfitted(seeded(Scaled)), drawn(count)
    scale = torch.linspace(0.5, 2, count).double()
    options = Measured(at=at, passes="half")
    by_args = attr.attribute(x, 1, (scale, 0.25), evidence=options)
    by_inputs = attr.attribute((x, scale), 1, 0.25, evidence=options)
    assert torch.equal(by_args, by_inputs)
    assert adds_up(attr, x, 1, options, additional_forward_args=(scale, 0.25))
    for i in range(count):
        alone = attr.attribute(x[i : i + 1], 1, (scale[i : i + 1], 0.25), evidence=options)
        assert torch.allclose(alone, by_args[i : i + 1], atol=EXACT)


def test_layers_are_read_at_their_input():
    attr, x = unfitted(layers=LAYERS[1:]), drawn()
    assert attr.attribute(x, attribute_to_layer_input=True, evidence=HALF).shape[2:] == (16, 16)
    options = Measured(at="stage2", passes="half")
    assert adds_up(attr, x, evidence=options, attribute_to_layer_input=True)


def test_restricted_connected_and_cleaned_segments_are_those_removed(class_wise):
    x = drawn()
    for options in ({"restrict": "predicted"}, {"connected": True, "min_area": 4}):
        result = class_wise.explain(x, evidence=HALF, **options)
        plain = class_wise.explain(x, **options)
        assert torch.equal(result.segments, plain.segments)
        assert adds_up(class_wise, x, **options)


@pytest.mark.parametrize("at", [None, "stage1", "stage2"])
def test_autocast_keeps_the_sum_to_its_rounding(at):
    attr, x = LayerKMeansAttribution(make_net(), LAYERS), drawn().float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = attr.explain(x, 1, evidence=Measured(at=at, passes="half"))
    assert result.attribution.dtype == torch.float32
    assert result.delta.abs().max() < 1e-2 * result.output.abs().max()


def test_prepared_copy_measures_the_same():
    net, x = make_net(), drawn().float()
    plain, prepared = (LayerKMeansAttribution(net, LAYERS) for _ in range(2))
    prepared.prepare()
    for at in ("input", "stage2"):
        options = Measured(at=at, passes="half")
        found = prepared.attribute(x, 1, evidence=options)
        wanted = plain.attribute(x, 1, evidence=options)
        assert torch.allclose(found, wanted, atol=1e-4 * float(wanted.abs().max()))
