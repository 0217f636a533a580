"""How one model is explained with no argument but its images."""

from __future__ import annotations

import multiprocessing
import resource
import signal
import warnings
from multiprocessing.connection import Connection
from typing import Any

import torch

from benchmarks.models.zoo import built, images_of, settled
from captum_kmex import LayerKMeansAttribution
from captum_kmex.model.reading import Reading

__all__ = ["Record", "measured"]

Record = dict[str, Any]

_EXACT = 1e-4  # of the logits' scale, that a map may miss


def measured(name: str, seconds: int) -> Record:
    """Explain a model in a process of its own, which may take so many seconds of the processor."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_report, args=(name, theirs, seconds))
    process.start()
    theirs.close()
    record: Record
    try:
        record = ours.recv()
    except EOFError:  # it was killed
        process.join()
        is_over = process.exitcode == -signal.SIGXCPU
        why = f"took more than {seconds} s" if is_over else "needs more memory than there is"
        record = {"kind": "not measured", "why": why}
    process.join()
    return {"name": name} | record


def _report(name: str, sends: Connection, seconds: int) -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    try:
        record = explained(name)
    except Exception as error:  # whatever a model may raise stands in the table
        record = {"kind": "refused", "why": (str(error) or type(error).__name__).splitlines()[0]}
    sends.send(record)


def explained(name: str) -> Record:
    """Return how a model is explained: what makes the map, where, and what is left over."""
    model = built(name)
    images = images_of(name, model)
    model = settled(model, images_of(name, model, 4))
    attribution = LayerKMeansAttribution(model, n_clusters=8)
    result = attribution.explain(images, depth=-1)
    reading = attribution.read(images).reading
    scale = float((result.logits - result.logits.mean(1, keepdim=True)).abs().max())
    delta = float(result.delta.abs().max()) / max(scale, 1e-30)
    left = result.not_linear
    is_complete = delta <= _EXACT or scale == 0
    return {
        "kind": result.head if is_complete else "refused",
        "why": reading.refusal if is_complete else f"misses {delta:.1e} of the logits",
        "size": images.shape[-1],
        "layers": list(result.layers),
        "all_layers": list(attribution.layer_names),
        "tap": _tap_of(reading),
        "grid": list(reading.feature_map.shape[-2:]),
        "delta": delta,
        "left": None if left is None else float(left.abs().max()) / max(scale, 1e-30),
    }


def _tap_of(reading: Reading) -> str:
    site = reading.site
    if site is None or isinstance(site, str):
        return ""
    return f"input of {site.tap}" if site.at_input else site.tap
