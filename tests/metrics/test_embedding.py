"""Pooled embeddings against the network's own layers."""

from __future__ import annotations

import pytest
import torch
from nets import make_net

from captum_kmex import ClassifierPrototypes, KMExAttribution
from captum_kmex.metrics.embedding import pooled_embeddings


@pytest.mark.parametrize("kind", [ClassifierPrototypes, KMExAttribution])
def test_embeddings_are_what_the_head_reads(images, labels, kind):
    net = make_net()
    rows, classes = pooled_embeddings(
        kind(net), [(images[:5], labels[:5]), (images[5:], labels[5:])]
    )
    torch.testing.assert_close(net.head(rows), net(images))
    assert torch.equal(classes, labels)
    assert not rows.requires_grad


def test_embeddings_of_a_layer_are_its_means(images, labels):
    net = make_net()
    rows, _ = pooled_embeddings(KMExAttribution(net, "stage2"), [(images, labels)])
    torch.testing.assert_close(rows, net.stage2(net.stage1(images)).mean((2, 3)).detach())


def test_image_of_two_classes_stands_twice(images):
    hot = torch.tensor([[1, 0, 1], [0, 1, 0]])
    rows, classes = pooled_embeddings(ClassifierPrototypes(make_net()), [(images[:2], hot)])
    assert classes.tolist() == [0, 2, 1]
    assert torch.equal(rows[0], rows[1])


def test_embeddings_need_images():
    with pytest.raises(ValueError, match="no batch"):
        pooled_embeddings(ClassifierPrototypes(make_net()), [])
