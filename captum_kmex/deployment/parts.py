"""What deployed modules are made of: plain tensor operations that ``torch.export`` can hold."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from captum_kmex.arguments.targets import resolve_target
from captum_kmex.bank.prototype_bank import Codebook
from captum_kmex.classes import class_logits
from captum_kmex.composite.by_class import ClassPrototypes
from captum_kmex.composite.nearness import mean_log_nearness
from captum_kmex.composite.resizing import resize
from captum_kmex.exceptions import TargetError
from captum_kmex.explaining.segments import class_scores, predicted_class
from captum_kmex.model.copies import copied
from captum_kmex.model.head import HeadSite, LinearHead
from captum_kmex.model.hooks import Recorder
from captum_kmex.model.layout import ChannelAxis, feature_grid
from captum_kmex.model.modes import evaluated
from captum_kmex.scaling import unit_scale

__all__ = ["CentroidMargin", "HeadEvidence", "ModelReader", "PixelAssignment", "Vote"]


class ModelReader(nn.Module):
    """A frozen copy of a model that returns its logits and the maps of chosen layers.

    Args:
        model: The unwrapped model; it is copied.
        layers: Layer names, shallow to deep.
        at_input: Read the layers at their input.
        site: Where the map that the head reads is found; ``None`` takes the deepest layer.
        axes: Dimension of the channels of each layer.
        tap_axis: The same of the module that the head's map is read from.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[str],
        at_input: bool,
        site: HeadSite | None,
        axes: Mapping[str, ChannelAxis],
        tap_axis: ChannelAxis,
    ) -> None:
        super().__init__()
        self.model = evaluated(copied(model)).requires_grad_(False)
        self.layers, self.at_input, self.site = tuple(layers), at_input, site
        self.axes = dict(axes) if site is None else {site.tap: tap_axis} | dict(axes)

    def forward(self, images: Tensor) -> tuple[Tensor, list[Tensor], Tensor]:
        """Return logits (N, J), the layers' maps (N, D_l, h_l, w_l), and the head's map."""
        leaving, entering = ((), self.layers) if self.at_input else (self.layers, ())
        tap = None if self.site is None else self.site.tap
        recorder = Recorder(leaving, entering, tap, self.axes)
        with recorder.attached(self.model):
            output = self.model(images)
        records = recorder.inputs if self.at_input else recorder.outputs
        blocks = [self._grid(records[name], name, images) for name in self.layers]
        if self.site is None:
            read = blocks[-1]
        else:
            read = self.site.features(self._grid(recorder.tap_output, self.site.tap, images))
        wide = torch.promote_types(output.dtype, torch.float32)
        return output.to(wide).view(images.shape[0], -1), blocks, read

    def _grid(self, record: Tensor | None, name: str, images: Tensor) -> Tensor:
        if record is None:
            raise ValueError(f"layer {name!r} returned no tensor; choose a layer that returns one")
        size = (images.shape[2], images.shape[3])
        return feature_grid(record, size, name, self.axes[name]).contiguous()


class HeadEvidence(nn.Module):
    """A linear head with its columns as buffers.

    Args:
        head: The head, in the dtype of the map that it reads.
        target: The class to explain, one for all images; each one's argmax if ``None``.
        logits: Float tensor (N, J) of some images.

    Raises:
        TargetError: Malformed target, or several classes.
    """

    columns: Tensor
    offset: Tensor

    def __init__(self, head: LinearHead, target: int | None, logits: Tensor) -> None:
        super().__init__()
        self.register_buffer("columns", head.columns.clone())
        self.register_buffer("offset", head.bias.clone())
        self.rectified, self.target = head.rectified, fixed_target(target, logits)

    def forward(self, logits: Tensor, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the explained class (N,), its density (N, 1, h, w) and left-out bias (N,)."""
        head = LinearHead(self.columns, self.offset, self.rectified)
        target = explained_class(self.target, logits)
        return target, head.evidence(features, target), head.left_out_bias(target)


def fixed_target(target: int | None, logits: Tensor) -> int | None:
    """Return the one class that a module explains, or ``None`` for each image's argmax.

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


def explained_class(target: int | None, logits: Tensor) -> Tensor:
    """Return the explained class of each image (N,)."""
    likeliest = logits.argmax(1)
    return likeliest if target is None else torch.full_like(likeliest, target)


def class_table(book: Codebook, n_classes: int) -> tuple[Tensor, Tensor]:
    """Group the prototypes of a class-wise codebook, for indexing in a graph.

    Returns:
        Index tensor (L, K), the prototypes of each class that has any, the first one again in
        place of those that a class has less than others; and index tensor (C,), the row of each
        class, L where it has none.
    """
    everyone = torch.arange(n_classes, device=book.centroids.device)
    groups = ClassPrototypes.of(book)
    known = groups.known(everyone)
    owner = groups.owner[known]
    column = torch.full_like(everyone, len(known))
    column[known] = everyone[: len(known)]
    return torch.where(owner < 0, owner[:, :1], owner), column


class PixelAssignment(nn.Module):
    """The prototypes of one depth and every pixel's scores for them (eq. 9).

    Unlike ``StackedBlocks`` it keeps nothing, cuts nothing into chunks and runs no NumPy: the
    scores of all prototypes (N, K, H, W) are in memory at once.

    Args:
        book: The depth's codebook.
        weights: Weight of each block.
        like: A map whose dtype and device the prototypes take.
    """

    centroids: Tensor

    def __init__(self, book: Codebook, weights: Sequence[float], like: Tensor) -> None:
        super().__init__()
        self.register_buffer("centroids", book.centroids.to(like))
        self.weights = tuple(weights)

    def forward(self, blocks: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Return ``<z_p, p_k> - |p_k|^2 / 2`` (N, K, H, W) and ``|z_p|^2`` (N, 1, H, W)."""
        grid = (blocks[0].shape[2], blocks[0].shape[3])
        scores = -0.5 * self.centroids.square().sum(1)[:, None, None]
        squares = torch.zeros_like(blocks[0][:, :1])
        parts = self.centroids.split([block.shape[1] for block in blocks], 1)
        for block, weight, part in zip(blocks, self.weights, parts, strict=True):
            block = block * unit_scale(block)
            norm = torch.linalg.vector_norm(resize(block, grid), dim=1, keepdim=True)
            scale = weight / norm.clamp_min(torch.finfo(norm.dtype).eps)
            products = F.conv2d(block, part[..., None, None])
            scores = scores + resize(products, grid) * scale
            squares = squares + (scale * norm).square()
        return scores, squares


class Vote(nn.Module):
    """How the prototypes of a depth classify.

    Args:
        book: The depth's codebook.
        n_classes: Number of classes C.
        weights: Weight of each block.
        by_distance: Vote by mean log distance; otherwise by shares of pixels.
    """

    owner: Tensor
    column: Tensor
    membership: Tensor

    def __init__(
        self, book: Codebook, n_classes: int, weights: Sequence[float], by_distance: bool
    ) -> None:
        super().__init__()
        members = book.membership
        self.by_distance = by_distance and members.ndim == 1
        self.n_classes, self.size = n_classes, math.fsum(w**2 for w in weights)
        if self.by_distance:
            owner, column = class_table(book, n_classes)
            self.is_in_order = torch.equal(owner.flatten(), torch.arange(len(members)).to(owner))
            self.register_buffer("owner", owner)
            self.register_buffer("column", column)
        else:
            shares = F.one_hot(members, n_classes) if members.ndim == 1 else members
            self.register_buffer("membership", shares.float())

    def forward(self, scores: Tensor, squares: Tensor, nearest: Tensor) -> tuple[Tensor, Tensor]:
        """Return class scores (N, C) and predictions (N,).

        Args:
            scores: Float tensor (N, K, H, W), as ``PixelAssignment`` gives them.
            squares: Float tensor (N, 1, H, W), likewise.
            nearest: Index tensor (N, H, W), prototype of each pixel.
        """
        if self.by_distance:
            scores = scores if self.is_in_order else scores[:, self.owner.flatten()]
            best = scores.unflatten(1, self.owner.shape).amax(2)
            found = mean_log_nearness(best, squares, self.size)
            # classes without prototypes have minus infinity
            found = F.pad(found, (0, 1), value=-torch.inf)[:, self.column]
            return found, found.argmax(1)
        distances = (squares.squeeze(1) - 2 * scores.amax(1)).clamp_min(0)
        book = (self.membership, self.n_classes)
        return class_scores(nearest, *book), predicted_class(nearest, distances, *book)


class CentroidMargin(nn.Module):
    """Class-wise centroids of pooled embeddings, and the margin that each position adds.

    Args:
        book: Prototypes of two classes or more.
        n_classes: Number of classes C.
        target: The class to explain; each image's argmax if ``None``.
        logits: Float tensor (N, J) of some images.
        like: A map whose dtype and device the prototypes take.
    """

    centroids: Tensor
    owner: Tensor
    column: Tensor

    def __init__(
        self, book: Codebook, n_classes: int, target: int | None, logits: Tensor, like: Tensor
    ) -> None:
        super().__init__()
        self.target = fixed_target(target, class_logits(logits))
        self.register_buffer("centroids", book.centroids.to(like))
        owner, column = class_table(book, n_classes)
        self.register_buffer("owner", owner)
        self.register_buffer("column", column)

    def forward(self, logits: Tensor, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the explained class (N,), its density (N, 1, h, w) and class distances (N, C).

        ``|h-b|^2 - |h-a|^2 = 2 <h - (a+b)/2, a - b>`` is a mean over positions. The density is
        NaN for a class without prototypes, and its distance infinite.
        """
        least, index = self._class_nearest(features.mean((2, 3)))
        target = explained_class(self.target, class_logits(logits)).unsqueeze(1)
        rival = least.scatter(1, target, torch.inf).argmin(1, keepdim=True)
        a, b = (self.centroids[index.gather(1, c)][:, 0, :, None, None] for c in (target, rival))
        density = 2 * ((features - (a + b) / 2) * (a - b)).sum(1, keepdim=True)
        unknown = least.gather(1, target).isinf()[..., None, None]
        return target.squeeze(1), density.masked_fill(unknown, torch.nan), least.sqrt()

    def _class_nearest(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """Return each class's least squared distance and its prototype, both (N, C)."""
        distances = (pooled.unsqueeze(1) - self.centroids).square().sum(2)
        least, place = distances[:, self.owner.flatten()].unflatten(1, self.owner.shape).min(2)
        index = self.owner.expand(pooled.shape[0], -1, -1).gather(2, place.unsqueeze(2)).squeeze(2)
        known = F.pad(least, (0, 1), value=torch.inf)[:, self.column]
        return known, F.pad(index, (0, 1))[:, self.column]
