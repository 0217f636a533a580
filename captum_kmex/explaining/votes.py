"""Votes: how the prototypes of one depth classify an image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from captum_kmex.bank.codebook import is_agnostic
from captum_kmex.composite.by_class import ClassRuns
from captum_kmex.composite.packed import PackedPrototypes
from captum_kmex.composite.stack import StackedBlocks
from captum_kmex.explaining.segments import class_scores, predicted_class

__all__ = ["VOTES", "Ballot", "Classification", "Vote", "distance_scores"]


@dataclass(frozen=True, eq=False)
class Classification:
    """The surrogate's verdict beside the model's.

    Attributes:
        scores: Float tensor (N, C), larger for the likelier class.
        prediction: Integer tensor (N,).
        logits: Float tensor (N, J), the model's.
    """

    scores: Tensor
    prediction: Tensor
    logits: Tensor


class Ballot(Protocol):
    """What a vote sees of a batch at one depth; plain tensors, so that votes can be exported."""

    @property
    def membership(self) -> Tensor:
        """Class of each prototype, index tensor (K,); or float (K, C), class-agnostic."""

    @property
    def n_classes(self) -> int:
        """Number of classes C."""

    @property
    def nearest(self) -> Tensor:
        """Prototype of each pixel, index tensor ``(N, *grid)``."""

    @property
    def distances(self) -> Tensor:
        """Squared distance of each pixel to it, float tensor ``(N, *grid)``."""

    def log_nearness(self) -> Tensor:
        """Return minus the mean log distance to each class (N, C), if class-wise."""


@dataclass(frozen=True)
class Vote:
    """A rule by which prototypes classify.

    Attributes:
        count: Returns class scores (N, C), larger for the likelier class, and predictions (N,).
        reads_nearness: It reads ``log_nearness``, which is then collected on the way.
    """

    count: Callable[[Ballot], tuple[Tensor, Tensor]]
    reads_nearness: bool = False


def by_share(ballot: Ballot) -> tuple[Tensor, Tensor]:
    """Vote by the share of pixels that each class's prototypes win (eq. 10).

    Reference:
        Boubekki & Clemmensen (2026), eq. 10.
    """
    membership, n_classes = ballot.membership, ballot.n_classes
    scores = class_scores(ballot.nearest, membership, n_classes)
    return scores, predicted_class(ballot.nearest, ballot.distances, membership, n_classes)


def by_distance(ballot: Ballot) -> tuple[Tensor, Tensor]:
    """Vote by the mean log distance to each class; class-agnostic prototypes vote by share."""
    if is_agnostic(ballot.membership):
        return by_share(ballot)
    scores = ballot.log_nearness()
    return scores, scores.argmax(1)


VOTES = {"distance": Vote(by_distance, reads_nearness=True), "share": Vote(by_share)}


def distance_scores(
    stack: StackedBlocks, centroids: Tensor, membership: Tensor, n_classes: int
) -> Tensor:
    """Return minus the mean log distance of an image's rows to each class (N, C).

    ``score_c = -mean_p log(min_k |z_p - p_k| / |z|)`` over the prototypes k of class c: each
    term belongs to one position and one prototype. The difference of two scores is the mean
    log ratio of the distances to both classes: a naive Bayes rule whose densities fall as a
    power of the distance, so that neither the features' scale nor a temperature matters, and a
    few positions that resemble one class much more outweigh many that resemble all alike. A
    class without prototypes has minus infinity.

    Args:
        stack: Composite rows of N images.
        centroids: Float tensor (K, D).
        membership: Class of each prototype, integer tensor (K,).
        n_classes: C.

    Reference:
        Boiman et al., "In Defense of Nearest-Neighbor Based Image Classification" (2008), whose
        sum of squared distances to training rows this replaces by log distances to prototypes.
    """
    membership, order = membership.sort(stable=True)
    centroids = centroids[order.to(centroids.device)].to(stack.blocks[0])
    prototypes = PackedPrototypes(centroids, ClassRuns.of(membership))
    nearness = stack.nearness_to(prototypes)
    stack.best(prototypes, nearness)
    return nearness.scores(n_classes)
