"""The house's own rules: sizes, and doors that stay closed between modules."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = sorted(
    path.relative_to(ROOT)
    for package in ("captum_kmex", "benchmarks")
    for path in (ROOT / package).rglob("*.py")
    if not path.name.startswith("test_")
)
LONGEST_MODULE, LONG_BODY = 300, 25  # lines
FOREIGN = {  # names of other packages that have no public way to the same
    "argparse": {"_ActionsContainer"},
    "collections.namedtuple": {"_fields"},
    "matplotlib": {"_subplot_spec"},
    "sys": {"_getframe"},
    "torch": {"_buffers", "_call_impl", "_forward_pre_hooks", "_modules", "_ops", "_orig_mod"}
    | {"_parameters", "_version"},
    "torch.nn.modules": {"_AdaptiveAvgPoolNd", "_AdaptiveMaxPoolNd", "_AvgPoolNd", "_ConvNd"}
    | {"_LPPoolNd", "_MaxPoolNd", "_NormBase"},
}


def _tree(path: Path) -> ast.Module:
    return ast.parse((ROOT / path).read_text())


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__")


def _is_own(value: ast.expr) -> bool:
    """Whether an object is that of the method itself, or of its class: what it inherits is its."""
    if isinstance(value, ast.Call) and isinstance(value.func, ast.Name):
        return value.func.id == "super" or (value.func.id == "type" and _is_own(value.args[0]))
    return isinstance(value, ast.Name) and value.id in ("self", "cls")


def _defined(tree: ast.Module) -> set[str]:
    """Return every name that a module defines or sets, at any depth."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            names |= {node.attr} if _is_own(node.value) else set()
    return names


def _used(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield line and name of every private name taken from another object or module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.Attribute) and not _is_own(node.value):
            yield node.lineno, node.attr
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "getattr":
            name = node.args[1]
            if isinstance(name, ast.Constant) and not _is_own(node.args[0]):
                yield node.lineno, str(name.value)


def foreign_names(path: Path) -> list[str]:
    """Return the places where a module uses private names that it does not define."""
    tree = _tree(path)
    known = _defined(tree).union(*FOREIGN.values())
    return [
        f"{path}:{line} {name}"
        for line, name in _used(tree)
        if _is_private(name) and name not in known
    ]


def bodies(path: Path) -> Iterator[tuple[str, int]]:
    """Yield the name and the lines of each function's body, without its docstring."""
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.FunctionDef):
            first = node.body[ast.get_docstring(node) is not None :]
            lines = first[-1].end_lineno - first[0].lineno + 1 if first else 0
            yield f"{path}:{node.lineno} {node.name}", lines


def test_no_module_uses_a_private_name_of_another():
    found = [place for path in MODULES for place in foreign_names(path)]
    assert not found, "make the name public where it is defined:\n" + "\n".join(found)


def test_rule_tells_own_names_from_those_of_others():
    own = "class A:\n def f(self, b): self._x = b._y = 1; return A()._x, super()._z, b._x"
    other = "from m import _f\ndef g(a): return a._x, getattr(a, '_y'), a.__class__"
    tree = ast.parse(own)
    assert {n for _, n in _used(tree) if _is_private(n)} - _defined(tree) == {"_y"}
    tree = ast.parse(other)
    assert {n for _, n in _used(tree) if _is_private(n)} - _defined(tree) == {"_f", "_x", "_y"}


def test_modules_have_at_most_300_lines():
    lengths = {str(path): len((ROOT / path).read_text().splitlines()) for path in MODULES}
    assert {path: n for path, n in lengths.items() if n > LONGEST_MODULE} == {}


@pytest.mark.parametrize("package", ["captum_kmex", "benchmarks"])
def test_nine_bodies_in_ten_have_at_most_25_lines(package):
    found = [body for path in MODULES if path.parts[0] == package for body in bodies(path)]
    long = sorted(((n, name) for name, n in found if n > LONG_BODY), reverse=True)
    assert len(long) <= len(found) / 10, long
