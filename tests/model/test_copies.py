"""Models whose weights are computed from parameters are copied, prepared and deployed rightly."""

from __future__ import annotations

import pytest
import torch
from nets import make_net
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune, spectral_norm, weight_norm

from captum_kmex import ClassifierPrototypes, LayerKMeansAttribution
from captum_kmex.model.copies import copied
from captum_kmex.model.prepared import prepared_copy

NAMES = ["1", "3", "5"]


class Net(nn.Sequential):
    """Convolutions with batch norms after them, which a prepared copy folds."""

    def __init__(self) -> None:
        super().__init__(
            nn.Sequential(nn.Conv2d(1, 4, 3, 1, 1), nn.BatchNorm2d(4)),
            nn.ReLU(),
            nn.Sequential(nn.Conv2d(4, 6, 3, 2, 1, bias=False), nn.BatchNorm2d(6)),
            nn.ReLU(),
            nn.Sequential(nn.Conv2d(6, 8, 3, 2, 1), nn.BatchNorm2d(8)),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(8, 3),
        )
        for norm in (module for module in self.modules() if isinstance(module, nn.BatchNorm2d)):
            nn.init.uniform_(norm.weight, 0.5, 2)
            nn.init.uniform_(norm.running_var, 0.5, 2)
            nn.init.normal_(norm.running_mean)
            nn.init.normal_(norm.bias)


class Doubled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


def parts(net: nn.Module, kind: type[nn.Module]) -> list[nn.Module]:
    return [module for module in net.modules() if isinstance(module, kind)]


def kept_activations(net: Net) -> None:
    """Keep the last activations, alone and in containers, as many own layers do."""

    def keep(module: nn.Module, args: object, output: Tensor) -> None:
        module.last, module.all = output, {"x": [output, (output * 2,)]}

    net[2].register_forward_hook(keep)


KINDS = {
    "pruned": lambda n: [prune.l1_unstructured(c, "weight", 0.5) for c in parts(n, nn.Conv2d)],
    "pruned_one": lambda n: prune.random_unstructured(n[2][0], "weight", 0.5),
    "pruned_twice": lambda n: [prune.l1_unstructured(n[2][0], "weight", 0.3) for _ in range(2)],
    "pruned_structure": lambda n: prune.ln_structured(n[0][0], "weight", 0.5, n=2, dim=0),
    "pruned_bias": lambda n: prune.random_unstructured(n[4][0], "bias", 0.5),
    "pruned_norm": lambda n: prune.l1_unstructured(n[4][1], "weight", 0.5),
    "pruned_head": lambda n: prune.l1_unstructured(n[8], "weight", 0.5),
    "pruned_globally": lambda n: prune.global_unstructured(
        [(c, "weight") for c in parts(n, nn.Conv2d)], prune.L1Unstructured, amount=0.4
    ),
    "weight_norm": lambda n: [weight_norm(c) for c in parts(n, (nn.Conv2d, nn.Linear))],
    "spectral_norm": lambda n: [spectral_norm(c) for c in parts(n, (nn.Conv2d, nn.Linear))],
    "new_weight_norm": lambda n: [parametrizations.weight_norm(c) for c in parts(n, nn.Conv2d)],
    "new_spectral_norm": lambda n: [parametrizations.spectral_norm(c) for c in parts(n, nn.Conv2d)],
    "parametrized": lambda n: parametrize.register_parametrization(n[2][0], "weight", Doubled()),
    "parametrized_norm": lambda n: parametrize.register_parametrization(n[2][1], "bias", Doubled()),
    "kept_activations": kept_activations,
    "plain": lambda net: None,
}


@pytest.fixture
def images(images) -> Tensor:
    return images[:4]


@pytest.fixture(params=KINDS)
def net(request, images) -> Net:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = Net()
        KINDS[request.param](made)
    made.eval()
    made(images).sum()  # with gradients, so that computed weights are no leaves
    return made


def test_copy_is_equal_and_apart(net, images):
    twin = copied(net)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    assert torch.equal(twin(images), net(images))
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.mul_(3)
    assert not torch.allclose(twin(images), net(images))
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, before[name])


@pytest.mark.slow
def test_prepared_explanations_are_those_of_the_model(net, images):
    for make in (
        lambda: ClassifierPrototypes(net),
        lambda: LayerKMeansAttribution(net, NAMES, n_clusters=2),
    ):
        plain, prepared = make(), make().prepare()
        maps, delta = prepared.attribute(images, return_convergence_delta=True)
        torch.testing.assert_close(maps, plain.attribute(images), atol=1e-5, rtol=1e-4)
        assert delta.abs().max() < 1e-4
    logits = prepared.explain(images).logits
    torch.testing.assert_close(logits, net(images).detach(), atol=1e-5, rtol=1e-4)


def test_prepared_copy_follows_the_parameters(net, images):
    prepared = ClassifierPrototypes(net).prepare()
    prepared.attribute(images)
    with torch.no_grad():
        for parameter in net[2][0].parameters():
            parameter.mul_(1.5)
    net(images)
    expected = ClassifierPrototypes(net).attribute(images)
    torch.testing.assert_close(prepared.attribute(images), expected, atol=1e-5, rtol=1e-4)


def test_only_untouched_pairs_are_folded(images):
    net = Net().eval()
    prune.l1_unstructured(net[0][0], "weight", 0.5)
    prune.l1_unstructured(net[2][1], "weight", 0.5)
    twin = prepared_copy(net)
    is_folded = [type(twin[i][1]) is not nn.BatchNorm2d for i in (0, 2, 4)]
    assert is_folded == [False, False, True]
    torch.testing.assert_close(twin(images), net(images), atol=1e-5, rtol=1e-4)


def test_changed_masks_are_seen(images):
    net = Net().eval()
    prune.identity(net[2][0], "weight")
    prepared = ClassifierPrototypes(net).prepare()
    before = prepared.attribute(images)
    net[2][0].weight_mask.mul_(0.5)  # all of it: a single channel may be dead
    net(images)
    after = prepared.attribute(images)
    assert not torch.allclose(before, after)
    expected = ClassifierPrototypes(net).attribute(images)
    torch.testing.assert_close(after, expected, atol=1e-5, rtol=1e-4)


def test_modules_of_them_explain_as_they_do(net, images):
    attr = ClassifierPrototypes(net)
    found = attr.as_module(images)(images)
    torch.testing.assert_close(found["attribution"], attr.attribute(images), atol=1e-5, rtol=1e-4)


def test_a_train_of_its_own_prepares_the_copy_and_not_the_model(images):
    class Merged(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.scale, self.is_merged = make_net(), nn.Parameter(torch.ones(())), False

        def train(self, mode=True):  # returns nothing
            super().train(mode)
            self.is_merged = not mode

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x) if self.is_merged else self.net(x) * torch.rand(())

    model = Merged()
    attr = ClassifierPrototypes(model)
    model.train(True)
    with pytest.warns(UserWarning, match="training mode"):
        attr.prepare().attribute(images)
    with pytest.warns(UserWarning, match="training mode"):
        module = attr.as_module(images)
    assert model.training
    assert not model.is_merged
    assert module.reader.model.is_merged
