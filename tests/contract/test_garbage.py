"""What a call no longer needs is freed when it returns: no tensor waits for the collector."""

from __future__ import annotations

import gc
from collections.abc import Callable
from contextlib import suppress

import pytest
import torch
from nets import LAYERS, drawn_sided, make_net, make_sided
from tails import AFFINE, NORMED, NOT_AFFINE, images, model_of
from torch import Tensor

from captum_kmex import (
    ClassifierPrototypes,
    KMExAttribution,
    LayerKMeansAttribution,
    suggest_layers,
)

pytestmark = pytest.mark.filterwarnings("ignore::captum_kmex.exceptions.FewRowsWarning")
LABELS = torch.arange(12) % 3
TAILS = AFFINE | NORMED | NOT_AFFINE


def tensors_left_by(call: Callable[[], object]) -> list[tuple[int, ...]]:
    """Return the shapes of the tensors that only the collector of garbage would free."""
    call()  # what is made once may stay
    gc.collect()
    gc.freeze()  # what lies there already is looked through no more
    gc.disable()
    try:
        call()
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        return [tuple(kept.shape) for kept in gc.garbage if isinstance(kept, Tensor)]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
        gc.unfreeze()


@pytest.fixture(scope="module")
def x() -> Tensor:
    return torch.randn(12, 1, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def layers_of(x) -> dict[str, LayerKMeansAttribution]:
    net = make_net()
    unfitted = LayerKMeansAttribution(net, LAYERS, n_clusters=3)
    fitted = LayerKMeansAttribution(net, LAYERS, n_prototypes=2)
    return {"unfitted": unfitted, "fitted": fitted.fit([(x, LABELS)], n_init=1)}


CALLS = {
    "attribute": lambda a, x: a.attribute(x),
    "attribute, targets": lambda a, x: a.attribute(x, torch.arange(len(x)) % 3),
    "attribute, tuples": lambda a, x: a.attribute(x, [(1,)] * len(x)),
    "attribute, contrast": lambda a, x: a.attribute(x, 1, contrast=2),
    "delta": lambda a, x: a.attribute(x, return_convergence_delta=True),
    "measured": lambda a, x: a.attribute(x[:1], evidence="measured"),
    "explain": lambda a, x: a.explain(x),
    "several": lambda a, x: a.explain_targets(x, [0, 1, 2]),
    "explain, measured": lambda a, x: a.explain(x[:1], evidence="measured"),
    "segment": lambda a, x: a.segment(x),
    "mask": lambda a, x: a.feature_mask(x),
    "segments": lambda a, x: a.attribute(x, segments=torch.arange(16).expand(len(x), 1, 16, 16)),
}


@pytest.mark.parametrize("kind", ["unfitted", "fitted"])
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_layer_kmeans_leaves_no_tensors(layers_of, x, kind, call):
    assert tensors_left_by(lambda: call(layers_of[kind], x)) == []


@pytest.mark.parametrize("name", ["predict", "classify"])
def test_surrogate_leaves_no_tensors(layers_of, x, name):
    assert tensors_left_by(lambda: getattr(layers_of["fitted"], name)(x)) == []


@pytest.mark.parametrize("make", [ClassifierPrototypes, KMExAttribution, LayerKMeansAttribution])
def test_fit_and_maps_of_every_class_leave_no_tensors(x, make):
    net = make_net()
    attr = make(net, LAYERS[1]) if make is LayerKMeansAttribution else make(net)
    if make is not ClassifierPrototypes:
        attr.n_prototypes = 2
        assert tensors_left_by(lambda: attr.fit([(x, LABELS)] * 3, n_init=1, refine=1)) == []
    assert tensors_left_by(lambda: attr.attribute(x, 1)) == []


@pytest.mark.parametrize("make", TAILS.values(), ids=TAILS)
def test_search_for_a_head_leaves_no_tensors(make):
    model, x = model_of(make), images()
    assert tensors_left_by(lambda: LayerKMeansAttribution(model, ["0"]).attribute(x, 0)) == []


@pytest.mark.parametrize("sides", [1, 3])
def test_signals_and_volumes_leave_no_tensors(sides):
    model, x = make_sided(sides), drawn_sided(sides)
    assert tensors_left_by(lambda: suggest_layers(model, x)) == []
    attr = LayerKMeansAttribution(model, LAYERS)
    assert tensors_left_by(lambda: attr.explain(x, 0)) == []


WRONG = {
    "target": lambda a, x: a.attribute(x, 99),
    "option": lambda a, x: a.attribute(x, upsample="nothing"),
    "input": lambda a, x: a.attribute(x[:, :, :1, :1].expand(-1, 3, -1, -1)),
    "depth": lambda a, x: a.explain(x, depth=7),
    "label": lambda a, x: LayerKMeansAttribution(a.model, LAYERS).fit([(x, LABELS + 7)]),
}


@pytest.mark.parametrize("call", WRONG.values(), ids=WRONG)
def test_refused_call_leaves_no_tensors(layers_of, x, call):
    def refused():
        with suppress(Exception):
            call(layers_of["unfitted"], x)
            pytest.fail("was not refused")

    assert tensors_left_by(refused) == []
