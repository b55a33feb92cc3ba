import sys
from pathlib import Path

import pytest

from assay.evidence import fingerprint as module
from assay.evidence.fingerprint import fingerprint, libraries


@pytest.fixture(autouse=True)
def forget() -> None:
    """Sources are taken not to change under a running process; in these tests they do."""
    for cached in (fingerprint, libraries, module._closure, module._file):
        cached.cache_clear()


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package whose study imports a method, the method a core, and neither imports `apart`."""
    folder = tmp_path / "printed"
    (folder / "core").mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    (folder / "study.py").write_text("import numpy\nfrom printed.method import solve\n")
    (folder / "method.py").write_text("def solve():\n    from .core import inner\n    return inner\n")
    (folder / "core" / "__init__.py").write_text("")
    (folder / "core" / "inner.py").write_text("x = 1\n")
    (folder / "apart.py").write_text("y = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    return folder


def refreshed() -> str:
    for cached in (fingerprint, module._closure, module._file):
        cached.cache_clear()
    return fingerprint("printed.study")


@pytest.mark.parametrize("name", ["study.py", "method.py", "core/inner.py"])
def test_what_the_study_imports_however_deep_changes_it(package: Path, name: str) -> None:
    before = refreshed()
    with (package / name).open("a") as file:
        file.write("# changed\n")
    assert refreshed() != before


def test_nothing_else_changes_it(package: Path) -> None:
    before = refreshed()
    (package / "apart.py").write_text("y = 2\n")
    for path in package.rglob("*.py"):
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert refreshed() == before


def test_nothing_is_imported_for_it(package: Path) -> None:
    fingerprint("printed.study")
    assert not [name for name in sys.modules if name.startswith("printed.")]


def test_evidence_itself_does_not_count() -> None:
    fingerprint("assay_toy.toy")
    assert set(module._closure("assay_toy.toy")) == {"assay_toy.toy"}


def test_libraries_are_those_imported(package: Path) -> None:
    import numpy

    assert libraries("printed.study") == {"numpy": numpy.__version__}
