"""The identity of a study's code: a digest of its source and of all of assay that it imports."""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.util
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path


@functools.cache
def fingerprint(module: str) -> str:
    """Digest of the source of `module` and of the modules it imports, transitively.

    Followed are assay's own modules (`assay.evidence` and `assay.studies` excepted: they decide how trials
    are run, not what they measure) and those of the package that `module` is in. Line ends do not count.
    """
    digest = hashlib.sha256()
    for name, path in sorted(_closure(module).items()):
        digest.update(f"{name}\n".encode())
        digest.update(_source(path))
    return digest.hexdigest()[:16]


@functools.cache
def libraries(module: str) -> dict[str, str]:
    """The versions of the distributions that the study's code imports, by distribution."""
    names = {
        used.partition(".")[0] for name, path in _closure(module).items() for used in _imports(path, name)
    }
    owners = packages_distributions()
    found: dict[str, str] = {}
    for distribution in sorted({owner for name in names for owner in owners.get(name, ())}):
        try:
            found[distribution] = version(distribution)
        except PackageNotFoundError:
            continue
    return found


@functools.cache
def _closure(module: str) -> dict[str, Path]:
    """The modules that count for the fingerprint of `module`, itself included, and their files."""
    followed = {"assay", module.partition(".")[0]}
    found: dict[str, Path] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in found or name.partition(".")[0] not in followed:
            continue
        if name != module and (name == "assay.studies" or f"{name}.".startswith("assay.evidence.")):
            continue
        path = _file(name)
        if path is not None:
            found[name] = path
            waiting.extend(_imports(path, name))
    return found


def _imports(path: Path, module: str) -> Iterator[str]:
    """The dotted names that the file imports anywhere; of ``from a import b`` both a.b and a."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(_source(path))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            source = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            submodules = [f"{source}.{alias.name}" for alias in node.names]
            own = source.partition(".")[0] in {"assay", module.partition(".")[0]}
            found = [name for name in submodules if own and _file(name) is not None]
            yield from found
            if len(found) < len(submodules):
                yield source


@functools.cache
def _file(module: str) -> Path | None:
    """The module's file, found without importing anything; None for what is no module in Python source."""
    top, *inner = module.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return None
    if not inner:
        return Path(spec.origin)
    for folder in map(Path, spec.submodule_search_locations or ()):
        place = folder.joinpath(*inner)
        for path in (place.with_suffix(".py"), place / "__init__.py"):
            if path.is_file():
                return path
    return None


def _source(path: Path) -> bytes:
    return path.read_bytes().replace(b"\r\n", b"\n")
