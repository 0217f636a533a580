"""Explanations as plain modules of plain tensor operations, for ``torch.export`` and ONNX."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from captum_kmex.activations import Recorder, feature_grid
from captum_kmex.bank import Codebook
from captum_kmex.class_prototypes import ClassPrototypes
from captum_kmex.exceptions import TargetError
from captum_kmex.head import HeadSite, LinearHead
from captum_kmex.interpolation import resize, resize_keeping_mean
from captum_kmex.segments import class_scores, predicted_class, segment_means
from captum_kmex.targets import resolve_target
from captum_kmex.voting import mean_log_nearness

__all__ = [
    "ExplainedModel",
    "HeadEvidence",
    "ModelReader",
    "PixelAssignment",
    "SegmentedModel",
    "Vote",
]

_Module = TypeVar("_Module", bound=nn.Module)


class ModelReader(nn.Module):
    """A frozen copy of a model that returns its logits and the maps of chosen layers.

    Args:
        model: The unwrapped model; it is copied.
        layers: Layer names, shallow to deep.
        at_input: Read the layers at their input.
        site: Where the map that the head reads is found; ``None`` takes the deepest layer.
    """

    def __init__(
        self, model: nn.Module, layers: Sequence[str], at_input: bool, site: HeadSite | None
    ) -> None:
        super().__init__()
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.layers, self.at_input, self.site = tuple(layers), at_input, site

    def forward(self, images: Tensor) -> tuple[Tensor, list[Tensor], Tensor]:
        """Return logits (N, J), the layers' maps (N, D_l, h_l, w_l), and the head's map."""
        tap = [] if self.site is None else [self.site.tap]
        entering = self.layers if self.at_input else ()
        recorder = Recorder([*tap, *(() if self.at_input else self.layers)], entering)
        with recorder.attached(self.model):
            output = self.model(images)
        records = recorder.inputs if self.at_input else recorder.outputs
        blocks = [self._grid(records[name], name, images) for name in self.layers]
        if self.site is None:
            read = blocks[-1]
        else:
            read = self.site.features(self._grid(recorder.outputs[tap[0]], tap[0], images))
        wide = torch.promote_types(output.dtype, torch.float32)
        return output.to(wide).view(images.shape[0], -1), blocks, read

    def _grid(self, record: Tensor | None, name: str, images: Tensor) -> Tensor:
        if record is None:
            raise ValueError(f"layer {name!r} returned no tensor; choose a layer that returns one")
        size = (images.shape[2], images.shape[3])
        return feature_grid(record, size, name, self.model.get_submodule(name)).contiguous()


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
        self.rectified = head.rectified
        classes = resolve_target(target, logits).unique().tolist()
        self.target = None if target is None else classes[0]
        if target is not None and len(classes) > 1:
            raise TargetError(
                f"a module explains one class of all images, or each one's argmax; got {classes}. "
                "Make a module for each class"
            )

    def forward(self, logits: Tensor, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the explained class (N,), its density (N, 1, h, w) and left-out bias (N,)."""
        head = LinearHead(self.columns, self.offset, self.rectified)
        target = logits.argmax(1)
        if self.target is not None:
            target = torch.full_like(target, self.target)
        return target, head.evidence(features, target), head.left_out_bias(target)


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
            groups = ClassPrototypes.of(book.centroids, members)
            known = groups.known(torch.arange(n_classes, device=members.device))
            owner = groups.owner[known]
            # the first prototype again stands in for those a class has less than others
            owner = torch.where(owner < 0, owner[:, :1], owner)
            self.is_in_order = torch.equal(owner.flatten(), torch.arange(len(members)).to(owner))
            self.register_buffer("owner", owner)
            column = torch.full((n_classes,), len(known), device=members.device)
            column[known] = torch.arange(len(known), device=members.device)
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


class ExplainedModel(nn.Module):
    """A model that answers with the map of its own head: no options, no state, no gradients.

    Args:
        reader: The model.
        evidence: The head.
    """

    def __init__(self, reader: ModelReader, evidence: HeadEvidence) -> None:
        super().__init__()
        self.reader, self.evidence = reader, evidence
        self.eval()

    def train(self: _Module, mode: bool = True) -> _Module:  # noqa: ARG002
        """Stay in evaluation mode."""
        return super().train(False)

    @property
    def output_names(self) -> list[str]:
        """Names of what ``forward`` returns, in its order."""
        return ["logits", "target", "attribution", "bias"]

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return logits and explanation of preprocessed images (N, C, H, W).

        Returns:
            ``logits`` (N, J), the explained class ``target`` (N,), ``attribution``
            (N, 1, h, w), whose sum is the target's logit less ``bias`` (N,).
        """
        logits, _, tap = self.reader(images)
        target, density, bias = self.evidence(logits, tap)
        return {
            "logits": logits,
            "target": target,
            "attribution": density / (density.shape[2] * density.shape[3]),
            "bias": bias,
        }


class SegmentedModel(ExplainedModel):
    """A model that answers with its segments too, and with the class of their prototypes.

    Args:
        reader: The model.
        evidence: The head.
        assignments: One for each layer of the reader: the prototypes of the depth it begins.
        vote: How the prototypes of the first layer's depth classify.
        average_top: Average within the segments of the deepest layer too.
    """

    def __init__(
        self,
        reader: ModelReader,
        evidence: HeadEvidence,
        assignments: Sequence[PixelAssignment],
        vote: Vote,
        average_top: bool,
    ) -> None:
        super().__init__(reader, evidence)
        self.assignments, self.vote = nn.ModuleList(assignments), vote
        self.average_top = average_top

    @property
    def output_names(self) -> list[str]:
        """Names of what ``forward`` returns, in its order."""
        return [*super().output_names, "segments", "class_scores", "prediction"]

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return logits, explanation and the prototypes' verdict of images (N, C, H, W).

        Returns:
            What ``ExplainedModel`` returns, and ``segments`` (N, h, w), each pixel's prototype
            by its index in the codebook, ``class_scores`` (N, C) and ``prediction`` (N,).
        """
        logits, blocks, tap = self.reader(images)
        target, density, bias = self.evidence(logits, tap)
        top = len(blocks) - 1
        for depth in range(top, -1, -1):
            density = resize_keeping_mean(density, (*blocks[depth].shape[2:],))
            is_averaged = depth < top or self.average_top
            if is_averaged or depth == 0:
                scores, squares = self.assignments[depth](blocks[depth:])
                segments = scores.argmax(1)
            if is_averaged:
                density = segment_means(density, segments, scores.shape[1])
        found, prediction = self.vote(scores, squares, segments)
        return {
            "logits": logits,
            "target": target,
            "attribution": density / (density.shape[2] * density.shape[3]),
            "bias": bias,
            "segments": segments,
            "class_scores": found,
            "prediction": prediction,
        }
