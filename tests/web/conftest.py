"""A distribution of toy studies, as another package would bring them, and a database of their papers."""

from __future__ import annotations

import importlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa
from dbos import DBOS

from assay import studies
from assay.database import open_database
from assay.papers import Papers, catalogue
from assay.papers.people import Accounts
from assay.web import source
from assay.web.checks import workflows_url

if TYPE_CHECKING:
    from playwright.sync_api import Browser

STUDY = """
import time
from dataclasses import dataclass

from assay.evidence import Claim, Experiment, Published, Study, at_least, better


@dataclass(frozen=True)
class Settings:
    seconds: float = {seconds}
    size: int = 3


def trial(settings, rng):
    {before}
    time.sleep(settings.seconds)
    return {{"new": rng.uniform(1, 2), "old": rng.uniform(3, 4), "odd": None}}


def figure(rows):
    from matplotlib.figure import Figure

    figure = Figure()
    figure.subplots().plot([row["new"] for row in rows])
    {figure}
    return figure


STUDY = Study(
    slug="{slug}",
    experiments=(
        Experiment(
            name="tossing",
            trial=trial,
            scales={{"quick": Settings()}},
            claims=(
                Claim("beats_old", "has <b>fewer</b> errors than the old one",
                      better("new", than="old", lower=True, factor=1.2), Published("half", "table 1")),
                Claim("is_large", "is larger than 5", at_least("new", 5)),
            ),
            figure=figure,
        ),
    ),
)
"""

PAPER = """
[[paper]]
slug = "{slug}"
title = '{title}'
arxiv_id = "{arxiv_id}"
submitted = 2001-12-0{day}
authors = 2
field = "gating"
sentence = "A toy & its <i>study</i>."
"""

HOSTILE = """<script>alert("1")</script> & "quotes" <img src=x onerror=alert(2)>"""


def _write_toys(folder: Path) -> None:
    package = folder / "toystudies"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    written = {
        "coins": STUDY.format(slug="coins", seconds=0, before="", figure=""),
        "slow": STUDY.format(slug="slow", seconds=0.3, before="", figure=""),
        "crash": STUDY.format(
            slug="crash", seconds=0, before="raise RuntimeError('<b>no</b> such luck')", figure="1 / 0"
        ),
        "lacking": "raise ImportError('lacking needs the extra assay[lucky] <b>')",
    }
    papers = []
    for day, (slug, text) in enumerate(written.items(), 1):
        (package / f"{slug}.py").write_text(text)
        title = HOSTILE if slug == "coins" else f"The toy {slug}"
        papers.append(PAPER.format(slug=slug, title=title, arxiv_id=f"cs/011201{day}", day=day))
    (package / "catalogue.toml").write_text("".join(papers))
    info = folder / "toystudies-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toystudies\nVersion: 1.0\n")
    lines = "".join(f"{slug} = toystudies.{slug}:STUDY\n" for slug in written)
    (info / "entry_points.txt").write_text(
        f"[assay.studies]\n{lines}\n[assay.catalogues]\ntoys = toystudies\n"
    )


def _forget() -> None:
    importlib.invalidate_caches()
    for cached in (
        studies._references,
        catalogue.catalogue,
        source.modules,
        source.method_module,
        source.example,
    ):
        cached.cache_clear()


@pytest.fixture(scope="module")
def toys(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder that holds the toy distribution, on the path of this process."""
    folder = tmp_path_factory.mktemp("toys")
    _write_toys(folder)
    sys.path.insert(0, str(folder))
    _forget()
    yield folder
    sys.path.remove(str(folder))
    for name in [name for name in sys.modules if name.partition(".")[0] == "toystudies"]:
        del sys.modules[name]
    _forget()


@pytest.fixture
def hostile_title() -> str:
    """The title of the paper of the study `coins`."""
    return HOSTILE


@pytest.fixture(scope="module")
def prepared(toys: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a database that has the catalogue, and with the empty one of DBOS: both take a while."""
    folder = tmp_path_factory.mktemp("prepared")
    engine = open_database(sa.URL.create("sqlite", database=str(folder / "assay.sqlite")))
    Papers(engine).load_catalogue()
    DBOS.migrate(workflows_url(engine))
    engine.dispose()
    return folder


@pytest.fixture
def engine(prepared: Path, tmp_path: Path) -> Iterator[sa.Engine]:
    """A fresh database with the catalogue loaded."""
    for file in prepared.iterdir():
        shutil.copy(file, tmp_path)
    engine = open_database(sa.URL.create("sqlite", database=str(tmp_path / "assay.sqlite")))
    yield engine
    engine.dispose()


def _until(met: Callable[[], object], seconds: float = 30) -> None:
    """Wait until the condition is met; fails after so many seconds."""
    ends = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < ends, "waited in vain"
        time.sleep(0.05)


def _session(engine: sa.Engine, role: str) -> str:
    """The secret of a session of a person of that role."""
    accounts = Accounts(engine)
    person = accounts.set_role(f"{role}@example.org", role)
    session = accounts.sign_in(accounts.make_link(person.email))
    assert session is not None
    return session


@pytest.fixture
def session(engine: sa.Engine) -> Callable[[str], str]:
    """Signs somebody of a role in: the secret for their browser's cookie."""
    return lambda role: _session(engine, role)


class Processes:
    """The real server and the real worker, each in a process of its own, on one database."""

    def __init__(self, toys: Path, database: str) -> None:
        path = os.pathsep.join([str(toys), *filter(None, [os.environ.get("PYTHONPATH")])])
        self.environment = os.environ | {
            "ASSAY_DATABASE_URL": database,
            "PYTHONPATH": path,
            "OMP_NUM_THREADS": "1",
        }
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.address = f"http://127.0.0.1:{self.port}"
        self.until = _until
        self._started: list[subprocess.Popen[str]] = []

    def python(self, code: str) -> subprocess.Popen[str]:
        # In a session of its own: a worker that is killed must not take the tests along.
        process = subprocess.Popen(
            [sys.executable, "-c", code],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._started.append(process)
        return process

    def serve(self, makers: int = 0) -> subprocess.Popen[str]:
        """A server over the toy studies, once it answers."""
        process = self.python(
            "import assay.studies as s; s.slugs = lambda: ['coins', 'crash', 'lacking', 'slow'];"
            f"from assay.web.app import serve; serve(port={self.port}, makers={makers})"
        )

        def answers() -> bool:
            assert process.poll() is None, process.communicate()[0]
            try:
                with urllib.request.urlopen(f"{self.address}/papers.json", timeout=5) as answer:
                    return bool(answer.status == 200)
            except OSError:
                return False

        self.until(answers)
        return process

    def work(self, *slugs: str) -> subprocess.Popen[str]:
        """A worker that sweeps these studies, or none."""
        return self.python(
            f"import assay.studies as s; s.slugs = lambda: {list(slugs)!r};"
            f"from assay.web.worker import work; work(sweep={bool(slugs)})"
        )

    def stop(self) -> None:
        for process in self._started:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in self._started:
            try:
                process.communicate(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()


@pytest.fixture
def processes(toys: Path, engine: sa.Engine) -> Iterator[Processes]:
    started = Processes(toys, f"sqlite:///{engine.url.database}")
    yield started
    started.stop()


@pytest.fixture
def processes_on_postgresql(toys: Path, postgresql: str) -> Iterator[Processes]:
    started = Processes(toys, postgresql)
    yield started
    started.stop()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("this machine has no Chromium")
    playwright = pytest.importorskip("playwright.sync_api")
    arguments = (
        "--no-sandbox --disable-gpu --disable-background-networking --disable-component-update "
        "--disable-sync --no-first-run"
    )
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=arguments.split())
        yield browser
        browser.close()
