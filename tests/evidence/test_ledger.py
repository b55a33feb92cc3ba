import dataclasses
import json
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from assay.evidence import ledger as module
from assay.evidence.ledger import Ledger, Outcome, Row, Series, Spent, read_rows

SERIES = Series("toy", "coin", "quick", '{"tosses":10}', "0123456789abcdef")


def row(index: int, outcome: Outcome = Outcome.MEASURED, attempt: int = 0, series: Series = SERIES) -> Row:
    measured = outcome is Outcome.MEASURED
    return Row(
        series,
        index,
        attempt,
        outcome,
        {"mean": 0.1 + 0.2, "applies": None, "tosses": [0.25, 1e-300]} if measured else None,
        None if measured else "because",
        0.125,
        2**33,
        {"system": "Linux", "cores": 2},
        {"numpy": "2.0"},
    )


@pytest.fixture
def both(either_engine: sa.Engine) -> Ledger:
    return Ledger(either_engine)


def test_rows_come_back_as_they_were(both: Ledger) -> None:
    rows = [row(0), row(2), row(1, Outcome.DIED), row(1, attempt=1)]
    for one in rows:
        both.record(one, "me")
    assert list(both.rows("toy")) == rows
    assert list(both.rows("other")) == []
    assert list(both.rows(series=SERIES, start=1)) == rows[1:]
    assert both.revisions() == {"toy": 4}


def test_an_attempt_has_one_row_and_the_first_stays(both: Ledger) -> None:
    both.record(row(0), "me")
    both.record(row(0, Outcome.RAISED), "you")
    assert [one.outcome for one in both.rows()] == [Outcome.MEASURED]


def test_claims_go_up_from_the_start_and_skip_what_is_done_or_taken(both: Ledger) -> None:
    both.record(row(1), "me")
    assert both.claim(SERIES, "me", start=0, stop=4) == (0, 0)
    assert both.claim(SERIES, "you", start=0, stop=4) == (2, 0)
    assert both.claim(SERIES, "me", start=0, stop=4) == (3, 0)
    assert both.claim(SERIES, "you", start=0, stop=4) is None
    assert both.running() == {SERIES.key}
    other = dataclasses.replace(SERIES, scale="large")
    assert both.claim(other, "you", start=0, stop=1) == (0, 0)
    both.release("me")
    assert both.claim(SERIES, "you", start=0, stop=4) == (0, 0)


def test_recording_gives_the_trial_back(both: Ledger) -> None:
    both.claim(SERIES, "me", start=0, stop=1)
    both.record(row(0), "me")
    assert both.running() == set()
    assert both.claim(SERIES, "me", start=0, stop=1) is None


def test_a_lease_ends_unless_it_is_renewed(both: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time()
    both.claim(SERIES, "dead", start=0, stop=2)
    both.claim(SERIES, "alive", start=0, stop=2)
    monkeypatch.setattr(module.time, "time", lambda: now + module.LEASE_SECONDS - 1)
    both.renew("alive")
    monkeypatch.setattr(module.time, "time", lambda: now + module.LEASE_SECONDS + 1)
    assert both.claim(SERIES, "me", start=0, stop=2) == (0, 0)
    assert both.claim(SERIES, "me", start=0, stop=2) is None


def test_a_lease_of_a_dead_process_on_this_machine_does_not_hold(both: Ledger) -> None:
    code = "from assay.evidence.ledger import new_owner; print(new_owner())"
    dead = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip()
    elsewhere = f"elsewhere {dead.partition(' ')[2]}"
    assert both.claim(SERIES, dead, start=0, stop=3) == (0, 0)
    assert both.claim(SERIES, elsewhere, start=1, stop=3) == (1, 0)
    assert both.claim(SERIES, module.new_owner(), start=0, stop=3) == (0, 0)
    assert both.claim(SERIES, "me", start=0, stop=3) == (2, 0)


def test_deaths_and_timeouts_are_tried_once_more_exceptions_never(both: Ledger) -> None:
    both.record(row(0, Outcome.DIED), "me")
    assert both.claim(SERIES, "me", start=0, stop=1) == (0, 1)
    both.record(row(0, Outcome.TIMED_OUT, attempt=1), "me")
    with pytest.raises(Spent, match="trial 0 of toy/coin timed out"):
        both.claim(SERIES, "me", start=0, stop=1)
    both.record(row(1, Outcome.RAISED), "me")
    with pytest.raises(Spent, match="trial 1 of toy/coin raised"):
        both.claim(SERIES, "me", start=1, stop=2)


def test_a_run_goes_only_so_far_ahead(both: Ledger) -> None:
    taken = [both.claim(SERIES, "me", start=5, stop=10_000) for _ in range(module.LOOK_AHEAD + 1)]
    assert taken[-2:] == [(5 + module.LOOK_AHEAD - 1, 0), None]


def test_many_at_once_never_take_the_same_trial(both: Ledger) -> None:
    def take(owner: int) -> list[tuple[int, int] | None]:
        return [both.claim(SERIES, str(owner), start=0, stop=40) for _ in range(10)]

    with ThreadPoolExecutor(4) as pool:
        taken = [claim for claims in pool.map(take, range(4)) for claim in claims]
    assert sorted(taken) == [(index, 0) for index in range(40)]


def test_export_and_import_lose_nothing_and_double_nothing(
    both: Ledger, tmp_path_factory: pytest.TempPathFactory
) -> None:
    from assay.database import open_database

    for one in (row(0), row(1, Outcome.DIED), row(1, attempt=1)):
        both.record(one, "me")
    lines = list(both.export())
    other = Ledger(open_database(sa.make_url(f"sqlite:///{tmp_path_factory.mktemp('other')}/other.sqlite")))
    assert other.load(lines) == 3
    assert other.load(lines) == 0
    assert list(other.rows()) == list(both.rows())
    assert list(other.export()) == lines


finite = st.floats(allow_nan=False, allow_infinity=False)


@given(
    measurements=st.dictionaries(st.text(), st.none() | finite | st.lists(finite)),
    machine=st.dictionaries(st.text(), st.text() | st.integers()),
    index=st.integers(0, 2**31),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_row_survives_json(measurements: object, machine: object, index: int) -> None:
    one = dataclasses.replace(row(index), measurements=measurements, machine=machine)
    assert Row.from_json(json.loads(json.dumps(one.as_json()))) == one


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data.pop("index"), "index"),
        (lambda data: data.update(extra=1), "extra"),
        (lambda data: data.update(outcome="guessed"), "guessed"),
        (lambda data: data.update(measurements=None), "if and only if"),
    ],
)
def test_a_bad_line_is_named_and_nothing_is_imported(
    ledger: Ledger, damage: Callable[[dict], object], message: str
) -> None:
    bad = row(1).as_json()
    damage(bad)
    lines = [json.dumps(row(0).as_json()), "", json.dumps(bad)]
    with pytest.raises(ValueError, match=rf"line 3: .*{message}"):
        ledger.load(lines)
    assert list(ledger.rows()) == []
    with pytest.raises(ValueError, match="line 1"):
        list(read_rows(["{"]))
