"""A replay gives back the network, and is explained as the network is."""

from __future__ import annotations

import pytest
import torch

from benchmarks.speed.setting import fitted, make_setting, unfitted


def test_replay_returns_the_logits_and_leaves_no_hook() -> None:
    setting = make_setting(is_full=False, batch=2)
    replayed = setting.replayed()
    assert torch.equal(replayed.forward(), setting.logits)
    assert not any(module._forward_hooks for module in setting.model.modules())


@pytest.mark.filterwarnings("ignore::captum_kmex.exceptions.FewPixelsWarning")
def test_replay_is_explained_as_the_network_is() -> None:
    setting = make_setting(is_full=False, batch=2)
    replayed = setting.replayed()
    for build in (unfitted, lambda found: fitted(found, 20)):
        ours, theirs = build(replayed), build(setting)
        for depth in range(len(setting.layers)):
            found, expected = (
                a.attribute(setting.images, setting.target, depth=depth) for a in (ours, theirs)
            )
            assert torch.equal(found, expected)
            found, expected = (a.segment(setting.images, depth=depth) for a in (ours, theirs))
            assert torch.equal(found, expected)
