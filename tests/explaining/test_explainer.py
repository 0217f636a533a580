"""One batch, read once: every depth, class and vote from one forward pass."""

from __future__ import annotations

import copy

import pytest
import torch
from nets import LAYERS, make_net
from torch import nn

from captum_kmex import LayerKMeansAttribution, NotFittedError
from captum_kmex.explaining.evidence import Question


class Counting(nn.Module):
    """A model that counts its passes."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.passes = make_net(), 0

    def forward(self, x):
        self.passes += 1
        return self.net(x)


@pytest.fixture(scope="module")
def fits(drawn_images):
    labels, layers = torch.arange(12) % 3, [f"net.{name}" for name in LAYERS]
    options = {"n_prototypes": 2, "n_clusters": 4}
    fitted = LayerKMeansAttribution(Counting().eval(), layers, **options)
    agnostic = LayerKMeansAttribution(fitted.model, layers, average_top=True, **options)
    return {
        "unfitted": copy.copy(fitted),
        "fitted": fitted.fit([(drawn_images, labels)], n_init=1, n_representatives=0),
        "agnostic": agnostic.fit([drawn_images], labels=None, n_init=1, n_representatives=0),
    }


KINDS = ["unfitted", "fitted", "agnostic"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_depth_class_and_vote_comes_from_one_pass(fits, kind, images):
    attr, model = fits[kind], fits[kind].model
    attr.attribute(images[:4])  # the head is found
    before = model.passes
    explainer = attr.read(images[:4])
    questions = [Question(torch.full((4,), c)) for c in range(3)]
    found = list(explainer.evidence(questions))
    votes = [explainer.vote(depth) for depth in range(3)]
    assert model.passes == before + 1
    assert [part.depth for part in found] == [2, 1, 0]
    assert [vote is None for vote in votes] == [kind == "unfitted"] * 3
    for part in found:
        for question, density in zip(questions, part.densities, strict=True):
            total = density.mean((1, 2, 3)) + question.bias(explainer.head)
            torch.testing.assert_close(total, question.output(explainer.logits))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("depth", [0, 1, 2])
def test_answers_are_those_of_attribute_segment_and_classify(fits, kind, depth, images):
    attr = fits[kind]
    explainer = attr.read(images)
    question = explainer.question(1)
    *_, found = explainer.evidence([question], depth)
    density = found.densities[0]
    maps = density / density[0, 0].numel()
    assert torch.equal(maps, attr.attribute(images, 1, depth=depth))
    assert torch.equal(explainer.segments(depth).labels, attr.segment(images, depth=depth))
    if kind != "unfitted":
        verdict, expected = explainer.vote(depth), attr.classify(images, depth=depth)
        assert torch.equal(verdict.scores, expected.scores)
        assert torch.equal(verdict.prediction, expected.prediction)


@pytest.mark.parametrize("kind", KINDS)
def test_maps_are_constant_within_the_segments_that_averaged_them(fits, kind, images):
    explainer = fits[kind].read(images[:3])
    for part in explainer.evidence([explainer.question(0)]):
        is_top = part.depth == 2 and not explainer.average_top
        assert (part.averaged is None) == is_top
        for i in range(3) if part.averaged is not None else ():
            for segment in part.averaged.labels[i].unique():
                values = part.densities[0][i, 0][part.averaged.labels[i] == segment]
                assert values.max() == values.min()


def test_a_restriction_needs_prototypes(fits, images):
    explainer = fits["unfitted"].read(images[:2])
    with pytest.raises(NotFittedError, match="restrict needs prototypes"):
        explainer.competition(explainer.question(0), "predicted", connected=False)


def test_a_head_is_looked_for_only_where_it_is_needed(fits, images):
    attr = copy.copy(fits["unfitted"])
    attr.fit([(images, torch.arange(12) % 3)], n_init=1, n_representatives=0)
    assert attr.read(images[:2], needs_head=False).reading.head is None
    assert attr.read(images[:2]).reading.head is not None
