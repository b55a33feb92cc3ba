"""What `assay` shows on a terminal: live progress, and tables of claims."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from types import TracebackType

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from assay.evidence.runner import Ended, Event, Plan, Started, TrialEnded
from assay.evidence.standing import Standing, State
from assay.evidence.verdicts import ERROR_RATE, Measured, Tally, Verdict
from assay.numbers import seconds, spread

STYLES = {Verdict.HOLDS: "bold green", Verdict.FAILS: "bold red", Verdict.UNDECIDED: "yellow"}
_MARKS = {True: ("●", "green"), False: ("○", "red"), None: ("·", "dim")}
_WIDEST = 40


def marks(answers: Sequence[bool | None]) -> Text:
    """Yes, no and does-not-apply of the latest trials, as they fell."""
    text = Text("…" if len(answers) > _WIDEST else "")
    for answer in answers[-_WIDEST:]:
        text.append(*_MARKS[answer])
    return text


class Progress(AbstractContextManager["Progress"]):
    """Live progress of a run: per experiment a bar, per claim its marks as they fall.

    Where the console is no terminal, a line per verdict and per experiment's end instead.
    """

    def __init__(self, console: Console, *, budget: float | None, trials: int | None) -> None:
        self._console = console
        self._budget, self._trials = budget, trials
        self._running: tuple[Plan, Tally, float] | None = None
        self._told: set[str] = set()
        # The display redraws itself from `_render`, so that the bar moves between trials too.
        self._live = Live(get_renderable=self._render, console=console, refresh_per_second=4, transient=True)

    def __enter__(self) -> Progress:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def follow(self, events: Iterable[Event]) -> Iterator[Event]:
        """The events, each shown before it is passed on."""
        for event in events:
            match event:
                case Started(plan, tally):
                    self._running, self._told = (plan, tally, time.monotonic()), set()
                case TrialEnded(plan, tally):
                    self._tell_verdicts(plan, tally)
                case Ended(plan, tally, reason, cause):
                    self._tell_verdicts(plan, tally)
                    self._running = None
                    self._console.print(self._end(plan, tally, reason, cause))
            yield event

    def _tell_verdicts(self, plan: Plan, tally: Tally) -> None:
        if self._console.is_terminal:
            return
        for claim in tally.claims:
            if claim.verdict is not Verdict.UNDECIDED and claim.claim.name not in self._told:
                self._told.add(claim.claim.name)
                name = f"{plan.study} {plan.experiment.name}/{claim.claim.name}"
                self._console.print(
                    f"{name}: {claim.verdict} ({claim.yes} of {claim.answered})", soft_wrap=True
                )

    def _end(self, plan: Plan, tally: Tally, reason: str, cause: str | None) -> RenderableType:
        done = {
            "decided": "decided",
            "budget": "budget spent",
            "trials": "all trials done",
            "stopped": "stopped",
            "broken": "broken",
        }[reason]
        line = Text.assemble(
            (f"{plan.study} {plan.experiment.name}", "bold"),
            f"  {len(tally.trials)} trials, ",
            (done, "red" if cause else ""),
        )
        rows: list[RenderableType] = [line]
        if self._console.is_terminal:
            rows.append(_claims(tally))
        if cause:
            rows.append(Text("  " + cause.strip().splitlines()[-1], style="red"))
        return Group(*rows)

    def _render(self) -> RenderableType:
        if self._running is None:
            return Text()
        plan, tally, began = self._running
        if self._trials is not None:
            total, done = float(self._trials), float(len(tally.trials))
        else:
            total = self._budget or plan.budget or 0.0
            done = time.monotonic() - began
        head = Table.grid(padding=(0, 1))
        head.add_row(
            Text(f"{plan.study} {plan.experiment.name}", style="bold"),
            ProgressBar(total=total, completed=min(done, total), width=30, pulse=not total),
            Text(f"{len(tally.trials)} trials, {time.monotonic() - began:.0f} s", style="dim"),
        )
        return Group(head, _claims(tally))


def _claims(tally: Tally) -> Table:
    table = Table.grid(padding=(0, 1))
    for claim in tally.claims:
        style = STYLES[claim.verdict]
        table.add_row(
            f"  {claim.claim.name}",
            Text(claim.verdict, style=style),
            f"{claim.yes} of {claim.answered}",
            marks(claim.marks),
        )
    return table


def _measured(measured: Iterable[Measured]) -> Text:
    lines = [f"{one.name} {spread(one.median, one.least, one.greatest)}" for one in measured]
    return Text("\n".join(lines) or "–")


def standing(item: Standing) -> RenderableType:
    """An experiment's claims: published against measured, with the verdict."""
    facts = [item.series.scale, f"{len(item.tally.trials)} trials"]
    if item.seconds is not None:
        facts.append(f"{seconds(item.seconds)} each")
    if item.series.origin != "here":
        facts.append(f"{item.series.origin} on {', '.join(item.machines)}")
    if not item.as_declared:
        facts.append(f"with {', '.join(f'{name}={value}' for name, value in item.settings.items())}")
    title = Text.assemble((item.experiment.name, "bold"), f"  {'; '.join(facts)}")
    if item.state is not State.CHECKED:
        title.append(
            f"  {'not checked yet' if item.state is State.NONE else item.state}", style="bold magenta"
        )
    table = Table(box=box.SIMPLE_HEAD, expand=True, pad_edge=False)
    for column, ratio in (
        ("claim", 5),
        ("published", 4),
        ("measured: median (range)", 5),
        ("yes", 2),
        ("verdict", 2),
    ):
        table.add_column(column, ratio=ratio, overflow="fold")
    for claim in item.tally.claims:
        published = claim.claim.published
        yes = f"{claim.yes} of {claim.answered}" + (f", {claim.skipped} skipped" if claim.skipped else "")
        table.add_row(
            Text.assemble((claim.claim.name, "bold"), f"\n{claim.claim.sentence}"),
            f"{published.value} ({published.where})" if published else "–",
            _measured(item.tally.measured(claim.claim)),
            yes,
            Text(claim.verdict, style=STYLES[claim.verdict]),
        )
    parts: list[RenderableType] = [title, table]
    if item.cause:
        parts.insert(1, Text(item.cause.strip(), style="red"))
    return Group(*parts)


def expected_errors(items: Iterable[Standing]) -> Text:
    """How many of the verdicts shown to expect wrong."""
    given = sum(claim.verdict is not Verdict.UNDECIDED for item in items for claim in item.tally.claims)
    return Text(
        f"{given} verdict{'s' * (given != 1)} given; each is wrong with a chance of at most "
        f"{ERROR_RATE:.0%}, so expect at most {given * ERROR_RATE:.2g} wrong.",
        style="dim",
    )
