"""ProtoPNet (Chen et al., 2019), trained from the task's network, from the paper."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable
from dataclasses import astuple
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from benchmarks.methods.systems.protopnet import ProtoPNet, Schedule, similarity, train
from benchmarks.methods.systems.tap import Tap
from benchmarks.methods.systems.training import draw
from benchmarks.quality.method import ConceptMaps, Method, Prototypes
from benchmarks.quality.task import Task
from captum_kmex.files.tensor_file import write_tensors
from captum_kmex.model.activations import unwrap

__all__ = ["METHODS"]

_CACHE = Path(__file__).parents[1] / "runs" / "cache"
_BUDGET = 900.0  # joint passes of a mobile network: 5,000 images of a small one, six epochs


class TrainedProtoPNet(Method):
    """ProtoPNet on a copy of the task's trained backbone, the one costly rival.

    A map is the sum of the target's prototypes' similarity maps, each times its weight in the
    head; a segment is the nearest prototype of any class. The prototypes live in the space of
    the add-on layers, so ``embed`` gives the mean of that map, not the network's embedding.

    Args:
        schedule: Epochs and sizes.
        cache: Where trained networks are kept, if anywhere.
        budget: Joint passes of a mobile network that the training may cost; fewer images are
            drawn where all cost more. Infinite: all images.
    """

    family = "prototypes"
    source = (
        "Chen et al. (2019), written from the paper; starts from the task's trained backbone; 5 "
        "prototypes a class, 30 warm and 6 joint epochs (the paper: 5 and more, of 180,000 "
        "augmented images; 5 warm ones of 1,500 digits left the prototypes on the background of "
        "validation images), a push and 20 epochs of the head after joint epochs 3 and 6 (the "
        "paper: every 10), no augmentation; at most 5,000 images of a small network (1,250 of 64 "
        "pixels), to bound the cost on one thread; the last state is kept, none is selected"
    )
    seeded = True
    shares_concepts = True

    def __init__(
        self,
        schedule: Schedule | None = None,
        cache: Path | None = _CACHE,
        budget: float = _BUDGET,
    ) -> None:
        self._schedule, self._cache = schedule or Schedule(), cache
        self._budget = budget

    def fit(self, task: Task, seed: int) -> None:
        affordable = self._budget / (task.weight * self._schedule.joint)
        images, labels = draw(task, affordable, seed)
        tap = Tap(task.model, images)
        backbone = _Backbone(unwrap(task.model), tap.site.tap, tap.site.relu)
        self.net = ProtoPNet(backbone, tap.columns.shape[1], task.n_classes, self._schedule)
        path = self._path(task, seed, len(images))
        if path is not None and path.exists():
            self.net.load_state_dict(load_file(path))
        else:
            train(self.net, images, labels, self._schedule)
            if path is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
                write_tensors(path, self.net.state_dict(), "protopnet", {"task": task.name})
        self.net.eval().requires_grad_(False)

    def maps(self, inputs: Tensor, targets: Tensor) -> Tensor:
        weights = self._own_weights(targets)
        return torch.einsum("nphw,np->nhw", similarity(self._distances(inputs)), weights)

    def segments(self, inputs: Tensor, targets: Tensor) -> Tensor:
        return self._distances(inputs).argmin(1)

    def concepts(self, inputs: Tensor, targets: Tensor) -> ConceptMaps:
        maps = similarity(self._distances(inputs))
        # what each prototype adds to the target's logit
        return ConceptMaps(maps, maps.amax((2, 3)) * self.net.head.weight[targets])

    def predict(self, inputs: Tensor) -> Tensor:
        with torch.no_grad():
            found: Tensor = self.net(inputs)
        return found.argmax(1)

    def prototypes(self) -> Prototypes:
        return Prototypes(self.net.prototypes.detach(), self.net.classes)

    def embed(self, inputs: Tensor) -> Tensor:
        """Return the embeddings (N, channels) that the prototypes are compared with."""
        with torch.no_grad():
            return self.net.latent(inputs).mean((2, 3))

    @torch.no_grad()
    def _distances(self, inputs: Tensor) -> Tensor:
        return self.net.distances(self.net.latent(inputs))

    def _own_weights(self, targets: Tensor) -> Tensor:
        """Return the head's weights (N, P) for the targets, zero for others' prototypes."""
        return self.net.head.weight[targets] * (self.net.classes == targets[:, None])

    def _path(self, task: Task, seed: int, n_images: int) -> Path | None:
        """Return where the trained network is kept: it depends on all that it was made from."""
        if self._cache is None:
            return None
        digest = hashlib.sha256(repr((astuple(self._schedule), n_images)).encode())
        for name, value in task.model.state_dict().items():
            digest.update(name.encode() + value.cpu().numpy().tobytes())
        return self._cache / f"protopnet-{task.name}-{seed}-{digest.hexdigest()[:16]}.safetensors"


class _Backbone(nn.Module):
    """A copy of a network as far as its tap, trainable.

    Args:
        model: The network; it is not changed.
        tap: Name of the module that gives the map.
        is_rectified: A ReLU that is no module follows.
    """

    def __init__(self, model: nn.Module, tap: str, is_rectified: bool) -> None:
        from torchvision.models.feature_extraction import create_feature_extractor

        super().__init__()
        self._is_rectified = is_rectified
        self.body = create_feature_extractor(copy.deepcopy(model).cpu(), {tap: "tap"})
        self.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        """Return the map (N, D, h, w)."""
        found: Tensor = self.body(images.to(memory_format=torch.channels_last))["tap"]
        return found.relu() if self._is_rectified else found


METHODS: dict[str, Callable[[], Method]] = {"ProtoPNet": TrainedProtoPNet}
