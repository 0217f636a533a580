"""The whole path on an accelerator: equal to the processor's, and timed over its own forward.

A full run wants an accelerator and takes a few minutes on one; a short run, which judges no
time, goes the same way on the processor.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.layer_outputs import layer_outputs
from benchmarks.speed.cases import Case
from benchmarks.speed.recorder import Recorder
from benchmarks.speed.setting import LAYERS, Setting, at_defaults, fitted, make_setting
from benchmarks.timing import wall_seconds
from captum_kmex import LayerKMeansAttribution, Measured
from captum_kmex.composite.stack import StackedBlocks

_CLASSES = 2
_TOLERANCE = 5e-3  # of a map's largest value: TensorFloat-32 is off, sums have another order
_SAME_LABELS = 0.99

Explain = Callable[[LayerKMeansAttribution, Setting], Tensor]


@dataclass(frozen=True)
class DeviceCase(Case):
    """A call on a batch, with so many prototypes of so many classes; without, at the defaults."""

    call: Explain
    batch: int
    classes: int = 0
    each: int = 0
    rounds: int = 9


def _attribute(attribution: LayerKMeansAttribution, setting: Setting) -> Tensor:
    found = attribution.attribute(setting.images, setting.target)
    assert isinstance(found, Tensor)
    return found


def _explain(attribution: LayerKMeansAttribution, setting: Setting) -> Tensor:
    return attribution.explain(setting.images, setting.target).attribution


def _measured(attribution: LayerKMeansAttribution, setting: Setting) -> Tensor:
    passes = Measured(passes="half")
    return attribution.explain(setting.images, setting.target, evidence=passes).attribution


def _cases(batch: int, few: int, many: int) -> list[DeviceCase]:
    table = f"on an accelerator, batch {batch}"
    fixed = partial(DeviceCase, table, batch=batch)
    return [
        fixed("attribute, defaults", _attribute),
        fixed("explain, defaults", _explain),
        fixed(f"attribute, {few} x 5", _attribute, classes=few, each=5),
        fixed(f"explain, {few} x 5", _explain, classes=few, each=5),
        fixed(f"explain, {many} x 5", _explain, classes=many, each=5),
        DeviceCase(table, "measured, half, one image", _measured, 1, rounds=3),
    ]


def _device(is_full: bool) -> torch.device:
    if torch.accelerator.is_available():
        found = torch.accelerator.current_accelerator()
        assert found is not None
        return found
    if is_full:
        pytest.skip("not measured: the machine has no accelerator")
    return torch.device("cpu")


def _moved(setting: Setting, device: torch.device) -> Setting:
    model = copy.deepcopy(setting.model).to(device)
    return replace(setting, model=model, images=setting.images.to(device))


def _finished(call: Callable[[], object]) -> Callable[[], object]:
    """Return the call with all that it started done at its end."""

    def run() -> object:
        result = call()
        if torch.accelerator.is_available():
            torch.accelerator.synchronize()
        return result

    return run


@pytest.mark.cases(short=_cases(2, 2, 10), full=_cases(32, 10, 1000))
@pytest.mark.filterwarnings("ignore::captum_kmex.exceptions.FewPixelsWarning")
def test_device(case: DeviceCase, record: Recorder, is_full: bool) -> None:
    device = _device(is_full)
    here = make_setting(is_full, case.batch)
    there = _moved(here, device)
    count = case.classes * case.each
    own = fitted(here, count, case.classes) if count else at_defaults(here)
    moved = _on(own, there)
    subject = partial(case.call, moved, there)
    watches = {"subject": subject, "forward": there.forward}
    record.compare({name: wall_seconds(_finished(x)) for name, x in watches.items()}, case.rounds)
    maps, expected = record.once(subject).cpu(), case.call(own, here)
    assert (maps - expected).abs().max() <= _TOLERANCE * expected.abs().max()
    same = (moved.segment(there.images).cpu() == own.segment(here.images)).float().mean()
    assert same >= _SAME_LABELS
    record.values(
        difference=float((maps - expected).abs().max() / expected.abs().max()),
        labels_equal=float(same),
        device=str(device),
    )


def _on(attribution: LayerKMeansAttribution, setting: Setting) -> LayerKMeansAttribution:
    """Return the attribution of the model on its device, with the same bank."""
    if attribution.own_bank is None:
        return at_defaults(setting)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "bank.safetensors"
        attribution.save(path)
        return LayerKMeansAttribution.load(path, setting.model, strict=False)


@pytest.mark.cases(
    short=[Case("fit on an accelerator", "16 images")],
    full=[Case("fit on an accelerator", "512 images")],
)
@pytest.mark.filterwarnings("ignore::captum_kmex.exceptions.FewRowsWarning")
def test_fit_on_device(case: Case, record: Recorder, is_full: bool) -> None:
    device, setting = _device(is_full), make_setting(is_full, int(case.row.split()[0]))
    there = _moved(setting, device)
    labels = torch.arange(len(setting.images)) % _CLASSES
    loader = DataLoader(TensorDataset(setting.images, labels), 32)

    def forward() -> None:
        with torch.inference_mode():
            for images, _ in loader:
                there.model(images.to(device))

    def fit() -> LayerKMeansAttribution:
        return LayerKMeansAttribution(there.model, list(LAYERS)).fit(
            loader, classes=range(_CLASSES)
        )

    watches = {"subject": fit, "forward": forward}
    record.compare({name: wall_seconds(_finished(x)) for name, x in watches.items()}, 3)
    found = record.once(fit)
    here = LayerKMeansAttribution(setting.model, list(LAYERS)).fit(loader, classes=range(_CLASSES))
    blocks = tuple(layer_outputs(setting.model, LAYERS, setting.images[:32]))
    for depth, books in enumerate(zip(found.bank_.codebooks, here.bank_.codebooks, strict=True)):
        stack = StackedBlocks(blocks[depth:], (1.0,) * (len(blocks) - depth))
        own, other = (float(stack.nearest(book.centroids.cpu())[1].sum()) for book in books)
        assert own == pytest.approx(other, rel=0.01)
    record.values(device=str(device))
