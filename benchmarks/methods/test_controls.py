from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from benchmarks.methods.controls import METHODS, Permuted, reinitialised
from benchmarks.methods.systems.tiny_resnet_task import tiny_resnet_task
from benchmarks.quality.method import Method
from benchmarks.quality.task import Task
from captum_kmex import ClassifierPrototypes, LayerKMeansAttribution
from captum_kmex.composite.resizing import resize_keeping_mean
from captum_kmex.demo import SmallResNet

TARGETS = torch.tensor([0, 2, 1, 1])
MOVED = ["Permuted B234 segments + CAM", "Shifted B234 segments + CAM"]
ANOTHER = "Another picture's B234 segments + CAM"
AVERAGED = [*MOVED, ANOTHER, "SLIC 20 + CAM", "SLIC 100 + CAM"]


@pytest.fixture(scope="module")
def task() -> Task:
    return tiny_resnet_task(channels=3)


@pytest.fixture(scope="module")
def images(task: Task) -> Tensor:
    return task.sample("test", 4).inputs


def _fitted(name: str, task: Task, seed: int = 0) -> Method:
    method = METHODS[name]()
    method.fit(task, seed)
    return method


def test_noise_is_an_image_s_own_whatever_its_batch(task: Task, images: Tensor) -> None:
    method = _fitted("Random map", task)
    together = method.maps(images, TARGETS)
    alone = torch.cat([method.maps(x, t) for x, t in zip(images.split(1), TARGETS, strict=True)])
    assert together.shape == (4, 4, 4)
    assert torch.equal(together, alone)
    assert not torch.equal(together[0], together[1])


def test_noise_depends_on_the_seed(task: Task, images: Tensor) -> None:
    one, other = (_fitted("Random map", task, seed).maps(images, TARGETS) for seed in (0, 1))
    assert not torch.equal(one, other)


def test_centre_is_largest_in_the_middle_and_symmetric(task: Task, images: Tensor) -> None:
    (bump, *_) = _fitted("Centre Gaussian", task).maps(images, TARGETS)
    torch.testing.assert_close(bump, bump.flip(0))
    torch.testing.assert_close(bump, bump.T)
    assert int(bump.argmax()) in {7 * 16 + 7, 7 * 16 + 8, 8 * 16 + 7, 8 * 16 + 8}
    # one standard deviation, four pixels, from the middle: between pixels 11 and 12
    assert bump[8, 11] > float(torch.exp(torch.tensor(-0.5))) > bump[8, 12]


@pytest.mark.parametrize("name", MOVED)
def test_moved_segments_keep_their_sizes_in_other_places(
    task: Task, images: Tensor, name: str
) -> None:
    ours = LayerKMeansAttribution(task.model, task.layers, seed=0).segment(images)
    moved = _fitted(name, task).segments(images, TARGETS)
    for one, other in zip(ours, moved, strict=True):
        assert torch.equal(one.flatten().bincount(), other.flatten().bincount())
        assert not torch.equal(one, other)


def test_shifted_segments_keep_their_shapes(task: Task, images: Tensor) -> None:
    ours = LayerKMeansAttribution(task.model, task.layers, seed=0).segment(images)
    moved = _fitted(MOVED[1], task).segments(images, TARGETS)
    side = ours.shape[1]
    for one, other in zip(ours, moved, strict=True):
        steps = [(y, x) for y in range(side) for x in range(side)]
        fits = [(y, x) for y, x in steps if torch.equal(one.roll((y, x), (0, 1)), other)]
        assert any(side // 4 <= y <= 3 * side // 4 for y, _ in fits)


def test_segments_of_another_picture_are_those_of_one_for_validation(
    task: Task, images: Tensor
) -> None:
    others = LayerKMeansAttribution(task.model, task.layers, seed=0).segment(
        task.sample("validation", 16).inputs
    )
    method = _fitted(ANOTHER, task)
    found = method.segments(images, TARGETS)
    for one in found:
        assert any(torch.equal(one, other) for other in others)
    assert torch.equal(method.segments(images[2:], TARGETS[2:]), found[2:])


@pytest.mark.parametrize("name", AVERAGED)
def test_averaging_keeps_the_sum_and_is_flat_within_segments(
    task: Task, images: Tensor, name: str
) -> None:
    method = _fitted(name, task)
    maps, segments = method.maps(images, TARGETS), method.segments(images, TARGETS)
    cam = ClassifierPrototypes(task.model).attribute(images, TARGETS)
    assert isinstance(cam, Tensor)
    size = (segments.shape[1], segments.shape[2])
    whole = resize_keeping_mean(cam, size).sum((1, 2, 3))
    torch.testing.assert_close(maps.sum((1, 2)), whole, atol=1e-4, rtol=1e-4)
    for values, labels in zip(maps, segments, strict=True):
        for label in labels.unique():
            torch.testing.assert_close(*values[labels == label].aminmax())


def test_finer_superpixels_are_more(task: Task, images: Tensor) -> None:
    coarse, fine = (_fitted(f"SLIC {n} + CAM", task).segments(images, TARGETS) for n in (20, 100))
    assert coarse.max() < fine.max()


def test_reinitialised_network_shares_no_weights_with_the_trained_one(
    task: Task, images: Tensor
) -> None:
    before = {name: value.clone() for name, value in task.model.state_dict().items()}
    fresh = reinitialised(task.model, images, seed=0)
    again = reinitialised(task.model, images, seed=0)
    assert not fresh.training
    torch.testing.assert_close(fresh(images), again(images))
    for (name, old), new in zip(task.model.named_parameters(), fresh.parameters(), strict=True):
        assert not torch.equal(old, new), name
    assert all(torch.equal(before[name], value) for name, value in task.model.state_dict().items())


def test_reinitialised_network_is_not_the_trained_one_s_beginning(
    task: Task, images: Tensor
) -> None:
    torch.manual_seed(0)
    beginning = SmallResNet(3, 3, width=4)
    fresh = reinitialised(beginning, images, seed=0)
    assert not torch.equal(fresh.get_parameter("fc.weight"), beginning.fc.weight)


def test_reinitialised_network_has_standardised_activations(task: Task, images: Tensor) -> None:
    fresh = reinitialised(task.model, images, seed=0)
    with torch.no_grad():
        stem = fresh.get_submodule("stem.1")(fresh.get_submodule("stem.0")(images))
    torch.testing.assert_close(stem.mean((0, 2, 3)), torch.zeros(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(stem.std((0, 2, 3)), torch.ones(4), atol=1e-2, rtol=0)


def test_permuted_labels_keep_their_counts_and_leave_the_images() -> None:
    images, labels = torch.randn(90, 1, 2, 2), torch.arange(90) % 3
    data = Permuted(TensorDataset(images, labels), seed=0)
    found = torch.stack([data[i][1] for i in range(90)])
    assert torch.equal(found.bincount(), labels.bincount())
    assert (found == labels).double().mean() < 0.5
    assert torch.equal(torch.stack([data[i][0] for i in range(90)]), images)
    again = Permuted(TensorDataset(images, labels), seed=1)
    assert not torch.equal(data.labels, again.labels)
