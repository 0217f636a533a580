"""A fit that figures are drawn of."""

from __future__ import annotations

import copy

import pytest
import torch
from nets import LAYERS, make_net

from captum_kmex import LayerKMeansAttribution


@pytest.fixture(scope="session")
def made(drawn_images):
    attr = LayerKMeansAttribution(make_net(), LAYERS, n_prototypes=2, n_clusters=3)
    return attr.fit([(drawn_images, torch.arange(12) % 3)])


@pytest.fixture
def fitted(made):
    return copy.deepcopy(made)
