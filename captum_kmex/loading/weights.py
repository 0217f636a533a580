"""A model's weights from a file: nothing is unpickled, and what does not fit is named."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from captum_kmex.exceptions import LeftOutWeightsWarning, warn_user
from captum_kmex.loading.opaque import opaque_archive

__all__ = ["class_count", "read_weights", "set_weights"]

_CONTAINERS = ("state_dict", "model_state_dict", "model")  # how training scripts wrap weights
_LIGHTNING = "pytorch-lightning_version"  # a key of its checkpoints
_COUNT = "num_batches_tracked"  # batch norms count their batches, which evaluation ignores
_SHOWN = 4  # names in a message


class LightningState(dict[str, Tensor]):
    """The state of a whole Lightning module, whose model may not stand under a prefix."""


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a state dict: safetensors, or a ``torch.save`` file that holds tensors only.

    Wrappers of training scripts (``{"state_dict": ...}``) are taken off.

    Args:
        path: The file.

    Returns:
        Name to tensor, on the CPU.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged, holds no tensors, or would have to be unpickled.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no weights at {path}; pass --weights FILE or --weights DEFAULT")
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    is_lightning = isinstance(content, Mapping) and _LIGHTNING in content
    for name in _CONTAINERS:
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            content = content[name]
    tensors = content if isinstance(content, Mapping) else {}
    kind = LightningState if is_lightning else dict
    state = kind({str(k): v for k, v in tensors.items() if isinstance(v, Tensor)})
    if not state:
        found = sorted(map(str, tensors))[:_SHOWN] or type(content).__name__
        raise ValueError(
            f"{path} holds no tensors under their names; got {found}. Save model.state_dict()"
        )
    return state


def _read_safetensors(path: Path) -> object:
    try:
        return load_file(path)
    except PermissionError:
        raise
    except Exception as error:  # a damaged header may raise anything
        raise ValueError(
            f"{path} is truncated or no safetensors file ({error}); save it again"
        ) from error


def _read_pickle(path: Path) -> object:
    with path.open("rb") as file:
        may_be_torchs = file.read(2).startswith((b"PK", b"\x80"))  # zip archive, plain pickle
    opaque = opaque_archive(path)
    if opaque:
        raise ValueError(opaque)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the pickle's age; a refusal says enough
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle may raise anything
        if may_be_torchs:
            raise ValueError(_refusal(path)) from error
        raise ValueError(
            f"{path} is no file of weights; pass safetensors, or what "
            "torch.save(model.state_dict(), ...) writes"
        ) from error


def _refusal(path: Path) -> str:
    return (
        f"{path} is refused: it is damaged, or holds pickled objects beside tensors, which could "
        "run any code when read. If you trust who made it, convert it once: python -c "
        f'"import torch; c = torch.load({str(path)!r}, weights_only=False); '
        "torch.save(c['state_dict'], 'weights.pt')\" (or c['model'], or c.state_dict()) and pass "
        "weights.pt"
    )


def without_prefix(state: Mapping[str, Tensor], model: nn.Module) -> tuple[str, dict[str, Tensor]]:
    """Return the prefix under which a file holds a model's names, and what it holds there.

    Whatever wrapped the model counts: ``module.`` of DataParallel, ``_orig_mod.`` of
    ``torch.compile``, the attribute of a Lightning module. What stands beside is not returned.

    Raises:
        ValueError: The whole model is there twice, with different weights.
    """
    own = {k: v.shape for k, v in model.state_dict().items() if not k.endswith(_COUNT)}
    names: Counter[str] = Counter()
    shapes: Counter[str] = Counter()
    for name, tensor in state.items():
        for prefix in _prefixes(name):
            wanted = own.get(name.removeprefix(prefix))
            names[prefix] += wanted is not None
            shapes[prefix] += wanted == tensor.shape
    best = max((names[prefix], shapes[prefix]) for prefix in names)
    tied = [p for p in names if (names[p], shapes[p]) == best]
    chosen, *others = sorted(tied, key=lambda prefix: (len(prefix), prefix))
    if best[0] == len(own) > 0:
        _check_alike(state, own, [chosen, *others])
    elif best[0] == 0:
        chosen = ""
    return chosen, {k.removeprefix(chosen): v for k, v in state.items() if k.startswith(chosen)}


def _check_alike(state: Mapping[str, Tensor], own: Iterable[str], prefixes: Sequence[str]) -> None:
    """Refuse a file that holds the whole model under several prefixes with different values."""
    first, *others = prefixes
    for other in others:
        if not all(_equal(state[first + name], state[other + name]) for name in own):
            raise ValueError(
                f"the weights hold the model twice, under {first!r} and {other!r}, with "
                "different values; save the one you mean alone"
            )


def _prefixes(name: str) -> list[str]:
    """Return what may be taken off a name: nothing, and all that ends with a dot."""
    return ["", *(name[: i + 1] for i, letter in enumerate(name) if letter == ".")]


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and torch.equal(a, b)


def class_count(model: nn.Module, state: Mapping[str, Tensor]) -> int | None:
    """Return the classes of a file's head, if it differs from the model's in their number only.

    Args:
        model: The model, with another number of classes.
        state: What ``read_weights`` returned.
    """
    own = model.state_dict()
    _, given = without_prefix(state, model)
    pairs = [(t.shape, own[name].shape) for name, t in given.items() if name in own]
    differing = [(a, b) for a, b in pairs if a != b]
    counts = {a[0] for a, b in differing if len(a) and len(b) and a[1:] == b[1:]}
    same_rest = all(len(a) == len(b) > 0 and a[1:] == b[1:] for a, b in differing)
    return counts.pop() if len(counts) == 1 and same_rest else None


def set_weights(model: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Load a state into a model, all of it.

    What stands beside a wrapped model, such as a criterion's or a metric's entries, is left out
    with a warning.

    Args:
        model: The model to change.
        state: What ``read_weights`` returned.
        path: Where it came from, for messages.

    Raises:
        ValueError: Names are missing or left over, shapes differ, or tensors cannot be weights;
            says which.
    """
    own = model.state_dict()
    prefix, given = without_prefix(state, model)
    extra = sorted(name for name in given if name not in own)
    beside = sorted(set(state) - {prefix + name for name in given})
    if isinstance(state, LightningState) and not prefix:
        parts = {name.partition(".")[0] for name in own}
        beside = [name for name in extra if name.partition(".")[0] not in parts]
        extra = sorted({*extra} - {*beside})
    faults = [
        f"{len(names)} {what} ({_some(names)})"
        for what, names in (
            ("missing", [n for n in own if n not in given and not n.endswith(_COUNT)]),
            ("left over", extra),
            *_misfits(own, given),
        )
        if names
    ]
    if faults:
        raise ValueError(
            f"the weights in {path} do not fit {type(model).__name__}: {'; '.join(faults)}. "
            "Name the model that they were trained with, or give --num-classes"
        )
    if beside:
        warn_user(
            f"{len(beside)} tensors in {path} are left out ({_some(beside)}), which are not the "
            + (f"model's: its names begin with {prefix!r}" if prefix else "model's"),
            LeftOutWeightsWarning,
        )
    model.load_state_dict(given, strict=False)


def _misfits(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> list[tuple[str, list[str]]]:
    """Return the tensors of other shapes, and those that hold no weights of the model's kind."""
    both = [name for name in own if name in given]
    shapes = [
        f"{n}: {tuple(given[n].shape)} for {tuple(own[n].shape)}"
        for n in both
        if given[n].shape != own[n].shape
    ]
    odd = [
        f"{n}: {_oddness(given[n], own[n])}"
        for n in both
        if _oddness(given[n], own[n]) and not n.endswith(_COUNT)
    ]
    return [("of other shapes", shapes), ("that are no weights", odd)]


def _oddness(tensor: Tensor, own: Tensor) -> str:
    """Return why a tensor cannot take the place of another; empty if it can."""
    if tensor.is_meta:
        return "on the meta device, without values"
    if tensor.layout != torch.strided:
        return "sparse"
    if tensor.is_quantized:
        return "quantized to int8"
    if tensor.is_complex() != own.is_complex() or (
        tensor.is_floating_point() != own.is_floating_point()
    ):
        return f"{tensor.dtype} for {own.dtype}".replace("torch.", "")
    return ""


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
