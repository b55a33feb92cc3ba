"""The index of verdicts and the log of their changes, over rows of the toy studies."""

import pytest
import sqlalchemy as sa
from assay_toy import toy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from assay.database import write
from assay.evidence.ledger import Ledger, Outcome, Row
from assay.evidence.runner import plan
from assay.evidence.standing import KINDS, claim_lines, standings
from assay.evidence.study import trial_generator
from assay.evidence.verdict_log import IndexedVerdict, VerdictLog, verdict_changes, verdict_index


def line(claim: str, kind: str, *, yes: int = 7, study: str = "coins") -> IndexedVerdict:
    return IndexedVerdict(study, "tossing", claim, kind, yes, 7, "quick", "here", "f", "2026-01-01")


def indexed(engine: sa.Engine) -> dict[str, str]:
    with engine.connect() as connection:
        return {row.claim: row.kind for row in connection.execute(sa.select(verdict_index))}


def test_only_a_change_of_kind_is_news(either_engine: sa.Engine) -> None:
    log = VerdictLog(either_engine)
    assert log.update("coins", [line("a", "undecided", yes=3), line("b", "unchecked")]) == 1
    assert log.update("coins", [line("a", "undecided", yes=4), line("b", "unchecked")]) == 0
    assert log.update("coins", [line("a", "holds"), line("b", "fails", yes=0)]) == 2
    assert indexed(either_engine) == {"a": "holds", "b": "fails"}
    changes = [(change.claim, change.before, change.after) for change in log.changes()]
    assert sorted(changes[:2]) == [("a", "undecided", "holds"), ("b", None, "fails")]
    assert changes[2:] == [("a", None, "undecided")]


def test_rebuilding_the_index_is_no_change(engine: sa.Engine) -> None:
    log = VerdictLog(engine)
    log.update("coins", [line("a", "holds")])
    with write(engine) as connection:
        connection.execute(sa.delete(verdict_index))
    assert log.update("coins", [line("a", "holds")]) == 0
    assert indexed(engine) == {"a": "holds"}
    assert len(log.changes()) == 1


def test_a_claim_that_is_gone_stays_in_the_log(engine: sa.Engine) -> None:
    log = VerdictLog(engine)
    log.update("coins", [line("a", "holds")])
    log.update("dice", [line("c", "fails", study="dice")])
    assert log.update("coins", []) == 0
    assert indexed(engine) == {"c": "fails"}
    assert [change.claim for change in log.changes()] == ["c", "a"]
    assert [change.claim for change in log.changes(study="coins")] == ["a"]
    assert [change.claim for change in log.changes(before=2)] == ["a"]
    assert [change.claim for change in log.changes(limit=1)] == ["c"]


def test_lines_of_another_study_are_refused(engine: sa.Engine) -> None:
    with pytest.raises(ValueError, match="of the study 'coins'"):
        VerdictLog(engine).update("coins", [line("a", "holds", study="dice")])


@given(st.lists(st.dictionaries(st.sampled_from("abc"), st.sampled_from(KINDS)), max_size=6))
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_log_replays_to_the_index(engine: sa.Engine, histories: list[dict[str, str]]) -> None:
    """Whatever happened, the last word of the log on a claim is what the index holds of it."""
    with write(engine) as connection:
        connection.execute(sa.delete(verdict_index))
        connection.execute(sa.delete(verdict_changes))
    log = VerdictLog(engine)
    for kinds in histories:
        log.update("coins", [line(claim, kind) for claim, kind in kinds.items()])
        last = {change.claim: change.after for change in reversed(log.changes(limit=1000))}
        assert indexed(engine) == kinds
        for claim, kind in kinds.items():
            assert last.get(claim, "unchecked") == kind


def test_the_index_holds_what_lists_show(engine: sa.Engine) -> None:
    log = VerdictLog(engine)
    assert log.refresh(toy.STUDY, "assay_toy.toy") == 0  # nothing checked, no news
    assert set(indexed(engine).values()) == {"unchecked"}
    for experiment in toy.STUDY.experiments:
        series = plan(toy.STUDY, experiment, "assay_toy.toy").series
        settings = experiment.scales["quick"]
        for index in range(7):
            measured = experiment.trial(settings, trial_generator("toy", experiment.name, index))
            Ledger(engine).record(
                Row(series, index, 0, Outcome.MEASURED, measured, None, 1.0, 1, {}, {}), "t"
            )
    assert log.refresh(toy.STUDY, "assay_toy.toy") > 0
    shown = claim_lines(toy.STUDY, standings(Ledger(engine), toy.STUDY, "assay_toy.toy"))
    assert indexed(engine) == {item.claim.name: item.headline.kind for item in shown}
    assert {"holds", "fails"} <= set(indexed(engine).values())
