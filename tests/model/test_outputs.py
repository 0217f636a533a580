"""Logits are found in what a model returns; what needs none does without."""

from __future__ import annotations

from collections import OrderedDict, namedtuple
from dataclasses import dataclass

import pytest
import torch
from nets import LAYERS, make_net
from torch import Tensor, nn

from captum_kmex import (
    ClassifierPrototypes,
    KMExAttribution,
    LayerKMeansAttribution,
    suggest_layers,
)
from captum_kmex.exceptions import ChosenLayersWarning
from captum_kmex.model.outputs import as_logits, has_logits

Output = namedtuple("Output", ["logits", "hidden"])


@dataclass
class Returned:
    loss: Tensor | None
    logits: Tensor
    hidden_states: Tensor


class ModelOutput(OrderedDict):
    """As Hugging Face's: a dictionary whose entries are attributes."""

    def __getattr__(self, name: str) -> object:
        return self[name]


class Wrapped(nn.Module):
    def __init__(self, wrap) -> None:
        super().__init__()
        self.net, self._wrap = make_net(), wrap

    def forward(self, x: Tensor) -> object:
        return self._wrap(self.net(x), x)


KINDS = {
    "dictionary": lambda z, x: {"loss": None, "logits": z, "features": x},
    "one_entry": lambda z, _: {"out": z},
    "object": lambda z, x: Returned(None, z, x),
    "model_output": lambda z, x: ModelOutput(logits=z, hidden=x),
    "named_tuple": lambda z, x: Output(z, x),
    "tuple": lambda z, x: (z, x),
    "list": lambda z, x: [x, z],
}
kinds = pytest.mark.parametrize("wrap", KINDS.values(), ids=KINDS)
NAMES = [f"net.{name}" for name in LAYERS]


@kinds
def test_logits_are_found_in_outputs_of_every_kind(wrap, images, labels):
    model, plain = Wrapped(wrap).eval(), make_net()
    expected = ClassifierPrototypes(plain).attribute(images, 1)
    assert torch.equal(ClassifierPrototypes(model).attribute(images, 1), expected)
    layers = LayerKMeansAttribution(model, NAMES, n_prototypes=1).fit([(images, labels)])
    of_plain = LayerKMeansAttribution(plain, LAYERS, n_prototypes=1).fit([(images, labels)])
    assert torch.equal(layers.attribute(images, 1), of_plain.attribute(images, 1))
    exported = ClassifierPrototypes(model).as_module(images, target=1)(images)
    torch.testing.assert_close(exported["attribution"], expected)


@kinds
def test_not_linear_outputs_of_every_kind_are_linearised(wrap, images):
    model = Wrapped(lambda z, x: wrap(z.square(), x)).eval()
    found = LayerKMeansAttribution(model, NAMES, n_clusters=3).explain(images, 1)
    assert found.head == "linearised"
    assert found.delta.abs().max() < 1e-5


@pytest.mark.parametrize("shape", [(12,), (12, 1)], ids=["squeezed", "column"])
def test_regression_is_a_single_logit(shape, images):
    model = Wrapped(lambda z, _: z[:, :1].reshape(-1, *shape[1:]) * 3 + 20).eval()
    with torch.no_grad():
        value = model(images).reshape(-1)
    found = LayerKMeansAttribution(model, NAMES, n_clusters=3).explain(images)
    assert found.head == "exact"
    torch.testing.assert_close(found.output, value)
    assert found.delta.abs().max() < 1e-5


NOT_LOGITS = {
    "two_tables": lambda z, _: (z, z),
    "two_entries": lambda z, _: {"genus": z, "species": z},
    "map": lambda _, x: x,
    "nothing": lambda *_: None,
    "text": lambda *_: "a cat",
    "whole_numbers": lambda z, _: z.argmax(1),
}
not_logits = pytest.mark.parametrize("wrap", NOT_LOGITS.values(), ids=NOT_LOGITS)


@not_logits
def test_outputs_without_logits_are_refused_where_they_are_needed(wrap, images):
    for attribution in (
        ClassifierPrototypes(Wrapped(wrap).eval()),
        LayerKMeansAttribution(Wrapped(wrap).eval(), NAMES),
    ):
        with pytest.raises(ValueError, match=r"must return logits .N, J. for 12 images"):
            attribution.attribute(images)


@not_logits
def test_segments_layers_and_class_agnostic_prototypes_need_no_logits(wrap, images):
    model, plain = Wrapped(wrap).eval(), make_net()
    assert suggest_layers(model, images) == NAMES
    segments = LayerKMeansAttribution(model, NAMES, n_clusters=3).segment(images)
    expected = LayerKMeansAttribution(plain, LAYERS, n_clusters=3).segment(images)
    assert torch.equal(segments, expected)
    fitted = LayerKMeansAttribution(model, NAMES, n_prototypes=4).fit([images], labels=None)
    twin = LayerKMeansAttribution(plain, LAYERS, n_prototypes=4).fit([images], labels=None)
    assert torch.equal(fitted.segment(images), twin.segment(images))
    assert torch.equal(fitted.bank_.codebooks[0].centroids, twin.bank_.codebooks[0].centroids)


MANY = {
    "place": (lambda z, x: (x, z, 2 * z), 2),
    "place_from_the_end": (lambda z, x: [x, z, 2 * z], -1),
    "key": (lambda z, _: {"genus": z, "species": 2 * z}, "species"),
    "whole_key": (lambda z, _: {0: z, 1: 2 * z}, 1),
    "attribute": (lambda z, x: Returned(z, z, 2 * z), "hidden_states"),
    "named_tuple": (lambda z, x: Output(z, 2 * z), "hidden"),
    "beside_logits": (lambda z, _: {"logits": z, "aux": 2 * z}, "aux"),
}


@pytest.mark.filterwarnings("ignore::captum_kmex.exceptions.FewRowsWarning")
@pytest.mark.parametrize(("wrap", "output"), MANY.values(), ids=MANY)
def test_one_of_several_outputs_is_chosen_by_its_key_attribute_or_place(
    wrap, output, images, labels, tmp_path
):
    model, plain = Wrapped(wrap).eval(), make_net()
    expected = 2 * ClassifierPrototypes(plain).attribute(images, 1)
    columns = ClassifierPrototypes(model, output=output)
    torch.testing.assert_close(columns.attribute(images, 1), expected)
    torch.testing.assert_close(columns.logits(images), 2 * plain(images).detach())
    torch.testing.assert_close(columns.as_module(images, target=1)(images)["attribution"], expected)
    torch.testing.assert_close(columns.prepare().attribute(images, 1), expected)
    layers = LayerKMeansAttribution(model, NAMES, n_prototypes=1, output=output)
    layers.fit([(images, labels)])
    found = layers.explain(images, 1)
    assert found.delta.abs().max() < 1e-5
    layers.save(tmp_path / "bank.safetensors")
    loaded = LayerKMeansAttribution.load(tmp_path / "bank.safetensors", model)
    assert loaded.output == output
    assert torch.equal(loaded.attribute(images, 1), found.attribution)
    kmex = KMExAttribution(model, "net.stage3", n_prototypes=1, output=output)
    assert kmex.fit([(images, labels)]).predict(images).shape == (12,)


def test_function_with_several_outputs(images):
    net = make_net()

    def both(x: Tensor) -> tuple[Tensor, Tensor]:
        z = net(x)
        return z, 2 * z[:, :2]

    attribution = ClassifierPrototypes(both, output=1)
    expected = 2 * ClassifierPrototypes(net).attribute(images, 1)
    torch.testing.assert_close(attribution.attribute(images, 1), expected)


def test_output_that_is_not_there_is_refused_with_those_that_are(images):
    model = Wrapped(lambda z, _: {"genus": z, "species": z}).eval()
    with pytest.raises(ValueError, match=r"no output 'order'; it has \['genus', 'species'\]"):
        ClassifierPrototypes(model, output="order").attribute(images)
    with pytest.raises(ValueError, match=r"output= takes its key, attribute or place"):
        ClassifierPrototypes(model).attribute(images)
    with pytest.raises(ValueError, match="no output 3"):
        ClassifierPrototypes(Wrapped(lambda z, _: (z, z)).eval(), output=3).attribute(images)


def test_position_of_one_of_several_maps(images):
    model = Wrapped(lambda z, x: {"edges": x, "classes": z[:, :, None, None] * x[:, :, :2, :2]})
    attribution = LayerKMeansAttribution(model.eval(), NAMES, n_clusters=3, output="classes")
    found = attribution.explain(images, (1, 0, 1))
    with torch.no_grad():
        torch.testing.assert_close(found.output, model(images)["classes"][:, 1, 0, 1])
    assert found.delta.abs().max() < 1e-5


def test_entry_that_holds_the_logits_is_preferred_to_the_others():
    z, x = torch.rand(2, 3), torch.rand(2, 1, 4, 4)
    assert as_logits({"aux": z + 1, "logits": z}, x) is z
    assert as_logits(torch.rand(2), x).shape == (2, 1)
    assert not has_logits({"a": z, "b": z}, x)
    assert not has_logits(torch.rand(5, 3), x)


# ---------------------------------------------------------------- layers that are left out


def test_layers_left_out_are_chosen_by_the_first_images_and_named_once(images):
    net = make_net()
    attribution = LayerKMeansAttribution(net)
    with pytest.raises(ValueError, match="chosen by the first images"):
        _ = attribution.layer_names
    with pytest.warns(ChosenLayersWarning, match=r"\['stage1', 'stage2', 'stage3'\]"):
        maps = attribution.attribute(images, 1)
    assert torch.equal(maps, LayerKMeansAttribution(net, LAYERS).attribute(images, 1))
    assert attribution.layers == LAYERS
    attribution.attribute(images, 1)  # warnings are errors where nobody waits for them
    assert attribution.explain(images).layers == tuple(LAYERS)


@pytest.mark.filterwarnings("ignore::captum_kmex.exceptions.ChosenLayersWarning")
def test_layers_left_out_serve_segments_fits_and_files(images, labels, tmp_path):
    net = make_net()
    assert torch.equal(
        LayerKMeansAttribution(net).segment(images),
        LayerKMeansAttribution(net, LAYERS).segment(images),
    )
    fitted = LayerKMeansAttribution(net, n_prototypes=1).fit([(images, labels)])
    assert fitted.bank_.layers == tuple(LAYERS)
    fitted.save(tmp_path / "bank.safetensors")
    loaded = LayerKMeansAttribution.load(tmp_path / "bank.safetensors", net)
    assert torch.equal(loaded.attribute(images, 1), fitted.attribute(images, 1))


def test_layers_left_out_need_a_loader_that_can_be_read_twice(images, labels):
    with pytest.raises(ValueError, match="iterator cannot be looked at twice to choose them"):
        LayerKMeansAttribution(make_net()).fit(iter([(images, labels)]))


@pytest.mark.filterwarnings("ignore::captum_kmex.exceptions.ChosenLayersWarning")
def test_layers_left_out_of_a_model_with_a_further_input(images):
    class Conditioned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = make_net()

        def forward(self, x: Tensor, factor: Tensor) -> Tensor:
            return self.net(x) * factor

    attribution = LayerKMeansAttribution(Conditioned().eval(), n_clusters=3)
    factor = torch.ones(len(images), 1)
    attribution.attribute(images, 1, additional_forward_args=factor)
    assert attribution.layers == NAMES


def test_kmex_on_a_layer_of_a_model_that_returns_an_object(images, labels):
    model = Wrapped(KINDS["object"]).eval()
    attribution = KMExAttribution(model, "net.stage3", n_prototypes=1).fit([(images, labels)])
    assert attribution.predict(images).shape == (12,)
