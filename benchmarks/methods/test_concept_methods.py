"""ACE, TCAV, CONE-SHAP and Network Dissection: identities, loops, scipy."""

from __future__ import annotations

from functools import cache, partial
from pathlib import Path

import pytest
import torch
from captum.concept import TCAV
from torch import nn
from torch.utils.data import TensorDataset

from benchmarks.methods.ace import Ace
from benchmarks.methods.systems import concept_scores
from benchmarks.methods.systems.ace_clusters import discover, is_kept
from benchmarks.methods.systems.ace_concepts import AceConcepts
from benchmarks.methods.systems.concept_images import class_images
from benchmarks.methods.systems.concept_scores import ConceptTested
from benchmarks.methods.systems.superpixels import cut_out, few_superpixels, superpixels
from benchmarks.methods.tcav import Tcav, prototype_examples
from benchmarks.quality.method import UnavailableError
from benchmarks.quality.plugins import find_measures, find_methods
from benchmarks.quality.task import Sample, Task

pytestmark = pytest.mark.filterwarnings("ignore:numpy.core is deprecated")  # captum
_MEAN, _STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


@cache
def _task(has_training=True, has_parts=True):
    """Two classes: a red or a green square on noise; the squares are the parts."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU()),
        nn.Sequential(nn.Conv2d(6, 8, 3, 2, padding=1), nn.ReLU()),
        nn.Sequential(nn.Conv2d(8, 12, 3, padding=1), nn.ReLU()),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(12, 2),
    ).eval()
    generator = torch.Generator().manual_seed(1)
    pictures = 0.3 * torch.rand(40, 3, 16, 16, generator=generator)
    labels = torch.arange(40) % 2
    parts = torch.zeros(40, 2, 16, 16, dtype=torch.bool)
    for i, label in enumerate(labels.tolist()):
        y, x = torch.randint(0, 9, (2,), generator=generator).tolist()
        pictures[i, label, y : y + 7, x : x + 7] = 1
        parts[i, label, y : y + 7, x : x + 7] = True
    mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (_MEAN, _STD))
    images = (pictures - mean) / std

    def sample(split, count):
        chosen = slice(0, count)
        shown = parts[chosen] if has_parts else None
        return Sample(images[chosen], labels[chosen], parts=shown)

    data = TensorDataset(images, labels) if has_training else None
    layers = ("0", "1", "2")
    return Task("tiny", "Tiny", model, layers, ("a", "b"), data, data, sample, _MEAN, _STD)


@cache
def _fitted(name, has_training=True):
    method = find_methods()[name]()
    method.fit(_task(has_training), 0)
    return method


def _images(count=4):
    found = _task().sample("test", count)
    return found.inputs, found.targets


# ConeSHAP


@pytest.mark.parametrize("has_training", [True, False], ids=["fitted", "by image"])
def test_cone_shap_adds_up_to_the_logit_less_the_empty_picture(has_training):
    inputs, targets = _images()
    maps = _fitted("CONE-SHAP", has_training).maps(inputs, targets)
    with torch.no_grad():
        gain = _task().model(inputs) - _task().model(torch.zeros_like(inputs))
    torch.testing.assert_close(maps.sum((1, 2)), gain.gather(1, targets[:, None])[:, 0])


def test_cone_shap_concepts_are_its_segments():
    inputs, targets = _images()
    method = _fitted("CONE-SHAP")
    found, segments = method.concepts(inputs, targets), method.segments(inputs, targets)
    torch.testing.assert_close(found.maps.argmax(1), segments)
    assert (found.maps.sum(1) == 1).all()
    assert found.importance.shape == found.maps.shape[:2]
    same = targets == targets[0]
    assert (found.importance[same] == found.importance[0]).all()  # one score a class


def test_cone_shap_without_training_images_shares_no_concepts():
    method = _fitted("CONE-SHAP", has_training=False)
    assert not method.shares_concepts
    with pytest.raises(UnavailableError, match="only where it can be fitted"):
        method.concepts(*_images())


# superpixels


def test_superpixels_cover_the_image_and_few_are_at_most_so_many():
    inputs, _ = _images(6)
    found = superpixels(_task(), inputs, 12)
    for segments in found:
        assert segments.unique().tolist() == list(range(int(segments.max()) + 1))
    few = few_superpixels(_task(), inputs, 5)
    assert few.max() < 5
    assert few.shape == found.shape == (6, 16, 16)


def test_a_cut_out_shows_the_segment_on_grey_at_full_size():
    image = _images(1)[0][0]
    mask = torch.zeros(16, 16, dtype=torch.bool)
    mask[4:8, 4:8] = True
    mask[4, 4] = False
    found = _task().pictures(cut_out(_task(), image, mask)[None])[0]
    assert found.shape == (3, 16, 16)
    torch.testing.assert_close(found[:, 0, 0], torch.full((3,), 117 / 255))
    torch.testing.assert_close(found[:, -1, -1], _task().pictures(image[None])[0, :, 7, 7])


# ACE


@pytest.mark.parametrize(
    ("members", "images", "total", "kept"),
    [
        (10, 6, 100, True),  # frequent
        (10, 5, 100, False),
        (40, 11, 40, True),  # neither, but over a quarter of both
        (40, 11, 44, False),
        (200, 26, 50, True),  # popular
        (200, 25, 50, False),
        (300, 30, 50, False),  # too few of its members' images
    ],
)
def test_ace_keeps_frequent_or_popular_clusters(members, images, total, kept):
    assert is_kept(members, images, total) == kept


def test_ace_examples_are_those_nearest_to_a_centre():
    task = _task()
    images = class_images(task, 12, 0)[0]
    found = discover(task, "1", images, 0, 4)
    assert len(found.examples) == len(found.kept) > 0
    for k, shown in zip(found.kept.tolist(), found.examples, strict=True):
        features = task.model[:2](shown).mean((2, 3))
        assert (torch.cdist(features, found.centres).argmin(1) == k).all()
        distances = (features - found.centres[k]).norm(dim=1)
        assert (distances.diff() >= -1e-5).all()


def test_ace_maps_are_the_scores_of_its_segments():
    inputs, targets = _images()
    method = Ace(n_clusters=4)
    method.fit(_task(), 0)
    found = method.concepts(inputs, targets)
    assert found.maps.shape[:2] == found.importance.shape
    assert found.maps.min() >= 0
    assert found.maps.max() <= 1
    assert found.maps.any()
    own = method.classes == targets[:, None]
    assert (found.importance[~own] == 0).all()
    weights = torch.where(own, method.scores - 0.5, 0.0)
    expected = torch.einsum("nkhw,nk->nhw", found.maps, weights)
    torch.testing.assert_close(method.maps(inputs, targets), expected)
    segments = method.segments(inputs, targets)
    none = found.importance.shape[1]
    classes = torch.cat([method.classes, torch.tensor([-1])])[segments]
    assert ((classes == targets[:, None, None]) | (segments == none)).all()


# TCAV


def _cluster(shift):
    return torch.randn(10, 3, 16, 16) * 0.2 + shift


def test_a_concept_that_the_logit_follows_scores_one():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Identity(), nn.Flatten(), nn.Linear(3 * 256, 2, bias=False)).eval()
    with torch.no_grad():
        model[2].weight[0], model[2].weight[1] = 1.0, -1.0
    controls = [_cluster(0.0) for _ in range(3)]
    images = [torch.randn(5, 3, 16, 16)] * 2
    examples = [_cluster(1.0)] * 2
    found = concept_scores.score_concepts(model, "0", examples, [1, 0], controls, images)
    assert found.sign_count.tolist() == [0, 1]


def test_two_tests_share_no_files_and_leave_none(monkeypatch):
    made = []

    class Spy(TCAV):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            made.append((Path(options["save_path"]), options["model_id"]))
            assert [p.name for p in made[-1][0].iterdir()] == [made[-1][1]]  # nothing older

    monkeypatch.setattr(concept_scores, "TCAV", Spy)
    torch.manual_seed(0)
    controls = [_cluster(0.0) for _ in range(2)]
    for shift in (1.0, -1.0):  # the same ids: stale vectors would give the same scores
        images = [torch.randn(4, 3, 16, 16)]
        args = ([_cluster(shift)], [0], controls, images)
        made_scores = concept_scores.score_concepts(_task().model, "1", *args)
        assert made_scores.sign_count.shape == (1,)
    assert len({folder for folder, _ in made}) == len({name for _, name in made}) == 2
    assert not any(folder.exists() for folder, _ in made)


def _few_clusters(task, seed):
    return AceConcepts(task, seed, n_clusters=4).concept_images()


@pytest.mark.parametrize(
    "find", [partial(prototype_examples, 1), _few_clusters], ids=["ours", "ACE"]
)
def test_tcav_maps_are_its_scores_on_the_segments(find):
    inputs, targets = _images()
    method = Tcav(find)
    method.fit(_task(), 0)
    found = method.concepts(inputs, targets)
    assert ((found.importance >= 0) & (found.importance <= 1)).all()
    assert found.maps.any()
    expected = torch.einsum("nkhw,nk->nhw", found.maps, found.importance - 0.5)
    torch.testing.assert_close(method.maps(inputs, targets), expected)


def test_random_concepts_are_tested_but_are_nowhere():
    method = _fitted("TCAV (random patches)")
    assert isinstance(method, ConceptTested)
    p, signs, chance = method.significance()
    assert p.shape == signs.shape == chance.shape == (10,)
    assert ((p >= 0) & (p <= 1)).all()
    for question in (method.maps, method.segments, method.concepts):
        with pytest.raises(UnavailableError, match="nowhere"):
            question(*_images())


def test_significance_counts_the_concepts_below_the_level():
    method = _fitted("TCAV (random patches)")
    answers = type("Answered", (), {"method": method})()
    found = find_measures()["concept_significance"].score(answers)
    p, signs, _ = method.significance()
    assert found["significant"].tolist() == [float(x < 0.05) for x in p]
    assert found["corrected"].tolist() == [float(x < 0.005) for x in p]
    torch.testing.assert_close(found["score"], signs.double())


@pytest.mark.parametrize("name", ["ACE", "TCAV (B4 prototypes)", "TCAV (random patches)"])
def test_methods_that_need_training_images_say_so(name):
    with pytest.raises(UnavailableError, match="needs training images"):
        find_methods()[name]().fit(_task(has_training=False), 0)


# Network Dissection and Net2Vec


def test_dissected_units_are_the_layers_activations():
    inputs, targets = _images()
    found = _fitted("Network Dissection (B4)").concepts(inputs, targets)
    model = _task().model
    units = model[:3](inputs)
    torch.testing.assert_close(found.maps, units.detach())
    # without a unit the logit loses its importance: pooling and head are linear
    for unit in range(units.shape[1]):
        without = units.clone()
        without[:, unit] = 0
        lost = (model[3:](units) - model[3:](without)).gather(1, targets[:, None])[:, 0]
        torch.testing.assert_close(found.importance[:, unit], lost.detach(), atol=1e-6, rtol=1e-4)


def test_net2vec_has_a_concept_a_part_cut_at_one_half():
    inputs, targets = _images()
    found = _fitted("Net2Vec (B234)").concepts(inputs, targets)
    assert found.maps.shape == (4, 2, 16, 16)
    assert found.maps.min() == 0
    assert found.maps.max() <= 0.5


@pytest.mark.parametrize("name", ["Network Dissection (B4)", "Net2Vec (B4)"])
def test_dissection_needs_part_masks(name):
    with pytest.raises(UnavailableError, match="part masks"):
        find_methods()[name]().fit(_task(has_parts=False), 0)
