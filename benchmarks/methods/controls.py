"""Controls: what a map or a partition scores that knows less than ours does.

A good score proves something only beside these. All maps of evidence are Grad-CAM's, which here
is our classifier prototypes' map (eq. 11), so that only the places of the segments differ.
"""

from __future__ import annotations

import copy
import zlib
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import cast

import numpy as np
import torch
from skimage.segmentation import slic
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from benchmarks.methods.captum_kmex import LayerKMeans
from benchmarks.quality.method import CONTROLS, Method, UnavailableError
from benchmarks.quality.task import LabelledData, Task
from captum_kmex import ClassifierPrototypes, LayerKMeansAttribution
from captum_kmex.composite.resizing import resize_keeping_mean
from captum_kmex.explaining.segments import segment_means

__all__ = ["METHODS", "Permuted", "reinitialised"]

_OTHERS = 16
_APART = 1_000_003  # not the seed that the trained network itself may have begun from


class Noise(Method):
    """Uniform noise on the deepest layer's grid; an image always gets the same."""

    family = CONTROLS
    source = "control"
    seeded = True

    def fit(self, task: Task, seed: int) -> None:
        self._seed = seed
        self._grid = _cam(task, task.sample("validation", 1).inputs).shape[1:]

    def maps(self, inputs: Tensor, targets: Tensor) -> Tensor:
        return torch.stack([torch.rand(self._grid, generator=g) for g in _dice(inputs, self._seed)])


class Centre(Method):
    """A Gaussian in the picture's middle, a quarter of its side wide."""

    family = CONTROLS
    source = "control"

    def fit(self, task: Task, seed: int) -> None:
        """Need nothing."""

    def maps(self, inputs: Tensor, targets: Tensor) -> Tensor:
        height, width = inputs.shape[2:]
        y, x = (torch.linspace(-2, 2, n) for n in (height, width))
        bump = torch.exp(-(y[:, None].square() + x.square()) / 2)
        return bump.expand(len(inputs), -1, -1).clone()


class Averaged(Method):
    """Grad-CAM averaged within segments that a subclass chooses."""

    family = CONTROLS
    source = "control"

    def fit(self, task: Task, seed: int) -> None:
        self._task, self._seed = task, seed

    def maps(self, inputs: Tensor, targets: Tensor) -> Tensor:
        segments = self.segments(inputs, targets)
        size = (segments.shape[1], segments.shape[2])
        evidence = resize_keeping_mean(_cam(self._task, inputs, targets)[:, None], size)
        return segment_means(evidence, segments, int(segments.max()) + 1)[:, 0]

    @abstractmethod
    def segments(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return the segments (N, h, w)."""


class MovedSegments(Averaged):
    """Our unfitted B234 segments, of the same sizes but in wrong places.

    Args:
        move: Takes segments (h, w) and a generator and returns them elsewhere.
    """

    seeded = True
    passes = 2

    def __init__(self, move: Callable[[Tensor, torch.Generator], Tensor]) -> None:
        self._move = move

    def fit(self, task: Task, seed: int) -> None:
        super().fit(task, seed)
        self._ours = LayerKMeansAttribution(task.model, task.layers, seed=seed)

    def segments(self, inputs: Tensor, targets: Tensor) -> Tensor:
        ours = self._ours.segment(inputs, targets)
        dice = _dice(inputs, self._seed)
        return torch.stack([self._move(s, g) for s, g in zip(ours, dice, strict=True)])


class AnotherPicture(Averaged):
    """Our unfitted B234 segments of another picture, one of the first for validation."""

    seeded = True
    passes = 2

    def fit(self, task: Task, seed: int) -> None:
        super().fit(task, seed)
        ours = LayerKMeansAttribution(task.model, task.layers, seed=seed)
        self._others = ours.segment(task.sample("validation", _OTHERS).inputs)

    def segments(self, inputs: Tensor, targets: Tensor) -> Tensor:
        count, dice = len(self._others), _dice(inputs, self._seed)
        return self._others[[int(torch.randint(count, (), generator=g)) for g in dice]]


class Superpixels(Averaged):
    """SLIC superpixels of the picture itself.

    Args:
        n_segments: How many are asked for.
    """

    source = "Achanta et al. (2012), scikit-image slic"

    def __init__(self, n_segments: int) -> None:
        self._n_segments = n_segments

    def segments(self, inputs: Tensor, targets: Tensor) -> Tensor:
        pictures = self._task.pictures(inputs).cpu().numpy().transpose(0, 2, 3, 1)
        found = [slic(p, n_segments=self._n_segments, start_label=0) for p in pictures]
        return torch.from_numpy(np.stack(found)).long()


class RandomEncoder(LayerKMeans):
    """Our unfitted B234 on a network with fresh random weights."""

    family = CONTROLS
    source = "Adebayo et al. (2018), captum_kmex"

    def __init__(self) -> None:
        super().__init__(3, False)

    def fit(self, task: Task, seed: int) -> None:
        images = task.sample("validation", 32).inputs
        super().fit(replace(task, model=reinitialised(task.model, images, seed)), seed)


class ShuffledLabels(LayerKMeans):
    """Our B234 fitted on training images with one another's labels."""

    family = CONTROLS
    source = "control, captum_kmex"

    def __init__(self) -> None:
        super().__init__(3, True)

    def fit(self, task: Task, seed: int) -> None:
        if task.train is None:
            raise UnavailableError("needs training images")
        super().fit(replace(task, train=cast(LabelledData, Permuted(task.train, seed))), seed)


class Permuted(Dataset[tuple[Tensor, Tensor]]):
    """Labelled images whose labels have changed places.

    Args:
        data: Yields an image and its label.
        seed: Seed of the permutation.
    """

    def __init__(self, data: LabelledData, seed: int) -> None:
        labels = torch.cat([batch[1] for batch in DataLoader(data, 256)])
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
        self._data, self.labels = data, labels[order]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self._data[index][0], self.labels[index]


def reinitialised(model: nn.Module, images: Tensor, seed: int) -> nn.Module:
    """Return a copy with random weights, its normalisations set to these images.

    Without the latter the activations of a deep network die out.
    """
    fresh = copy.deepcopy(model).train()
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(_APART + seed)
        for module in fresh.modules():
            if callable(reset := getattr(module, "reset_parameters", None)):
                reset()
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 1.0  # the statistics of one batch, and no other
        fresh(images)
    return fresh.eval()


def permute(segments: Tensor, generator: torch.Generator) -> Tensor:
    """Deal the pixels out anew: same sizes, no shape."""
    order = torch.randperm(segments.numel(), generator=generator)
    return segments.flatten()[order].view_as(segments)


def shift(segments: Tensor, generator: torch.Generator) -> Tensor:
    """Roll the segments by a quarter to three quarters of each side: same sizes and shapes."""
    steps = [
        int(torch.randint(side // 4, 3 * side // 4 + 1, (), generator=generator))
        for side in segments.shape
    ]
    return segments.roll(steps, (0, 1))


def _cam(task: Task, inputs: Tensor, targets: Tensor | None = None) -> Tensor:
    """Return Grad-CAM (N, h, w) in logit units."""
    maps = cast(Tensor, ClassifierPrototypes(task.model).attribute(inputs, targets))
    return maps[:, 0]


def _dice(inputs: Tensor, seed: int) -> list[torch.Generator]:
    """Return a generator for each image, the same whatever batch it stands in."""
    digests = [zlib.crc32(image.cpu().numpy().tobytes(), seed) for image in inputs]
    return [torch.Generator().manual_seed(digest) for digest in digests]


METHODS: dict[str, Callable[[], Method]] = {
    "Random map": Noise,
    "Centre Gaussian": Centre,
    "Permuted B234 segments + CAM": partial(MovedSegments, permute),
    "Shifted B234 segments + CAM": partial(MovedSegments, shift),
    "Another picture's B234 segments + CAM": AnotherPicture,
    "SLIC 20 + CAM": partial(Superpixels, 20),
    "SLIC 100 + CAM": partial(Superpixels, 100),
    "Random encoder, B234 unfitted": RandomEncoder,
    "Shuffled labels, B234 fitted": ShuffledLabels,
}
