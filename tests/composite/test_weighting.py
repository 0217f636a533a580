"""Weights of blocks are those of their formulas; a rule is one entry of a table."""

from __future__ import annotations

import pytest
import torch
from nets import LAYERS, make_net

from captum_kmex import LayerKMeansAttribution
from captum_kmex.composite import weighting as rules
from captum_kmex.composite.weighting import WEIGHTINGS, block_weights


@pytest.mark.parametrize(
    ("weighting", "expected"),
    [
        ("balanced", (1.0, 1.0, 1.0)),
        ("nave", (1.0, 4 / 9, 4 / 16)),
        ("dimension", (3**-0.5, 8**-0.5, 15**-0.5)),
        ([2, 0.5, 1], (2.0, 0.5, 1.0)),
    ],
    ids=["balanced", "nave", "dimension", "numbers"],
)
def test_block_weights_follow_their_formula(weighting, expected):
    assert block_weights(weighting, [3, 8, 15]) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("widths", "expected"),
    [
        ([128, 256, 512], (1, 129 / 257, 129 / 513)),  # ResNet34, layers 2 to 4
        ([64, 128, 256, 512], (1, 65 / 129, 65 / 257, 65 / 513)),
        ([512, 1024, 2048], (1, 513 / 1025, 513 / 2049)),
        ([32, 96, 320, 1280], (1, 33 / 97, 33 / 321, 33 / 1281)),
        ([384, 384, 384], (1, 1, 1)),
        ([15, 7], (1, 2)),
        ([512], (1,)),
    ],
    ids=["resnet34", "four", "resnet50", "uneven", "equal", "narrower", "one"],
)
def test_nave_weighs_blocks_relative_to_the_shallowest(widths, expected):
    assert block_weights("nave", widths) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("weighting", "message"),
    [
        ("loud", "'loud' is unknown; choose one of .*'balanced'"),
        ([1.0], "1 entries .* for 2 layers"),
        ([1.0, 0.0], "one positive number a layer"),
        ([1.0, -1.0], "one positive number a layer"),
        ([1.0, float("nan")], "one positive number a layer"),
        ([1.0, float("inf")], "one positive number a layer"),
    ],
    ids=["unknown", "count", "zero", "negative", "nan", "inf"],
)
def test_block_weights_raise(weighting, message):
    with pytest.raises(ValueError, match=message):
        block_weights(weighting, [3, 8])


def test_a_rule_of_the_table_is_an_option_at_once(monkeypatch, images, labels, tmp_path):
    def doubling(widths):
        return tuple(2.0**i for i in range(len(widths)))

    monkeypatch.setattr(rules, "WEIGHTINGS", WEIGHTINGS | {"doubling": doubling})
    made = LayerKMeansAttribution(make_net(), LAYERS, weighting="doubling", n_prototypes=2)
    made.fit([(images, labels)], n_init=1).save(tmp_path / "bank.safetensors")
    assert made.bank_.weights == (1, 2, 4)
    again = LayerKMeansAttribution.load(tmp_path / "bank.safetensors", made.model)
    assert again.weighting == "doubling"
    assert torch.equal(again.attribute(images), made.attribute(images))
