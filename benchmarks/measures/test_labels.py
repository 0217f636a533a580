from __future__ import annotations

import numpy as np
import torch

from benchmarks.measures.formulas.labels import majority, pixel_labels
from benchmarks.quality.task import Sample


def test_labels_put_the_smaller_part_in_front():
    parts = torch.zeros(1, 2, 4, 4, dtype=torch.bool)
    parts[0, 0, 1, 1] = True
    parts[0, 1, 1, :3] = True
    masks = torch.zeros(1, 4, 4, dtype=torch.bool)
    masks[0, :2] = True
    labels, on_parts = pixel_labels(Sample(torch.zeros(1), torch.zeros(1), None, masks, parts))
    assert labels[0].tolist() == [[1, 1, 1, 1], [3, 2, 3, 1], [0] * 4, [0] * 4]
    assert on_parts.sum() == 3
    labels, on_parts = pixel_labels(Sample(torch.zeros(1), torch.zeros(1), None, masks))
    assert torch.equal(labels, masks.long())
    assert torch.equal(on_parts, masks)


def test_majority_is_that_of_a_loop():
    generator = torch.Generator().manual_seed(0)
    clusters = torch.randint(40, (3, 9, 9), generator=generator) * 7
    labels = torch.randint(4, (3, 9, 9), generator=generator)
    found = majority(clusters, labels)
    for k in clusters.unique():
        counts = np.bincount(labels[clusters == k].numpy(), minlength=4)
        assert (found[clusters == k] == int(counts.argmax())).all()
