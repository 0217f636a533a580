from __future__ import annotations

import pytest
import torch
from torch import nn

from benchmarks.methods import (
    captum_gradients,
    captum_perturbation,
    controls,
    grad_cam_package,
    newer_cams,
    zennit_rules,
)
from benchmarks.methods.systems.tiny_resnet_task import tiny_resnet_task

MODULES = (
    captum_gradients, captum_perturbation, controls, grad_cam_package, newer_cams, zennit_rules
)  # fmt: skip
METHODS = {name: make for module in MODULES for name, make in module.METHODS.items()}
WITHOUT_SEGMENTS = {"Random map", "Centre Gaussian"} | {
    name
    for module in (
        captum_gradients,
        captum_perturbation,
        zennit_rules,
        grad_cam_package,
        newer_cams,
    )
    for name in module.METHODS
    if name != "Deep Feature Factorization"
}
TARGETS = torch.tensor([0, 2])


def _hooks(model: nn.Module) -> int:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(getattr(module, kind)) for module in model.modules() for kind in kinds)


@pytest.mark.parametrize("channels", [1, 3], ids=["grey", "colour"])
@pytest.mark.parametrize("name", METHODS)
def test_method_gives_finite_maps_and_leaves_all_as_it_was(name: str, channels: int) -> None:
    task = tiny_resnet_task(channels)
    images = task.sample("test", 2).inputs
    kept = images.clone()
    before = {key: value.clone() for key, value in task.model.state_dict().items()}
    method = METHODS[name]()
    method.fit(task, 0)
    maps = method.maps(images, TARGETS)
    assert maps.ndim == 3
    assert len(maps) == 2
    assert maps.dtype == torch.float32
    assert not maps.requires_grad
    assert torch.isfinite(maps).all()
    assert maps.std() > 0
    assert method.passes >= 1
    assert torch.equal(images, kept)
    assert not images.requires_grad
    after = task.model.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert all(p.grad is None and p.requires_grad for p in task.model.parameters())
    assert _hooks(task.model) == 0
    assert not any(module.training for module in task.model.modules())


@pytest.mark.parametrize("name", sorted(METHODS.keys() - WITHOUT_SEGMENTS))
def test_method_gives_segments(name: str) -> None:
    task = tiny_resnet_task()
    method = METHODS[name]()
    method.fit(task, 0)
    segments = method.segments(task.sample("test", 2).inputs, TARGETS)
    assert segments.ndim == 3
    assert segments.dtype == torch.int64
    assert segments.min() >= 0
    assert len(segments.unique()) > 1


@pytest.mark.parametrize("name", METHODS)
def test_method_explains_an_image_alike_in_every_batch(name: str) -> None:
    task = tiny_resnet_task()
    images = task.sample("test", 2).inputs
    method = METHODS[name]()
    method.fit(task, 0)
    together = method.maps(images, TARGETS)
    torch.testing.assert_close(
        method.maps(images[1:], TARGETS[1:]), together[1:], atol=1e-4, rtol=1e-3
    )
