"""Which names of Qt and QGIS the plugin uses, and whether Qt 6 has them; by reading, not running.

QGIS 4's Python knows enums by their full names only, and has no `exec_`, `QRegExp` and others.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

PLUGIN = Path(__file__).parent / "geoseg_qgis"
REMOVED = {"exec_", "print_", "toAscii"}  # methods; what is imported is held against the stubs


@dataclass(frozen=True)
class Use:
    """`names` (a class and what is taken from it) of a module, at a line of a file.

    `guarded`: within a `try`, so that it may be missing.
    """

    place: str
    module: str
    names: tuple[str, ...]
    guarded: bool

    def __str__(self) -> str:
        return f"{self.place}: {self.module}.{'.'.join(self.names)}"


def uses(plugin: Path = PLUGIN) -> Iterator[Use]:
    """All imports from qgis, and all that is taken from a class that was imported."""
    for path in sorted(plugin.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        guarded = {
            id(inner)
            for node in ast.walk(tree)
            if isinstance(node, ast.Try)
            for statement in [*node.body, *node.handlers]
            for inner in ast.walk(statement)
        }
        home: dict[str, tuple[str, str]] = {}
        parts = {id(n.value) for n in ast.walk(tree) if isinstance(n, ast.Attribute)}
        for node in ast.walk(tree):
            place = f"{path.relative_to(plugin)}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("qgis"):
                for alias in node.names:
                    home[alias.asname or alias.name] = (str(node.module), alias.name)
                    yield Use(place, str(node.module), (alias.name,), id(node) in guarded)
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and id(node) not in parts:
                first, *rest = _chain(node)
                if first in home:
                    module, name = home[first]
                    place = f"{path.relative_to(plugin)}:{node.lineno}"
                    names = (name, *rest)
                    yield Use(place, module, names, id(node) in guarded)


def removed(plugin: Path = PLUGIN) -> list[str]:
    """Calls of methods that Qt 6's Python has no more."""
    return [
        f"{path.relative_to(plugin)}:{node.lineno}: .{node.attr}()"
        for path in sorted(plugin.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and node.attr in REMOVED
    ]


def _chain(node: ast.expr) -> tuple[str, ...]:
    """a.b.c as its names; a call or the like in it ends the chain with ""."""
    if isinstance(node, ast.Attribute):
        return (*_chain(node.value), node.attr)
    return (node.id,) if isinstance(node, ast.Name) else ("",)


@dataclass
class _Class:
    bases: list[str] = field(default_factory=list)
    names: set[str] = field(default_factory=set)
    inner: dict[str, _Class] = field(default_factory=dict)


class Stubs:
    """What PyQt6's *.pyi say; `folder` is the package's."""

    def __init__(self, folder: Path) -> None:
        self._modules: dict[str, dict[str, _Class]] = {}
        self._all: dict[str, _Class] = {}
        for path in sorted(folder.glob("Qt*.pyi")):
            module = _read(ast.parse(path.read_text(encoding="utf-8")).body)
            self._modules[path.stem] = module.inner
            for name in module.names - module.inner.keys():
                module.inner[name] = _Class()  # functions and constants
            self._all.update(module.inner)

    def lacks(self, use: Use) -> bool:
        """Whether Qt 6 has not what is used of a module of Qt."""
        module = self._modules.get(use.module.rpartition(".")[2], {})
        here = module.get(use.names[0])
        for name in use.names[1:]:
            if here is None:
                return True
            here = self._find(here, name)
        return here is None

    def _find(self, owner: _Class, name: str) -> _Class | None:
        if name in owner.inner:
            return owner.inner[name]
        if name in owner.names:
            return _Class()
        bases = (self._all.get(base.rpartition(".")[2]) for base in owner.bases)
        return next((found for b in bases if b and (found := self._find(b, name))), None)


def _read(body: list[ast.stmt]) -> _Class:
    found = _Class()
    for node in body:
        if isinstance(node, ast.ClassDef):
            found.inner[node.name] = inner = _read(node.body)
            inner.bases = [ast.unparse(base) for base in node.bases]
            found.names.add(node.name)
        elif isinstance(node, ast.FunctionDef):
            found.names.add(node.name)
        elif isinstance(node, ast.Assign):
            found.names.update(t.id for t in node.targets if isinstance(t, ast.Name))
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found.names.add(node.target.id)
    return found
