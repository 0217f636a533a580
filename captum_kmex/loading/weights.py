"""A model's weights from a file: nothing is unpickled, and what does not fit is named."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

__all__ = ["class_count", "read_weights", "set_weights"]

_CONTAINERS = ("state_dict", "model_state_dict", "model")  # how training scripts wrap weights
_PREFIXES = ("module.", "_orig_mod.", "model.")  # DataParallel, torch.compile, Lightning
_SHOWN = 4  # names in a message


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a state dict: safetensors, or a ``torch.save`` file that holds tensors only.

    Wrappers of training scripts (``{"state_dict": ...}``) and prefixes (``module.``) are
    taken off.

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
    for name in _CONTAINERS:
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            content = content[name]
    tensors = content if isinstance(content, Mapping) else {}
    state = {str(k): v for k, v in tensors.items() if isinstance(v, Tensor)}
    if not state:
        found = sorted(map(str, tensors))[:_SHOWN] or type(content).__name__
        raise ValueError(
            f"{path} holds no tensors under their names; got {found}. Save model.state_dict()"
        )
    return state


def _read_safetensors(path: Path) -> object:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(
            f"{path} is truncated or no safetensors file ({error}); save it again"
        ) from error


def _read_pickle(path: Path) -> object:
    with path.open("rb") as file:
        may_be_torchs = file.read(2).startswith((b"PK", b"\x80"))  # zip archive, plain pickle
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the pickle's age; a refusal says enough
            return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
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


def without_prefix(state: Mapping[str, Tensor], wanted: Iterable[str]) -> dict[str, Tensor]:
    """Return a state without the wrappers' prefixes that a model's own names lack."""
    wanted, found = set(wanted), dict(state)
    while not wanted & found.keys():
        prefix = next((p for p in _PREFIXES if all(k.startswith(p) for k in found)), None)
        if prefix is None:
            return dict(state)
        found = {name.removeprefix(prefix): tensor for name, tensor in found.items()}
    return found


def class_count(model: nn.Module, state: Mapping[str, Tensor]) -> int | None:
    """Return the classes of a file's head, if it differs from the model's in their number only.

    Args:
        model: The model, with another number of classes.
        state: What ``read_weights`` returned.
    """
    own = model.state_dict()
    given = without_prefix(state, own)
    pairs = [(t.shape, own[name].shape) for name, t in given.items() if name in own]
    differing = [(a, b) for a, b in pairs if a != b]
    counts = {a[0] for a, b in differing if len(a) and len(b) and a[1:] == b[1:]}
    same_rest = all(len(a) == len(b) > 0 and a[1:] == b[1:] for a, b in differing)
    return counts.pop() if len(counts) == 1 and same_rest else None


def set_weights(model: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Load a state into a model, all of it.

    Args:
        model: The model to change.
        state: What ``read_weights`` returned.
        path: Where it came from, for messages.

    Raises:
        ValueError: Names are missing or left over, or shapes differ; says which.
    """
    own = model.state_dict()
    given = without_prefix(state, own)
    # batch norms count their batches; old files lack the counts, which evaluation ignores
    missing = [n for n in own if n not in given and not n.endswith("num_batches_tracked")]
    extra = [n for n in given if n not in own]
    shapes = [
        f"{n}: {tuple(given[n].shape)} for {tuple(own[n].shape)}"
        for n in own
        if n in given and given[n].shape != own[n].shape
    ]
    faults = [
        f"{len(names)} {what} ({_some(names)})"
        for what, names in (("missing", missing), ("left over", extra), ("of other shapes", shapes))
        if names
    ]
    if faults:
        raise ValueError(
            f"the weights in {path} do not fit {type(model).__name__}: {'; '.join(faults)}. "
            "Name the model that they were trained with, or give --num-classes"
        )
    model.load_state_dict(given, strict=False)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
