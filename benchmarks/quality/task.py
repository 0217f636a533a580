"""A task: a trained network, its data, and images with what is known about them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

__all__ = ["LabelledData", "Sample", "Task"]

LabelledData = Dataset[tuple[Tensor, ...]]  # map-style; yields a standardised image and its class


@dataclass(frozen=True)
class Sample:
    """Images to explain, in memory, with their annotations.

    Attributes:
        inputs: Standardised images, float tensor (N, C, H, W).
        targets: The class that is explained, the network's prediction, integer tensor (N,).
        labels: True classes, integer tensor (N,), or ``None`` if they are not known.
        masks: Where the object is, boolean tensor (N, H, W), or ``None``.
        parts: Where each part is, boolean tensor (N, P, H, W), or ``None``; a part that an
            image does not have covers no pixel.
        without: The same images with one part removed and all else kept, float tensor
            (N, P, C, H, W), or ``None``.
        part_names: Names of the P parts.
        partners: The class that differs from an image's true class in one part alone, integer
            tensor (N, P), or ``None``.
        objects: Where each thing is that can be taken out of an image, the parts first, boolean
            tensor (N, Q, H, W), or ``None``; what an image does not have covers no pixel.
        redraw: Takes which of these things are gone from the first n images, boolean tensor
            (n, Q), and returns those images without them, float tensor (n, C, H, W), or ``None``.
    """

    inputs: Tensor
    targets: Tensor
    labels: Tensor | None = None
    masks: Tensor | None = None
    parts: Tensor | None = None
    without: Tensor | None = None
    part_names: tuple[str, ...] = ()
    partners: Tensor | None = None
    objects: Tensor | None = None
    redraw: Callable[[Tensor], Tensor] | None = None

    def __len__(self) -> int:
        return len(self.inputs)

    def first(self, count: int) -> Sample:
        """Return the first images alone."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        kept: dict[str, Any] = {
            k: v[:count] if isinstance(v, Tensor) else v for k, v in values.items()
        }
        return Sample(**kept)


@dataclass(frozen=True)
class Task:
    """A network and its data.

    Attributes:
        name: Name of the task, as on the command line.
        title: What the report calls it.
        model: Trained classifier in evaluation mode, on the device to use.
        layers: Names of the blocks B2, B3, B4, shallow to deep; the last is Grad-CAM's.
        class_names: Names of the J classes.
        train: Training images, or ``None`` where the task has none.
        test: Labelled images that were never trained or tuned on, or ``None``.
        sample: Takes ``"validation"`` or ``"test"`` and a number of images, and returns so many
            annotated ones, always the same. Settings are tuned on the first alone.
        mean: Mean of the pictures' channels, in [0, 1].
        std: Standard deviation by which they were divided.
        weight: Cost of one forward pass of an image, 1 for 224 pixels of a mobile network.
        notes: What a reader must know of this task.
        masks_by: The network that made the masks, where nobody drew them; a method with the same
            encoder is not asked about them.
        missing_patches: The network was also trained on images that miss one of so many patches a
            side; 0 if it was not.
    """

    name: str
    title: str
    model: nn.Module
    layers: tuple[str, ...]
    class_names: tuple[str, ...]
    train: LabelledData | None
    test: LabelledData | None
    sample: Callable[[str, int], Sample]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    weight: float = 1.0
    notes: tuple[str, ...] = field(default_factory=tuple)
    masks_by: str = ""
    missing_patches: int = 0

    @property
    def n_classes(self) -> int:
        """Number of classes J."""
        return len(self.class_names)

    def pictures(self, inputs: Tensor) -> Tensor:
        """Return standardised images (N, C, H, W) as they look, in [0, 1]."""
        shape = (1, -1, 1, 1)
        mean, std = (
            torch.tensor(x, device=inputs.device).view(shape) for x in (self.mean, self.std)
        )
        return (inputs * std + mean).clamp(0, 1)

    @torch.no_grad()
    def predicted(self, inputs: Tensor, batch_size: int = 64) -> Tensor:
        """Return the classes (N,) that the network predicts."""
        device = next(self.model.parameters()).device
        parts = [self.model(x.to(device)).argmax(1).cpu() for x in inputs.split(batch_size)]
        return torch.cat(parts)
