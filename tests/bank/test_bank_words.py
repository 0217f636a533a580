"""A bank says in a few lines what it holds."""

from __future__ import annotations

import pytest
from nets import LAYERS, make_net

from captum_kmex import KMExAttribution, LayerKMeansAttribution

pytestmark = pytest.mark.filterwarnings("ignore::captum_kmex.exceptions.FewRowsWarning")


def test_bank_is_told_depth_by_depth(images, labels):
    attr = LayerKMeansAttribution(make_net(), LAYERS, n_prototypes=2)
    bank = attr.fit([(images, labels)], n_init=1).bank_
    told = repr(bank).splitlines()
    assert told[0] == "PrototypeBank of LayerKMeansAttribution: 3 of 3 classes"
    assert len(told) == 4
    assert told[1].startswith("  stage1 + stage2 + stage3: 6 prototypes of 18 numbers, ")
    page = bank._repr_html_()
    assert page.count("<tr>") == 4
    assert "<td>stage3</td>" in page


def test_bank_says_which_classes_were_fitted(images, labels):
    attr = LayerKMeansAttribution(make_net(), LAYERS, n_prototypes=2)
    bank = attr.fit([(images, labels)], n_init=1, classes=[0, 2]).bank_
    assert "2 of 3 classes" in repr(bank)
    bank = attr.fit([(images, labels)], n_init=1, labels=None).bank_
    assert "class-agnostic, 3 classes" in repr(bank)
    assert "PrototypeBank of KMExAttribution" in repr(
        KMExAttribution(make_net(), n_prototypes=2).fit([(images, labels)], n_init=1).bank_
    )
