"""A model with a single logit z tells two classes by its sign, everywhere."""

from __future__ import annotations

import json
import math

import pytest
import torch
from nets import LAYERS, make_net
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from workplace import answer_of, error_of

from captum_kmex import ClassifierPrototypes, KMExAttribution, LayerKMeansAttribution
from captum_kmex.classes import class_count, class_logits, class_of, predicted_classes
from captum_kmex.data.labels import class_pairs
from captum_kmex.metrics.embedding import pooled_embeddings
from captum_kmex.metrics.surrogate_scores import sensitivity_max, surrogate_scores
from captum_kmex.metrics.wins import prototype_wins
from captum_kmex.report import write_report
from captum_kmex.visualization import plot_contrast
from captum_kmex.visualization.comparisons import plot_depths

QUICK = {"n_init": 1, "n_representatives": 1}
NAMES = ["benign", "malignant"]
FORMS = {"column": lambda z: z, "vector": lambda z: z[:, 0], "squeezed": torch.squeeze}


class Single(nn.Module):
    """A net with one output, in one of the forms in which people return it."""

    def __init__(self, net: nn.Module, form: str) -> None:
        super().__init__()
        self.net, self.form = net, form

    def forward(self, x: Tensor) -> Tensor:
        return FORMS[self.form](self.net(x))


@pytest.fixture(params=FORMS)
def form(request) -> str:
    return request.param


def single(images: Tensor, form: str = "column") -> Single:
    """Return a model whose logit is positive for half of the images."""
    net = make_net(1)
    with torch.no_grad():
        net.head.weight *= 20
        net.head.bias -= net(images).median() + 1e-3
    return Single(net, form).eval()


@pytest.fixture
def model(images, form) -> Single:
    return single(images, form)


@pytest.fixture
def sign(images) -> Tensor:
    return (single(images)(images)[:, 0] > 0).long()


def layers() -> list[str]:
    return [f"net.{name}" for name in LAYERS]


def fitted(model: nn.Module, images: Tensor, y: Tensor, **options) -> LayerKMeansAttribution:
    attr = LayerKMeansAttribution(model, layers(), n_prototypes=2)
    return attr.fit([(images, y)], **QUICK, **options)


def test_class_logits_of_one_decide_by_sign_and_give_the_sigmoid():
    z = torch.tensor([[-2.0], [0.0], [-0.0], [3.0]])
    assert predicted_classes(z).tolist() == predicted_classes(z[:, 0]).tolist() == [0, 0, 0, 1]
    torch.testing.assert_close(class_logits(z).softmax(1)[:, 1], z[:, 0].sigmoid())
    assert [class_count(j) for j in (1, 2, 3)] == [2, 2, 3]
    assert class_of(torch.zeros(4).long(), z).tolist() == [0, 0, 0, 1]


def test_class_logits_of_several_are_themselves():
    logits = torch.rand(4, 2)
    assert class_logits(logits) is logits
    target = torch.tensor([1, 0, 0, 1])
    assert class_of(target, logits) is target


LABELS = {
    "integers": lambda y: y,
    "bool": lambda y: y.bool(),
    "float": lambda y: y.float(),
    "column": lambda y: y[:, None],
    "float_column": lambda y: y[:, None].float(),
    "one_hot": lambda y: nn.functional.one_hot(y, 2),
}


@pytest.mark.parametrize("make", LABELS.values(), ids=LABELS)
def test_labels_of_a_single_logit_are_zero_and_one(make):
    y = torch.tensor([0, 1, 1, 0])
    rows, classes = class_pairs("target", make(y), torch.rand(4, 1))
    assert rows.tolist() == [0, 1, 2, 3]
    assert classes.tolist() == y.tolist()


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.tensor([0, 1, 2, 0]), "label 2 is out of range for a single logit.*must be 0 or 1"),
        (torch.tensor([0, 1, -1, 0]), "label -1 is out of range for a single logit"),
        (torch.tensor([0, 1, 0.5, 0]), "got torch.float32"),
        (torch.tensor([[0.2], [1], [0], [1]]), r"shape \(4, 2\); got shape \(4, 1\)"),
        (torch.zeros(4, 3), r"shape \(4, 2\); got shape \(4, 3\)"),
    ],
    ids=["two", "negative", "soft", "soft_column", "wide"],
)
def test_other_labels_are_refused(labels, message):
    with pytest.raises(ValueError, match=message):
        class_pairs("target", labels, torch.rand(4, 1))


@pytest.mark.parametrize("labels", [torch.tensor([0.0, 1.0]), torch.tensor([[0.0], [1.0]])])
def test_float_labels_of_two_logits_stay_refused(labels):
    with pytest.raises(ValueError, match="must be"):
        class_pairs("target", labels, torch.rand(2, 2))


@pytest.mark.parametrize("kind", [LayerKMeansAttribution, KMExAttribution])
@pytest.mark.parametrize("labels", ["target", "predicted"])
def test_fit_gives_two_classes(images, sign, model, kind, labels):
    where = layers() if kind is LayerKMeansAttribution else layers()[-1]
    attr = kind(model, where, n_prototypes=2)
    attr.fit([(images, sign.float())], labels=labels, **QUICK)
    assert attr.bank_.n_classes == 2
    assert attr.bank_.provenance["n_logits"] == 1
    for book in attr.bank_.codebooks:
        assert book.membership.tolist() == [0, 0, 1, 1]
    found = attr.classify(images)
    assert found.scores.shape == (12, 2)
    assert found.logits.shape == (12, 1)
    assert torch.equal(attr.predict(images), found.prediction)
    assert (found.prediction == sign).float().mean() > 0.9


def test_prototypes_are_those_of_the_model_with_two_logits(images, sign):
    """The same features, labels and head: (0, z) is the model that people wrote instead."""

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = single(images).net

        def forward(self, x: Tensor) -> Tensor:
            return class_logits(self.net(x))

    for labels in ("target", "predicted", None):
        ours = fitted(single(images), images, sign, labels=labels)
        theirs = LayerKMeansAttribution(Two().eval(), layers(), n_prototypes=2)
        theirs.fit([(images, sign)], labels=labels, **QUICK)
        for one, two in zip(ours.bank_.codebooks, theirs.bank_.codebooks, strict=True):
            assert torch.equal(one.centroids, two.centroids)
            assert torch.equal(one.membership, two.membership)
        assert torch.equal(ours.predict(images), theirs.predict(images))


@pytest.mark.parametrize("target", [None, 0, -1, [0] * 12], ids=str)
@pytest.mark.parametrize("is_fitted", [False, True])
def test_map_adds_up_to_the_logit(images, sign, model, target, is_fitted):
    z = single(images)(images)[:, 0]
    for attr in (
        fitted(model, images, sign) if is_fitted else LayerKMeansAttribution(model, layers()),
        ClassifierPrototypes(model),
    ):
        maps, delta = attr.attribute(images, target, return_convergence_delta=True)
        torch.testing.assert_close(maps.sum((1, 2, 3)) + model.net.head.bias, z)
        assert delta.abs().max() < 1e-4


def test_one_image_of_a_squeezing_model_is_explained(images):
    attr = ClassifierPrototypes(single(images, "squeezed"))
    maps, delta = attr.attribute(images[:1], return_convergence_delta=True)
    assert float(delta.abs()) < 1e-4
    assert attr.model(images[:1]).ndim == 0
    assert maps.shape[0] == 1


@pytest.mark.parametrize("make", [LayerKMeansAttribution, ClassifierPrototypes])
def test_contrast_and_second_class_are_refused(images, make):
    model = single(images)
    attr = make(model, layers()) if make is LayerKMeansAttribution else make(model)
    with pytest.raises(ValueError, match="contrast needs a second logit, the model has one"):
        attr.attribute(images, contrast=0)
    with pytest.raises(ValueError, match="target 1 is out of range for a single logit"):
        attr.attribute(images, target=1)


def test_restriction_is_to_the_class_of_the_sign(images, sign, model):
    attr = fitted(model, images, sign)
    owner = attr.bank_.codebooks[0].membership
    segments = attr.segment(images, restrict="predicted").flatten(1)
    assert (owner[segments] == sign[:, None]).all()
    result = attr.explain(images, restrict="predicted")
    for i, ledger in enumerate(result.ledger):
        assert {row.class_index for row in ledger} == {int(sign[i])}
    assert result.delta.abs().max() < 1e-4


def test_kmex_explains_the_class_of_the_sign_by_default(images, sign, model):
    attr = KMExAttribution(model, layers()[-1], n_prototypes=2).fit([(images, sign)], **QUICK)
    expected = attr.attribute(images, target=sign)
    assert torch.equal(attr.attribute(images), expected)
    assert torch.equal(attr.attribute(images, target=sign, contrast=1 - sign), expected)
    torch.testing.assert_close(attr.attribute(images, target=1 - sign), -expected)
    with pytest.raises(ValueError, match="target 2 is out of range for 2"):
        attr.attribute(images, target=2)
    assert sensitivity_max(attr, images[:2], n_perturb_samples=1).shape == (2,)


@pytest.mark.parametrize("kind", ["layers", "kmex", "head"])
def test_module_says_what_the_attribution_says(images, sign, model, kind):
    attr = {
        "layers": lambda: fitted(model, images, sign),
        "kmex": lambda: KMExAttribution(model, layers()[-1]).fit([(images, sign)], **QUICK),
        "head": lambda: ClassifierPrototypes(model),
    }[kind]()
    found = attr.as_module(images)(images)
    torch.testing.assert_close(found["attribution"], attr.attribute(images), atol=1e-5, rtol=1e-4)
    assert found["logits"].shape == (12, 1)
    assert torch.equal(found["target"], sign if kind == "kmex" else torch.zeros_like(sign))
    if kind != "head":
        assert torch.equal(found["prediction"], attr.predict(images))


@pytest.mark.slow
def test_module_goes_through_export(images, sign):
    module = fitted(single(images), images, sign).as_module(images[:2])
    exported = torch.export.export(module, (images[:2],)).module()(images[:2])
    torch.testing.assert_close(exported["class_scores"], module(images[:2])["class_scores"])


def test_measures_know_two_classes(images, sign, model):
    attr = fitted(model, images, sign)
    for labels in (sign, sign.float(), sign[:, None].float()):
        loader = [(images, labels)]
        scores = surrogate_scores(attr, loader)
        assert scores.model_accuracy == 1
        assert scores.accuracy == scores.fidelity == (attr.predict(images) == sign).float().mean()
        assert math.isnan(scores.fidelity_on_errors)
        wins = prototype_wins(attr, loader)
        assert wins.counts.shape == (2, 4)
        assert wins.counts.sum(1).tolist() == [256 * int((sign == c).sum()) for c in (0, 1)]
        assert torch.equal(pooled_embeddings(ClassifierPrototypes(model), loader)[1], sign)


def test_scores_are_shares_of_wrong_labels_too(images, sign):
    attr = fitted(single(images), images, sign)
    scores = surrogate_scores(attr, [(images, 1 - sign)])
    assert scores.model_accuracy == 0
    assert scores.fidelity_on_errors == scores.fidelity


def test_alignment_takes_minus_the_column_for_class_0(images, sign, model):
    head = ClassifierPrototypes(model)
    rows, _ = pooled_embeddings(head, [(images, sign)])
    own = nn.functional.cosine_similarity(rows, model.net.head.weight) * (2 * sign - 1)
    found = head.alignment([(images, sign)])
    assert found.class_cosine == pytest.approx(float(own.mean()), abs=1e-6)
    assert found.out_cosine == pytest.approx(-float(own.mean()), abs=1e-6)


def test_surrogate_head_of_a_single_logit(images, sign):
    model = single(images)
    model.net.head = nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 1))
    result = fitted(model, images, sign).explain(images)
    assert result.surrogate_r2 is not None
    expected = result.attribution.sum((1, 2, 3)) + result.bias - model(images)[:, 0]
    torch.testing.assert_close(result.delta, expected, atol=1e-5, rtol=1e-4)


def test_bank_is_for_as_many_logits_as_it_was_fitted_on(images, sign, tmp_path):
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = make_net(2)

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x)

    fitted(single(images), images, sign).save(tmp_path / "one")
    again = LayerKMeansAttribution.load(tmp_path / "one", single(images))
    assert again.bank_.n_classes == 2
    assert again.predict(images).shape == (12,)
    other = LayerKMeansAttribution.load(tmp_path / "one", Two().eval(), strict=False)
    with pytest.raises(ValueError, match="fitted on 1 logits, the model returns 2"):
        other.predict(images)
    two = LayerKMeansAttribution(Two().eval(), layers(), n_prototypes=1)
    two.fit([(images, sign)], **QUICK).save(tmp_path / "two")
    other = LayerKMeansAttribution.load(tmp_path / "two", single(images), strict=False)
    with pytest.raises(ValueError, match="fitted on 2 logits, the model returns 1"):
        other.attribute(images)


def test_fit_goes_on_from_its_checkpoint(images, sign, tmp_path):
    class Broken(TensorDataset):
        is_broken = True

        def __getitem__(self, index):
            if self.is_broken and index == 9:
                raise OSError("the disk is gone")
            return super().__getitem__(index)

    data, path = Broken(images, sign.float()), tmp_path / "progress"
    attr = LayerKMeansAttribution(single(images), layers(), n_prototypes=2)
    options = QUICK | {"checkpoint": path, "checkpoint_interval": 0, "refine": 1}
    with pytest.raises(OSError, match="disk"):
        attr.fit(DataLoader(data, 4), **options)
    data.is_broken = False
    attr.fit(DataLoader(data, 4), **options)
    whole = LayerKMeansAttribution(single(images), layers(), n_prototypes=2)
    whole.fit(DataLoader(data, 4), refine=1, **QUICK)
    assert attr.bank_.n_classes == 2
    for ours, theirs in zip(attr.bank_.codebooks, whole.bank_.codebooks, strict=True):
        assert torch.equal(ours.centroids, theirs.centroids)


def test_figures_name_the_class_of_the_sign(images, sign):
    attr = fitted(single(images), images, sign)
    result = attr.explain(images)
    for i in range(0, 12, 3):
        _, axes = result.plot(i, class_names=NAMES)
        name, z = NAMES[int(sign[i])], result.output[i]
        assert axes[0].get_title() == f"{name} (p = {float(z.abs().sigmoid()):.2f})"
        assert axes[2].get_title() == "red: malignant, blue: benign"
    deep = attr.explain(images, depth=-1)
    _, axes = plot_depths([deep, result], 3, class_names=NAMES)
    assert axes[0, 0].get_title() == NAMES[int(sign[3])]
    with pytest.raises(ValueError, match="a single logit has no second class"):
        plot_contrast(result, result)


@pytest.mark.parametrize("is_fitted", [False, True])
@pytest.mark.parametrize("make", [int, float], ids=["integers", "float"])
def test_report_tells_two_classes(images, sign, is_fitted, make, tmp_path):
    attr = LayerKMeansAttribution(single(images), layers(), n_prototypes=2)
    attr = fitted(attr.model, images, sign) if is_fitted else attr
    labels = 1 - sign
    items = [(images[i], torch.tensor(make(labels[i]))) for i in range(12)]
    path = write_report(attr, items, tmp_path / "a.html", class_names=NAMES, show_progress=False)
    pieces = path.read_text().split('<script type="application/json" id="')[1:]
    data = {p.split('"')[0]: json.loads(p.split(">", 1)[1].split("</script>")[0]) for p in pieces}
    report = data["report"]
    assert report["classNames"] == NAMES
    assert report["verdicts"]["prediction"] == sign.tolist()
    assert report["verdicts"]["label"] == labels.tolist()
    assert report["accuracy"] == 0
    z = attr.model(images)[:, 0]
    for i in range(12):
        image = data[f"image-{i}"]
        assert image["targets"] == [1]
        assert image["output"] == [pytest.approx(float(z[i]), abs=1e-4)]
        assert image["probability"] == [pytest.approx(float(z[i].sigmoid()), abs=1e-4)]
    if is_fitted:
        votes = [attr.predict(images, depth=depth).tolist() for depth in range(3)]
        assert report["verdicts"]["votes"] == votes


@pytest.mark.parametrize(
    ("label", "message"),
    [(2, "label 2 is out of range"), (0.5, "no class index"), (torch.tensor(0.5), "class index")],
)
def test_report_refuses_other_labels(images, label, message, tmp_path):
    attr = LayerKMeansAttribution(single(images), layers())
    with pytest.raises(ValueError, match=message):
        write_report(attr, [(images[0], label)], tmp_path / "a.html", show_progress=False)


def test_report_wants_two_names(images, tmp_path):
    attr = LayerKMeansAttribution(single(images), layers())
    with pytest.raises(ValueError, match=r"1 names for 2 classes; .* two for a single logit"):
        write_report(attr, [images[0]], tmp_path / "a", class_names=["yes"], show_progress=False)


MODEL = """
import torch
from torch import nn

def make():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, 2), nn.ReLU(), nn.Conv2d(4, 6, 3, 2), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 1), *FORM)
    with torch.no_grad():  # red pictures are above 0, blue ones below
        net[0].weight.copy_(torch.zeros(4, 3, 3, 3))
        net[0].bias.zero_()
        net[0].weight[0, 0], net[0].weight[1, 2] = 1, 1
        net[2].weight.abs_()
        net[2].weight[:, 2:] = 0
        net[2].weight[:3, 1], net[2].weight[3:, 0] = 0, 0
        net[6].weight.copy_(torch.tensor([[1.0, 1, 1, -1, -1, -1]]))
        net[6].bias.zero_()
    return net
"""


@pytest.fixture
def place(tmp_path, form, monkeypatch):
    monkeypatch.chdir(tmp_path)
    squeeze = {"column": "", "vector": "nn.Flatten(0)", "squeezed": "nn.Flatten(0)"}[form]
    (tmp_path / "mine.py").write_text(MODEL.replace("*FORM", squeeze))
    generator = torch.Generator().manual_seed(0)
    for name, channel in (("blue", 2), ("red", 0)):
        (tmp_path / "train" / name).mkdir(parents=True)
        for i in range(2):
            pixels = torch.randint(0, 40, (24, 24, 3), generator=generator, dtype=torch.uint8)
            pixels[..., channel] += 180
            Image.fromarray(pixels.numpy()).save(tmp_path / "train" / name / f"{i}.png")
    return tmp_path


@pytest.mark.parametrize(
    ("form", "labels"),
    [
        ("column", "folder"),
        ("vector", "predicted"),
        pytest.param("column", "predicted", marks=pytest.mark.slow),
        pytest.param("vector", "folder", marks=pytest.mark.slow),
        pytest.param("column", "none", marks=pytest.mark.slow),
        pytest.param("vector", "none", marks=pytest.mark.slow),
    ],
    indirect=["form"],
)
def test_command_line_fits_two_folders_and_tells_them_apart(place, capsys, labels):
    model = ["mine.py:make", "--resize", "24", "--crop", "24"]
    fit = ["fit", *model, "train", "--layers", "1", "3", "--n-prototypes", "1"]
    answer_of(capsys, *fit, "--labels", labels)
    names = ["blue", "red"] if labels == "folder" else [None, None]
    assert answer_of(capsys, "info", "bank.safetensors")["n_classes"] == 2
    rows = answer_of(capsys, "explain", "mine.py:make", "train", "--bank", "bank.safetensors")
    for row in rows["images"]:
        expected = int(row["name"].startswith("red"))
        assert (row["predicted"], row["predicted_name"]) == (expected, names[expected])
        assert row["probability"] == pytest.approx(1 / (1 + math.exp(-abs(row["output"]))))
        assert (row["target"], row["target_name"]) == (1, names[1])
        assert row["output"] > 0 if expected else row["output"] < 0
        if labels != "none":
            assert row["prototypes_predict"] == expected
        assert row["bias"] + row["evidence"] == pytest.approx(row["output"], abs=1e-4)


@pytest.mark.parametrize("form", ["vector"], indirect=True)
@pytest.mark.slow
def test_command_line_explains_the_logit_for_class_1_only(place, capsys):
    (place / "names.txt").write_text("blue\nred\n")
    words = ["explain", "mine.py:make", "train", "--resize", "24", "--crop", "24"]
    words += ["--layers", "1", "3", "--class-names", "names.txt"]
    rows = answer_of(capsys, *words, "--target", "red")["images"]
    assert {row["target_name"] for row in rows} == {"red"}
    message = error_of(capsys, *words, "--target", "blue", code=2)
    assert "the model's single logit speaks for class 1" in message
    assert "contrast needs a second logit" in error_of(capsys, *words, "--contrast", "red")
