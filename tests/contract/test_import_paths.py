"""Every import path that a page or a release documents."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import captum_kmex
from captum_kmex.moved import MOVED

PATHS = {
    "captum_kmex": "ClassifierPrototypes Explanation HeadNotFoundError KMExAttribution "
    "LayerKMeansAttribution NotFittedError PrototypeBank TargetError suggest_layers",
    "captum_kmex.activations": "Trace layer_name trace",
    "captum_kmex.alignment": "PrototypeAlignment rescaled",
    "captum_kmex.bank": "Codebook ModelFingerprint PrototypeBank",
    "captum_kmex.concepts": "crop_box image_of random_concept to_concepts",
    "captum_kmex.demo": "SmallResNet load_digits_split load_efficientnet_lite0 load_photographs "
    "train_small_resnet",
    "captum_kmex.deployment": "ExplainedModel MarginModel SegmentedModel",
    "captum_kmex.embedding": "pooled_embeddings",
    "captum_kmex.exceptions": "HeadNotFoundError NotFittedError TargetError",
    "captum_kmex.fitted": "Classification FittedAttribution",
    "captum_kmex.layer_suggestion": "suggest_layers",
    "captum_kmex.ledger": "LedgerRow Patch build_ledger",
    "captum_kmex.loading.zoos": "imagenet_names",
    "captum_kmex.metrics": "SurrogateScores sensitivity_max surrogate_scores",
    "captum_kmex.report": "write_report",
    "captum_kmex.representatives": "Representatives",
    "captum_kmex.surrogate": "Surrogate",
    "captum_kmex.visualization": "density draw_crop draw_ledger draw_map draw_patch draw_picture "
    "draw_scale draw_segments evidence_scale picture plot_comparison plot_confusions "
    "plot_contrast plot_depths plot_embeddings plot_explanation plot_methods plot_prototypes "
    "prototype_handles segment_color segment_colors visualize_image_attr",
    "captum_kmex.wins": "PrototypeWins prototype_wins",
}


@pytest.mark.parametrize("path", PATHS)
def test_documented_paths_import(path):
    module = importlib.import_module(path)
    assert [name for name in PATHS[path].split() if not hasattr(module, name)] == []


@pytest.mark.parametrize(("old", "new"), MOVED.items())
def test_an_old_path_has_the_very_objects_of_the_new_one(old, new):
    before, now = importlib.import_module(old), importlib.import_module(new)
    assert before.__all__
    assert all(getattr(before, name) is getattr(now, name) for name in before.__all__)


def test_import_alone_loads_neither_torch_nor_any_wing():
    lines = (
        "import sys, captum_kmex",
        "print('torch' in sys.modules, sorted(m for m in sys.modules if 'captum_kmex.' in m))",
    )
    found = subprocess.run(
        [sys.executable, "-c", "; ".join(lines)], capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "False ['captum_kmex._version', 'captum_kmex.moved']"


def test_every_public_name_and_wing_is_there_when_it_is_asked_for():
    folder = Path(captum_kmex.__file__).parent
    places = [path.stem for path in folder.iterdir() if not path.name.startswith(("_", "py."))]
    wings = {*places} - {"moved"}
    assert wings | {*captum_kmex.__all__} <= {*dir(captum_kmex)}
    for name in wings:
        assert getattr(captum_kmex, name) is importlib.import_module(f"captum_kmex.{name}")
    assert all(getattr(captum_kmex, name) for name in captum_kmex.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'Layerkmeans'"):
        captum_kmex.Layerkmeans  # noqa: B018
