"""Evaluation mode and back, by the ``train()`` of the user's own modules."""

from __future__ import annotations

import inspect
from typing import TypeVar

from torch import fx, nn

__all__ = ["Modes", "evaluated"]

_Module = TypeVar("_Module", bound=nn.Module)


class Modes:
    """The modes in which the modules of a model were found.

    A module's own ``train`` may do more than set its flag: keep a batch norm frozen, merge or
    split weights. So it is called with ``False``, and afterwards with the mode that the module
    was found in; then every flag is set back, whatever it did.

    Args:
        model: The model, some module of which is in training mode.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._found = {module: module.training for module in model.modules()}
        self._own = [module for module in self._found if _has_own_train(module)]
        self._gradients = {p: p.requires_grad for p in model.parameters()} if self._own else {}

    def evaluate(self) -> None:
        """Set the model to evaluation mode, as ``eval`` does; if that fails, set it back."""
        try:
            if self._model in self._own and type(self._model).eval is not nn.Module.eval:
                self._model.eval()
            else:
                _evaluate(self._model, frozenset(self._own))
        except BaseException:
            self._restore_flags()
            raise

    def restore(self) -> None:
        """Set every module to the mode it was found in."""
        try:
            for module in self._own:  # parents first: they set their parts
                module.train(self._found[module])
        finally:
            self._restore_flags()

    def _restore_flags(self) -> None:
        for module, training in self._found.items():
            module.training = training
        for parameter, requires_grad in self._gradients.items():
            parameter.requires_grad_(requires_grad)


def evaluated(model: _Module) -> _Module:
    """Return a model of our own in evaluation mode, for good."""
    if any(module.training for module in model.modules()):
        Modes(model).evaluate()
    return model


def _evaluate(module: nn.Module, own: frozenset[nn.Module]) -> None:
    """Do as ``nn.Module.eval``, but call no ``train`` that is something else, such as a loop."""
    if module in own:
        module.train(False)
        return
    module.training = False
    for child in module.children():
        _evaluate(child, own)


def _has_own_train(module: nn.Module) -> bool:
    """Whether a module has a ``train`` of its own that takes a mode."""
    is_own = type(module).train is not nn.Module.train or "train" in vars(module)
    if not is_own or isinstance(module, fx.GraphModule):  # exported graphs raise in theirs
        return False
    try:
        mode, *others = inspect.signature(module.train).parameters.values()
    except (TypeError, ValueError):  # no parameter, or no signature
        return False
    is_mode = mode.name == "mode" or isinstance(mode.default, bool) or mode.annotation is bool
    passes_on = mode.kind is mode.VAR_POSITIONAL
    needs_more = any(p.default is p.empty and p.kind < p.VAR_POSITIONAL for p in others)
    return (is_mode or mode.annotation == "bool" or passes_on) and not needs_more
