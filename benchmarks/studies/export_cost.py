"""What an explanation adds to a model in ONNX Runtime: CPU time of one thread, batch 1 and 8."""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from importlib import metadata
from pathlib import Path

import onnxruntime
import torch
from torch import Tensor, nn
from torchvision.models import resnet18

from benchmarks.timing import cpu_seconds, environment, interleave, ratios
from captum_kmex import LayerKMeansAttribution

__all__ = ["main"]

_RESULTS = Path(__file__).parents[1] / "results" / "export-cost.json"
_LAYERS = ["layer2", "layer3", "layer4"]


def main(words: Sequence[str]) -> None:
    """Time ResNet18 at 224x224 with 50 prototypes against the same model without them."""
    options = _options(words)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model, images = resnet18(num_classes=10).eval(), torch.rand(20, 3, 224, 224)
    attr = LayerKMeansAttribution(model, _LAYERS, n_prototypes=5)
    attr.fit([(images, torch.arange(20) % 10)], n_init=2, n_representatives=0)
    plain = _session(model, images[:2], ["logits"])
    module = attr.as_module(images[:2])
    explained = _session(module, images[:2], module.output_names)
    found = {f"batch {n}": _compare(plain, explained, images[:n], options.rounds) for n in (1, 8)}
    about = environment() | {"onnxruntime": metadata.version("onnxruntime")}
    options.results.write_text(json.dumps({"environment": about, "ratios": found}, indent=1) + "\n")
    print(json.dumps(found, indent=1))


def _options(words: Sequence[str]) -> argparse.Namespace:
    prog = "python -m benchmarks study export_cost"
    parser = argparse.ArgumentParser(prog=prog, description=__doc__)
    parser.add_argument("--rounds", type=int, default=15, help="rounds that count (15)")
    parser.add_argument("--results", type=Path, default=_RESULTS, help="JSON to write")
    return parser.parse_args(words)


def _compare(
    plain: onnxruntime.InferenceSession,
    explained: onnxruntime.InferenceSession,
    images: Tensor,
    rounds: int,
) -> dict[str, dict[str, float]]:
    feed = {"images": images.numpy()}
    (ours, *_), (theirs,) = explained.run(None, feed), plain.run(None, feed)
    if abs(ours - theirs).max() > 1e-4:
        raise RuntimeError("the explained model's logits are not the plain model's")
    watches = {
        name: cpu_seconds(partial(_run, session, feed, max(1, 8 // len(images))))
        for name, session in {"plain": plain, "again": plain, "explained": explained}.items()
    }
    times = interleave(watches, rounds)
    return {name: asdict(ratios(times, name)["plain"]) for name in ("again", "explained")}


def _run(session: onnxruntime.InferenceSession, feed: Mapping[str, object], repeats: int) -> None:
    for _ in range(repeats):
        session.run(None, feed)


def _session(module: nn.Module, images: Tensor, names: list[str]) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        torch.onnx.export(
            module,
            (images,),
            path,
            dynamo=True,
            input_names=["images"],
            output_names=names,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            verbose=False,
        )
        return onnxruntime.InferenceSession(path, options)
