"""What there is to show of each study, kept until its rows in the ledger change."""

from __future__ import annotations

import contextlib
import io
import sys
import threading
import traceback
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from assay import studies
from assay.evidence.ledger import Ledger
from assay.evidence.runner import plan
from assay.evidence.standing import KINDS, ClaimLines, Standing, State, claim_lines, standings
from assay.evidence.study import Study
from assay.evidence.verdict_log import VerdictLog, indexed
from assay.evidence.verdicts import ERROR_RATE

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Exhibit:
    """A study as it stands. `cause` says why there is no `study`; without either it is still being loaded."""

    slug: str
    module: str
    study: Study | None = None
    standings: tuple[Standing, ...] = ()
    cause: str | None = None

    @cached_property
    def claims(self) -> list[ClaimLines]:
        return claim_lines(self.study, self.standings) if self.study else []

    @cached_property
    def counts(self) -> dict[str, int]:
        """How many claims are of each kind, in the order of `KINDS`; none that are not there."""
        if self.cause is not None:
            return {"broken": 1}
        count = Counter(claim.headline.kind for claim in self.claims)
        return {kind: count[kind] for kind in KINDS if count[kind]}

    @property
    def running(self) -> bool:
        return any(standing.state is State.RUNNING for standing in self.standings)

    def as_json(self) -> dict[str, Any]:
        """All of it as plain data."""
        state = "broken" if self.cause else "loaded" if self.study else "loading"
        return {
            "study": self.slug,
            "module": self.module,
            "state": state,
            "cause": self.cause,
            "counts": self.counts,
            "running": self.running,
            "experiments": [standing.as_json() for standing in self.standings],
        }


def wrong_verdicts(exhibits: Iterable[Exhibit]) -> tuple[int, float]:
    """How many verdicts are given, and how many of them are at most to be expected wrong."""
    given = sum(exhibit.counts.get(kind, 0) for exhibit in exhibits for kind in ("holds", "fails"))
    return given, ERROR_RATE * given


class Exhibits:
    """The installed studies and how they stand. Safe for threads; each study is imported once."""

    def __init__(self, engine: sa.Engine) -> None:
        self.ledger = Ledger(engine)
        self._log = VerdictLog(engine)
        self._loaded: dict[str, tuple[Study | None, str | None, frozenset[str]]] = {}
        self._kept: dict[str, tuple[object, Exhibit]] = {}
        self._figures: dict[tuple[str, str], tuple[object, bytes]] = {}
        self._drawing = threading.Lock()

    def import_all(self) -> None:
        """Import every study, so that no request has to wait for it, and bring the index of verdicts up."""
        for slug in studies.slugs():
            self.one(slug)

    def every(self) -> dict[str, Exhibit]:
        """Every installed study by slug, without waiting for those that are still being imported."""
        revisions, running = self.ledger.revisions(), self.ledger.running()
        return {
            slug: self._exhibit(slug, revisions, running)
            if slug in self._loaded
            else Exhibit(slug, studies.module_of(slug))
            for slug in studies.slugs()
        }

    def one(self, slug: str) -> Exhibit | None:
        """The study of that slug, imported if need be; None if there is none."""
        if slug not in studies.slugs():
            return None
        self._load(slug)
        return self._exhibit(slug, self.ledger.revisions(), self.ledger.running())

    def figure(self, exhibit: Exhibit, experiment: str) -> bytes | None:
        """The study's own figure of an experiment as SVG; None where there is none or nothing to draw.

        Raises whatever the study's code raises.
        """
        shown = [
            standing
            for standing in exhibit.standings
            if standing.experiment.name == experiment and standing.experiment.figure and standing.tally.trials
        ]
        if not shown:
            return None
        standing = shown[0]
        key = standing.series.key, len(standing.tally.trials)
        place = exhibit.slug, experiment
        with self._drawing:  # matplotlib is not safe for threads
            kept = self._figures.get(place)
            if kept is None or kept[0] != key:
                assert standing.experiment.figure is not None
                kept = self._figures[place] = key, _draw(standing.experiment.figure(standing.tally.trials))
        return kept[1]

    def _load(self, slug: str) -> tuple[Study | None, str | None, frozenset[str]]:
        if slug not in self._loaded:
            try:
                study = studies.load(slug)
                module = studies.module_of(slug)
                keys = frozenset(
                    plan(study, experiment, module, scale=scale).series.key
                    for experiment in study.experiments
                    for scale in experiment.scales
                )
                self._loaded[slug] = study, None, keys
            except (Exception, SystemExit) as error:  # other people's code: whatever it does, the page stands
                self._loaded[slug] = None, _reason(error), frozenset()
        return self._loaded[slug]

    def _exhibit(self, slug: str, revisions: dict[str, int], running: set[str]) -> Exhibit:
        study, cause, keys = self._loaded[slug]
        module = studies.module_of(slug)
        if study is None:
            return Exhibit(slug, module, cause=cause)
        # The key holds all that standings read besides the code and the recorded rows, which do not change.
        key = revisions.get(slug), keys & running
        kept = self._kept.get(slug)
        if kept is None or kept[0] != key:
            try:
                exhibit = Exhibit(slug, module, study, tuple(standings(self.ledger, study, module)))
                with contextlib.suppress(sa.exc.OperationalError):  # a busy database: the next change tells
                    self._log.update(slug, indexed(exhibit.claims))
            except Exception as error:
                exhibit = Exhibit(slug, module, cause=f"its evidence cannot be read: {_reason(error)}")
            kept = self._kept[slug] = key, exhibit
        return kept[1]


def _reason(error: BaseException) -> str:
    if isinstance(error, ImportError):  # its message says all, e.g. which extra is missing
        return f"{type(error).__name__}: {error}"
    return "".join(traceback.format_exception(error)).strip()


def _draw(figure: Figure) -> bytes:
    import matplotlib

    # The same trials give the same bytes, and no date.
    with matplotlib.rc_context({"svg.hashsalt": "assay"}):
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None})
    if pyplot := sys.modules.get("matplotlib.pyplot"):
        pyplot.close(figure)  # pyplot keeps every figure that it made
    return buffer.getvalue()
