"""Every import path that a page or a release documents."""

from __future__ import annotations

import importlib

import pytest

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
