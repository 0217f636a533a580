from __future__ import annotations

import torch

from benchmarks.tasks.patch_deletion import PATCHES, patch_numbers, training_data, without_patches


def test_patches_cut_the_image_in_sixteen() -> None:
    numbers = patch_numbers((28, 30), PATCHES)
    assert numbers.unique().tolist() == list(range(16))
    assert numbers[:7, :8].unique().tolist() == [0]
    assert set(numbers.unique(return_counts=True)[1].tolist()) == {7 * 7, 7 * 8}


def test_an_image_misses_its_own_patch_alone() -> None:
    images = torch.ones(16, 2, 12, 12)
    missing = without_patches(images, torch.arange(16), PATCHES)
    numbers = patch_numbers((12, 12), PATCHES)
    for i, image in enumerate(missing):
        assert torch.equal(image == 0, (numbers == i).expand(2, -1, -1))
    assert bool((images == 1).all())


def test_every_training_image_is_met_whole_and_without_a_patch() -> None:
    data = training_data("mnist_deletion")
    images, labels = data.train.tensors
    half = len(images) // 2
    whole, missing = images[:half], images[half:]
    assert torch.equal(labels[:half], labels[half:])
    changed = (whole != missing).any(1)
    numbers = patch_numbers((28, 28), PATCHES)
    first = [numbers[one].unique() for one in changed if one.any()]
    assert all(len(of_one) == 1 for of_one in first)
    assert len(torch.cat(first).unique()) > 8  # black corners change nothing
    assert bool((missing[changed.unsqueeze(1)] == 0).all())
