import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from assay import studies


def assay(*arguments: str, status: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "assay.cli", *arguments], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == status, done.stderr + done.stdout
    assert "Traceback" not in done.stderr
    return done


def test_check_prints_published_against_measured() -> None:
    done = assay("check", "toy")
    shown = re.sub(r"[\s│]+", " ", done.stdout)
    assert "0.5 (table 1)" in shown
    assert "mean_below_two" in shown
    assert "7 of 7" in shown
    assert "4 verdicts given" in shown
    assert "expect at most 0.2 wrong" in shown
    assert "coin/mean_above_two: fails (0 of 7)" in done.stderr
    assert "noise" not in done.stdout


def test_check_json_is_what_show_json_says() -> None:
    checked = json.loads(assay("check", "toy", "--json").stdout)
    shown = json.loads(assay("show", "toy", "--json").stdout)
    assert checked == shown
    (study,) = checked
    verdicts = {claim["name"]: claim["verdict"] for item in study["experiments"] for claim in item["claims"]}
    assert verdicts == {
        "mean_below_two": "holds",
        "mean_above_two": "fails",
        "sometimes": "holds",
        "two_is_less": "holds",
    }


def test_what_breaks_is_exit_1_and_the_rest_still_runs() -> None:
    broken = assay("check", "toy_broken", "--experiment", "raises", "--json", status=1)
    (item,) = json.loads(broken.stdout)[0]["experiments"][:1]
    assert item["state"] == "broken"
    assert "RuntimeError: this trial raises" in item["cause"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["check", "tuy"], "did you mean 'toy'"),
        (["check"], "name the papers"),
        (["check", "toy", "--all"], "name the papers"),
        (["check", "toy", "--experiment", "dice"], "no experiment 'dice'"),
        (["check", "toy", "--scale", "huge"], "no scale 'huge'"),
        (["check", "toy", "--set", "tosses"], "--set takes NAME=VALUE"),
        (["check", "toy", "--set", "sides=6"], "no setting 'sides'"),
        (["check", "toy", "--set", "tosses=many"], "'tosses'"),
        (["check", "toy", "--trials", "0"], "--trials"),
        (["show", "no_such_paper_at_all"], "no_such_paper_at_all"),
        (["papers", "import", "missing.txt"], "missing.txt"),
    ],
)
def test_bad_usage_is_exit_2_with_a_sentence(arguments: list[str], message: str) -> None:
    done = assay(*arguments, status=1 if "missing.txt" in arguments else 2)
    assert message in re.sub(r"[\s│]+", " ", done.stderr)


def test_scale_leaves_out_experiments_that_lack_it() -> None:
    (study,) = json.loads(assay("check", "toy", "--scale", "large", "--trials", "2", "--json").stdout)
    assert [item["experiment"] for item in study["experiments"] if item["scale"] == "large"] == ["coin"]


def test_ledger_goes_out_and_in_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assay("check", "toy", "--trials", "3")
    file = tmp_path / "ledger.jsonl"
    assay("ledger", "export", str(file))
    assert assay("ledger", "export").stdout == file.read_text()
    assert not list(tmp_path.glob("*.partial"))
    monkeypatch.setenv("ASSAY_DATABASE_URL", f"sqlite:///{tmp_path / 'other.sqlite'}")
    assert assay("ledger", "import", str(file)).stdout == "4 new trials\n"
    assert assay("ledger", "import", str(file)).stdout == "0 new trials\n"
    assert assay("ledger", "export").stdout == file.read_text()
    file.write_text("{}\n")
    assert "line 1" in assay("ledger", "import", str(file), status=2).stderr


def test_papers_are_listed_shown_and_imported(tmp_path: Path) -> None:
    papers = json.loads(assay("papers", "list", "--json").stdout)
    assert {"colide", "gated_attention", "block_descent"} <= {paper["slug"] for paper in papers}
    assert "colide" in assay("papers", "list", "--field", "inference").stdout
    by_slug = json.loads(assay("papers", "show", "block-descent", "--json").stdout)
    assert by_slug == json.loads(assay("papers", "show", "arXiv:1712.08859v2", "--json").stdout)
    page = tmp_path / "page.html"
    page.write_text("<p>nothing</p>")
    assert "page.html" in re.sub(r"[\s│]+", "", assay("papers", "import", str(page), status=2).stderr)


def test_show_takes_an_arxiv_id_and_a_paper_without_a_study() -> None:
    assert "mean_below_two" in assay("show", "cs/0112017").stdout
    without = [paper["slug"] for paper in json.loads(assay("papers", "list", "--json").stdout)]
    slug = next(slug for slug in without if slug not in studies.slugs())
    assert "no study of this paper" in assay("show", slug).stdout


def test_record_writes_evidence_beside_the_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    import assay_toy

    shutil.copytree(Path(assay_toy.__path__[0]).parent, tmp_path / "toy")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "toy"))
    assay("record", "toy")
    recorded = tmp_path / "toy" / "assay_toy" / "recorded" / "toy.jsonl"
    rows = [json.loads(line) for line in recorded.read_text().splitlines()]
    assert {row["origin"] for row in rows} == {"recorded"}
    monkeypatch.setenv("ASSAY_DATABASE_URL", f"sqlite:///{tmp_path / 'fresh.sqlite'}")
    (study,) = json.loads(assay("show", "toy", "--json").stdout)
    assert {item["origin"] for item in study["experiments"]} == {"recorded"}


def test_every_command_explains_itself() -> None:
    for command in ("check", "show", "record", "serve", "worker", "papers", "ledger"):
        assert len(assay(command, "--help").stdout) > 200
    assert assay("--version").stdout.startswith("assay 0.")


def test_import_and_help_stay_light() -> None:
    """No science is loaded before it is asked for: what keeps `import assay` and `assay --help` quick."""
    code = (
        "import sys, assay, assay.inference, assay.gating, assay.optimize, assay.cli\n"
        "heavy = {'numpy', 'scipy', 'torch', 'sklearn', 'sqlalchemy', 'matplotlib', 'fastapi', 'dbos'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=dict(os.environ))
    assert done.stdout == "[]\n", done.stderr
