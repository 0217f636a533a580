import numpy as np
import pytest
import torch

from benchmarks.methods.flint import Flint
from benchmarks.methods.systems.flint import Budget, Interpreter, loss_terms, stacked, train
from benchmarks.methods.systems.tiny_task import tiny_task
from benchmarks.quality.method import UnavailableError

_SMALL = Budget(attributes=5, grid=4, epochs=6, batch_size=16)


def _net() -> Interpreter:
    torch.manual_seed(0)
    return Interpreter(7, (3, 10, 9), 3, _SMALL).eval()


def test_loss_terms_are_those_of_numpy() -> None:
    net, generator = _net(), torch.Generator().manual_seed(1)
    maps = torch.rand(6, 7, 4, 4, generator=generator)
    images = torch.randn(6, 3, 10, 9, generator=generator)
    logits = torch.randn(6, 3, generator=generator)
    with torch.no_grad():
        terms = loss_terms(net, maps, images, logits)
        a, own = net.attributes(maps), net(maps)
        decoded = net.decoder(a)
    a, own, theirs = (x.double().numpy() for x in (a, own, logits))
    p, q = (np.exp(x) / np.exp(x).sum(1, keepdims=True) for x in (theirs, own))
    assert float(terms.fidelity) == pytest.approx(-(p * np.log(q)).sum(1).mean(), rel=1e-5)
    assert float(terms.sparsity) == pytest.approx(np.abs(a).mean(), rel=1e-5)
    assert float(terms.reconstruction) == pytest.approx(float((decoded - images).square().mean()))
    s = a / a.sum(1, keepdims=True)
    each = -(s * np.log(np.maximum(s, 1e-12))).sum(1).mean()
    mean = s.mean(0)
    even = -(mean * np.log(np.maximum(mean, 1e-12))).sum()
    assert float(terms.entropy) == pytest.approx(each - even, abs=1e-5)


def test_entropy_is_least_where_every_image_has_one_attribute_of_its_own() -> None:
    net = _net()
    net.attributes = torch.nn.Flatten()
    net.decoder = torch.nn.Sequential(torch.nn.Linear(3, 1), torch.nn.Unflatten(1, (1, 1, 1)))
    net.head = torch.nn.Linear(3, 3)
    images, logits = torch.zeros(3, 1, 1, 1), torch.zeros(3, 3)
    own = loss_terms(net, torch.eye(3)[..., None, None], images, logits).entropy
    shared = loss_terms(net, torch.ones(3, 3, 1, 1), images, logits).entropy
    assert float(own) == pytest.approx(-np.log(3), rel=1e-5)
    assert float(shared) == pytest.approx(0, abs=1e-6)


def test_maps_are_pooled_or_resized_to_one_grid() -> None:
    large, small = torch.rand(2, 3, 8, 8), torch.rand(2, 4, 2, 2)
    found = stacked([large, small], 4)
    assert found.shape == (2, 7, 4, 4)
    torch.testing.assert_close(
        found[:, :3], large.unflatten(3, (4, 2)).mean(4).unflatten(2, (4, 2)).mean(3)
    )
    torch.testing.assert_close(found[:, 3:].mean((2, 3)), small.mean((2, 3)))


def test_training_lowers_the_loss() -> None:
    net, generator = _net(), torch.Generator().manual_seed(2)
    maps = torch.rand(32, 7, 4, 4, generator=generator)
    images = torch.randn(32, 3, 10, 9, generator=generator)
    logits = 5 * maps[:, :3].mean((2, 3)).log()

    def fidelity() -> float:
        with torch.no_grad():
            return float(loss_terms(net, maps, images, logits).fidelity)

    before = fidelity()
    train(net, maps, images, logits, _SMALL)
    assert fidelity() < before


@pytest.mark.bench
def test_interpreter_learns_what_the_network_predicts_and_leaves_it_alone() -> None:
    task = tiny_task(n_train=200)
    task.model[-1].weight.data *= 30  # a network that is sure of what it says
    before = {name: value.clone() for name, value in task.model.state_dict().items()}
    torch.manual_seed(0)
    method = Flint(Budget(attributes=6, epochs=30, batch_size=16))
    method.fit(task, 0)
    assert all(torch.equal(before[k], v) for k, v in task.model.state_dict().items())
    images = torch.stack([task.train[i][0] for i in range(200)])
    predicted = task.predicted(images)
    most = float(predicted.bincount(minlength=3).max()) / 200
    agreed = float((method.predict(images) == predicted).double().mean())
    assert agreed > (1 + most) / 2
    with pytest.raises(UnavailableError, match="no place"):
        method.maps(images[:1], predicted[:1])
