"""What the page holds of other attributions, of measured evidence, and of blank ground."""

from __future__ import annotations

import base64
import json
import re

import numpy as np
import pytest
import torch
from captum.attr import InputXGradient, IntegratedGradients, LayerGradCam
from nets import LAYERS, make_net
from torch import nn

from captum_kmex import ClassifierPrototypes, LayerKMeansAttribution, Measured
from captum_kmex.report import write_report
from captum_kmex.report.tally import blank_cells


def written(attribution, images, folder, **options):
    path = write_report(attribution, images, folder / "r.html", show_progress=False, **options)
    parts = re.findall(
        r'<script type="application/json" id="([^"]+)">(.*?)</script>', path.read_text()
    )
    return {name: json.loads(text) for name, text in parts}


def maps_of(record, count):
    found = np.frombuffer(base64.b64decode(record["maps"]), "<f4")
    return torch.tensor(found).view(count, *record["grid"])


@pytest.mark.parametrize("kind", ["layer", "input", "ours"])
def test_maps_are_those_of_the_attribution(images, tmp_path, kind):
    net = make_net()
    method = {
        "layer": LayerGradCam(net, net.stage2),
        "input": InputXGradient(net),
        "ours": ClassifierPrototypes(net),
    }[kind]
    page = written(method, images[:3], tmp_path, batch_size=2)
    for i in range(3):
        image = page[f"image-{i}"]
        assert image["depths"] == []
        found = maps_of(image["methods"][0], len(image["targets"]))
        for target, own in zip(image["targets"], found, strict=True):
            x = images[i : i + 1].clone().requires_grad_()
            expected = method.attribute(x, target=target).sum(1)[0].detach()
            torch.testing.assert_close(own, expected.float(), atol=1e-5, rtol=1e-5)
        with torch.no_grad():
            logits = net(images[i : i + 1])[0]
        assert image["targets"] == logits.argsort(descending=True).tolist()
        shares = logits.softmax(0)[image["targets"]].tolist()
        assert image["probability"] == pytest.approx(shares, abs=1e-4)
    report = page["report"]
    assert report["methods"] == [type(method).__name__]
    assert report["verdicts"]["confidence"][0] == pytest.approx(page["image-0"]["probability"][0])


def test_functions_and_models_with_a_flat_logit_are_reported(images, tmp_path):
    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = make_net(1)

        def forward(self, x):
            return self.body(x).squeeze(1)

    page = written(IntegratedGradients(make_net().forward), images[:1], tmp_path)
    assert page["image-0"]["methods"][0]["grid"] == [16, 16]
    page = written(InputXGradient(Flat().eval()), images[:2], tmp_path)
    assert len(page["report"]["classNames"]) == 2
    assert page["image-0"]["methods"][0]["grid"] == [16, 16]


def test_several_methods_have_the_segments_of_ours(images, tmp_path):
    net = make_net()
    ours = LayerKMeansAttribution(net, LAYERS, n_clusters=4)
    page = written({"k": ours, "cam": LayerGradCam(net, net.stage3)}, images[:2], tmp_path)
    alone = written(ours, images[:2], tmp_path)
    assert page["image-1"]["depths"] == alone["image-1"]["depths"]
    assert page["report"]["methods"] == ["cam"]
    assert page["report"]["mainName"] == "k"


@pytest.mark.parametrize("is_fitted", [True, False])
def test_measured_evidence_is_that_of_explain(images, labels, tmp_path, is_fitted):
    attr = LayerKMeansAttribution(make_net(), LAYERS, n_prototypes=2, n_clusters=4)
    if is_fitted:
        attr.fit([(images, labels)], n_init=1, n_representatives=1)
    page = written(attr, images[:2], tmp_path, evidence=Measured(passes="half"))
    assert len(page["report"]["depths"]) == 1
    assert page["report"]["isMeasured"]
    for i in range(2):
        image = page[f"image-{i}"]
        record, targets = image["depths"][0], image["targets"]
        errors = np.frombuffer(base64.b64decode(record["errors"]), "<f8").reshape(len(targets), -1)
        evidence = np.frombuffer(base64.b64decode(record["evidence"]), "<f8").reshape(errors.shape)
        for t, target in enumerate(targets):
            found = attr.explain(images[i : i + 1], target, evidence=Measured(passes="half"))
            by_prototype = {row.segment: row for row in found.ledger[0]}
            rows = [by_prototype[k] for k in record["prototypes"]]
            assert evidence[t] == pytest.approx([row.evidence for row in rows], abs=1e-5)
            assert errors[t] == pytest.approx([row.error for row in rows], abs=1e-5)
            assert image["bias"][t] == pytest.approx(float(found.bias[0]), abs=1e-5)
            for name, segments in (("enough", found.sufficient()), ("needed", found.necessary())):
                ranks = (
                    None if segments is None else {record["prototypes"].index(s) for s in segments}
                )
                shown = record[name][t]
                assert (None if shown is None else set(shown)) == ranks


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (IntegratedGradients(lambda x: (make_net()(x),)), "the model should return logits"),
        (InputXGradient(lambda x: make_net()(x[:1])), "the model should return logits"),
    ],
    ids=["tuple", "one image"],
)
def test_models_without_logits_are_refused(images, tmp_path, made, message):
    with pytest.raises(ValueError, match=message):
        written(made, images[:2], tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_method_that_makes_no_maps_is_refused(images, tmp_path):
    net = make_net()
    method = LayerGradCam(net, net.head)
    with pytest.raises((ValueError, AssertionError)):
        written({"k": LayerKMeansAttribution(net, LAYERS), "head": method}, images[:2], tmp_path)


def test_report_refuses_what_is_no_attribution(images, tmp_path):
    with pytest.raises(TypeError, match="an attribution, ours or of Captum's"):
        written(make_net(), images[:1], tmp_path)


def test_blank_cells_are_those_without_contrast():
    images = torch.zeros(1, 1, 32, 32)
    images[0, 0, 20:, 20:] = torch.rand(12, 12, generator=torch.Generator().manual_seed(0))
    blank = blank_cells(images, (8, 8))[0]
    assert blank[:4, :4].all()
    assert not blank[5:, 5:].any()
    assert blank_cells(torch.ones(1, 3, 8, 8), (4, 4)).all()


def test_prototypes_of_blank_ground_are_left_out_of_confusions(tmp_path):
    generator = torch.Generator().manual_seed(1)
    images = torch.zeros(12, 1, 16, 16)
    images[:, :, 8:, 8:] = torch.rand(12, 1, 8, 8, generator=generator)
    attr = LayerKMeansAttribution(make_net(), LAYERS, n_prototypes=2)
    attr.fit([(images, torch.arange(12) % 3)], n_init=1, n_representatives=1)
    for depth in written(attr, images, tmp_path)["report"]["depths"]:
        segments = attr.segment(images, depth=depth["layers"][0])
        blank = blank_cells(images, segments.shape[1:])
        count = len(depth["owner"])
        won = segments.flatten().bincount(minlength=count)
        plain = segments[blank].bincount(minlength=count)
        is_blank = (won > 0) & (plain >= 0.9 * won)
        assert depth["blank"] == int(is_blank.sum())
        named = {k for a, b, _ in depth["near"] for k in (a, b)}
        named |= {k for _, _, a, b, _ in depth["traded"] for k in (a, b) if k >= 0}
        assert not named & set(is_blank.nonzero().flatten().tolist())
    assert any(d["blank"] for d in written(attr, images, tmp_path)["report"]["depths"])
