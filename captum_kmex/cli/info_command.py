"""``captum-kmex info``: what a bank holds, or where a model's map and head are."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping
from pathlib import Path

from captum_kmex.bank.prototype_bank import PrototypeBank
from captum_kmex.cli.answer import Answer, table
from captum_kmex.cli.open_model import Subject, open_subject
from captum_kmex.cli.options import (
    Commands,
    add_command,
    add_image_options,
    add_model,
    add_runtime,
)
from captum_kmex.cli.provenance import record_of
from captum_kmex.exceptions import HeadNotFoundError
from captum_kmex.loading.preprocessing import Preprocessing
from captum_kmex.model.activations import trace
from captum_kmex.model.head import HeadSite
from captum_kmex.model.head_search import find_head
from captum_kmex.model.layer_suggestion import candidate_layers
from captum_kmex.model.reading import HEAD_TAIL
from captum_kmex.text.counts import counted
from captum_kmex.text.plain import printable

__all__ = ["register", "run"]

_MOST = 6  # classes that are named
_HEADS = {
    "pooled": "linear, after mean pooling",
    "flatten": "linear, on the flattened map",
    "convolution": "1x1 convolution, pooled afterwards",
}


def register(commands: Commands) -> None:
    """Add the command's words."""
    parser = add_command(
        commands,
        "info",
        run,
        "say what a bank holds, or what a model's head is",
        "Say what a file of prototypes holds and was fitted on; or, of a model, where its last map "
        "and its head are, and whether maps add up to its logits.",
    )
    add_model(parser)
    add_image_options(parser)
    add_runtime(parser)


def run(options: argparse.Namespace) -> Answer:
    """Look at a bank if there is such a file, else at a model."""
    path = Path(options.model)
    if path.is_file() or path.suffix == ".safetensors":
        return _of_bank(path)
    return _of_model(options.model, open_subject(options, trained=False))


def _of_bank(path: Path) -> Answer:
    bank = PrototypeBank.load(path)
    record = record_of(bank)
    depths = [
        {
            "layers": list(bank.layers[i:]),
            "prototypes": len(book.centroids),
            "width": book.centroids.shape[1],
            "rows": int(book.counts.sum()),
            "patches": 0 if book.representatives is None else book.representatives.indices.shape[1],
        }
        for i, book in enumerate(bank.codebooks)
    ]
    data = {
        "bank": str(path),
        "bytes": path.stat().st_size,
        "method": bank.method,
        "layers": list(bank.layers),
        "n_classes": bank.n_classes,
        "fitted_classes": _fitted_classes(bank),
        "depths": depths,
        "surrogate_r2": None if bank.surrogate is None else bank.surrogate.r2,
        "fingerprint": dataclasses.asdict(bank.fingerprint),
        "settings": dict(bank.settings),
        "provenance": dict(bank.provenance),
    }
    lines = [*_bank_lines(bank, record), "", _depth_table(depths)]
    return Answer(
        data, f"{printable(str(path))}, {path.stat().st_size / 1e3:,.0f} kB\n" + "\n".join(lines)
    )


def _bank_lines(bank: PrototypeBank, record: Mapping[str, object]) -> list[str]:
    names = record.get("class_names")
    shown = ", ".join(names[:6]) + ", ..." * (len(names) > 6) if isinstance(names, list) else ""
    rows = [
        ("method", bank.method),
        ("classes", f"{bank.n_classes}" + (f": {shown}" if shown else "")),
        ("fitted", _fitted(bank, names)),
        ("pictures", str(bank.provenance.get("n_images", "unknown"))),
        ("model", f"{record.get('model', 'unknown')}, weights {bank.fingerprint.weights[:12]}"),
    ]
    about = record.get("preprocessing")
    if isinstance(about, Mapping):
        rows.append(("preprocessing", str(Preprocessing.of(about))))
    versions = bank.provenance.get("versions")
    if isinstance(versions, Mapping):
        rows.append(
            ("made with", f"captum_kmex {versions['captum_kmex']}, torch {versions['torch']}")
        )
    if bank.surrogate is not None:
        rows.append(("head", f"a surrogate of the logits, R2 = {bank.surrogate.r2:.3f}"))
    return [table(rows)]


def _fitted_classes(bank: PrototypeBank) -> list[int] | None:
    """Return the classes that have prototypes; ``None`` where these belong to no class."""
    book = bank.codebooks[0]
    return None if book.is_agnostic else sorted({*book.membership.tolist()})


def _fitted(bank: PrototypeBank, names: object) -> str:
    classes = _fitted_classes(bank)
    if classes is None:
        return "one set of prototypes for all classes"
    if len(classes) == bank.n_classes:
        return "all classes"
    told = [str(names[c]) if isinstance(names, list) else str(c) for c in classes[:_MOST]]
    return f"{counted(len(classes), 'class')}: {', '.join(told)}" + ", ..." * (len(classes) > _MOST)


def _depth_table(depths: list[dict[str, object]]) -> str:
    head = ("layers", "prototypes", "numbers each", "feature vectors", "patches each")
    keys = ("prototypes", "width", "rows", "patches")
    rows = [
        (" + ".join(map(str, depth["layers"])), *(str(depth[key]) for key in keys))  # type: ignore[call-overload]
        for depth in depths
    ]
    return table([head, *rows])


def _of_model(name: str, subject: Subject) -> Answer:
    x = subject.example
    passed = trace(subject.model, (x,), tail=HEAD_TAIL)
    suggested = [c.name for c in candidate_layers(subject.model, x) if c.is_suggested]
    site, refusal = None, None
    try:
        site = find_head(passed)
    except HeadNotFoundError as error:
        refusal = str(error)
    count = sum(parameter.numel() for parameter in subject.model.parameters())
    data = {
        "model": name,
        "parameters": count,
        "input": list(x.shape[1:]),
        "n_classes": subject.n_classes,
        "preprocessing": subject.preprocessing.describe(),
        "head": None if site is None else dataclasses.asdict(site),
        "refusal": refusal,
        "suggested_layers": suggested,
    }
    rows = [
        ("model", f"{name}, {count / 1e6:.1f} M parameters"),
        ("input", "x".join(map(str, x.shape[1:]))),
        ("classes", str(subject.n_classes)),
        *_head_rows(site, refusal),
        ("layers", f"--layers {' '.join(suggested)} (suggested)"),
    ]
    return Answer(data, table(rows))


def _head_rows(site: HeadSite | None, refusal: str | None) -> list[tuple[str, str]]:
    if site is None:
        return [
            ("head", f"not linear: {refusal}"),
            ("maps", "of a surrogate of the logits, after captum-kmex fit"),
        ]
    width, rows, columns = site.shape
    return [
        ("head", f"{site.linear}: {_HEADS[site.kind]}"),
        ("last map", f"{site.tap}{' + ReLU' * site.relu}: {width} channels, {rows}x{columns}"),
        ("maps", "add up to the logit, without a fit"),
    ]
