from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

from benchmarks.measures import concept_quality, diversity, seed_agreement, stability
from benchmarks.measures.formulas.labels import part_centres, pixel_labels
from benchmarks.measures.formulas.places import BOX, Places, find_places
from benchmarks.quality.measure import Answers
from benchmarks.quality.method import ConceptMaps, Method, Prototypes, UnavailableError
from benchmarks.quality.presets import PRESETS
from benchmarks.quality.task import Sample, Task
from captum_kmex.demo import SmallResNet

SIDE, N_PARTS = 28, 3


class Copied(Method):
    """Segments and concepts read off the first channel of the picture, which shows the parts."""

    family = "test"
    source = "here"
    shares_concepts = True

    def segments(self, inputs, targets):
        return inputs[:, 0].round().long().clamp(0)

    def maps(self, inputs, targets):
        return inputs[:, 0]

    def concept_classes(self):
        return torch.full((2 + N_PARTS,), -1)


class Maps(Copied):
    """The same as concept maps."""

    shares_concepts = False

    def segments(self, inputs, targets):
        raise UnavailableError("gives no segments")

    def concepts(self, inputs, targets):
        labels = inputs[:, 0].round().long()
        maps = torch.stack([labels == k for k in range(2 + N_PARTS)], 1).double()
        return ConceptMaps(maps, torch.ones(maps.shape[:2]))


class Chance(Copied):
    """Two segments that do not look at the picture."""

    seeded = True

    def __init__(self, seed=0):
        self.generator = torch.Generator().manual_seed(seed)

    def segments(self, inputs, targets):
        return torch.randint(2, (len(inputs), SIDE, SIDE), generator=self.generator)

    def concept_classes(self):
        return torch.full((2,), -1)


def a_sample(n=6, seed=0):
    """Return figures of three parts on a body, drawn at random places, and their labels."""
    rng = np.random.default_rng(seed)
    parts = torch.zeros(n, N_PARTS, SIDE, SIDE, dtype=torch.bool)
    masks = torch.zeros(n, SIDE, SIDE, dtype=torch.bool)
    masks[:, 2:26, 2:26] = True
    for i in range(n):
        for p in range(N_PARTS):
            y, x = rng.integers(3, 10), 3 + 7 * p + rng.integers(0, 2)
            parts[i, p, y : y + 8 + p, x : x + 5] = True
    labels, _ = pixel_labels(Sample(torch.zeros(n), torch.zeros(n), None, masks, parts))
    targets = torch.arange(n) % 2
    return Sample(labels[:, None].float(), targets, targets, masks, parts)


def answers_of(method, sample, refit=None):
    torch.manual_seed(0)
    model = SmallResNet(2, 1, 4).eval()
    test = TensorDataset(sample.inputs, sample.targets)
    names = ("a", "b")
    task = Task("t", "T", model, ("layer4",), names, None, test, lambda *_: sample, (0.0,), (0.2,))
    return Answers(method, task, sample, PRESETS["test"], 0, refit or (lambda seed: method))


def score(module, answers):
    return module.MEASURES[0].score(answers)


def test_part_centres_are_centroids():
    sample = a_sample()
    found = part_centres(sample.parts)
    for i, p in itertools.product(range(len(sample)), range(N_PARTS)):
        where = sample.parts[i, p].nonzero().double().mean(0)
        torch.testing.assert_close(found[i, p], where)
    assert part_centres(torch.zeros(1, 1, 4, 4)).isnan().all()


def test_purity_is_the_area_weighted_best_share():
    sample = a_sample(4)
    labels, _ = pixel_labels(sample)
    segments = torch.randint(6, labels.shape, generator=torch.Generator().manual_seed(1))

    class Fixed(Copied):
        def segments(self, inputs, targets):
            return segments

        def concept_classes(self):
            return torch.full((6,), -1)

    found = score(concept_quality, answers_of(Fixed(), sample))
    best = [np.bincount(labels[segments == k].numpy()).max() for k in range(6)]
    assert found["concept_purity"].mean().item() == pytest.approx(sum(best) / labels.numel())
    for i in range(4):
        best = [np.bincount(labels[i][segments[i] == k].numpy()).max() for k in range(6)]
        assert found["purity"][i].item() == pytest.approx(sum(best) / labels[i].numel())


def test_perfect_parts_score_one():
    found = score(concept_quality, answers_of(Copied(), a_sample()))
    for key in ("purity", "parts", "nmi", "concept_purity", "concept_parts"):
        torch.testing.assert_close(found[key], torch.ones(6).double())
    assert found["segments"].tolist() == [5] * 6


def test_a_random_partition_is_as_pure_as_the_largest_label():
    sample = a_sample()
    labels, _ = pixel_labels(sample)
    found = score(concept_quality, answers_of(Chance(), sample))
    shares = torch.stack([torch.bincount(y.flatten()).max() / y.numel() for y in labels])
    torch.testing.assert_close(found["purity"], shares.double(), atol=0.01, rtol=0)
    assert (found["parts"] == 0).all()
    assert found["nmi"].max() < 0.02
    overall = torch.bincount(labels.flatten()).max() / labels.numel()
    torch.testing.assert_close(found["concept_purity"].mean(), overall.double())


def test_object_masks_alone_give_purity_but_no_consistency():
    sample = a_sample()
    masks = Sample(sample.inputs, sample.targets, masks=sample.masks)
    found = score(concept_quality, answers_of(Copied(), masks))
    assert "consistency" not in found
    assert (found["purity"] == 1).all()
    with pytest.raises(UnavailableError, match="neither part nor object"):
        score(concept_quality, answers_of(Copied(), Sample(sample.inputs, sample.targets)))


def test_consistency_by_hand():
    hits = torch.zeros(5, 3, 2, dtype=torch.bool)
    hits[:4, 0, 1] = True  # four in five: consistent
    hits[:3, 1, 0] = True  # three in five are not
    hits[:, 2] = True  # seen in three images only: unknown
    counted = torch.ones(5, 3, 2, dtype=torch.bool)
    counted[3:, 2] = False
    assert concept_quality.consistency(hits, counted) == 0.5
    counted[4, 1] = False
    assert concept_quality.consistency(hits, counted) == 0.5  # three in four
    counted[3, 1] = False
    assert concept_quality.consistency(hits, counted) == 1  # seen in three images only as well
    counted[:] = False
    assert concept_quality.consistency(hits, counted).isnan()


@pytest.mark.parametrize("method", [Copied, Maps])
def test_concepts_that_are_parts_hit_them(method):
    sample = a_sample()
    places = find_places(answers_of(method(), sample))
    hits = places.hits(part_centres(sample.parts))
    assert places.present.all()
    for p in range(N_PARTS):
        assert hits[:, 2 + p, p].all()


def test_segments_beyond_the_known_concepts_are_refused():
    class Short(Copied):
        def concept_classes(self):
            return torch.zeros(2)

    with pytest.raises(ValueError, match="numbered up to 4, but concept_classes"):
        find_places(answers_of(Short(), a_sample()))


def test_consistency_counts_images_of_the_concepts_class():
    sample = a_sample(8)

    class Classed(Copied):
        def concept_classes(self):
            return torch.tensor([-1, -1, 0, 1, 2])

    found = score(concept_quality, answers_of(Classed(), sample))["consistency"]
    places = find_places(answers_of(Copied(), sample))
    hits = places.hits(part_centres(sample.parts)).numpy()
    expected = []
    for k, c in enumerate([-1, -1, 0, 1]):  # no image is of class 2
        images = [i for i in range(8) if c in (-1, int(sample.targets[i]))]
        expected.append(any(hits[images, k, p].mean() >= 0.8 for p in range(N_PARTS)))
    assert found.item() == pytest.approx(np.mean(expected))


def test_overlaps_are_those_of_drawn_boxes():
    size = (224, 224)
    centres = torch.tensor([[[100.0, 100], [100, 136], [130, 90], [math.nan] * 2]])
    found = Places(centres, size).overlaps()[0]
    half = round(224 * BOX / 2)
    drawn = np.zeros((3, *size), bool)
    for box, (y, x) in zip(drawn, centres[0, :3].int().tolist(), strict=True):
        box[y - half : y + half, x - half : x + half] = True
    for a, b in itertools.product(range(3), repeat=2):
        expected = (drawn[a] & drawn[b]).sum() / (drawn[a] | drawn[b]).sum()
        assert found[a, b].item() == pytest.approx(expected)
    assert found[3].isnan().all()
    pairs = [found[0, 1], found[0, 2], found[1, 2]]
    assert diversity.distinctiveness(Places(centres, size)).item() == pytest.approx(
        1 - sum(map(float, pairs)) / 3
    )


def test_log_volume_is_that_of_the_singular_values():
    generator = torch.Generator().manual_seed(0)
    vectors, classes = torch.randn(7, 5, generator=generator), torch.tensor([0, 1, 0, 1, 1, 0, 2])
    expected = []
    for c in (0, 1):
        own = vectors[classes == c].double().numpy()
        values = np.linalg.svd(own / np.linalg.norm(own, axis=1, keepdims=True), compute_uv=False)
        expected.append(np.log(values).mean())
    found = diversity.log_volume(Prototypes(vectors, classes))
    assert found.item() == pytest.approx(np.mean(expected))
    eye = Prototypes(torch.eye(4) * 3, torch.zeros(4))
    assert diversity.log_volume(eye).item() == pytest.approx(0, abs=1e-12)
    assert diversity.log_volume(Prototypes(torch.ones(2, 4), torch.zeros(2))) < -8
    assert diversity.log_volume(Prototypes(torch.eye(4), torch.arange(4))).isnan()


def test_diversity_of_perfect_parts_is_full():
    found = score(diversity, answers_of(Copied(), a_sample()))
    assert found["labels"].item() == pytest.approx(1)
    assert found["used"] == 1
    assert "volume" not in found
    same = Places(torch.full((2, 4, 2), 1.0), (28, 28))
    assert diversity.label_entropy(same, torch.zeros(2, 28, 28).long(), 5) == 0
    assert (diversity.distinctiveness(same) == 0).all()


def test_used_counts_concepts_over_all_images():
    batches = [torch.tensor([[[0, 3], [3, 3]]]), torch.tensor([[[5, 3], [3, 3]]])]
    assert diversity.used_concepts(batches, 12) == 0.25


def test_noise_is_clipped_in_the_range_of_pictures():
    answers = answers_of(Copied(), a_sample())
    inputs = torch.full((2, 1, 200, 200), 2.5)  # a grey of 0.5
    shift = answers.task.pictures(stability.noisy(answers.task, inputs, 0)) - 0.5
    assert shift.abs().max().item() == pytest.approx(0.25)
    share = (shift.abs() > 0.25 - 1e-6).double().mean().item()
    assert share == pytest.approx(math.erfc(0.25 / 0.2 / math.sqrt(2)), abs=0.01)
    dark = stability.noisy(answers.task, torch.zeros(1, 1, 50, 50), 0)
    assert dark.min() == 0


def test_what_ignores_the_picture_is_stable():
    class Blind(Copied):
        def segments(self, inputs, targets):
            rows = torch.arange(SIDE)[:, None].expand(SIDE, SIDE)
            return (rows // 7).expand(len(inputs), -1, -1)

    found = score(stability, answers_of(Blind(), a_sample()))
    assert (found["segments"] == 1).all()
    assert (found["hits"] == 1).all()
    assert (found["maps"] < 1).all()


def test_hits_change_with_the_parts_or_with_the_concept():
    before = torch.tensor([[[True, False], [True, True], [False, False]]])
    after = torch.tensor([[[True, False], [True, False], [False, False]]])
    counted = torch.tensor([[True, True, True]])
    gone = torch.tensor([[True, True, False]])
    assert stability.unchanged_hits(before, after, counted, counted).item() == pytest.approx(2 / 3)
    assert stability.unchanged_hits(before, after, counted, gone).item() == pytest.approx(1 / 3)


def test_seeds_of_chance_agree_by_chance():
    answers = answers_of(Chance(), a_sample(), lambda seed: Chance(seed))
    found = score(seed_agreement, answers)
    assert found["segments"].abs().max() < 0.05
    assert found["maps"].tolist() == pytest.approx([1] * 6)
    with pytest.raises(UnavailableError, match="by construction"):
        score(seed_agreement, answers_of(Copied(), a_sample()))
