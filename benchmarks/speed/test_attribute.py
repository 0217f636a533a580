"""The whole call: ours and the usual alternatives over the bare forward pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import pytest

from benchmarks.speed.cams import (
    GradCamPackage,
    GradCams,
    LayerCams,
    ReciproCams,
    RefineCams,
)
from benchmarks.speed.cases import Case
from benchmarks.speed.methods import BareForward, Explained, Method, Ours, Predicted
from benchmarks.speed.recorder import Recorder
from benchmarks.speed.rivals import (
    IntegratedGradients50,
    KernelShap25,
    LayerwiseRelevance,
    OcclusionWindows,
    PlainSaliency,
    Tcav,
)
from benchmarks.speed.setting import LAYERS, Setting, make_setting

_ROUNDS = {1: 3, 8: 3}
_SLOW_ROUNDS = 2
Builders = dict[str, Callable[[Setting], Method]]


@dataclass(frozen=True)
class AttributeCase(Case):
    """A method on a batch."""

    build: Callable[[Setting], Method]
    batch: int
    is_slow: bool = False


def _ours(few: int, many: int) -> Builders:
    return {
        f"ours, K={few}": partial(Ours, n_prototypes=few),
        f"ours, K={many}": partial(Ours, n_prototypes=many),
        f"ours, K={few}, explain": partial(Explained, n_prototypes=few),
        f"ours, K={few}, predict": partial(Predicted, n_prototypes=few),
        "ours, unfitted": partial(Ours, n_prototypes=0),
        "ours, defaults": partial(Ours, n_prototypes=None),
        "ours, defaults, explain": partial(Explained, n_prototypes=None),
        f"ours, prepared, K={few}": partial(Ours, n_prototypes=few, is_prepared=True),
        f"ours, prepared, K={many}": partial(Ours, n_prototypes=many, is_prepared=True),
        "ours, prepared, unfitted": partial(Ours, n_prototypes=0, is_prepared=True),
    }


_QUICK: Builders = {
    "captum LayerGradCam, layer4": partial(GradCams, layers=["layer4"]),
    "captum LayerGradCam, layer2": partial(GradCams, layers=["layer2"]),
    "torchcam LayerCAM, layers 2-4": LayerCams,
    "torchcam RefineCAM, layers 2-4": RefineCams,
    "Recipro-CAM, layer4": ReciproCams,
    "bare forward, against itself": BareForward,
    "captum LayerGradCam, layers 2, 3, 4": partial(GradCams, layers=LAYERS),
    "pytorch-grad-cam GradCAM, layer4": GradCamPackage,
    "captum Saliency": PlainSaliency,
    "zennit EpsilonPlusFlat": LayerwiseRelevance,
}
_SLOW: Builders = {
    "captum Occlusion, 25 windows": OcclusionWindows,
    "captum KernelShap, 49 squares, 25 samples": KernelShap25,
    "captum IntegratedGradients, 50 steps": IntegratedGradients50,
    "captum TCAV, concept vectors ready": partial(Tcav, is_warm=True),
    "captum TCAV, trained in the call": partial(Tcav, is_warm=False),
}


def _cases(few: int, many: int, batches: tuple[int, ...]) -> list[AttributeCase]:
    """Return the rows of each batch size; what is slow runs on one image alone."""
    found: list[AttributeCase] = []
    for batch in batches:
        rows = _ours(few, many) | _QUICK | (_SLOW if batch < 8 else {})
        table = f"attribute, batch {batch}"
        found += [
            AttributeCase(table, row, build, batch, row in _SLOW) for row, build in rows.items()
        ]
    return found


@pytest.mark.cases(short=_cases(20, 300, (2,)), full=_cases(50, 2000, (1, 8)))
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_attribute(case: AttributeCase, record: Recorder, is_full: bool) -> None:
    setting = make_setting(is_full, case.batch)
    method = case.build(setting)
    ours = Ours(setting, 50 if is_full else 20)
    others: dict[str, Callable[[], object]] = {"forward": setting.forward, "ours": ours}
    rounds = _SLOW_ROUNDS if case.is_slow else _ROUNDS.get(case.batch, 2)
    method.check(record.against(method, others, rounds))
