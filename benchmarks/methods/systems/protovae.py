"""The network of ProtoVAE (Gautam et al., 2022) and of Pantypes, their losses, from the papers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.methods.systems.protopnet import class_head, similarity
from benchmarks.methods.systems.training import step

__all__ = [
    "ProtoVAE",
    "Sizes",
    "Spread",
    "Terms",
    "inverse_volume",
    "loss_terms",
    "non_orthonormality",
    "train",
]

_RATE = 5e-3  # the paper: 1e-3, of many more steps

Spread = Callable[[Tensor], Tensor]  # prototypes (J, K, D) -> what it costs that they are alike


@dataclass(frozen=True)
class Sizes:
    """How large the network is and how long it is trained.

    Attributes:
        per_class: Prototypes K of a class.
        latent: Length D of embeddings and prototypes.
        width: Units of the encoder's hidden layer, and channels where the decoder begins.
        steps: Batches that it is trained on, at least; the last pass is finished.
        batch_size: Images in a step.
    """

    per_class: int = 5
    latent: int = 16
    width: int = 32
    steps: int = 1000
    batch_size: int = 64


class Terms(NamedTuple):
    """The four terms of the loss, scalars, all of weight 1."""

    cross_entropy: Tensor
    reconstruction: Tensor
    divergence: Tensor
    spread: Tensor


class ProtoVAE(nn.Module):
    """A variational autoencoder that classifies by similarity to prototypes of its latent space.

    Args:
        depth: Length of the features that are encoded.
        shape: Channels, height and width of the images that are decoded.
        n_classes: Number of classes J.
        sizes: Sizes of the network.
    """

    classes: Tensor  # class of each prototype, integer tensor (P,)

    def __init__(
        self, depth: int, shape: tuple[int, int, int], n_classes: int, sizes: Sizes
    ) -> None:
        super().__init__()
        width = sizes.width
        self.encoder = nn.Sequential(
            nn.Linear(depth, width), nn.ReLU(), nn.Linear(width, 2 * sizes.latent)
        )
        grid = (-(-shape[1] // 4), -(-shape[2] // 4))
        self.decoder = nn.Sequential(
            nn.Linear(sizes.latent, width * grid[0] * grid[1]),
            nn.Unflatten(1, (width, *grid)),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(width, width // 4, 3, 1, 1),
            nn.ReLU(),
            nn.Upsample(shape[1:]),
            nn.Conv2d(width // 4, shape[0], 3, 1, 1),
        )
        classes = torch.arange(n_classes).repeat_interleave(sizes.per_class)
        self.register_buffer("classes", classes)
        self.prototypes = nn.Parameter(torch.randn(len(classes), sizes.latent))
        self.head = class_head(classes, n_classes)

    def encode(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log variance (N, D) of the embedding of features (N, depth)."""
        mean, log_variance = self.encoder(features).chunk(2, 1)
        return mean, log_variance

    def similarities(self, latent: Tensor) -> Tensor:
        """Return ``log((d + 1) / (d + 1e-4))`` of the distances d to the prototypes (N, P)."""
        return similarity(torch.cdist(latent, self.prototypes))

    def forward(self, features: Tensor) -> Tensor:
        """Return the logits (N, J) of the mean embedding."""
        logits: Tensor = self.head(self.similarities(self.encode(features)[0]))
        return logits

    def keep(self, chosen: Tensor) -> None:
        """Remove all prototypes but those chosen, integer tensor (P',)."""
        self.prototypes = nn.Parameter(self.prototypes.detach()[chosen])
        head = nn.Linear(len(chosen), self.head.out_features, bias=False)
        head.weight.data.copy_(self.head.weight.detach()[:, chosen])
        self.head, self.classes = head, self.classes[chosen]


def non_orthonormality(prototypes: Tensor) -> Tensor:
    """Return ProtoVAE's fourth term: how far centred prototypes are from orthonormal ones.

    Args:
        prototypes: Float tensor (J, K, D).
    """
    centred = prototypes - prototypes.mean(1, keepdim=True)
    identity = torch.eye(prototypes.shape[1])
    found: Tensor = torch.linalg.matrix_norm(centred @ centred.mT - identity)
    return found.mean()


def inverse_volume(prototypes: Tensor) -> Tensor:
    """Return the fourth term of Pantypes (Kjærsgaard et al., 2024): ``det(P P^T)^(-1/2)``.

    Args:
        prototypes: Float tensor (J, K, D); P are those of a class.
    """
    log_volume: Tensor = torch.linalg.slogdet(prototypes @ prototypes.mT).logabsdet / 2
    return (-log_volume).exp().mean()


def loss_terms(
    net: ProtoVAE,
    features: Tensor,
    images: Tensor,
    labels: Tensor,
    noise: Tensor,
    spread: Spread,
) -> Terms:
    """Return the terms of the loss of a batch (Gautam et al., 2022, section 3.2).

    Args:
        net: The network.
        features: What is encoded (N, depth).
        images: What is decoded (N, C, H, W).
        labels: Classes (N,).
        noise: Standard normal draws (N, D), for the embedding.
        spread: The fourth term.
    """
    mean, log_variance = net.encode(features)
    latent = mean + noise * (0.5 * log_variance).exp()
    similar = net.similarities(latent)
    shares = similar * (net.classes == labels[:, None])
    shares = shares / shares.sum(1, keepdim=True)
    # KL(N(mean, variance) || N(p, I)) for every prototype p
    squares = torch.cdist(mean, net.prototypes).square()
    own = (log_variance.exp() - log_variance - 1).sum(1, keepdim=True)
    return Terms(
        cross_entropy(net.head(similar), labels),
        (net.decoder(latent) - images).square().flatten(1).sum(1).mean(),
        (shares * (own + squares) / 2).sum(1).mean(),
        spread(net.prototypes.unflatten(0, (net.head.out_features, -1))),
    )


def train(net: ProtoVAE, data: TensorDataset, sizes: Sizes, spread: Spread) -> None:
    """Train a network in place by Adam; draws from the global generator.

    Args:
        net: The network.
        data: Features (M, depth), images (M, C, H, W) and classes (M,).
        sizes: For steps and batches.
        spread: The fourth term.
    """
    optimizer = torch.optim.Adam(net.parameters(), _RATE)
    loader = DataLoader(data, sizes.batch_size, shuffle=True)
    net.train()
    for _ in range(-(-sizes.steps // len(loader))):
        for features, images, labels in loader:
            noise = torch.randn(len(images), net.prototypes.shape[1])
            terms = loss_terms(net, features, images, labels, noise, spread)
            loss = sum(terms, torch.zeros(()))
            step(optimizer, loss)
    net.eval()
