"""Find tasks, methods and measures: every module of their folders adds its own."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from types import ModuleType

from benchmarks import measures, methods, tasks
from benchmarks.quality.measure import Measure
from benchmarks.quality.method import Method
from benchmarks.quality.presets import Preset
from benchmarks.quality.task import Task

__all__ = ["find_measures", "find_methods", "find_tasks"]


def find_tasks() -> dict[str, Callable[[Preset], Task]]:
    """Return what loads each task: the ``TASKS`` of every module in ``benchmarks/tasks``."""
    return {name: load for module in _modules(tasks) for name, load in module.TASKS.items()}


def find_methods() -> dict[str, Callable[[], Method]]:
    """Return what makes each method: the ``METHODS`` of the modules in ``benchmarks/methods``."""
    return {name: make for module in _modules(methods) for name, make in module.METHODS.items()}


def find_measures() -> dict[str, Measure]:
    """Return the measures: the ``MEASURES`` of every module in ``benchmarks/measures``."""
    return {m.name: m for module in _modules(measures) for m in module.MEASURES}


def _modules(package: ModuleType) -> list[ModuleType]:
    """Return the modules of a package but for its tests; what they share is in its packages."""
    found = [module for module in pkgutil.iter_modules(package.__path__) if not module.ispkg]
    names = sorted(module.name for module in found if not module.name.startswith("test_"))
    return [importlib.import_module(f"{package.__name__}.{name}") for name in names]
