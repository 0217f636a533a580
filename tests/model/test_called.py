"""A function that calls a model is explained like the model."""

from __future__ import annotations

import functools

import pytest
import torch
from nets import LAYERS, make_net
from torch import Tensor, nn

from captum_kmex import ClassifierPrototypes, KMExAttribution, LayerKMeansAttribution
from captum_kmex.exceptions import TrainModeWarning

NET = make_net()  # known by a global name


class Holder:
    def __init__(self) -> None:
        self.net = make_net()

    def __call__(self, x: Tensor) -> Tensor:
        return self.net(x)


class Wrapper(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = make_net()

    def scores(self, x: Tensor) -> Tensor:
        return self.net(x)


def closure():
    net = make_net()
    return lambda x: net(x), net


def partial():
    net = make_net()
    return functools.partial(lambda model, x: model(x), net), net


def method():
    wrapper = Wrapper().eval()
    return wrapper.scores, wrapper.net


def held():
    holder = Holder()
    return holder, holder.net


def hidden():
    nets = [make_net()]
    return lambda x: nets[0](x), nets[0]


FUNCTIONS = {
    "closure": closure,
    "global": lambda: (lambda x: NET(x), NET),
    "partial": partial,
    "method": method,
    "object": held,
    "hidden": hidden,
}
functions = pytest.mark.parametrize("make", FUNCTIONS.values(), ids=FUNCTIONS)


@functools.cache
def expected() -> LayerKMeansAttribution:
    return LayerKMeansAttribution(make_net(), LAYERS, n_clusters=3)


@functions
def test_function_is_explained_like_the_model_that_it_calls(make, images):
    function, net = make()
    layers = [net.stage1, net.stage2, net.stage3]
    attribution = LayerKMeansAttribution(function, layers, n_clusters=3)
    for _ in range(2):
        torch.testing.assert_close(
            attribution.attribute(images, 1), expected().attribute(images, 1)
        )
    _, delta = attribution.attribute(images, 1, return_convergence_delta=True)
    assert delta.abs().max() < 1e-5
    assert attribution.forward_func is function


@functions
def test_function_is_fitted_like_the_model_that_it_calls(make, images, labels):
    function, net = make()
    ours = KMExAttribution(function, net.stage3, n_prototypes=1).fit([(images, labels)])
    theirs = KMExAttribution(make_net(), "stage3", n_prototypes=1).fit([(images, labels)])
    torch.testing.assert_close(ours.attribute(images, 1), theirs.attribute(images, 1))


def test_modules_of_a_function_are_known_by_their_names(images):
    net = make_net()
    attribution = LayerKMeansAttribution(lambda x: 2 * net(x), ["net.stage2", "net.stage3"])
    assert attribution.layer_names == ("net.stage2", "net.stage3")
    _, delta = attribution.attribute(images, 1, return_convergence_delta=True)
    assert delta.abs().max() < 1e-5
    maps = ClassifierPrototypes(lambda x: 2 * net(x)).attribute(images, 1)
    torch.testing.assert_close(maps, 2 * ClassifierPrototypes(net).attribute(images, 1))


def test_mode_of_the_modules_is_theirs(images):
    net = make_net().train()
    attribution = LayerKMeansAttribution(lambda x: net(x), [net.stage3], n_clusters=3)
    with pytest.warns(TrainModeWarning):
        attribution.attribute(images, 1)
    assert all(module.training for module in net.modules())
    net.eval()
    attribution.attribute(images, 1)


def test_function_is_not_copied(images):
    net = make_net()
    attribution = ClassifierPrototypes(lambda x: net(x))
    for call in (attribution.prepare, lambda: attribution.as_module(images)):
        with pytest.raises(TypeError, match="go on calling the original's modules"):
            call()


@pytest.mark.parametrize("wrong", [nn.Linear, {"a": 1}, "resnet18", 3], ids=repr)
def test_what_is_no_function_is_refused(wrong):
    with pytest.raises(TypeError, match=r"torch\.nn\.Module"):
        LayerKMeansAttribution(wrong, ["layer"])
