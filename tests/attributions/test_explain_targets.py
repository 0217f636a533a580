"""Several logits of the same images, in the passes of one."""

from __future__ import annotations

import pytest
import torch
from nets import make_net
from torch import nn

from captum_kmex import LayerKMeansAttribution, Measured
from captum_kmex.exceptions import TargetError

LAYERS = ["stage2", "stage3"]


def same(one, other) -> None:
    """Compare two explanations, field by field."""
    for name in ("target", "attribution", "segments", "bias", "output", "logits"):
        torch.testing.assert_close(getattr(one, name), getattr(other, name))
    assert (one.contrast is None) == (other.contrast is None)
    for mine, theirs in zip(one.ledger, other.ledger, strict=True):
        assert [row.segment for row in mine] == [row.segment for row in theirs]
        assert [row.evidence for row in mine] == pytest.approx([r.evidence for r in theirs])
        assert [row.removed for row in mine] == pytest.approx([r.removed for r in theirs])
    assert (one.enough, one.needed) == (other.enough, other.needed)


def fitted(x) -> LayerKMeansAttribution:
    attr = LayerKMeansAttribution(make_net(), LAYERS, n_prototypes=2)
    return attr.fit([(x, torch.arange(len(x)) % 3)], n_init=1)


def no_linear_head() -> LayerKMeansAttribution:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 3, 2), nn.ReLU(),
        nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(6, 3),
    )  # fmt: skip
    return LayerKMeansAttribution(model.eval(), ["1", "3"], n_clusters=4)


MADE = {
    "unfitted": lambda x: LayerKMeansAttribution(make_net(), LAYERS, n_clusters=5),
    "fitted": fitted,
    "linearised": lambda x: no_linear_head(),
}


@pytest.mark.parametrize("made", MADE)
@pytest.mark.parametrize("evidence", ["allocated", "measured", Measured(at="input", passes="half")])
def test_each_is_what_explain_returns(made, evidence):
    x = torch.rand(6, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    attr, x_ = MADE[made](x), x[:3]
    asked = [(2, None), ([0, 1, 2], None), (None, None), (0, 1), (1, [0, 2, 0])]
    targets, contrasts = map(list, zip(*asked, strict=True))
    found = attr.explain_targets(x_, targets, contrasts=contrasts, evidence=evidence)
    assert len(found) == len(asked)
    for result, (target, contrast) in zip(found, asked, strict=True):
        same(result, attr.explain(x_, target, contrast=contrast, evidence=evidence))


def test_options_reach_every_target():
    x, attr = torch.rand(2, 1, 16, 16), LayerKMeansAttribution(make_net(), LAYERS, n_clusters=4)
    mask = (torch.arange(16) // 4).expand(1, 1, 16, 16)
    for options in ({"connected": True, "min_area": 3}, {"depth": -1}, {"segments": mask}):
        found = attr.explain_targets(x, (0, 2), **options)
        for target, result in zip((0, 2), found, strict=True):
            same(result, attr.explain(x, target, **options))


@pytest.mark.parametrize("evidence", ["allocated", "measured"])
def test_further_targets_cost_no_pass(evidence):
    x, net = torch.rand(1, 1, 16, 16), make_net()
    attr = LayerKMeansAttribution(net, LAYERS, n_clusters=4)
    attr.explain(x)  # finds the head
    runs = []
    net.stage3.register_forward_hook(lambda _m, _i, out: runs.append(len(out)))
    counts = []
    for targets in ([0], [0, 1, 2, None]):
        runs.clear()
        measured = attr.read(x), attr.explain_targets(x, targets, evidence=evidence)
        del measured
        counts.append(sum(runs))
    tried = 2 * 4 * 3  # of the fewest segments: at most two prefixes of each number, three more
    assert counts[1] - counts[0] <= (tried if evidence == "measured" else 0)


@pytest.mark.parametrize("targets", [1, None, [], torch.tensor([0, 1]), "ab", {0, 1}, iter([1])])
def test_targets_are_a_list(targets):
    attr, x = LayerKMeansAttribution(make_net(), LAYERS), torch.rand(2, 1, 16, 16)
    with pytest.raises(TargetError, match=r"targets must be a list of one target or more, such as"):
        attr.explain_targets(x, targets)


def test_contrasts_are_as_many_as_targets():
    attr, x = LayerKMeansAttribution(make_net(), LAYERS), torch.rand(2, 1, 16, 16)
    with pytest.raises(TargetError, match=r"contrasts must be as many as targets.* got 1 for 2"):
        attr.explain_targets(x, [0, 1], contrasts=[2])
    with pytest.raises(TargetError, match=r"contrasts must be a list of one target or more"):
        attr.explain_targets(x, [0, 1], contrasts=2)
