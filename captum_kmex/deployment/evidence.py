"""What makes the maps of exported modules: a head, or centroids of pooled embeddings."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from captum_kmex.arguments.targets import resolve_target
from captum_kmex.bank.checks import check_classes
from captum_kmex.bank.prototype_bank import PrototypeBank
from captum_kmex.classes import class_logits
from captum_kmex.composite.by_class import best_by_class
from captum_kmex.exceptions import HeadNotFoundError, TargetError
from captum_kmex.explaining.evidence import Question
from captum_kmex.explaining.margins import margin_density
from captum_kmex.grids import axes_of, over_grid
from captum_kmex.model.head import LinearHead
from captum_kmex.model.linearised import Head

__all__ = ["CentroidMargin", "HeadEvidence", "fixed_head", "fixed_target"]


def fixed_target(target: int | None, logits: Tensor) -> int | None:
    """Return the one class that a module explains, or ``None`` for each image's argmax.

    Args:
        target: As the user gave it.
        logits: Float tensor (N, J) of some images.

    Raises:
        TargetError: Malformed target, or several classes.
    """
    classes = resolve_target(target, logits).unique().tolist()
    if target is None:
        return None
    if len(classes) > 1:
        raise TargetError(
            f"a module explains one class of all images, or each one's argmax; got {classes}. "
            "Make a module for each class"
        )
    return int(classes[0])


def fixed_head(head: Head) -> LinearHead:
    """Return a head as one that is the same for all images.

    Raises:
        HeadNotFoundError: It is another for each image.
    """
    if not isinstance(head, LinearHead):
        raise HeadNotFoundError(
            "as_module needs a linear head: a tail linearised at each image needs its gradient, "
            "which no graph holds. Leave surrogate= out, and the module has the ridge head of the "
            "fit"
        )
    if head.bias.ndim == 2:
        raise HeadNotFoundError(
            "as_module needs a head that reads the image alone; further inputs have a part in the "
            "bias of this one"
        )
    return head


def _explained_class(target: int | None, logits: Tensor) -> Tensor:
    likeliest = logits.argmax(1)
    return likeliest if target is None else torch.full_like(likeliest, target)


class HeadEvidence(nn.Module):
    """A linear head with its columns as buffers.

    Args:
        head: The head, in the dtype of the map that it reads.
        target: The class to explain, one for all images; each one's argmax if ``None``.
    """

    columns: Tensor
    offset: Tensor

    def __init__(self, head: LinearHead, target: int | None) -> None:
        super().__init__()
        self.register_buffer("columns", head.columns.clone())
        self.register_buffer("offset", head.bias.clone())
        self.rectified, self.target = head.rectified, target

    def forward(self, logits: Tensor, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the explained class (N,), its density ``(N, 1, *grid)`` and left-out bias."""
        head = LinearHead(self.columns, self.offset, self.rectified)
        target = _explained_class(self.target, logits)
        question = Question(target)
        return target, question.density(head, features), question.bias(head)


class CentroidMargin(nn.Module):
    """Class-wise centroids of pooled embeddings, and the margin that each position adds.

    Args:
        centroids: Float tensor (K, D), of two classes or more.
        classes: The class of each, integer tensor (K,).
        n_classes: Number of classes C.
        target: The class to explain; each image's argmax if ``None``.
    """

    centroids: Tensor
    classes: Tensor

    def __init__(
        self, centroids: Tensor, classes: Tensor, n_classes: int, target: int | None
    ) -> None:
        super().__init__()
        self.register_buffer("centroids", centroids.clone())
        self.register_buffer("classes", classes.clone())
        self.n_classes, self.target = n_classes, target

    @classmethod
    def of(
        cls, bank: PrototypeBank, target: int | None, logits: Tensor, features: Tensor
    ) -> CentroidMargin:
        """Take the centroids of a bank, for maps like ``features``.

        Raises:
            TargetError: Malformed target.
            ValueError: The explained class has no prototypes, or no other class has.
        """
        logits, book = class_logits(logits), bank.codebooks[0]
        check_classes(bank, resolve_target(target, logits))
        if len(book.membership.unique()) < 2:
            raise ValueError("a margin needs prototypes of two classes; fit more classes")
        centroids, target = book.centroids.to(features), fixed_target(target, logits)
        return cls(centroids, book.membership, bank.n_classes, target)

    def forward(self, logits: Tensor, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the explained class (N,), its density ``(N, 1, *grid)``, class scores (N, C).

        The density is NaN for a class without prototypes, and its score minus infinity.
        """
        differences = features.mean(axes_of(features)).unsqueeze(1) - self.centroids
        distances = differences.square().sum(2)
        best, index = best_by_class(-distances, self.classes, self.n_classes)
        target = _explained_class(self.target, class_logits(logits)).unsqueeze(1)
        rival = best.scatter(1, target, -torch.inf).argmax(1, keepdim=True)
        own, other = (self.centroids[index.gather(1, c)][:, 0] for c in (target, rival))
        density = margin_density(features, over_grid(own, features), over_grid(other, features))
        unknown = over_grid(best.gather(1, target).isinf(), features)
        return target.squeeze(1), density.masked_fill(unknown, torch.nan), -(-best).sqrt()
