import numpy as np
import pytest
import torch
from torch.distributions import Independent, Normal, kl_divergence
from torch.utils.data import TensorDataset

from benchmarks.methods.protovae import METHODS, TrainedProtoVAE
from benchmarks.methods.systems.protovae import (
    ProtoVAE,
    Sizes,
    inverse_volume,
    loss_terms,
    non_orthonormality,
    train,
)
from benchmarks.methods.systems.tiny_task import tiny_task
from benchmarks.methods.systems.training import draw
from benchmarks.quality.method import UnavailableError

_SMALL = Sizes(per_class=2, latent=6, width=4, steps=9, batch_size=16)


def _net(side: int = 16) -> ProtoVAE:
    torch.manual_seed(0)
    return ProtoVAE(7, (3, side, side), 3, _SMALL).eval()


def _features(count: int) -> torch.Tensor:
    return torch.randn(count, 7, generator=torch.Generator().manual_seed(5))


def _fitted(*, prunes: bool = False) -> TrainedProtoVAE:
    method = TrainedProtoVAE(non_orthonormality, prunes, "test", _SMALL)
    torch.manual_seed(0)
    method.fit(tiny_task(), 0)
    return method


def test_similarities_and_logits_are_those_of_a_loop() -> None:
    net, features = _net(), _features(4)
    with torch.no_grad():
        logits, z = net(features), net.encode(features)[0]
        found = net.similarities(z)
    z, p = z.double().numpy(), net.prototypes.detach().double().numpy()
    wanted = np.zeros((4, 6))
    for n, k in np.ndindex(4, 6):
        d = np.sqrt(((z[n] - p[k]) ** 2).sum())
        wanted[n, k] = np.log((d + 1) / (d + 1e-4))
    np.testing.assert_allclose(found.numpy(), wanted, atol=1e-5)
    head = np.where(np.arange(6) // 2 == np.arange(3)[:, None], 1, -0.5)
    np.testing.assert_allclose(logits.numpy(), wanted @ head.T, atol=1e-5)


@pytest.mark.parametrize("side", [16, 28, 30])
def test_decoder_gives_pictures_of_the_images_size(side: int) -> None:
    net = _net(side)
    with torch.no_grad():
        assert net.decoder(torch.randn(2, 6)).shape == (2, 3, side, side)


def test_divergence_is_that_of_torch_weighted_by_similarity_to_own_prototypes() -> None:
    net, features, (images, labels) = _net(), _features(5), draw(tiny_task(), 5, 0)
    noise = torch.randn(5, 6, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        terms = loss_terms(net, features, images, labels, noise, non_orthonormality)
        mean, log_variance = net.encode(features)
        deviation = (log_variance / 2).exp()
        similar = net.similarities(mean + noise * deviation)
    total = 0.0
    for n, c in enumerate(labels.tolist()):
        own = [2 * c, 2 * c + 1]
        posterior = Independent(Normal(mean[n], deviation[n]), 1)
        found = [
            float(kl_divergence(posterior, Independent(Normal(net.prototypes[k].detach(), 1.0), 1)))
            for k in own
        ]
        total += float(np.average(found, weights=similar[n, own].numpy()))
    assert float(terms.divergence) == pytest.approx(total / 5, rel=1e-4)
    decoded = net.decoder(mean + noise * deviation).detach()
    assert float(terms.reconstruction) == pytest.approx(
        float((decoded - images).square().sum()) / 5, rel=1e-5
    )


def test_fourth_terms_are_those_of_numpy() -> None:
    prototypes = torch.randn(3, 2, 5, generator=torch.Generator().manual_seed(4))
    far, volumes = [], []
    for p in prototypes.double().numpy():
        centred = p - p.mean(0)
        far.append(np.linalg.norm(centred @ centred.T - np.eye(2)))
        volumes.append(np.linalg.det(p @ p.T) ** -0.5)
    assert float(non_orthonormality(prototypes)) == pytest.approx(np.mean(far), rel=1e-5)
    assert float(inverse_volume(prototypes)) == pytest.approx(np.mean(volumes), rel=1e-5)


def test_inverse_volume_grows_as_prototypes_become_alike() -> None:
    apart = torch.eye(2)[None]
    alike = torch.tensor([[[1.0, 0.0], [0.9, 0.1]]])
    assert float(inverse_volume(alike)) > 5 * float(inverse_volume(apart))


@pytest.mark.bench
def test_training_lowers_the_loss_and_classifies() -> None:
    torch.manual_seed(0)
    net, labels = ProtoVAE(7, (3, 16, 16), 3, Sizes(2, 6, 16)), torch.arange(48) % 3
    features, images, noise = _features(48), torch.zeros(48, 3, 16, 16), torch.zeros(48, 6)
    features[torch.arange(48), labels] += 3
    images[torch.arange(48), labels] += 1

    def loss() -> float:
        with torch.no_grad():
            terms = loss_terms(net, features, images, labels, noise, non_orthonormality)
            return float(sum(terms))

    before = loss()
    data = TensorDataset(features, images, labels)
    train(net, data, Sizes(2, 6, 16, 400, 16), non_orthonormality)
    assert loss() < before / 2
    with torch.no_grad():
        assert float((net(features).argmax(1) == labels).double().mean()) > 0.9


def test_pruning_keeps_what_is_nearest_to_some_image_and_the_logits_of_the_rest() -> None:
    whole, pruned = _fitted(), _fitted(prunes=True)
    images, _ = draw(tiny_task(), 48, 0)
    kept = whole.net.similarities(whole.embed(images)).argmax(1).unique()
    assert 1 <= len(kept) <= 6
    assert torch.equal(pruned.net.prototypes, whole.net.prototypes[kept])
    assert torch.equal(pruned.prototypes().classes, whole.net.classes[kept])
    similar = whole.net.similarities(whole.embed(images))[:, kept]
    expected = (similar @ whole.net.head.weight[:, kept].T).argmax(1)
    assert torch.equal(pruned.predict(images), expected)


def test_method_leaves_the_tasks_network_alone_and_says_why_it_has_no_map() -> None:
    task = tiny_task()
    before = {name: value.clone() for name, value in task.model.state_dict().items()}
    method = _fitted()
    sample = task.sample("test", 6)
    assert all(torch.equal(before[k], v) for k, v in task.model.state_dict().items())
    similar = method.net.similarities(method.embed(sample.inputs))
    assert torch.equal(method.predict(sample.inputs), method.net.head(similar).argmax(1))
    assert method.embed(sample.inputs).shape == (6, method.prototypes().vectors.shape[1])
    with pytest.raises(UnavailableError, match="no place"):
        method.maps(sample.inputs, sample.targets)


def test_both_are_listed_with_their_sources() -> None:
    assert METHODS["ProtoVAE"]().source.startswith("Gautam et al. (2022)")
    assert METHODS["Pantypes"]().source.startswith("Kjærsgaard et al. (2024)")
