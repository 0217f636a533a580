"""Eq. 5 as an identity, and Captum's contract around it."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from captum.attr import LayerAttribution, NoiseTunnel
from nets import make_net
from torch import nn

from captum_kmex import ClassifierPrototypes, KMExAttribution, NotFittedError
from captum_kmex.exceptions import TargetError


@pytest.fixture
def attr(net) -> ClassifierPrototypes:
    return ClassifierPrototypes(net)


@pytest.fixture
def awkward() -> torch.Tensor:
    return torch.rand(2, 1, 33, 47, generator=torch.Generator().manual_seed(5))


def logits_of(net, x) -> torch.Tensor:
    with torch.no_grad():
        return net(x)


@pytest.mark.parametrize("target", range(3))
def test_map_sums_to_logit_minus_bias(net, attr, images, target):
    maps = attr.attribute(images, target=target)
    expected = logits_of(net, images)[:, target] - net.head.bias[target].detach()
    assert torch.allclose(maps.sum((1, 2, 3)), expected, atol=1e-6)


def test_map_sums_to_logit_minus_bias_at_awkward_size(net, attr, awkward):
    maps, delta = attr.attribute(awkward, return_convergence_delta=True)
    assert maps.shape == (2, 1, 9, 12)
    assert delta.abs().max() < 1e-4 * logits_of(net, awkward).abs().max()


def test_map_sums_to_logit_minus_bias_in_float64(images):
    net = make_net().double()
    maps, delta = ClassifierPrototypes(net).attribute(
        images.double(), return_convergence_delta=True
    )
    assert maps.dtype == torch.float64
    assert delta.abs().max() < 1e-13


def test_map_equals_loop_over_pixels(net, attr, images):
    maps = attr.attribute(images[:1], target=1)[0, 0]
    with torch.no_grad():
        features = net.stage3(net.stage2(net.stage1(images[:1])))[0]
    column = net.head.weight[1].detach().numpy()
    for y in range(4):
        for x in range(4):
            expected = np.dot(features[:, y, x].numpy(), column) / 16
            assert maps[y, x].item() == pytest.approx(expected, abs=1e-6)


def test_cnn_is_a_prototype_model(net, attr, images):
    """Eq. 5: the prototypes score the pooled map exactly as the model does, bias apart."""
    attr.attribute(images)
    with torch.no_grad():
        pooled = net.stage3(net.stage2(net.stage1(images))).mean((2, 3))
    ours = pooled @ attr.prototypes.T + net.head.bias.detach()
    assert torch.allclose(ours, logits_of(net, images), atol=1e-6)
    assert torch.equal(ours.argmax(1), logits_of(net, images).argmax(1))


def test_alignment_is_one_where_map_equals_column():
    columns = torch.rand(4, 6, generator=torch.Generator().manual_seed(0))
    model = nn.Sequential(
        nn.Conv2d(6, 6, 1, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)
    ).eval()
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(6)[:, :, None, None])  # the tap is the input
        model[3].weight.copy_(columns)
    x = columns[:, :, None, None].expand(-1, -1, 3, 5)
    maps = ClassifierPrototypes(model).attribute(x, target=[0, 1, 2, 3], units="alignment")
    assert torch.allclose(maps, torch.ones(4, 1, 3, 5), atol=1e-6)


def test_alignment_is_logit_map_over_squared_norm_of_column(net, attr, images):
    logit = attr.attribute(images, target=2)
    alignment = attr.attribute(images, target=2, units="alignment")
    norm = net.head.weight[2].detach().square().sum()
    assert torch.allclose(alignment * norm / 16, logit, atol=1e-6)


def test_default_target_is_argmax(net, attr, images):
    found = attr.attribute(images)
    explicit = attr.attribute(images, target=logits_of(net, images).argmax(1))
    assert torch.equal(found, explicit)


def test_targets_may_differ_by_image(attr, images, labels):
    together = attr.attribute(images, target=labels)
    for i in range(3):
        single = attr.attribute(images, target=int(labels[i]))[i]
        assert torch.equal(together[i], single)


def test_negative_target_counts_from_the_end(attr, images):
    assert torch.equal(attr.attribute(images, target=-1), attr.attribute(images, target=2))


def test_contrast_is_difference_of_two_maps(attr, images):
    found = attr.attribute(images, target=0, contrast=2)
    expected = attr.attribute(images, target=0) - attr.attribute(images, target=2)
    assert torch.allclose(found, expected, atol=1e-6)


def test_contrast_sums_to_difference_of_logits(net, attr, images):
    maps, delta = attr.attribute(images, target=0, contrast=2, return_convergence_delta=True)
    logits, bias = logits_of(net, images), net.head.bias.detach()
    expected = logits[:, 0] - logits[:, 2] - (bias[0] - bias[2])
    assert torch.allclose(maps.sum((1, 2, 3)), expected, atol=1e-6)
    assert delta.abs().max() < 1e-6


def test_batch_equals_images_one_by_one(attr, images):
    maps = attr.attribute(images, target=1)
    for i in range(len(images)):
        assert torch.allclose(attr.attribute(images[i : i + 1], target=1)[0], maps[i], atol=1e-6)


def test_permuted_batch_permutes_maps(attr, images):
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    maps = attr.attribute(images, target=1)
    assert torch.allclose(attr.attribute(images[order], target=1), maps[order], atol=1e-6)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(16, 16), (33, 47)], ids=["even", "awkward"])
def test_upsampled_map_has_shape_and_sum(channels, size):
    net = make_net(channels=channels)
    x = torch.rand(2, channels, *size, generator=torch.Generator().manual_seed(0))
    maps, delta = ClassifierPrototypes(net).attribute(
        x, upsample="input", return_convergence_delta=True
    )
    assert maps.shape == x.shape
    assert maps.is_contiguous()
    assert delta.abs().max() < 1e-5


def test_maps_by_channel_add_up_to_map(attr, images):
    parts = attr.attribute(images, target=0, per_channel=True)
    assert parts.shape == (12, 8, 4, 4)
    summed = parts.sum(1, keepdim=True)
    assert torch.allclose(summed, attr.attribute(images, target=0), atol=1e-6)


def test_maps_by_channel_contrast(attr, images):
    parts = attr.attribute(images, target=0, contrast=1, per_channel=True)
    expected = attr.attribute(images, target=0, contrast=1)
    assert torch.allclose(parts.sum(1, keepdim=True), expected, atol=1e-6)


def test_delta_of_own_map_is_zero(attr, images):
    maps = attr.attribute(images, target=1)
    assert attr.compute_convergence_delta(maps, images, target=1).abs().max() < 1e-6


def test_delta_shows_what_a_map_misses(attr, images):
    maps = attr.attribute(images, target=1, contrast=0) + 1 / 16
    delta = attr.compute_convergence_delta(maps, images, target=1, contrast=0)
    assert torch.allclose(delta, torch.ones(12), atol=1e-5)


@pytest.mark.parametrize("layer", ["stage3", "stage3.1"], ids=["container", "relu"])
def test_layer_given_by_name_or_module_gives_same_map(net, images, layer):
    expected = ClassifierPrototypes(net).attribute(images, target=0)
    by_name = ClassifierPrototypes(net, layer).attribute(images, target=0)
    by_module = ClassifierPrototypes(net, net.get_submodule(layer)).attribute(images, target=0)
    assert torch.equal(by_name, expected)
    assert torch.equal(by_module, expected)


def test_layer_input_gives_same_map_as_output_before(net, images):
    at_input = ClassifierPrototypes(net, "pool").attribute(
        images, target=0, attribute_to_layer_input=True
    )
    assert torch.equal(at_input, ClassifierPrototypes(net).attribute(images, target=0))


def test_layer_input_without_layer_raises(attr, images):
    with pytest.raises(ValueError, match="attribute_to_layer_input=True needs layer="):
        attr.attribute(images, attribute_to_layer_input=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"units": "logits"}, "units='logits' is unknown"),
        ({"upsample": "image"}, "upsample='image' is unknown"),
        ({"units": "alignment", "contrast": 1}, "contrast needs units='logit'"),
        ({"units": "alignment", "per_channel": True}, "per_channel=True needs units='logit'"),
        (
            {"units": "alignment", "return_convergence_delta": True},
            "return_convergence_delta needs units='logit'",
        ),
        ({"target": 3}, "target 3 is out of range for 3 logits"),
        ({"target": 0, "contrast": 7}, "contrast 7 is out of range for 3 logits"),
    ],
    ids=["units", "upsample", "contrast", "channels", "delta", "target", "contrast_range"],
)
def test_attribute_raises_for_bad_options(attr, images, options, message):
    with pytest.raises(ValueError, match=message):
        attr.attribute(images, **options)


def test_bad_target_is_a_target_error(attr, images):
    with pytest.raises(TargetError, match="must be one class or one for each of 12 images"):
        attr.attribute(images, target=[0, 1])


@pytest.mark.parametrize(
    ("inputs", "error", "message"),
    [
        (np.zeros((1, 1, 8, 8)), TypeError, r"tensor or a tuple of tensors; got \['ndarray'\]"),
        ((), TypeError, r"got \[\]"),
        (torch.rand(1, 8, 8), ValueError, r"add the batch dimension: x.unsqueeze\(0\)"),
        (torch.rand(0, 1, 8, 8), ValueError, r"must be images .*got \(0, 1, 8, 8\)"),
        (torch.ones(1, 1, 8, 8, dtype=torch.uint8), ValueError, "floating point.*torch.uint8"),
    ],
    ids=["numpy", "nothing", "one_image", "empty", "bytes"],
)
def test_attribute_raises_for_bad_inputs(attr, inputs, error, message):
    with pytest.raises(error, match=message):
        attr.attribute(inputs)


def test_function_needs_to_return_logits(images):
    with pytest.raises(ValueError, match=r"must return logits \(N, J\) for 12 images; got"):
        ClassifierPrototypes(lambda x: x).attribute(images)


def test_prototypes_before_first_pass_raise(attr):
    with pytest.raises(NotFittedError, match=r"call attribute\(x\) once before"):
        _ = attr.prototypes


def test_constructor_does_not_run_the_model():
    class Explosive(nn.Module):
        def forward(self, x):
            raise AssertionError("ran")

    assert ClassifierPrototypes(Explosive()).get_name() == "ClassifierPrototypes"


def test_map_is_detached_and_keeps_grad_mode(attr, images):
    maps = attr.attribute(images.requires_grad_())
    assert not maps.requires_grad
    assert maps.is_contiguous()
    assert torch.is_grad_enabled()


def test_inference_mode_gives_same_map(attr, images):
    expected = attr.attribute(images, target=0)
    with torch.inference_mode():
        assert torch.equal(attr.attribute(images, target=0), expected)


def test_interpolate_of_captum_takes_the_map(attr, images):
    maps = attr.attribute(images)
    assert LayerAttribution.interpolate(maps, (16, 16)).shape == (12, 1, 16, 16)


def test_noise_tunnel_without_noise_gives_the_map(attr, images):
    tunnel = NoiseTunnel(attr)
    found = tunnel.attribute(images, nt_samples=2, stdevs=0.0, target=1)
    assert torch.allclose(found, attr.attribute(images, target=1), atol=1e-6)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda a: pickle.loads(pickle.dumps(a))])
def test_copy_gives_same_map(attr, images, duplicate):
    expected = attr.attribute(images, target=0)
    assert torch.equal(duplicate(attr).attribute(images, target=0), expected)


def test_data_parallel_and_plain_model_agree(net, attr, images):
    wrapped = ClassifierPrototypes(nn.DataParallel(net), "module.stage3")
    assert torch.equal(wrapped.attribute(images, target=0), attr.attribute(images, target=0))


def test_alignment_of_loader_equals_loop(net, attr, images, labels):
    found = attr.alignment([(images[:5], labels[:5]), (images[5:], labels[5:])])
    with torch.no_grad():
        pooled = net.stage3(net.stage2(net.stage1(images))).mean((2, 3))
    cosines = torch.cosine_similarity(pooled[:, None], net.head.weight.detach()[None], dim=2)
    own = cosines.gather(1, labels[:, None]).squeeze(1)
    assert found.class_cosine == pytest.approx(float(own.mean()), abs=1e-6)
    others = (cosines.sum(1) - own) / 2
    assert found.out_cosine == pytest.approx(float(others.mean()), abs=1e-6)
    assert found.n_images == 12


@pytest.mark.parametrize(
    ("loader", "message"),
    [
        ([], "the loader yielded no batch"),
        ([torch.rand(2, 1, 16, 16)], "yields no labels"),
        ([(torch.rand(2, 1, 16, 16), torch.tensor([0, 3]))], "label 3 is out of range"),
    ],
    ids=["empty", "unlabelled", "out_of_range"],
)
def test_alignment_raises_for_bad_loader(attr, loader, message):
    with pytest.raises(ValueError, match=message):
        attr.alignment(loader)


def test_alignment_leaves_global_rng_untouched(attr, images, labels):
    dataset = torch.utils.data.TensorDataset(images, labels)
    loader = torch.utils.data.DataLoader(dataset, batch_size=4, shuffle=True)
    before = torch.get_rng_state()
    attr.alignment(loader)
    assert torch.equal(torch.get_rng_state(), before)


def test_delta_of_map_at_layer_input_is_zero(net, images):
    attr = ClassifierPrototypes(net, "pool")
    maps = attr.attribute(images, target=0, attribute_to_layer_input=True)
    assert attr.compute_convergence_delta(maps, images, target=0).abs().max() < 1e-6


def test_kmex_pools_the_same_tap(images, labels):
    net = make_net()
    kmex = KMExAttribution(net, n_prototypes=1).fit([(images, labels)])
    assert kmex.attribute(images).shape == ClassifierPrototypes(net).attribute(images).shape
