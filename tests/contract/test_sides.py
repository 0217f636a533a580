"""Signals, pictures and volumes: the same identities for all three, by the same tests."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from captum.attr import FeatureAblation
from nets import HEADS, LAYERS, SIZES, drawn_sided, make_sided
from scipy import ndimage
from torch import Tensor, nn

from captum_kmex import (
    ClassifierPrototypes,
    KMExAttribution,
    LayerKMeansAttribution,
    Measured,
    suggest_layers,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore::captum_kmex.exceptions.FewPixelsWarning"),
    pytest.mark.filterwarnings("ignore::captum_kmex.exceptions.FewRowsWarning"),
]
N = 3
LABELS = torch.arange(12) % 3
GRIDS = {1: [(43,), (22,), (11,)], 2: [(16, 22), (8, 11), (4, 6)]}
GRIDS[3] = [(9, 12, 10), (5, 6, 5), (3, 3, 3)]
sided = pytest.mark.parametrize("sides", [1, 2, 3], ids=["signal", "picture", "volume"])


@pytest.fixture(scope="module")
def made() -> dict[tuple[int, str], LayerKMeansAttribution]:
    """An attribution of each number of sides, with clusters, prototypes and agnostic ones."""
    found = {}
    for sides in (1, 2, 3):
        net, x = make_sided(sides), drawn_sided(sides)
        fits = {"target": [(x, LABELS)], None: [x]}
        found[sides, "unfitted"] = LayerKMeansAttribution(net, LAYERS, n_clusters=6)
        for labels, loader in fits.items():
            attr = LayerKMeansAttribution(net, LAYERS, n_prototypes=3)
            found[sides, str(labels)] = attr.fit(loader, labels=labels, n_init=1, refine=1)
    return found


@pytest.fixture(params=["unfitted", "target", "None"])
def attr_of(made, request):
    return lambda sides: made[sides, request.param]


def seen(sides: int) -> Tensor:
    """Return inputs that no fit has seen."""
    return drawn_sided(sides, N, seed=7)


@sided
@pytest.mark.parametrize("head", HEADS)
def test_head_gives_a_map_that_adds_up_to_the_logit(sides, head):
    net, x = make_sided(sides, head), seen(sides)
    maps, delta = ClassifierPrototypes(net).attribute(x, 1, return_convergence_delta=True)
    assert maps.shape == (N, 1, *GRIDS[sides][-1])
    assert delta.abs().max() < 1e-6
    bias = net.head.bias[1] if head != "rectified" else 0
    assert torch.allclose(maps.flatten(1).sum(1) + bias, net(x)[:, 1], atol=1e-6)


@sided
def test_columns_are_one_where_the_map_is_one(sides):
    net, x = make_sided(sides), seen(sides)
    attr = ClassifierPrototypes(net)
    maps = attr.attribute(x, 2, units="alignment")
    features = net.stage3(net.stage2(net.stage1(x)))
    column = attr.prototypes[2]
    expected = torch.einsum("nd...,d->n...", features, column) / column.square().sum()
    assert torch.allclose(maps[:, 0], expected, atol=1e-6)
    parts = attr.attribute(x, 2, per_channel=True)
    assert torch.allclose(parts.sum(1, keepdim=True), attr.attribute(x, 2), atol=1e-6)


@sided
@pytest.mark.parametrize("depth", [0, 1, 2])
@pytest.mark.parametrize("upsample", [None, "input"])
@pytest.mark.parametrize("options", [{}, {"contrast": 2}, {"connected": True}], ids=str)
def test_maps_add_up_to_the_logit_at_every_depth(attr_of, sides, depth, upsample, options):
    attr, x = attr_of(sides), seen(sides)
    options = options | {"depth": depth, "upsample": upsample}
    maps, delta = attr.attribute(x, 0, **options, return_convergence_delta=True)
    assert maps.shape == (x.shape if upsample else (N, 1, *GRIDS[sides][depth]))
    assert delta.abs().max() < 1e-6
    attr.model.double()
    try:
        delta = attr.attribute(x.double(), 0, **options, return_convergence_delta=True)[1]
    finally:
        attr.model.float()
    assert delta.abs().max() < 1e-14


@sided
@pytest.mark.parametrize("depth", [0, 1])
def test_ledger_adds_up_and_maps_are_flat_within_segments(attr_of, sides, depth):
    x = seen(sides)
    result = attr_of(sides).explain(x, 1, depth=depth)
    assert result.segments.shape == (N, *GRIDS[sides][depth])
    for i in range(N):
        total = sum(row.evidence for row in result.ledger[i]) + result.bias[i]
        assert torch.allclose(total, result.output[i], atol=1e-6)
        for row in result.ledger[i]:
            inside = result.attribution[i, 0][result.segments[i] == row.segment]
            assert inside.max() - inside.min() < 1e-7
            assert row.area == pytest.approx(len(inside) / result.segments[i].numel())
            assert row.evidence == pytest.approx(float(inside.sum()), abs=1e-6)


@sided
def test_segments_are_the_nearest_of_all_prototypes(made, sides):
    attr, x = made[sides, "target"], seen(sides)
    net, bank = attr.model, attr.bank_
    blocks = [net.stage1(x), net.stage2(net.stage1(x)), net.stage3(net.stage2(net.stage1(x)))]
    mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[sides]
    resized = [F.interpolate(block, GRIDS[sides][0], mode=mode) for block in blocks]
    rows = torch.cat([F.normalize(block, dim=1) for block in resized], 1).flatten(2).mT.double()
    distances = torch.cdist(rows, bank.codebooks[0].centroids.double().expand(N, -1, -1))
    found = distances.gather(2, attr.segment(x).flatten(1).unsqueeze(2)).squeeze(2)
    assert torch.allclose(found, distances.amin(2), atol=1e-6)


@sided
def test_connected_segments_are_components(attr_of, sides):
    attr, x = attr_of(sides), seen(sides)
    whole, pieces = attr.segment(x), attr.segment(x, connected=True)
    for i in range(N):
        count = 0
        for label in whole[i].unique():
            mask = (whole[i] == label).numpy()
            components, number = ndimage.label(mask)
            count += number
            for k in range(1, number + 1):
                assert len(pieces[i][torch.from_numpy(components == k)].unique()) == 1
        assert pieces[i].unique().tolist() == list(range(count))


@sided
def test_no_piece_is_smaller_than_asked_for(attr_of, sides):
    pieces = attr_of(sides).segment(seen(sides), connected=True, min_area=4)
    assert all(image.unique(return_counts=True)[1].min() >= 4 for image in pieces)


@sided
@pytest.mark.parametrize("depth", [0, 2])
def test_feature_mask_has_no_gaps_and_captum_takes_it(attr_of, sides, depth):
    attr, x = attr_of(sides), seen(sides)
    mask, segments = attr.feature_mask(x, depth=depth), attr.segment(x, depth=depth)
    assert mask.shape == (N, 1, *SIZES[sides])
    for i in range(N):
        assert mask[i].unique().tolist() == list(range(len(segments[i].unique())))
    ranks = [image.unique(return_inverse=True)[1] for image in segments]
    for place in itertools.islice(np.ndindex(*SIZES[sides]), 0, None, 7):
        pairs = zip(place, segments.shape[1:], SIZES[sides], strict=True)
        cell = tuple(int((p + 0.5) * old / new) for p, old, new in pairs)
        assert [int(mask[i, 0][place]) for i in range(N)] == [int(r[cell]) for r in ranks]
    removed = FeatureAblation(attr.model).attribute(x[:1], target=0, feature_mask=mask[:1])
    assert removed.shape == x[:1].shape


@sided
def test_masks_from_outside_average_the_head_s_map(attr_of, sides):
    attr, x = attr_of(sides), seen(sides)
    size = [s + 3 for s in SIZES[sides]]
    mask = torch.randint(0, 9, size, generator=torch.Generator().manual_seed(0)) * 5
    maps, delta = attr.attribute(x, 1, segments=mask, return_convergence_delta=True)
    assert maps.shape == (N, 1, *size)
    assert delta.abs().max() < 1e-6
    for label in mask.unique():
        assert maps[0, 0][mask == label].std() < 1e-6
    each = mask.expand(N, 1, *size)
    assert torch.equal(attr.attribute(x, 1, segments=each), maps)
    assert attr.explain(x, 1, segments=each[:, 0]).ledger[0][0].segment % 5 == 0
    with pytest.raises(ValueError, match=r"segments=.*should have the shape \(N, 1, "):
        attr.attribute(x, 1, segments=mask.view(1, 1, 1, 1, *size))


@sided
@pytest.mark.parametrize("at", ["input", "stage1", "stage2"])
def test_measured_maps_add_up_from_everything_removed(attr_of, sides, at):
    attr, x = attr_of(sides), seen(sides)[:1].double()
    attr.model.double()
    try:
        result = attr.explain(x, 1, evidence=Measured(at=at, passes="half"))
        upsampled = attr.attribute(x, 1, evidence=Measured(at=at, passes="half"), upsample="input")
        logit = attr.model(x)[0, 1]
    finally:
        attr.model.float()
    assert torch.allclose(result.attribution.sum() + result.bias[0], logit, atol=1e-9)
    assert torch.allclose(upsampled.sum() + result.bias[0], logit, atol=1e-9)
    evidence = sum(row.evidence for row in result.ledger[0])
    assert evidence + float(result.bias[0]) == pytest.approx(float(logit), abs=1e-9)


@sided
def test_prototypes_classify_what_they_were_fitted_to(made, sides):
    attr = made[sides, "target"]
    assert torch.equal(attr.predict(drawn_sided(sides)), LABELS)
    kmex = KMExAttribution(attr.model, n_prototypes=1)
    kmex.fit([(drawn_sided(sides), LABELS)])
    assert torch.equal(kmex.predict(drawn_sided(sides)), LABELS)


@sided
@pytest.mark.parametrize("units", ["margin", "distance"])
@pytest.mark.parametrize("upsample", [None, "input"])
def test_margins_and_distances_are_sums_of_maps(sides, units, upsample):
    net, x = make_sided(sides), seen(sides)
    attr = KMExAttribution(net, n_prototypes=2).fit([(drawn_sided(sides), LABELS)], n_init=1)
    options = {"units": units, "upsample": upsample, "return_convergence_delta": True}
    maps, delta = attr.attribute(x, 1, **options)
    assert maps.shape == (x.shape if upsample else (N, 1, *GRIDS[sides][-1]))
    assert delta.abs().max() < 1e-6
    whole = [0] * sides + list(reversed(SIZES[sides]))
    near = attr.representatives
    assert (near.boxes[near.indices >= 0] == torch.tensor(whole)).all()


@sided
@pytest.mark.parametrize("labels", ["target", "None"])
def test_saved_banks_explain_alike(made, tmp_path, sides, labels):
    attr, x = made[sides, labels], seen(sides)
    attr.save(tmp_path / "bank.safetensors")
    again = LayerKMeansAttribution.load(tmp_path / "bank.safetensors", attr.model)
    one, other = attr.explain(x), again.explain(x)
    assert torch.equal(one.attribution, other.attribution)
    assert one.ledger == other.ledger


@sided
@pytest.mark.parametrize("depth", [0, 1, 2])
def test_patches_are_the_cells_of_training_inputs_nearest_to_prototypes(made, sides, depth):
    attr, x = made[sides, "target"], drawn_sided(sides)
    book, grid = attr.bank_.codebooks[depth], GRIDS[sides][depth]
    stack = attr.read(x).stack.suffix(depth)
    distances = (stack.squared_norms.unsqueeze(1) - 2 * stack.scores(book.centroids)).flatten(2)
    for k in range(len(book.centroids)):
        own = book.membership[k] == LABELS
        near = book.representatives
        image, box = int(near.indices[k, 0]), near.boxes[k, 0].tolist()
        least = distances[own, k].min().clamp_min(0).sqrt()
        assert near.distances[k, 0] == pytest.approx(float(least), abs=1e-3)
        ends = zip(box[:sides][::-1], box[sides:][::-1], grid, SIZES[sides], strict=True)
        cell = [(low + high) / 2 * cells / size for low, high, cells, size in ends]
        flat = np.ravel_multi_index([int(c) for c in cell], grid)
        assert distances[image, k, flat] == pytest.approx(float(least) ** 2, abs=1e-3)


@sided
def test_modules_for_deployment_give_what_the_attributions_give(made, sides):
    attr, x = made[sides, "target"], seen(sides)
    kmex = KMExAttribution(attr.model, n_prototypes=2)
    kmex.fit([(drawn_sided(sides), LABELS)], n_init=1)
    for one, maps in (
        (attr, attr.attribute(x)),
        (ClassifierPrototypes(attr.model), ClassifierPrototypes(attr.model).attribute(x)),
        (kmex, kmex.attribute(x)),
    ):
        module = one.as_module(x)
        found = module(x)
        assert torch.allclose(found["attribution"], maps, atol=1e-7)
        exported = torch.export.export(module, (x,)).module()(x)
        assert all(torch.allclose(exported[name], found[name], atol=1e-6) for name in found)
    found = attr.as_module(x)(x)
    assert torch.equal(found["segments"], attr.segment(x))
    assert torch.equal(found["prediction"], attr.predict(x))


@sided
def test_prepared_models_explain_alike(sides):
    net, x = make_sided(sides), seen(sides)
    attr = LayerKMeansAttribution(net, LAYERS, n_clusters=5)
    maps = attr.attribute(x, 1)
    prepared = attr.prepare().attribute(x, 1)
    assert torch.allclose(maps.sum(), prepared.sum(), atol=1e-5)


@sided
def test_layers_are_suggested_on_the_last_grids(sides):
    assert suggest_layers(make_sided(sides), seen(sides)) == LAYERS


@sided
def test_tails_that_are_no_plain_head_are_read_or_linearised(sides):
    norms = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
    x = seen(sides)
    for tail, is_exact in ((norms[sides - 1](8), True), (nn.Tanh(), False)):
        net = make_sided(sides)
        if is_exact:
            tail.weight.data.uniform_(0.5, 1.5)
        net.pool = nn.Sequential(net.pool, tail).eval()
        result = LayerKMeansAttribution(net, LAYERS, n_clusters=5).explain(x, 1)
        assert result.head == ("exact" if is_exact else "linearised")
        assert result.delta.abs().max() < 1e-6


@sided
def test_channels_last_are_told_by_the_modules(sides):
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = make_sided(sides).stage1[0], nn.LayerNorm(4)
            self.head = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.norm(self.conv(x).movedim(1, -1)).flatten(1, -2).mean(1))

    net, x = Last().eval(), seen(sides)
    attr = LayerKMeansAttribution(net, ["norm"], n_clusters=4)
    maps, delta = attr.attribute(x, 0, return_convergence_delta=True)
    assert maps.shape == (N, 1, *SIZES[sides])
    assert delta.abs().max() < 1e-6


@sided
def test_inputs_of_other_dimensions_are_refused_by_name(sides):
    kind = {1: r"signals \(N, C, T\)", 2: r"images \(N, C, H, W\)", 3: r"volumes \(N, C, D, H, W\)"}
    attr = ClassifierPrototypes(make_sided(sides))
    with pytest.raises(ValueError, match=f"must be {kind[sides]}; got .*add the batch dimension"):
        attr.attribute(seen(sides)[0])
    if sides < 3:
        with pytest.raises((ValueError, RuntimeError)):
            attr.attribute(seen(sides).unsqueeze(-1))


def as_picture(net: nn.Module) -> nn.Module:
    """Return a signal's net as one for pictures of height 1, with the same weights."""
    twin = make_sided(2)
    twin.pool = nn.AdaptiveAvgPool2d(1)
    for name, module in net.named_modules():
        if isinstance(module, nn.Conv1d):
            stride, padding = (1, module.stride[0]), (0, module.padding[0])
            size = (module.in_channels, module.out_channels)
            conv = nn.Conv2d(*size, (1, module.kernel_size[0]), stride, padding)
            conv.weight.data = module.weight.data.unsqueeze(2)
            conv.bias.data = module.bias.data
            parent, _, last = name.rpartition(".")
            setattr(twin.get_submodule(parent), last, conv)
    twin.head.load_state_dict(net.head.state_dict())
    return twin.eval()


@pytest.mark.parametrize("kind", ["unfitted", "target", "None"])
@pytest.mark.parametrize("depth", [0, 1, 2])
def test_signals_are_explained_as_pictures_of_height_one(made, kind, depth):
    attr, x = made[1, kind], seen(1)
    twin, pictures = as_picture(attr.model), x.unsqueeze(2)
    assert torch.allclose(twin(pictures), attr.model(x), atol=1e-6)
    other = LayerKMeansAttribution(twin, LAYERS, n_prototypes=3, n_clusters=6)
    if kind != "unfitted":
        batch = drawn_sided(1).unsqueeze(2)
        loader = [(batch, LABELS)] if kind == "target" else [batch]
        labels = "target" if kind == "target" else None
        other.fit(loader, labels=labels, n_init=1, refine=1)
        assert torch.equal(other.predict(pictures), attr.predict(x))
        near, far = (a.bank_.codebooks[depth].representatives.boxes for a in (attr, other))
        assert torch.equal(near, far[..., [0, 2]])
    one, two = attr.explain(x, 1, depth=depth), other.explain(pictures, 1, depth=depth)
    assert torch.equal(one.segments, two.segments.squeeze(1))
    assert torch.allclose(one.attribution, two.attribution.squeeze(2), atol=1e-6)


def test_volumes_constant_along_a_side_are_explained_as_pictures():
    """A kernel of one cell along the first side keeps the slices apart, and they are all alike."""
    net = make_sided(2)
    solid = make_sided(3)
    for flat, thick in zip(net.modules(), solid.modules(), strict=True):
        if isinstance(flat, nn.Conv2d):
            size = (flat.in_channels, flat.out_channels)
            thick.__init__(*size, (1, *flat.kernel_size), (1, *flat.stride), (0, *flat.padding))
            thick.weight.data = flat.weight.data.unsqueeze(2)
            thick.bias.data = flat.bias.data
    solid.head.load_state_dict(net.head.state_dict())
    x = seen(2)
    volumes = x.unsqueeze(2).expand(-1, -1, 4, -1, -1).contiguous()
    assert torch.allclose(solid.eval()(volumes), net(x), atol=1e-6)
    picture = ClassifierPrototypes(net).attribute(x, 1, upsample="input")
    volume = ClassifierPrototypes(solid).attribute(volumes, 1, upsample="input")
    for slice_ in volume.unbind(2):
        assert torch.allclose(4 * slice_, picture, atol=1e-6)
    loaders = [(drawn_sided(2), LABELS)]
    fitted = LayerKMeansAttribution(net, LAYERS, n_prototypes=1).fit(loaders)
    own = LayerKMeansAttribution(solid, LAYERS, n_prototypes=1)
    own.fit([(drawn_sided(2).unsqueeze(2), LABELS)])
    flat, thick = fitted.explain(x, 1), own.explain(volumes, 1)
    for slice_, labels in zip(thick.attribution.unbind(2), thick.segments.unbind(1), strict=True):
        assert torch.equal(labels, flat.segments)
        assert torch.allclose(4 * slice_, flat.attribution, atol=1e-6)
