"""The report's numbers are the explanation's; its text is inert; its file is whole or absent."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
import re
import weakref
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from nets import LAYERS, make_net
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import captum_kmex
from captum_kmex import LayerKMeansAttribution, NotFittedError, __version__
from captum_kmex.metrics.surrogate_scores import surrogate_scores
from captum_kmex.report import write_report
from captum_kmex.visualization import picture

pytestmark = pytest.mark.filterwarnings("ignore::captum_kmex.exceptions.FewRowsWarning")

NAMES = ["north-west", "north-east", "south-west"]


class Page(HTMLParser):
    """The data, script, policy and title of a report."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.data: dict[str, dict] = {}
        self.scripts: list[str] = []
        self.styles: list[str] = []
        self.title = self.policy = ""
        self.tags: list[str] = []
        self._open: dict[str, str | None] | None = None
        self._tag = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self._tag, self._open = tag, dict(attrs)
        self.tags.append(tag)
        if tag == "meta" and self._open.get("http-equiv") == "Content-Security-Policy":
            self.policy = self._open["content"] or ""

    def handle_data(self, data):
        if self._tag == "script" and self._open.get("type") == "application/json":
            self.data[self._open["id"]] = json.loads(data)
        elif self._tag == "script":
            self.scripts.append(data)
        elif self._tag == "style":
            self.styles.append(data)
        elif self._tag == "title":
            self.title = data
        self._tag = ""


def decoded(text: str, kind: str, *shape: int) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), f"<{kind}").reshape(shape)


def pixels_of(address: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(address.split(",")[1]))))


@pytest.fixture(params=["fitted", "unfitted"])
def attr(request, images, labels) -> LayerKMeansAttribution:
    made = LayerKMeansAttribution(make_net(), LAYERS, n_prototypes=2, n_clusters=5)
    if request.param == "fitted":
        made.fit([(images, labels)], n_init=1, n_representatives=2)
    return made


@pytest.fixture
def fitted(images, labels) -> LayerKMeansAttribution:
    made = LayerKMeansAttribution(make_net(), LAYERS, n_prototypes=2)
    return made.fit([(images, labels)], n_init=1, n_representatives=2)


@pytest.fixture
def report(tmp_path) -> Callable[..., Page]:
    def made(attribution, images, **options) -> Page:
        options = {"show_progress": False, "batch_size": 5} | options
        path = write_report(attribution, images, tmp_path / "report.html", **options)
        return Page(path.read_text("utf-8"))

    return made


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_evidence_bias_and_logits_are_those_of_explain(attr, images, labels, report, depth):
    page = report(attr, TensorDataset(images, labels), batch_size=12)
    for place in range(3):
        targets = [page.data[f"image-{i}"]["targets"][place] for i in range(12)]
        expected = attr.explain(images, targets, depth=depth)
        for i in range(12):
            image = page.data[f"image-{i}"]
            found = image["depths"][depth]
            shape = len(image["targets"]), len(found["prototypes"])
            evidence = decoded(found["evidence"], "f8", *shape)[place]
            rows = {row.prototype: row.evidence for row in expected.ledger[i]}
            assert dict(zip(found["prototypes"], evidence.tolist(), strict=True)) == rows
            assert image["bias"][place] == float(expected.bias[i])
            assert image["output"][place] == float(expected.output[i])
            total = math.fsum([*evidence, image["bias"][place]])
            assert total == pytest.approx(image["output"][place], abs=1e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_models_of_other_precision_are_reported(images, report, dtype):
    attr = LayerKMeansAttribution(make_net().to(dtype), LAYERS, n_clusters=4)
    page = report(attr, list(images[:3].to(dtype)))
    expected = attr.explain(images[:3].to(dtype))
    for i in range(3):
        found = page.data[f"image-{i}"]["depths"][0]
        evidence = decoded(found["evidence"], "f8", 3, -1)[0].tolist()
        assert evidence == [row.evidence for row in expected.ledger[i]]


def test_difference_of_targets_is_the_contrast(attr, images, report):
    page = report(attr, list(images), batch_size=12)
    first, second = (
        [page.data[f"image-{i}"]["targets"][place] for i in range(12)] for place in (0, 1)
    )
    expected = attr.explain(images, first, contrast=second)
    for i in range(12):
        found = page.data[f"image-{i}"]["depths"][0]
        ours = decoded(found["evidence"], "f8", 3, len(found["prototypes"]))
        rows = {row.prototype: row.evidence for row in expected.ledger[i]}
        for k, evidence in zip(found["prototypes"], ours[0] - ours[1], strict=True):
            assert evidence == pytest.approx(rows[k], abs=1e-6)


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_cells_are_the_segments_by_evidence(attr, images, report, depth):
    page = report(attr, list(images))
    segments = attr.segment(images, depth=depth).numpy()
    for i in range(12):
        found = page.data[f"image-{i}"]["depths"][depth]
        cells = decoded(found["cells"], f"u{found['bytes']}", *found["grid"])
        assert np.array_equal(np.array(found["prototypes"])[cells], segments[i])
        evidence = np.abs(decoded(found["evidence"], "f8", 3, -1)[0])
        assert np.all(np.diff(evidence) <= 0)


def test_only_the_deepest_map_is_stored_and_it_is_exact(attr, images, report):
    page = report(attr, list(images), batch_size=12)
    targets = [page.data[f"image-{i}"]["targets"][0] for i in range(12)]
    expected = attr.attribute(images, targets, depth=2)[:, 0].numpy()
    for i in range(12):
        depths = page.data[f"image-{i}"]["depths"]
        assert "maps" not in depths[0]
        assert "maps" not in depths[1]
        assert np.array_equal(decoded(depths[2]["maps"], "f4", 3, 4, 4)[0], expected[i])


def test_many_segments_take_two_bytes(report):
    attr = LayerKMeansAttribution(make_net(), ["stage1"], n_clusters=300)
    image = torch.rand(1, 32, 32, generator=torch.Generator().manual_seed(0))
    found = report(attr, [image]).data["image-0"]["depths"][0]
    assert found["bytes"] == 2
    cells = decoded(found["cells"], "u2", 32, 32)
    assert np.array_equal(
        np.array(found["prototypes"])[cells], attr.segment(image[None])[0].numpy()
    )


def test_label_beyond_the_top_classes_is_shown_too(images, report):
    attr = LayerKMeansAttribution(make_net(n_classes=6), LAYERS)
    last = attr.model(images[:1]).argmin(1)
    page = report(attr, [(images[0], last[0]), (images[0], None), images[0]])
    assert page.data["image-0"]["targets"][3] == int(last)
    assert len(page.data["image-1"]["targets"]) == len(page.data["image-2"]["targets"]) == 3
    assert page.data["report"]["verdicts"]["label"] == [int(last), -1, -1]
    assert page.data["report"]["labelled"] == 1


def test_scores_are_those_of_surrogate_scores(fitted, images, report):
    odd = torch.tensor([0, 0, 0, 1, 1, 1, 2, 2, 2, 0, 1, 2])
    data = TensorDataset(images, odd)
    page = report(fitted, data)
    for depth in range(3):
        expected = surrogate_scores(fitted, DataLoader(data, 12), depth=depth)
        found = page.data["report"]["depths"][depth]
        assert found["accuracy"] == pytest.approx(expected.accuracy)
        assert found["fidelity"] == pytest.approx(expected.fidelity)
    assert page.data["report"]["accuracy"] == pytest.approx(expected.model_accuracy)
    predicted = fitted.model(images).argmax(1)
    for c in range(3):
        right = int(((odd == c) & (predicted == c)).sum())
        assert page.data["report"]["byClass"][str(c)] == [4, right]


@pytest.mark.parametrize("depth", [0, 2])
def test_usage_purity_and_best_images_are_counts_of_pixels(fitted, images, labels, report, depth):
    page = report(fitted, TensorDataset(images, labels))
    segments = fitted.segment(images, depth=depth).flatten(1).numpy()
    owner = fitted.bank_.codebooks[depth].membership.tolist()
    for c in range(3):
        for prototype in page.data[f"group-{c}"]["depths"][depth]:
            k = prototype["index"]
            assert owner[k] == c
            hits = segments == k
            assert prototype["usage"] == pytest.approx(hits.mean(), abs=1e-6)
            assert prototype["images"] == hits.any(1).sum()
            if hits.any():
                own = hits[labels.numpy() == c].sum() / hits.sum()
                assert prototype["purity"] == pytest.approx(own, abs=1e-4)
            else:
                assert prototype["purity"] is None
            shares = sorted(hits.mean(1)[hits.any(1)], reverse=True)[:6]
            assert [share for _, share in prototype["best"]] == pytest.approx(shares, abs=1e-4)
            for image, share in prototype["best"]:
                assert hits[image].mean() == pytest.approx(share, abs=1e-4)
    used = len(np.unique(segments))
    assert page.data["report"]["depths"][depth]["used"] == used


def test_nearest_pairs_are_the_least_distances_between_classes(fitted, images, report):
    page = report(fitted, list(images))
    book = fitted.bank_.codebooks[0]
    owner, centroids = book.membership.tolist(), book.centroids.numpy()
    found = page.data["report"]["depths"][0]["near"]
    for a, b, distance in found:
        assert owner[a] != owner[b]
        assert distance == pytest.approx(np.linalg.norm(centroids[a] - centroids[b]), abs=1e-3)
    least = min(
        np.linalg.norm(centroids[a] - centroids[b])
        for a in range(6)
        for b in range(6)
        if owner[a] != owner[b]
    )
    assert found[0][2] == pytest.approx(least, abs=1e-3)


def test_traded_pairs_count_the_pixels_of_both_classes(fitted, images, labels, report):
    # images of one class filed under another, so that prototypes win foreign images
    page = report(fitted, TensorDataset(images, (labels + 1) % 3))
    segments = fitted.segment(images).flatten(1)
    owner = fitted.bank_.codebooks[0].membership[segments].numpy()
    filed = ((labels + 1) % 3).numpy()
    traded = page.data["report"]["depths"][0]["traded"]
    assert traded
    for a, b, _, _, share in traded:
        foreign = (owner[filed == b] == a).sum() + (owner[filed == a] == b).sum()
        assert share == pytest.approx(foreign / np.isin(filed, [a, b]).sum() / 256, abs=1e-4)


def test_patches_have_their_pictures_and_boxes(fitted, images, labels, report):
    page = report(fitted, list(images[:2]), train_set=TensorDataset(images, labels))
    for c in range(3):
        group = page.data[f"group-{c}"]
        assert len(group["pictures"]) == len(set(group["pictures"]))
        for depth, prototypes in enumerate(group["depths"]):
            kept = fitted.bank_.codebooks[depth].representatives
            for prototype in prototypes:
                k = prototype["index"]
                assert len(prototype["patches"]) == int((kept.indices[k] >= 0).sum())
                for m, (index, distance, place, *frame) in enumerate(prototype["patches"]):
                    assert index == int(kept.indices[k, m])
                    assert distance == pytest.approx(float(kept.distances[k, m]), abs=1e-4)
                    shown = np.round(255 * picture(images[index])).astype(np.uint8)
                    assert np.array_equal(pixels_of(group["pictures"][place]), shown)
                    x0, y0, x1, y1 = (kept.boxes[k, m].double() / 16).tolist()
                    assert frame == pytest.approx([x0, y0, x1 - x0, y1 - y0], abs=1e-4)


def test_patches_are_listed_without_a_training_set(fitted, images, report):
    group = report(fitted, list(images[:2])).data["group-0"]
    assert group["pictures"] == []
    assert all(patch[2] == -1 for p in group["depths"][0] for patch in p["patches"])


def test_many_prototypes_share_a_budget_of_pictures(fitted, images, report, monkeypatch):
    monkeypatch.setattr("captum_kmex.report.patches._BUDGET", 1)
    page = report(fitted, list(images[:2]), train_set=images)
    for depth in page.data["group-0"]["depths"]:
        for prototype in depth:
            assert prototype["patches"][0][2] >= 0  # the nearest of each has a picture


def test_picture_function_makes_the_pictures(attr, images, report):
    def red(image: Tensor) -> np.ndarray:
        return np.dstack([image[0].numpy() > 0.5, *np.zeros((2, 16, 16))]).astype(np.uint8) * 255

    page = report(attr, list(images[:1]), picture=red)
    assert np.array_equal(pixels_of(page.data["image-0"]["picture"]), red(images[0]))


def test_large_pictures_are_reduced(images, report):
    attr = LayerKMeansAttribution(make_net(), ["stage3"], n_clusters=2)
    page = report(attr, [torch.rand(1, 400, 800)])
    assert pixels_of(page.data["image-0"]["picture"]).shape == (192, 384)
    assert page.data["image-0"]["picture"].startswith("data:image/jpeg;")
    assert page.data["image-0"]["aspect"] == 2


def test_text_is_inert(attr, images, labels, report):
    evil = "</script><script>alert(1)</script><!-- & \u2028 \ud800"
    items = [(images[i], int(labels[i]), evil) for i in range(3)]
    page = report(attr, items, class_names=[evil, "b", "c"], title="<b>&</b>")
    plain = report(attr, [(images[i], int(labels[i])) for i in range(3)])
    assert page.tags == plain.tags  # nothing of it became an element
    assert page.data["report"]["classNames"][0] == evil
    assert page.data["report"]["verdicts"]["name"] == [evil] * 3
    assert page.title == "<b>&</b>"
    assert len(page.scripts) == 1


def test_policy_allows_only_this_script_and_style(attr, images, report):
    page = report(attr, list(images[:2]))
    for directive, (text,) in {"script-src": page.scripts, "style-src": page.styles}.items():
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{directive} 'sha256-{digest}'" in page.policy
    assert page.policy.startswith("default-src 'none'; img-src data:;")
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", page.scripts[0] + page.styles[0])


def test_script_never_sets_markup(attr, images, report):
    script = report(attr, list(images[:1])).scripts[0]
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", script)


class Broken(list):
    def __getitem__(self, place):
        if place == 7:
            raise OSError("image 7 is damaged")
        return super().__getitem__(place)


def test_failure_leaves_the_old_file_and_nothing_else(attr, images, tmp_path):
    path = tmp_path / "report.html"
    path.write_text("old")
    with pytest.raises(OSError, match="image 7 is damaged"):
        write_report(attr, Broken(images), path, batch_size=4, show_progress=False)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_path_is_returned_and_replaced(attr, images, tmp_path):
    path = tmp_path / "new" / "report.html"
    assert write_report(attr, list(images[:1]), path, show_progress=False).is_file()
    path.write_text("old")
    assert write_report(attr, list(images[:2]), str(path), show_progress=False) == Path(path)
    assert path.read_text("utf-8").startswith("<!doctype html>")


class Counted:
    """Images made as they are asked for; counts how many are alive."""

    def __init__(self) -> None:
        self.alive: weakref.WeakSet[Tensor] = weakref.WeakSet()
        self.most = 0

    def __len__(self) -> int:
        return 60

    def __getitem__(self, place: int) -> Tensor:
        image = torch.rand(1, 16, 16)
        self.alive.add(image)
        self.most = max(self.most, len(self.alive))
        return image


def test_images_are_held_a_batch_at_a_time(fitted, report):
    data = Counted()
    page = report(fitted, data, batch_size=4)
    assert sum(name.startswith("image-") for name in page.data) == 60
    assert data.most <= 8  # the batch being read, and the one before it


def test_model_and_random_state_are_left_as_found(attr, images, report):
    state = torch.get_rng_state()
    flags = [module.training for module in attr.model.modules()]
    report(attr, list(images))
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in attr.model.modules()] == flags
    assert not any(module._forward_hooks for module in attr.model.modules())


def test_class_agnostic_bank_has_one_section_and_histograms(images, report):
    attr = LayerKMeansAttribution(make_net(), LAYERS, n_prototypes=4)
    attr.fit([images], labels=None, n_init=1, n_representatives=1)
    page = report(attr, list(images), train_set=images)
    assert page.data["report"]["isAgnostic"]
    assert [name for name in page.data if name.startswith("group-")] == ["group-0"]
    for k, prototype in enumerate(page.data["group-0"]["depths"][0]):
        shares = attr.bank_.codebooks[0].membership[k]
        for c, share in prototype["classes"]:
            assert share == pytest.approx(float(shares[c]), abs=1e-4)
        assert "near" not in prototype


def test_classes_without_prototypes_have_no_section(images, labels, report):
    attr = LayerKMeansAttribution(make_net(), LAYERS, n_prototypes=2)
    attr.fit([(images, labels)], classes=[0, 2], n_init=1, n_representatives=1)
    page = report(attr, TensorDataset(images, labels))
    assert {name for name in page.data if name.startswith("group-")} == {"group-0", "group-2"}
    for a, b, ours, theirs, _ in page.data["report"]["depths"][0]["traded"]:
        assert ours >= 0 or a == 1
        assert theirs >= 0 or b == 1


class MLP(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = make_net()
        self.body.head = nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


def test_surrogate_states_its_r2_and_what_it_misses(images, labels, report):
    attr = LayerKMeansAttribution(MLP().eval(), [f"body.{name}" for name in LAYERS])
    attr.surrogate = "ridge"
    with pytest.raises(NotFittedError, match="surrogate"):
        report(attr, list(images))
    attr.n_prototypes = 1
    attr.fit([(images, labels)], n_init=1, n_representatives=1)
    page = report(attr, list(images), batch_size=12)
    assert page.data["report"]["r2"] == attr.bank_.surrogate.r2
    expected = attr.explain(images)
    for i in range(12):
        image = page.data[f"image-{i}"]
        found = image["depths"][0]
        total = decoded(found["evidence"], "f8", 3, -1)[0].sum() + image["bias"][0]
        assert total - image["output"][0] == pytest.approx(float(expected.delta[i]), abs=1e-5)


def test_linearised_tail_states_what_it_leaves_over(images, report):
    attr = LayerKMeansAttribution(MLP().eval(), [f"body.{name}" for name in LAYERS], n_clusters=3)
    page = report(attr, list(images[:3]))
    expected = attr.explain(images[:3])
    for i in range(3):
        image = page.data[f"image-{i}"]
        found = image["depths"][0]
        segments = len(found["prototypes"])
        parts = decoded(found["evidence"], "f8", -1, segments)[0].sum() + image["bias"][0]
        assert image["notLinear"][0] == float(expected.not_linear[i])
        assert parts + image["notLinear"][0] == pytest.approx(image["output"][0], abs=1e-5)


def test_provenance_tells_fit_and_versions(fitted, images, report):
    lines = dict(report(fitted, list(images[:1])).data["report"]["provenance"])
    assert lines["layers"] == "stage1, stage2, stage3"
    assert lines["fitted on"].startswith("12 images, ")
    assert "n_prototypes 2" in lines["fit"]
    assert f"captum_kmex {__version__}, torch " in lines["versions"]


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        ([], {}, "no images to report"),
        ([torch.rand(1, 16, 16)], {"class_names": ["a", "b"]}, "2 names for 3 classes"),
        ([(torch.rand(1, 16, 16), 3)], {}, "label 3 is out of range for 3 logits"),
        ([(torch.rand(1, 16, 16), -2)], {}, "label of image 0 is -2"),
        ([(torch.rand(1, 16, 16), torch.eye(3)[0])], {}, "no class index"),
        ([(torch.rand(1, 16, 16), 1.0)], {}, "no class index"),
        ([torch.rand(1, 16, 16), torch.rand(1, 20, 16)], {}, "several shapes"),
        ([torch.zeros(1, 16, 16, dtype=torch.uint8)], {}, "must be floating point"),
        ([torch.full((1, 16, 16), torch.nan)], {}, "NaN or Inf"),
        ([torch.rand(1, 16, 16)], {"batch_size": 0}, "batch_size=0 should be between 1 and"),
        ([torch.rand(1, 16, 16)], {"picture": lambda x: x.numpy()}, r"\(1, 16, 16\)"),
    ],
    ids=[
        "empty", "names", "label", "negative", "multi-hot", "float", "sizes", "bytes",
        "nan", "batch", "picture",
    ],
)  # fmt: skip
def test_errors_say_what_is_wrong(attr, data, options, message, report, tmp_path):
    with pytest.raises(ValueError, match=message):
        report(attr, data, **options)
    assert list(tmp_path.iterdir()) == []


def test_error_for_items_that_are_no_images(attr, report):
    with pytest.raises(TypeError, match="must yield image tensors"):
        report(attr, ["cat.jpg"])


def test_error_for_a_training_set_too_short(fitted, images, report):
    with pytest.raises(ValueError, match="train_set has 3"):
        report(fitted, list(images), train_set=images[:3])


def test_error_for_a_training_set_of_smaller_images(fitted, images, report):
    with pytest.raises(ValueError, match="which is 4 pixels wide and 4 high"):
        report(fitted, list(images), train_set=images[..., :4, :4])


def test_documentation_writes_a_report(fitted, images, labels, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = (Path(captum_kmex.__file__).parents[1] / "docs" / "report.md").read_text()
    data = TensorDataset(images, labels)
    code = re.findall(r"```python\n(.*?)```", page, re.S)
    given = {"attribution": fitted, "test_set": data, "train_set": data, "class_names": NAMES}
    model = fitted.model
    model.layer4 = model.stage3  # as the page's ResNet has it
    given |= {"model": model, "layers": ["stage2", "stage3"]}
    exec("\n".join(code), given)
    assert Page((tmp_path / "report.html").read_text("utf-8")).data["report"]["classNames"] == NAMES
