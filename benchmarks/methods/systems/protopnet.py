"""The network of ProtoPNet (Chen et al., 2019), its losses and its training, from the paper."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.methods.systems.training import step

__all__ = [
    "LossTerms",
    "ProtoPNet",
    "Schedule",
    "class_head",
    "loss_terms",
    "similarity",
    "train",
]

_EPSILON = 1e-4
_CLUSTER, _SEPARATION, _SPARSITY = 0.8, 0.08, 1e-4


@dataclass(frozen=True)
class Schedule:
    """How long and how fast ProtoPNet is trained.

    Attributes:
        per_class: Prototypes of a class.
        channels: Channels of the prototypes' space.
        warm: Epochs with a frozen backbone; they are cheap, and too few steps leave the
            prototypes on the background.
        joint: Epochs of everything but the head.
        push_every: Joint epochs between two pushes.
        head: Epochs of the head alone after each push.
        batch_size: Images in a step.
    """

    per_class: int = 5
    channels: int = 128
    warm: int = 30
    joint: int = 6
    push_every: int = 3
    head: int = 20
    batch_size: int = 80


class LossTerms(NamedTuple):
    """The terms of the loss before they are weighted, scalars."""

    cross_entropy: Tensor
    cluster: Tensor
    separation: Tensor
    sparsity: Tensor


def similarity(distances: Tensor) -> Tensor:
    """Return ``log((d + 1) / (d + 1e-4))`` of distances: squared here, plain in ProtoVAE."""
    return torch.log((distances + 1) / (distances + _EPSILON))


def class_head(classes: Tensor, n_classes: int) -> nn.Linear:
    """Return a head (P to J) that begins with 1 for prototypes of the class, -0.5 for others."""
    head = nn.Linear(len(classes), n_classes, bias=False)
    own = one_hot(classes, n_classes).T.to(head.weight)
    head.weight.data.copy_(1.5 * own - 0.5)
    return head


class ProtoPNet(nn.Module):
    """Squared distances to prototypes, the nearest position of each, a linear head.

    Args:
        backbone: Takes images, returns the map (N, D, h, w).
        depth: Channels D of that map.
        n_classes: Number of classes J.
        schedule: For the number of prototypes and their channels.
    """

    classes: Tensor  # class of each prototype, integer tensor (P,)

    def __init__(self, backbone: nn.Module, depth: int, n_classes: int, schedule: Schedule) -> None:
        super().__init__()
        channels = schedule.channels
        self.backbone = backbone
        self.add_on = nn.Sequential(
            nn.Conv2d(depth, channels, 1), nn.ReLU(), nn.Conv2d(channels, channels, 1), nn.Sigmoid()
        )
        classes = torch.arange(n_classes).repeat_interleave(schedule.per_class)
        self.register_buffer("classes", classes)
        self.prototypes = nn.Parameter(torch.rand(len(classes), channels))
        self.head = class_head(classes, n_classes)

    def latent(self, images: Tensor) -> Tensor:
        """Return the map z (N, channels, h, w) in which the prototypes live."""
        z: Tensor = self.add_on(self.backbone(images))
        return z

    def distances(self, latent: Tensor) -> Tensor:
        """Return ``||z_p - p_k||^2`` (N, P, h, w)."""
        products = torch.einsum("nchw,pc->nphw", latent, self.prototypes)
        lengths = self.prototypes.square().sum(1)[:, None, None]
        found: Tensor = latent.square().sum(1, keepdim=True) - 2 * products + lengths
        return found.relu()

    def nearest(self, latent: Tensor) -> Tensor:
        """Return the distance (N, P) of each prototype's nearest position."""
        return self.distances(latent).amin((2, 3))

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (N, J)."""
        logits: Tensor = self.head(similarity(self.nearest(self.latent(images))))
        return logits


def loss_terms(net: ProtoPNet, nearest: Tensor, labels: Tensor) -> LossTerms:
    """Return the terms of the loss of a batch (Chen et al., 2019, section 2.2).

    Args:
        net: For its head and the prototypes' classes.
        nearest: Distance of each prototype's nearest position (N, P).
        labels: Classes (N,).
    """
    is_own = net.classes == labels[:, None]
    far = nearest.new_tensor(torch.inf)
    others = one_hot(net.classes, net.head.out_features).T == 0
    return LossTerms(
        cross_entropy(net.head(similarity(nearest)), labels),
        torch.where(is_own, nearest, far).amin(1).mean(),
        -torch.where(is_own, far, nearest).amin(1).mean(),
        net.head.weight[others].abs().sum(),
    )


def train(net: ProtoPNet, images: Tensor, labels: Tensor, schedule: Schedule) -> None:
    """Train a network in place: warm up, train jointly, push, train the head.

    Draws from the global generator. Adam; rates and weights of the losses are the paper's, which
    leaves augmentation, box crops and many more epochs to its own data.

    Args:
        net: The network; its backbone is trained already.
        images: Training images (M, C, H, W).
        labels: Their classes (M,).
        schedule: Epochs of the stages.
    """
    _warm(net, images, labels, schedule)
    fast = [*net.add_on.parameters(), net.prototypes]
    groups = [{"params": fast, "lr": 3e-3}, {"params": [*net.backbone.parameters()], "lr": 1e-4}]
    optimizer = torch.optim.Adam(groups)
    steps = torch.optim.lr_scheduler.StepLR(optimizer, 5, 0.1)
    for epoch in range(1, schedule.joint + 1):
        net.train()
        for x, y in _batches(images, labels, schedule):
            step(optimizer, _prototype_loss(net, net.nearest(net.latent(x)), y))
        steps.step()
        if epoch % schedule.push_every == 0 or epoch == schedule.joint:
            net.eval()
            _train_head(net, push(net, images, labels), labels, schedule)
    net.eval()


@torch.no_grad()
def push(net: ProtoPNet, images: Tensor, labels: Tensor) -> Tensor:
    """Put every prototype on the nearest position of its own class's images.

    Returns:
        The new distances (M, P) of the nearest positions.
    """
    latent = torch.cat([net.latent(part) for part in images.split(100)])
    for k, owner in enumerate(net.classes.tolist()):
        own = latent[labels == owner].movedim(1, 3).flatten(0, 2)  # (patches, channels)
        if len(own):
            net.prototypes[k] = own[(own - net.prototypes[k]).square().sum(1).argmin()]
    return torch.cat([net.nearest(part) for part in latent.split(100)])


def _warm(net: ProtoPNet, images: Tensor, labels: Tensor, schedule: Schedule) -> None:
    """Train the add-on layers and prototypes; the frozen backbone runs once."""
    net.eval()
    with torch.no_grad():
        maps = torch.cat([net.backbone(part) for part in images.split(100)])
    optimizer = torch.optim.Adam([*net.add_on.parameters(), net.prototypes], 3e-3)
    for _ in range(schedule.warm):
        for h, y in _batches(maps, labels, schedule):
            step(optimizer, _prototype_loss(net, net.nearest(net.add_on(h)), y))


def _train_head(net: ProtoPNet, nearest: Tensor, labels: Tensor, schedule: Schedule) -> None:
    optimizer = torch.optim.Adam(net.head.parameters(), 1e-4)
    for _ in range(schedule.head):
        for d, y in _batches(nearest, labels, schedule):
            terms = loss_terms(net, d, y)
            step(optimizer, terms.cross_entropy + _SPARSITY * terms.sparsity)


def _prototype_loss(net: ProtoPNet, nearest: Tensor, labels: Tensor) -> Tensor:
    terms = loss_terms(net, nearest, labels)
    return terms.cross_entropy + _CLUSTER * terms.cluster + _SEPARATION * terms.separation


def _batches(inputs: Tensor, labels: Tensor, schedule: Schedule) -> DataLoader[tuple[Tensor, ...]]:
    return DataLoader(TensorDataset(inputs, labels), schedule.batch_size, shuffle=True)
