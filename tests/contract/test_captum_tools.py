from __future__ import annotations

import copy
import random

import matplotlib as mpl
import numpy as np
import pytest
import torch
from captum.attr import LayerAttribution, LayerGradCam, LayerGradientXActivation, NoiseTunnel
from captum.attr import visualization as viz
from captum.concept import TCAV
from captum.metrics import infidelity
from captum.metrics import sensitivity_max as captum_sensitivity_max
from matplotlib import pyplot as plt
from nets import LAYERS, make_net

from captum_kmex import ClassifierPrototypes, KMExAttribution, LayerKMeansAttribution
from captum_kmex.concepts import random_concept
from captum_kmex.metrics.surrogate_scores import sensitivity_max

mpl.use("Agg")
pytestmark = pytest.mark.filterwarnings("ignore:.*feature vectors a prototype")


@pytest.fixture(scope="module", params=["prototypes", "kmex", "kmeans", "kmeans-fitted"])
def made(request, drawn_images):
    net, loader = make_net(), [(drawn_images, torch.arange(12) % 3)]
    if request.param == "prototypes":
        return ClassifierPrototypes(net)
    if request.param == "kmex":
        return KMExAttribution(net, n_prototypes=2).fit(loader)
    layered = LayerKMeansAttribution(net, LAYERS, n_prototypes=2, n_clusters=3)
    return layered.fit(loader) if request.param == "kmeans-fitted" else layered


@pytest.fixture
def attribution(made):
    """A copy of one fit, with a net of its own."""
    return copy.deepcopy(made)


def test_noise_tunnel_without_noise_gives_the_plain_map(attribution, images):
    tunnel = NoiseTunnel(attribution)
    smooth = tunnel.attribute(images, nt_type="smoothgrad", nt_samples=3, stdevs=1e-9, target=1)
    torch.testing.assert_close(smooth, attribution.attribute(images, target=1), atol=1e-5, rtol=0)


def test_noise_tunnel_with_no_spread_at_all_gives_the_plain_map(attribution, images):
    tunnel = NoiseTunnel(attribution)
    smooth = tunnel.attribute(images, nt_type="smoothgrad", nt_samples=3, stdevs=0.0, target=1)
    torch.testing.assert_close(smooth, attribution.attribute(images, target=1))


@pytest.mark.parametrize("kind", ["smoothgrad", "smoothgrad_sq", "vargrad"])
def test_noise_tunnel_takes_every_kind_and_target_form(attribution, images, labels, kind):
    tunnel = NoiseTunnel(attribution)
    maps = tunnel.attribute(images, nt_type=kind, nt_samples=3, stdevs=0.05, target=labels)
    assert maps.shape == attribution.attribute(images).shape
    assert torch.isfinite(maps).all()


def test_noise_tunnel_averages_the_maps_of_the_noisy_images(images):
    attribution = ClassifierPrototypes(make_net())
    torch.manual_seed(0)
    smooth = NoiseTunnel(attribution).attribute(images[:2], nt_samples=4, stdevs=0.1, target=0)
    torch.manual_seed(0)
    noisy = torch.normal(images[:2].repeat_interleave(4, 0), 0.1)
    expected = attribution.attribute(noisy, target=0).unflatten(0, (2, 4)).mean(1)
    torch.testing.assert_close(smooth, expected)


def test_interpolate_takes_the_map(attribution, images):
    maps = attribution.attribute(images)
    assert LayerAttribution.interpolate(maps, (16, 16), "bilinear").shape == (12, 1, 16, 16)


@pytest.mark.parametrize(
    "method", ["heat_map", "blended_heat_map", "masked_image", "alpha_scaling"]
)
def test_visualisers_take_the_map_at_the_size_of_the_input(attribution, images, method):
    maps = attribution.attribute(images, upsample="input")
    values = maps[0].permute(1, 2, 0).numpy()
    picture = images[0].permute(1, 2, 0).expand(-1, -1, 3).numpy().clip(0, 1)
    sign = "positive" if method in ("masked_image", "alpha_scaling") else "all"
    values = np.abs(values) if sign == "positive" else values
    figure, _ = viz.visualize_image_attr(values, picture, method, sign, use_pyplot=False)
    assert figure.axes[0].images
    figure, axes = viz.visualize_image_attr_multiple(
        values, picture, ["original_image", method], ["all", sign], use_pyplot=False
    )
    assert len(axes) == 2
    plt.close("all")


def test_input_shaped_map_sums_over_channels_to_the_map(images):
    net = make_net(channels=3)
    x = images.expand(-1, 3, -1, -1)
    attribution = ClassifierPrototypes(net)
    maps = attribution.attribute(x, upsample="input")
    assert maps.shape == x.shape
    torch.testing.assert_close(
        maps.sum((1, 2, 3)), attribution.attribute(x).sum((1, 2, 3)), atol=1e-5, rtol=0
    )


def test_infidelity_takes_the_input_shaped_map(attribution, images):
    maps = attribution.attribute(images, target=0, upsample="input")

    def perturb(x):
        noise = 0.01 * torch.ones_like(x)
        return noise, x - noise

    scores = infidelity(attribution.model, perturb, images, maps, target=0, n_perturb_samples=2)
    assert scores.shape == (12,)
    # by the definition: (<noise, map> - (f(x) - f(x - noise)))^2
    with torch.no_grad():
        drop = (attribution.model(images) - attribution.model(images - 0.01))[:, 0]
    expected = (0.01 * maps.flatten(1).sum(1) - drop).square()
    torch.testing.assert_close(scores, expected, atol=1e-6, rtol=1e-3)


def test_sensitivity_is_zero_without_perturbation(attribution, images):
    scores = sensitivity_max(attribution, images, perturb_func=lambda x: x, n_perturb_samples=2)
    torch.testing.assert_close(scores, torch.zeros(12), atol=1e-5, rtol=0)


def test_sensitivity_is_the_largest_relative_change(images):
    attribution = ClassifierPrototypes(make_net())
    scores = sensitivity_max(attribution, images, perturb_func=lambda x: 1.5 * x)
    target = attribution.model(images).argmax(1)
    plain = attribution.attribute(images, target=target)
    change = attribution.attribute(1.5 * images, target=target) - plain
    expected = change.flatten(1).norm(dim=1) / plain.flatten(1).norm(dim=1)
    torch.testing.assert_close(scores, expected)


def test_sensitivity_settles_the_target_on_the_clean_images(images):
    attribution = ClassifierPrototypes(make_net())
    by_default = sensitivity_max(attribution, images, perturb_func=lambda x: -3 * x)
    target = attribution.model(images).argmax(1)
    given = sensitivity_max(attribution, images, target=target, perturb_func=lambda x: -3 * x)
    torch.testing.assert_close(by_default, given)


def test_sensitivity_is_finite_and_one_number_an_image(attribution, images):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        scores = sensitivity_max(attribution, images, n_perturb_samples=3)
    assert scores.shape == (12,)
    assert torch.isfinite(scores).all()
    assert (scores >= 0).all()
    assert scores.max() > 0


def test_sensitivity_of_one_image_does_not_depend_on_its_batch(images):
    attribution = ClassifierPrototypes(make_net())
    options = {"target": 0, "perturb_func": lambda x: 1.5 * x}
    together = sensitivity_max(attribution, images, **options)
    alone = torch.cat([sensitivity_max(attribution, x[None], **options) for x in images])
    torch.testing.assert_close(together, alone)


def test_captums_own_sensitivity_is_wrong_on_a_layer_map(images):
    """Captum iterates over the tensor as over a tuple: one norm over all images, repeated.

    When this fails, Captum has been mended and the adapter can go.
    """
    attribution = ClassifierPrototypes(make_net())
    options = {"target": 0, "perturb_func": lambda x: 1.5 * x}
    ours = sensitivity_max(attribution, images, **options)
    try:
        theirs = captum_sensitivity_max(attribution.attribute, images, **options)
    except (AssertionError, RuntimeError, IndexError):
        return
    assert theirs.shape != ours.shape or not torch.allclose(theirs, ours)


@pytest.mark.parametrize("target", [0, 2])
def test_grad_cam_at_the_tap_is_the_same_map(images, target):
    """LayerGradCam weights channels by the mean gradient c_j / HW: it sums to logit - bias too."""
    net = make_net()
    cam = LayerGradCam(net, net.stage3).attribute(images, target=target)
    ours = ClassifierPrototypes(net).attribute(images, target=target)
    torch.testing.assert_close(cam.detach(), ours)


def test_grad_cam_without_relu_is_the_alignment_up_to_a_positive_factor(images):
    """The CAM identity: alignment divides <h_p, c_j> by |c_j|^2, Grad-CAM by HW."""
    net = make_net()
    cam = LayerGradCam(net, net.stage3).attribute(images, target=1, relu_attributions=False)
    alignment = ClassifierPrototypes(net).attribute(images, target=1, units="alignment")
    factor = net.head.weight[1].square().sum().detach() / cam[0].numel()
    torch.testing.assert_close(cam.detach(), factor * alignment)


def test_per_channel_map_is_gradient_times_activation(images):
    net = make_net()
    theirs = LayerGradientXActivation(net, net.stage3).attribute(images, target=1)
    ours = ClassifierPrototypes(net).attribute(images, target=1, per_channel=True)
    torch.testing.assert_close(ours, theirs.detach())


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_tcav_reads_the_tap_without_gradients(images, tmp_path):
    net = make_net()
    concepts = [random_concept(images, 8, concept_id=i, seed=i) for i in range(2)]

    def scores(name, **options):
        path, kwargs = str(tmp_path / name), options.pop("interpret", {})
        # Captum's classifier draws from all three
        random.seed(0)
        np.random.seed(0)  # noqa: NPY002
        torch.manual_seed(0)
        tcav = TCAV(net, ["stage3"], model_id=name, save_path=path, **options)
        found = tcav.interpret(images, [concepts], target=1, **kwargs)
        return next(iter(found.values()))["stage3"]

    # TCAV's own default leaves the activation out; the map's channels are the product
    by_gradient = scores("gradient", layer_attr_method=LayerGradientXActivation(net, None))
    ours = ClassifierPrototypes(net, "stage3")
    by_columns = scores("columns", layer_attr_method=ours, interpret={"per_channel": True})
    for name in ("sign_count", "magnitude"):
        torch.testing.assert_close(by_columns[name], by_gradient[name].detach())
