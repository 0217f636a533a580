"""Outputs of more dimensions, with Captum's tuple targets: one position, and all else as ever."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from captum._utils.common import _select_targets
from nets import make_net
from torch import Tensor, nn

from captum_kmex import ClassifierPrototypes, LayerKMeansAttribution, Measured
from captum_kmex.exceptions import HeadNotFoundError, TargetError

N_CLASSES = 4


class Dense(nn.Module):
    """A backbone on a grid of 1/4, a head that keeps positions, and a way back to pixels."""

    def __init__(self, head: nn.Module, wrap=lambda z: z, upsample: str = "bilinear") -> None:
        super().__init__()
        self.stage1 = nn.Sequential(nn.Conv2d(1, 4, 3, 2, 1), nn.ReLU())
        self.stage2 = nn.Sequential(nn.Conv2d(4, 6, 3, 2, 1), nn.ReLU())
        self.head, self._wrap, self._upsample = head, wrap, upsample

    def forward(self, x: Tensor) -> object:
        z = self.head(self.stage2(self.stage1(x)))
        return self._wrap(F.interpolate(z, x.shape[2:], mode=self._upsample))


class UNet(nn.Module):
    """A skip connection: the last map is as fine as the image."""

    def __init__(self) -> None:
        super().__init__()
        self.down1 = nn.Sequential(nn.Conv2d(1, 4, 3, 1, 1), nn.ReLU())
        self.down2 = nn.Sequential(nn.Conv2d(4, 6, 3, 2, 1), nn.ReLU())
        self.up = nn.ConvTranspose2d(6, 4, 2, 2)
        self.out = nn.Sequential(nn.Conv2d(8, 5, 3, 1, 1), nn.ReLU(), nn.Conv2d(5, N_CLASSES, 1))

    def forward(self, x: Tensor) -> Tensor:
        fine = self.down1(x)
        return self.out(torch.cat([fine, self.up(self.down2(fine))], 1))


class Signals(nn.Module):
    """Outputs (N, J, T): columns of the picture are the steps of a sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.head = nn.Sequential(nn.Conv2d(1, 6, 3, 2, 1), nn.ReLU()), nn.Conv1d(6, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.net(x).mean(2))


def linear_head() -> nn.Module:
    return nn.Conv2d(6, N_CLASSES, 1)


def convolutional_head() -> nn.Module:
    return nn.Sequential(nn.Conv2d(6, 5, 3, 1, 1), nn.ReLU(), nn.Conv2d(5, N_CLASSES, 3, 1, 1))


MODELS = {
    "bilinear": lambda: Dense(linear_head()),
    "nearest": lambda: Dense(linear_head(), upsample="nearest"),
    "convolutional": lambda: Dense(convolutional_head()),
    "softmax": lambda: Dense(linear_head(), lambda z: z.softmax(1)),
    "torchvision": lambda: Dense(linear_head(), lambda z: {"out": z, "aux": z + 1}),
    "logits": lambda: Dense(linear_head(), lambda z: {"loss": None, "logits": z}),
    "tuple": lambda: Dense(linear_head(), lambda z: (z.mean((2, 3)), z)),
    "one_class": lambda: Dense(nn.Conv2d(6, 1, 1)),
    "unet": UNet,
}


def built(name: str) -> nn.Module:
    torch.manual_seed(0)
    return MODELS[name]().eval()


def outputs(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        found = model(x)
    if isinstance(found, dict):
        return found.get("logits", found.get("out"))
    return found[1] if isinstance(found, tuple) else found


@pytest.fixture
def pictures() -> Tensor:
    return torch.randn(3, 1, 16, 24, generator=torch.Generator().manual_seed(1))


TARGETS = {
    "tuple": (0, 5, 7),
    "negative": (-1, -3, 2),
    "numpy": (np.int64(0), np.int64(5), np.int64(23)),
    "list": [(0, 5, 7), (0, 2, 3), (0, 5, 7)],
}


@pytest.mark.filterwarnings("ignore::captum_kmex.exceptions.ChosenLayersWarning")
@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
@pytest.mark.parametrize("name", MODELS)
def test_map_sums_to_the_output_that_captum_selects(name, target, pictures):
    model = built(name)
    expected = _select_targets(outputs(model, pictures), target)
    attribution = LayerKMeansAttribution(model, n_clusters=3)
    found = attribution.explain(pictures, target)
    torch.testing.assert_close(found.output, expected)
    assert found.delta.abs().max() < 1e-5
    assert found.head == ("linearised" if name == "softmax" else "exact")
    total = found.attribution.sum((1, 2, 3)) + found.bias
    if found.not_linear is not None:
        total = total + found.not_linear
    torch.testing.assert_close(total, expected, atol=1e-5, rtol=1e-4)
    maps, delta = attribution.attribute(pictures, target, return_convergence_delta=True)
    torch.testing.assert_close(maps, found.attribution)
    assert delta.abs().max() < 1e-5


def test_evidence_of_a_position_is_what_an_independent_sum_says(pictures):
    model = built("nearest")
    maps = ClassifierPrototypes(model).attribute(pictures, (2, 9, 14))
    with torch.no_grad():
        features = model.stage2(model.stage1(pictures))
    weight = model.head.weight[2, :, 0, 0].detach()
    expected = torch.zeros(3, 1, 4, 6)  # pixel (9, 14) is the nearest of cell (2, 3) alone
    expected[:, 0, 2, 3] = features[:, :, 2, 3] @ weight
    torch.testing.assert_close(maps, expected)


def test_list_of_positions_is_explained_like_each_alone(pictures):
    attribution = LayerKMeansAttribution(built("unet"), ["down2", "out.1"], n_clusters=3)
    targets = [(1, 2, 3), (0, 9, 9), (1, 2, 3)]
    together = attribution.explain(pictures, targets)
    for i, target in enumerate(targets):
        alone = attribution.explain(pictures[i : i + 1], target)
        torch.testing.assert_close(together.attribution[i], alone.attribution[0])
        rows, others = together.ledger[i], alone.ledger[0]
        assert [row.evidence for row in rows] == pytest.approx([row.evidence for row in others])
        assert together.target[i] == target[0]


def test_contrast_stands_at_the_position_of_the_target(pictures):
    model = built("bilinear")
    attribution = ClassifierPrototypes(model)
    expected = attribution.attribute(pictures, (3, 1, 2)) - attribution.attribute(
        pictures, (1, 1, 2)
    )
    for contrast in (1, (1, 1, 2), [1, 1, 1]):
        found = attribution.attribute(pictures, (3, 1, 2), contrast=contrast)
        torch.testing.assert_close(found, expected)
    with pytest.raises(TargetError, match="two classes at one position"):
        attribution.attribute(pictures, (3, 1, 2), contrast=(1, 5, 5))


def test_delta_is_computed_of_the_maps_of_positions(pictures):
    attribution = ClassifierPrototypes(built("bilinear"))
    targets = [(1, 2, 3), (0, 9, 9), (1, 4, 3)]
    maps = attribution.attribute(pictures, targets)
    delta = attribution.compute_convergence_delta(maps + 1, pictures, targets)
    torch.testing.assert_close(delta, torch.full((3,), float(maps[0].numel())), atol=1e-4, rtol=0)


def test_sequences_have_targets_of_two_indices(pictures):
    torch.manual_seed(0)
    model = Signals().eval()
    found = LayerKMeansAttribution(model, "net", n_clusters=3).explain(pictures, (1, 4))
    with torch.no_grad():
        torch.testing.assert_close(found.output, model(pictures)[:, 1, 4])
    assert found.head == "exact"
    assert found.delta.abs().max() < 1e-5


def test_evidence_of_a_position_is_measured(pictures):
    model = built("convolutional")
    attribution = LayerKMeansAttribution(model, ["stage1", "stage2"], n_clusters=3)
    found = attribution.explain(pictures[:1], (1, 4, 4), evidence=Measured(passes="half"))
    torch.testing.assert_close(found.output, outputs(model, pictures[:1])[:, 1, 4, 4])
    assert found.delta.abs().max() < 1e-4


SEVERAL = {
    "same_position": ([(1, 4, 4), (2, 4, 4)], None),
    "other_positions": ([(1, 4, 4), (2, 0, 3), (0, 4, 4)], None),
    "each_image": ([[(0, 5, 7), (0, 2, 3), (3, 5, 7)], (-1, -3, 2)], None),
    "contrasts": ([(1, 4, 4), (2, 0, 3), (1, 4, 4)], [2, (0, 0, 3), [0, 2, 3]]),
    "some_contrasts": (((1, 4, 4), (2, 0, 3)), (None, 1)),
}


@pytest.mark.parametrize("evidence", ["allocated", Measured(passes="half")])
@pytest.mark.parametrize(("targets", "contrasts"), SEVERAL.values(), ids=SEVERAL)
def test_each_of_several_targets_has_its_own_positions(targets, contrasts, evidence, pictures):
    attribution = LayerKMeansAttribution(built("convolutional"), ["stage1", "stage2"], n_clusters=3)
    found = attribution.explain_targets(pictures, targets, contrasts=contrasts, evidence=evidence)
    pairs = zip(targets, contrasts or [None] * len(targets), strict=True)
    for result, (target, contrast) in zip(found, pairs, strict=True):
        alone = attribution.explain(pictures, target, contrast=contrast, evidence=evidence)
        torch.testing.assert_close(result.attribution, alone.attribution)
        torch.testing.assert_close(result.output, alone.output)
        assert result.target.tolist() == alone.target.tolist()
        for rows, others in zip(result.ledger, alone.ledger, strict=True):
            assert [row.evidence for row in rows] == pytest.approx([row.evidence for row in others])


def test_targets_at_one_position_cost_one_pass(pictures):
    model = built("bilinear")
    attribution = LayerKMeansAttribution(model, ["stage1", "stage2"], n_clusters=3)
    attribution.explain(pictures, (0, 3, 3))  # finds the head
    runs = []
    model.stage2.register_forward_hook(lambda *_: runs.append(1))
    attribution.explain(pictures, (0, 3, 3))  # finds it again, for there is a hook
    runs.clear()
    attribution.explain_targets(pictures, [(0, 3, 3), (1, 3, 3), (2, 3, 3)])
    assert len(runs) == 1


WRONG_SEVERAL = {
    "class": ([(0, 1, 1), (1, 2, 2), (9, 2, 2)], r"targets\[2\] 9 is out of range for 4 logits"),
    "row": ([(0, 1, 1), (1, 16, 2)], r"\(class, 16, 2\) is outside the outputs"),
    "too_few": ([(0, 1, 1), [(0, 1, 1), (1, 1, 1)]], r"targets\[1\] must be one tuple or one for"),
    "no_position": ([(0, 1, 1), 2], "a map of outputs at one position"),
}


@pytest.mark.parametrize(("targets", "message"), WRONG_SEVERAL.values(), ids=WRONG_SEVERAL)
def test_which_of_several_targets_is_wrong_is_said(targets, message, pictures):
    attribution = LayerKMeansAttribution(built("bilinear"), ["stage1", "stage2"])
    with pytest.raises(ValueError, match=message):
        attribution.explain_targets(pictures, targets)


WRONG = {
    "none": (None, r"target=\(class, row, column\)"),
    "class": (2, r"a map of outputs at one position"),
    "pair": ((2, 1), r"2 indices in a tuple, but outputs \(3, 4, 16, 24\) need 3, the class first"),
    "four": ((2, 1, 1, 1), "4 indices in a tuple, but outputs"),
    "row": ((2, 16, 0), r"outside the outputs \(N, 4, 16, 24\)"),
    "no_class": ((4, 0, 0), "target 4 is out of range for 4 logits"),
    "too_few": ([(1, 2, 3), (1, 2, 3)], "one for each of 3 images; got 2"),
    "mixed": ([(1, 2, 3), 1, 2], "has 3 indices in a tuple|one position"),
}


@pytest.mark.parametrize(("target", "message"), WRONG.values(), ids=WRONG)
def test_targets_that_name_no_output_are_refused(target, message, pictures):
    attribution = LayerKMeansAttribution(built("bilinear"), ["stage1", "stage2"])
    with pytest.raises(ValueError, match=message):
        attribution.attribute(pictures, target)


WRONG_BY_NAME = {
    "target": ({"target": (2, 1)}, "^target has 2 indices"),
    "contrast": ({"target": 1, "contrast": (2, 1)}, "^contrast has 2 indices"),
    "contrasts_of_images": ({"target": 1, "contrast": [(2, 1)] * 3}, "^contrast has 2 indices"),
    "targets": ({"targets": [(0, 1, 1), (2, 1)]}, r"^targets\[1\] has 2 indices"),
    "contrasts": (
        {"targets": [(0, 1, 1), 0], "contrasts": [None, (2, 1)]},
        r"^contrasts\[1\] has 2 indices",
    ),
    "outside": ({"targets": [(0, 1, 1), (2, 99, 1)]}, r"^targets\[1\] \(class, 99, 1\) is outside"),
}


@pytest.mark.parametrize(("given", "message"), WRONG_BY_NAME.values(), ids=WRONG_BY_NAME)
def test_what_has_a_wrong_position_is_named(given, message, pictures):
    attribution = LayerKMeansAttribution(built("bilinear"), ["stage1", "stage2"])
    call = attribution.explain_targets if "targets" in given else attribution.explain
    with pytest.raises(ValueError, match=message):
        call(pictures, **given)


@pytest.mark.parametrize("is_explained_before", [False, True])
@pytest.mark.parametrize("name", ["bilinear", "softmax", "unet", "torchvision"])
def test_positions_are_explained_after_a_fit_without_labels(
    name, is_explained_before, pictures, tmp_path
):
    model = built(name)
    layers = ["down1", "down2"] if name == "unet" else ["stage1", "stage2"]
    attribution = LayerKMeansAttribution(model, layers, n_prototypes=4)
    if is_explained_before:
        attribution.explain(pictures, (1, 2, 3))
    attribution.fit([pictures], labels=None).save(tmp_path / "bank.safetensors")
    for fitted in (attribution, LayerKMeansAttribution.load(tmp_path / "bank.safetensors", model)):
        found = fitted.explain(pictures, (1, 2, 3))
        assert found.head == ("linearised" if name == "softmax" else "exact")
        assert found.delta.abs().max() < 1e-5
        assert found.prediction is None
        assert {row.class_index for rows in found.ledger for row in rows} == {None}
        assert all(row.representatives for rows in found.ledger for row in rows)
    assert "no logits" in repr(attribution.bank_)


def test_what_a_fit_without_logits_cannot_do_has_its_true_reason(pictures):
    model = built("softmax")
    attribution = LayerKMeansAttribution(model, ["stage1", "stage2"], n_prototypes=4)
    attribution.surrogate = "ridge"
    attribution.fit([pictures], labels=None)
    with pytest.raises(HeadNotFoundError, match="returned no logits in the fit, so the bank holds"):
        attribution.explain(pictures, (1, 2, 3))
    model.forward = lambda x: model.stage2(model.stage1(x)).mean((2, 3))
    with pytest.raises(ValueError, match="no logits in the fit, so its prototypes vote for no cl"):
        attribution.predict(pictures)


def test_pair_of_a_model_of_logits_is_refused_as_captum_does(images):
    with pytest.raises(AssertionError, match=r"logits \(N, J\) have one dimension of classes"):
        ClassifierPrototypes(make_net()).attribute(images, (1, 2))


def test_model_is_left_as_it_was(pictures):
    model = built("bilinear").train()
    parts = list(model.modules())
    with pytest.warns(UserWarning, match="training mode"):
        ClassifierPrototypes(model).attribute(pictures, (1, 2, 3))
    assert all(part.training for part in parts)
    assert list(model.modules()) == parts
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in parts)


def test_prepared_models_explain_positions_too(pictures):
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 3, 1)
    ).eval()
    plain = ClassifierPrototypes(model).attribute(pictures, (1, 2, 3))
    with pytest.raises(ValueError, match="one position"):
        ClassifierPrototypes(model).prepare().attribute(pictures)
    found = ClassifierPrototypes(model).prepare().attribute(pictures, (1, 2, 3))
    torch.testing.assert_close(found, plain)
