import dataclasses
from pathlib import Path

import pytest
from assay_toy import toy

from assay.evidence import trial_generator
from assay.evidence.ledger import Ledger, Outcome, Row, Series
from assay.evidence.runner import plan
from assay.evidence.standing import (
    State,
    cost,
    recorded_path,
    recorded_rows,
    standings,
    write_recorded,
)
from assay.evidence.verdicts import Verdict

COIN = toy.STUDY.experiment("coin")
PRESENT = plan(toy.STUDY, COIN, "assay_toy.toy").series


def rows(series: Series, count: int, *, ended_at: str = "2026-01-01T00:00:00.000+00:00") -> list[Row]:
    measured = [COIN.trial(toy.Coin(), trial_generator("toy", "coin", index)) for index in range(count)]
    machine = {"processor": "P", "cores": 2}
    return [
        Row(series, index, 0, Outcome.MEASURED, one, None, 0.5, 1, machine, {}, ended_at)
        for index, one in enumerate(measured)
    ]


def fill(ledger: Ledger, rows: list[Row]) -> None:
    for row in rows:
        ledger.record(row, "me")


@pytest.fixture(autouse=True)
def recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Recorded evidence of the toy study lies in a folder of this test's own."""
    from assay.evidence import standing

    path = tmp_path / "recorded" / "toy.jsonl"
    monkeypatch.setattr(standing, "recorded_path", lambda module: path)
    recorded_rows.cache_clear()
    yield path
    recorded_rows.cache_clear()


def coin_standings(ledger: Ledger):
    return [item for item in standings(ledger, toy.STUDY, "assay_toy.toy") if item.experiment is COIN]


def test_before_any_trial_there_is_a_standing_of_each_experiment(ledger: Ledger) -> None:
    found = standings(ledger, toy.STUDY, "assay_toy.toy")
    assert [(item.experiment.name, item.state) for item in found] == [
        ("coin", State.NONE),
        ("arithmetic", State.NONE),
    ]
    assert all(claim.verdict is Verdict.UNDECIDED for item in found for claim in item.tally.claims)


def test_verdicts_are_read_from_rows(ledger: Ledger) -> None:
    fill(ledger, rows(PRESENT, 8))
    (item,) = coin_standings(ledger)
    assert (item.state, len(item.tally.trials), item.seconds, item.machines) == (
        State.CHECKED,
        8,
        0.5,
        ("P, 2 cores",),
    )
    assert [claim.verdict for claim in item.tally.claims][:2] == [Verdict.HOLDS, Verdict.FAILS]
    data = item.as_json()
    assert data["claims"][0]["yes"] == 8
    assert data["claims"][0]["published"] == {"value": "0.5", "where": "table 1"}
    assert data["claims"][0]["measured"][0]["name"] == "mean"


def test_what_is_recorded_and_what_was_made_here_stay_apart(ledger: Ledger, recorded: Path) -> None:
    write_recorded(recorded, rows(PRESENT, 7))
    (item,) = coin_standings(ledger)
    assert (item.series.origin, len(item.tally.trials)) == ("recorded", 7)
    fill(ledger, rows(PRESENT, 2))
    here, shipped = coin_standings(ledger)
    assert (here.series.origin, len(here.tally.trials)) == ("here", 2)
    assert (shipped.series.origin, len(shipped.tally.trials)) == ("recorded", 7)
    assert here.tally.claims[0].verdict is Verdict.UNDECIDED


def test_rows_of_earlier_code_are_stale(ledger: Ledger) -> None:
    older = dataclasses.replace(PRESENT, fingerprint="older")
    oldest = dataclasses.replace(PRESENT, fingerprint="oldest")
    fill(ledger, rows(older, 7))
    fill(ledger, rows(oldest, 3, ended_at="2025-01-01T00:00:00.000+00:00"))
    (item,) = coin_standings(ledger)
    assert (item.state, len(item.tally.trials)) == (State.STALE, 7)
    fill(ledger, rows(PRESENT, 1))
    (item,) = coin_standings(ledger)
    assert (item.state, len(item.tally.trials)) == (State.CHECKED, 1)


def test_stale_rows_that_lack_a_measurement_give_no_verdict(ledger: Ledger) -> None:
    older = dataclasses.replace(PRESENT, fingerprint="older")
    fill(ledger, [dataclasses.replace(row, measurements={"other": 1.0}) for row in rows(older, 7)])
    (item,) = coin_standings(ledger)
    assert (item.state, item.tally.trials) == (State.STALE, [])


def test_replaced_settings_and_other_scales_stand_apart(ledger: Ledger) -> None:
    other = plan(toy.STUDY, COIN, "assay_toy.toy", overrides={"tosses": "20"}).series
    large = plan(toy.STUDY, COIN, "assay_toy.toy", scale="large").series
    for series in (PRESENT, other, large):
        fill(ledger, rows(series, 3))
    found = coin_standings(ledger)
    assert [(item.series.scale, item.settings["tosses"], item.as_declared) for item in found] == [
        ("quick", 10, True),
        ("quick", 20, False),
        ("large", 1000, True),
    ]


def test_a_failure_breaks_it_until_the_trial_is_measured(ledger: Ledger) -> None:
    died = dataclasses.replace(rows(PRESENT, 1)[0], outcome=Outcome.DIED, measurements=None, cause="because")
    ledger.record(died, "me")
    (item,) = coin_standings(ledger)
    assert (item.state, item.cause) == (State.BROKEN, "because")
    ledger.record(dataclasses.replace(rows(PRESENT, 1)[0], attempt=1), "me")
    (item,) = coin_standings(ledger)
    assert (item.state, item.cause, len(item.tally.trials)) == (State.CHECKED, None, 1)


def test_a_taken_trial_means_running(ledger: Ledger) -> None:
    ledger.claim(PRESENT, "me", start=0, stop=1)
    assert coin_standings(ledger)[0].state is State.RUNNING


def test_recorded_rows_are_those_written_with_their_origin_changed(recorded: Path) -> None:
    written = rows(PRESENT, 3)
    write_recorded(recorded, written)
    read = recorded_rows("assay_toy.toy")
    assert [row.series.origin for row in read] == ["recorded"] * 3
    assert [dataclasses.replace(row, series=PRESENT) for row in read] == written
    assert cost(read) == 1.5
    assert cost([]) == float("inf")


def test_recorded_evidence_lies_beside_the_study() -> None:
    assert recorded_path("assay_toy.toy") == Path(toy.__file__).parent / "recorded" / "toy.jsonl"
