"""The method's source and its example, read as text: nothing of it is imported."""

from __future__ import annotations

import ast
import doctest
import functools
import importlib.util
import pkgutil
from dataclasses import dataclass
from pathlib import Path

import assay
from assay import studies

_NOT_METHODS = {"cli", "database", "evidence", "migrations", "papers", "studies", "web"}


@dataclass(frozen=True)
class Example:
    """The example of a method's main object, ready to paste: what it prints stands in comments."""

    module: str
    name: str
    code: str


@functools.cache
def modules() -> dict[str, Path]:
    """The modules whose source the page shows, with their files: methods and studies of assay."""
    found = {}
    for package in assay.__path__:
        for path in sorted(Path(package).rglob("*.py")):
            parts = path.relative_to(package).with_suffix("").parts
            if path.name == "__init__.py" or len(parts) < 2:
                continue
            if parts[0] not in _NOT_METHODS or parts[0] == "studies":
                found[".".join(("assay", *parts))] = path
    for slug in studies.slugs():
        spec = importlib.util.find_spec(studies.module_of(slug))
        if spec is not None and spec.origin is not None and spec.origin.endswith(".py"):
            found[spec.name] = Path(spec.origin)
    return found


@functools.cache
def method_module(slug: str) -> str | None:
    """The module of the method that the study tests: `assay.<field>.<slug>`."""
    for field in pkgutil.iter_modules(assay.__path__):
        name = f"assay.{field.name}.{slug}"
        if field.ispkg and field.name not in _NOT_METHODS and name in modules():
            return name
    return None


@functools.cache
def example(module: str) -> Example | None:
    """The example in the docstring of the module's main object; None where no docstring has one.

    The main object is the one named like the module, else the first class, else the first function, else
    the module itself.
    """
    tree = ast.parse(modules()[module].read_text("utf-8"))
    slug = module.rpartition(".")[2].replace("_", "")
    found: list[tuple[int, int, str, str]] = []
    for place, node in enumerate([tree, *tree.body]):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            continue
        name = "" if isinstance(node, ast.Module) else node.name
        code = _code(ast.get_docstring(node) or "")
        if code and not name.startswith("_"):
            named_like_module = name.replace("_", "").lower() == slug
            rank = (
                0 if named_like_module else [ast.ClassDef, ast.FunctionDef, ast.Module].index(type(node)) + 1
            )
            found.append((rank, place, name, code))
    if not found:
        return None
    _, _, name, code = min(found)
    imports = _imports(module, tree, code)
    return Example(module, name, "\n".join([*imports, "", code] if imports else [code]))


def _imports(module: str, tree: ast.Module, code: str) -> list[str]:
    """The import lines that the example needs outside its module, where a doctest runs."""
    nodes = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Name)]
    given = {node.id for node in nodes if not isinstance(node.ctx, ast.Load)}
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            given |= {alias.asname or alias.name.partition(".")[0] for alias in node.names}
    needed = {node.id for node in nodes} - given
    foreign: list[str] = []
    own: dict[str, list[str]] = {}
    for node in tree.body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            used = [alias for alias in node.names if (alias.asname or alias.name.partition(".")[0]) in needed]
            if used:
                node.names = used
                foreign.append(ast.unparse(node))
        elif isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name in needed:
            own.setdefault(_home(module, node.name), []).append(node.name)
    return foreign + [f"from {home} import {', '.join(sorted(names))}" for home, names in own.items()]


def _home(module: str, name: str) -> str:
    """Where to import the name from: the field, where its stub exports it, else the module."""
    stub = modules()[module].parent / "__init__.pyi"
    exported = stub.is_file() and f" {name} as {name}" in stub.read_text("utf-8")
    return module.rpartition(".")[0] if exported else module


def _code(docstring: str) -> str:
    """The docstring's example without prompts, its output as comments."""
    lines: list[str] = []
    for part in doctest.DocTestParser().get_examples(docstring):
        lines += part.source.rstrip("\n").split("\n")
        lines += [f"# {line}" if line else "#" for line in part.want.rstrip("\n").split("\n") if part.want]
    return "\n".join(lines)
