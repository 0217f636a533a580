from __future__ import annotations

import pytest
import torch
from captum.concept import TCAV, Concept
from nets import LAYERS, make_net

from captum_kmex import KMExAttribution, LayerKMeansAttribution
from captum_kmex.concepts import random_concept


@pytest.fixture
def fitted(images, labels):
    attr = LayerKMeansAttribution(make_net(), LAYERS, n_prototypes=2)
    return attr.fit([(images, labels)], n_representatives=4)


def _patches(concept):
    return torch.cat(list(concept.data_iter))


def test_concepts_hold_the_representatives_at_the_size_of_the_images(fitted, images):
    concepts = fitted.to_concepts(images, [0, 3], depth=2)
    assert all(isinstance(concept, Concept) for concept in concepts)
    names = [f"class {c} prototype {k} of stage3" for c, k in ((0, 0), (1, 3))]
    assert [concept.name for concept in concepts] == names
    # two codebooks of six prototypes stand before this one
    assert [concept.id for concept in concepts] == [12, 15]
    assert _patches(concepts[0]).shape == (4, 1, 16, 16)


def test_concepts_of_whole_images_are_the_training_images(fitted, images):
    concept = fitted.to_concepts(images, [2], context=1.0)[0]
    indices = fitted.bank_.codebooks[0].representatives.indices[2]
    assert torch.equal(_patches(concept), images[indices])


def test_concepts_of_pooled_prototypes_are_whole_images(images, labels):
    attr = KMExAttribution(make_net(), n_prototypes=1).fit([(images, labels)], n_representatives=2)
    patches = _patches(attr.to_concepts(images)[1])
    assert torch.equal(patches, images[attr.bank_.codebooks[0].representatives.indices[1]])


def test_concept_crop_contains_the_patch_and_stays_inside(fitted):
    marked = torch.zeros(12, 1, 16, 16)
    found = fitted.bank_.codebooks[2].representatives
    for index, (x0, y0, x1, y1) in zip(
        found.indices[1].tolist(), found.boxes[1].tolist(), strict=True
    ):
        marked[index, :, y0:y1, x0:x1] = 1
    patches = _patches(fitted.to_concepts(marked, [1], depth=2, context=0.5)[0])
    # a 4x4 cell inside an 8x8 crop that is enlarged to 16x16 covers a quarter of it
    torch.testing.assert_close(patches.mean((1, 2, 3)), torch.full((4,), 0.25))


def test_concepts_refuse_a_bank_without_representatives(images, labels):
    attr = LayerKMeansAttribution(make_net(), LAYERS).fit([(images, labels)], n_representatives=0)
    with pytest.raises(ValueError, match="no representatives; fit with"):
        attr.to_concepts(images)


def test_concepts_refuse_an_unknown_prototype(fitted, images):
    with pytest.raises(ValueError, match="prototype 6 is out of range for 6"):
        fitted.to_concepts(images, [6])


def test_random_concept_repeats_with_its_seed(images):
    first, again, other = (random_concept(images, 5, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(_patches(first), _patches(again))
    assert not torch.equal(_patches(first), _patches(other))


def test_tcav_runs_on_prototypes_nobody_had_to_collect(fitted, images, tmp_path):
    prototypes = fitted.to_concepts(images, [0, 2], depth=1)
    counterpart = random_concept(images, 4, concept_id=100)
    tcav = TCAV(fitted.model, LAYERS[1:], model_id="small", save_path=str(tmp_path))
    pairs = [[concept, counterpart] for concept in prototypes]
    scores = tcav.interpret(images, pairs, target=0)
    assert len(scores) == 2
    for by_layer in scores.values():
        assert set(by_layer) == set(LAYERS[1:])
        for found in by_layer.values():
            assert ((found["sign_count"] >= 0) & (found["sign_count"] <= 1)).all()
