"""The rows of the ablation: settings of the unfitted map, and controls."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from benchmarks.ablations.carrying import carry_down, fit_to_deepest
from benchmarks.ablations.replay import Replay
from benchmarks.evaluation.task import Sample, Task
from captum_kmex import ClassifierPrototypes, LayerKMeansAttribution
from captum_kmex.composite.stack import resize_keeping_mean

__all__ = ["FINER", "Answer", "Setting", "deepest_density", "object_masks", "rows"]

FINER = {"photographs": "blocks.1", "parts": "layer1"}  # a block below the task's own
Answer = tuple[Tensor, Tensor | None]  # maps (N, 1, h, w) and segments (N, h, w)


@dataclass(frozen=True)
class Setting:
    """One row: options of ``LayerKMeansAttribution``, and what is done otherwise."""

    weighting: str = "dimension"
    n_clusters: int = 20
    average_top: bool = False
    connected: bool = False
    drop: int = 1  # blocks that are left out, of all that were recorded
    mode: str = ""  # another way of carrying evidence down

    def explain(self, replay: Replay, targets: Tensor, seed: int) -> Answer:
        """Return maps and segments of all images."""
        layers = replay.layers[self.drop :]
        attribution = LayerKMeansAttribution(
            replay,
            layers,
            n_clusters=self.n_clusters,
            weighting=self.weighting,
            average_top=self.average_top,
            seed=seed,
        )
        images, splits = replay.images, self.connected
        finest = attribution.segment(images, connected=splits)
        if not self.mode:
            maps = attribution.attribute(images, targets, connected=splits)
            return cast("Tensor", maps), finest
        density = deepest_density(replay, targets)
        if self.mode.startswith("fit"):
            return fit_to_deepest(density, finest, float(self.mode[4:])), finest
        deeper = range(len(layers) - 2, 0, -1) if self.mode != "once" else ()
        deep_to_shallow = [attribution.segment(images, depth=d) for d in deeper] + [finest]
        how = "nearest-exact" if self.mode == "nearest" else "bilinear"
        return carry_down(density, deep_to_shallow, how), finest


def deepest_density(replay: Replay, targets: Tensor) -> Tensor:
    """Return the head's map, which is Grad-CAM's, as a density (N, 1, h, w)."""
    maps = cast("Tensor", ClassifierPrototypes(replay).attribute(replay.images, targets))
    return maps * maps[0].numel()


def _superpixels(count: int, sample: Sample, density: Tensor) -> Answer:
    """Average Grad-CAM's map in SLIC superpixels of the picture."""
    from skimage.segmentation import slic

    pictures = sample.inputs.permute(0, 2, 3, 1).numpy()
    found = [torch.from_numpy(slic(p, n_segments=count, start_label=0)) for p in pictures]
    segments = torch.stack(found)
    return carry_down(density, [segments]), segments


def rows(task: Task, sample: Sample, replay: Replay) -> dict[str, Callable[[int], Answer]]:
    """Return what makes each row, given a seed."""
    density = deepest_density(replay, sample.targets)
    grids = [block.shape[2:] for block in replay.recorded[1:]]

    def control(answer: Callable[[], Answer], _: int) -> Answer:
        return answer()

    def at_random(seed: int) -> Answer:
        rng = torch.Generator().manual_seed(seed)
        return torch.rand(len(density), 1, *grids[0], generator=rng), None

    def resized() -> Answer:
        maps = density
        for grid in grids[-2::-1]:
            maps = resize_keeping_mean(maps, (grid[0], grid[1]))
        return maps, None

    def oracle() -> Answer:
        size = (grids[0][0], grids[0][1])
        masks = interpolate(object_masks(sample)[:, None].double(), size, mode="area")[:, 0] > 0.5
        return carry_down(resized()[0], [masks.long()]), masks.long()

    table: dict[str, Callable[[int], Answer]] = {
        "random map": at_random,
        "Grad-CAM": partial(control, lambda: (density, None)),
        "Grad-CAM, resized step by step": partial(control, resized),
        "SLIC 20 + CAM": partial(control, partial(_superpixels, 20, sample, density)),
        "SLIC 100 + CAM": partial(control, partial(_superpixels, 100, sample, density)),
        "the true mask as segments": partial(control, oracle),
    }
    for name, setting in _settings(task).items():
        table[name] = partial(setting.explain, replay, sample.targets)
    return table


def _settings(task: Task) -> dict[str, Setting]:
    settings = {
        "before: balanced, 5 clusters": Setting("balanced", 5),
        "**default: dimension, 20 clusters**": Setting(),
        "weighting balanced": Setting("balanced"),
        "weighting nave": Setting("nave"),
    }
    for count in (5, 8, 10, 15, 30):
        settings[f"{count} clusters"] = Setting(n_clusters=count)
    settings |= {
        "average_top": Setting(average_top=True),
        "connected": Setting(connected=True),
        "averaged once, on the finest grid": Setting(mode="once"),
        "resized to the nearest": Setting(mode="nearest"),
        "fitted to the deepest map, ridge 1": Setting(mode="fit 1"),
        "fitted to the deepest map, ridge 0.1": Setting(mode="fit 0.1"),
        "without the finest layer": Setting(drop=2),
    }
    if task.name in FINER:
        settings["with a finer layer"] = Setting(drop=0)
    return settings


def object_masks(sample: Sample) -> Tensor:
    """Return the masks, which a task must have."""
    if sample.masks is None:
        raise ValueError("the ablation needs a task with masks: photographs or parts")
    return sample.masks
