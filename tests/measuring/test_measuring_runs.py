"""What measuring runs: how often, in which modes, and that it leaves the model as it was."""

from __future__ import annotations

import threading

import pytest
import torch
from nets import LAYERS, SmallNet, make_net
from odd_nets import Bright, Forward, InPlace, Joining, Skipping, Tokens, Twice, seeded
from torch import Tensor, nn

from captum_kmex import LayerKMeansAttribution, Measured
from captum_kmex.measuring.parts import patches
from captum_kmex.measuring.places import cuts
from captum_kmex.model.reading import Source, read

pytestmark = pytest.mark.filterwarnings("ignore::captum_kmex.exceptions.FewPixelsWarning")


def drawn(n: int = 1, size=(16, 16)) -> Tensor:
    return torch.rand(n, 1, *size, generator=torch.Generator().manual_seed(3))


def counted(model: nn.Module) -> list[int]:
    """Return a list to which every pass of the model adds its number of images."""
    found: list[int] = []
    model.register_forward_pre_hook(lambda _, given: found.append(len(given[0])))
    return found


def boxes(grid, is_shifted: bool) -> int:
    return len(patches(grid, is_shifted=is_shifted).unique())


# ---------------------------------------------------------------- how often


@pytest.mark.parametrize("passes", ["full", "half"])
@pytest.mark.parametrize("per_eval", [1, 7, 32, 1000])
def test_passes_are_two_for_each_part_and_two(passes, per_eval):
    net, x = make_net(), drawn()
    attr = LayerKMeansAttribution(net, LAYERS, n_clusters=9)
    segments = len(attr.segment(x).unique())
    attr.attribute(x, evidence="measured")  # the head is found
    found = counted(net)
    attr.attribute(x, evidence=Measured(passes=passes, perturbations_per_eval=per_eval))
    parts = segments + boxes((16, 16), False) + boxes((16, 16), True) * (passes == "full")
    reading, *measured = found
    assert reading == 1
    assert sum(measured) == 2 + 2 * parts
    assert max(measured) == min(per_eval, 2 + 2 * parts)
    assert len(measured) == -(-(2 + 2 * parts) // per_eval)


def test_full_budget_is_some_140_and_half_some_80():
    size = (28, 28)
    assert 130 < 2 + 2 * (20 + boxes(size, False) + boxes(size, True)) < 150
    assert 75 < 2 + 2 * (20 + boxes(size, False)) < 90


def test_what_stands_before_the_layer_runs_once_a_pass():
    net, x = make_net(), drawn(2)
    attr = LayerKMeansAttribution(net, LAYERS)
    attr.attribute(x, evidence="measured")
    before, after = counted(net.stage1), counted(net.stage3)
    attr.attribute(x, evidence=Measured(at="stage2", passes="half"))
    reading, *others = before
    assert reading == 2
    assert set(others) == {1}
    assert max(after) == 32


def test_fills_multiply_the_passes_and_images_add_up():
    net = make_net()
    attr = LayerKMeansAttribution(net, LAYERS)
    attr.attribute(drawn(), evidence="measured")
    found = counted(net)
    attr.attribute(drawn(), evidence=Measured(passes="half"))
    once = sum(found) - 1
    found.clear()
    attr.attribute(drawn(), evidence=Measured(passes="half", baseline=["mean", "zero"]))
    assert sum(found) - 1 == 2 * once
    found.clear()
    attr.attribute(drawn(3), evidence=Measured(passes="half"))
    assert 2 * once < sum(found) - 3 <= 3 * once  # some images have fewer segments


# ---------------------------------------------------------------- the same again


@pytest.mark.parametrize("at", ["input", "stage2"])
def test_same_image_has_the_same_map_in_any_batch(at):
    attr, x = LayerKMeansAttribution(make_net().double(), LAYERS), drawn(3, (12, 12)).double()
    options = Measured(at=at)
    together = attr.attribute(x, 1, evidence=options)
    assert torch.equal(together, attr.attribute(x, 1, evidence=options))
    state = torch.get_rng_state()
    alone = torch.cat([attr.attribute(image[None], 1, evidence=options) for image in x])
    assert torch.equal(state, torch.get_rng_state())
    other = attr.attribute(x.flip(0), 1, evidence=Measured(at=at, perturbations_per_eval=5))
    assert torch.allclose(together, alone, atol=1e-9)
    assert torch.allclose(together, other.flip(0), atol=1e-9)


# ---------------------------------------------------------------- as it was


@pytest.mark.parametrize("at", ["input", "stage1", "stage3"])
def test_no_gradient_is_asked_for(at):
    net, x = seeded(Forward), drawn().requires_grad_()
    attr = LayerKMeansAttribution(net, LAYERS)
    options = Measured(at=at, passes="half")
    maps = attr.attribute(x, 1, evidence=options)
    assert not maps.requires_grad
    assert x.grad is None
    assert all(parameter.grad is None for parameter in net.parameters())
    with torch.no_grad():
        assert torch.equal(maps, attr.attribute(x.detach(), 1, evidence=options))


def state_of(model: nn.Module) -> list[object]:
    return [
        (module.training, list(module._forward_hooks), list(module._forward_pre_hooks))
        for module in model.modules()
    ] + [parameter.requires_grad for parameter in model.parameters()]


@pytest.mark.filterwarnings("ignore::captum_kmex.exceptions.TrainModeWarning")
@pytest.mark.parametrize("at", ["input", "stage2"])
def test_modes_and_hooks_are_as_before(at):
    net, x = make_net(), drawn()
    wanted = LayerKMeansAttribution(net, LAYERS).attribute(x, 1, evidence=Measured(at=at))
    net.train()
    net.stage2.eval()
    before = state_of(net)
    found = LayerKMeansAttribution(net, LAYERS).attribute(x, 1, evidence=Measured(at=at))
    assert state_of(net) == before
    assert torch.equal(found, wanted)  # and dropout was off


@pytest.mark.parametrize("at", ["input", "stage2"])
def test_modes_and_hooks_are_as_before_a_failure(at):
    class Failing(SmallNet):
        runs = 0

        def forward(self, x: Tensor) -> Tensor:
            self.runs += 1
            if self.runs > 6:
                raise KeyError("out of order")
            return super().forward(x)

    net = seeded(Failing)
    attr, before = LayerKMeansAttribution(net, LAYERS), state_of(net)
    with pytest.raises(KeyError, match="out of order"):
        attr.attribute(drawn(), evidence=Measured(at=at, perturbations_per_eval=4))
    assert state_of(net) == before


def test_other_threads_run_the_model_as_it_is():
    net, x = make_net(), drawn(5)
    wanted, found, done = net(x), [], threading.Event()

    def serve() -> None:
        while not done.is_set():
            found.append(net(x))

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        LayerKMeansAttribution(net, LAYERS).attribute(x[:2], evidence=Measured(at="stage2"))
    finally:
        done.set()
        thread.join()
    assert found
    assert all(torch.equal(logits, wanted) for logits in found)


# ---------------------------------------------------------------- where


@pytest.mark.parametrize(
    ("kind", "layer", "why"),
    [
        (Skipping, "stage2", "something of the image goes around it"),
        (Bright, "stage1", "something of the image goes around it"),
        (Twice, "stage1", "something of the image goes around it"),
        (Joining, "stage2", "the model fails with other features there"),
        (Tokens, "tokens", "it returns no map"),
    ],
)
@pytest.mark.parametrize("image", [drawn(), torch.zeros(1, 1, 16, 16)], ids=["drawn", "flat"])
@pytest.mark.filterwarnings("ignore::captum_kmex.exceptions.LayerCallWarning")
def test_layer_that_is_no_cut_is_refused_with_the_remedy(kind, layer, why, image):
    attr = LayerKMeansAttribution(seeded(kind), ["stage2", "stage3"])
    remedy = rf"'{layer}': {why}. Measure at the input, Measured\(at='input'\)"
    with pytest.raises(ValueError, match=remedy):
        attr.attribute(image, evidence=Measured(at=layer))
    if image.any():
        _, delta = attr.attribute(
            image, evidence=Measured(at="input"), return_convergence_delta=True
        )
        assert delta.abs().max() < 1e-5


def test_layer_that_does_not_run_or_is_unknown_is_refused():
    net = make_net()
    net.spare = nn.Identity()
    attr = LayerKMeansAttribution(net, LAYERS)
    with pytest.raises(ValueError, match=r"layer 'spare' did not run in the forward pass"):
        attr.attribute(drawn(), evidence=Measured(at="spare"))
    with pytest.raises(ValueError, match=r"'stage9' is not in the model .* did you mean"):
        attr.attribute(drawn(), evidence=Measured(at="stage9"))


def test_layer_whose_output_is_changed_in_place_is_read_before():
    model = seeded(InPlace)
    reading = read(Source(model), (drawn(),), ["conv"])
    (cut,) = cuts(Source(model), (drawn(),), (), reading, ["conv"], ["conv"])(0)
    assert torch.equal(cut.features, reading.features["conv"])
    assert (cut.features < 0).any()
    assert torch.allclose(cut.logits(cut.features), reading.logits)


@pytest.mark.parametrize(
    ("size", "layers", "wanted"),
    [
        ((16, 16), LAYERS, None),
        ((64, 64), LAYERS, None),
        ((80, 80), LAYERS, "stage3"),  # 20x20
        ((72, 12), LAYERS, "stage2"),  # 36x6, while 18x3 are too few
        ((72, 12), LAYERS[2:], "stage3"),  # the shallowest, where none has enough
        ((65, 4), LAYERS[1:], "stage2"),
    ],
    ids=str,
)
def test_parts_are_removed_where_pixels_or_cells_are_enough(size, layers, wanted):
    source, x = Source(make_net()), drawn(size=size)
    reading = read(source, (x,), layers)
    (cut,) = cuts(source, (x,), (), reading, None, layers)(0)
    assert cut.layer == wanted
    features = x if wanted is None else reading.features[wanted]
    assert torch.equal(cut.features, features)


# ---------------------------------------------------------------- what is refused


def test_units_and_segments_from_outside_are_refused():
    attr, x = LayerKMeansAttribution(make_net(), LAYERS), drawn()
    with pytest.raises(ValueError, match=r"evidence='measured' needs units='logit'"):
        attr.attribute(x, units="alignment", evidence="measured")
    mask = torch.zeros(1, 1, 16, 16, dtype=torch.int64)
    for use in (attr.attribute, attr.explain):
        with pytest.raises(ValueError, match=r"leave segments= out, or pass them as feature_mask"):
            use(x, segments=mask, evidence="measured")


@pytest.mark.parametrize("at", ["input", "stage2"])
def test_baseline_of_another_shape_is_refused(at):
    attr = LayerKMeansAttribution(make_net(), LAYERS)
    wrong = Measured(at=at, baseline=torch.zeros(1, 5, 16, 16))
    with pytest.raises(ValueError, match=r"baseline is \(1, 5, 16, 16\), what is removed \(1, "):
        attr.attribute(drawn(), evidence=wrong)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("at", 3),
        ("baseline", "median"),
        ("baseline", []),
        ("baseline", ["mean", 2]),
        ("baseline", torch.zeros(3)),
        ("baseline", torch.zeros(1, 1, 2, 2, dtype=torch.int64)),
        ("passes", "most"),
        ("passes", None),
        ("perturbations_per_eval", 0),
        ("perturbations_per_eval", 1.5),
        ("show_progress", 1),
    ],
    ids=str,
)
def test_wrong_option_is_refused_by_name(option, value):
    with pytest.raises((TypeError, ValueError), match=rf"^{option}\b"):
        Measured(**{option: value})


@pytest.mark.parametrize("value", ["measure", None, Measured, 1])
def test_wrong_evidence_is_refused_by_name(value):
    attr = LayerKMeansAttribution(make_net(), LAYERS)
    for use in (attr.attribute, attr.explain):
        with pytest.raises((TypeError, ValueError), match=r"^evidence\b"):
            use(drawn(), evidence=value)


def test_progress_counts_the_passes_of_all_images(capsys):
    attr = LayerKMeansAttribution(make_net(), LAYERS)
    attr.explain(drawn(2), evidence=Measured(passes="half", show_progress=True))
    shown = capsys.readouterr().err
    assert "removing parts: 100%" in shown
    attr.explain(drawn(), evidence="measured")
    assert not capsys.readouterr().err
