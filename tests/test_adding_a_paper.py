"""Follows docs/adding-a-paper.md: writes its files, installs the package, runs its commands."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = (Path(__file__).parent.parent / "docs" / "adding-a-paper.md").read_text(encoding="utf-8")


def run(command: list[str], **options: object) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_page_leads_to_a_landed_paper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package, installed = tmp_path / "package", tmp_path / "installed"
    for path, text in re.findall(r"^```\w+ (\S+)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL):
        file = package / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    (package / "assay_median" / "__init__.py").touch()
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(installed), os.environ["PYTHONPATH"]]))

    (commands,) = re.findall(r"^```sh\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    shown = ""
    for line in commands.splitlines():
        program, *arguments = shlex.split(line)
        if program == "pip":
            # Into a folder of its own, not into the environment that the tests run in.
            options = ["--quiet", "--no-deps", "--no-build-isolation", "--target", str(installed)]
            run([sys.executable, "-m", "pip", *arguments, *options], cwd=package)
        else:
            assert program == "assay"
            shown = run([sys.executable, "-m", "assay.cli", *arguments])
    assert "holds" in shown
    rows = (installed / "assay_median" / "recorded" / "median_of_means.jsonl").read_text().splitlines()
    assert {json.loads(row)["settings"]["samples"] for row in rows} == {20_000}
    found = json.loads(run([sys.executable, "-m", "assay.cli", "papers", "show", "1509.05845", "--json"]))
    assert found["slug"] == "median_of_means"
    method = package / "assay_median" / "estimator.py"
    run([sys.executable, "-m", "pytest", "-q", "--doctest-modules", str(method)])


def test_the_page_names_what_is_there() -> None:
    import assay

    house = Path(assay.__file__).parent
    for place in re.findall(r"`(src/assay/[\w./]+)`", PAGE):
        assert (house.parent.parent / place).exists(), place
