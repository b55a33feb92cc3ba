import math

import numpy as np
import pytest
from assay_toy import toy
from hypothesis import given
from hypothesis import strategies as st
from scipy import special

from assay.evidence import Claim, Experiment, InvalidMeasurement, at_least
from assay.evidence.verdicts import ClaimTally, Tally, Verdict, check_measurements, log_e_value

COIN = toy.STUDY.experiment("coin")


def first_decision(answers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each row of yes-or-no answers: how many the verdict took (0: none fell), and whether it is holds.

    Stated on its own with scipy's beta function over all rows at once.
    """
    trials = np.arange(1, answers.shape[1] + 1)
    yes = np.cumsum(answers, axis=1)
    log_e = trials * math.log(2) + special.betaln(yes + 0.5, trials - yes + 0.5) - special.betaln(0.5, 0.5)
    reached = log_e >= math.log(20)
    at = np.where(reached.any(axis=1), reached.argmax(axis=1), -1)
    return at + 1, 2 * yes[np.arange(len(yes)), at] > trials[at]


def tally_of(answers: list[bool | None]) -> ClaimTally:
    tally = ClaimTally(Claim("c", "says yes", at_least("x", 0.5)))
    for answer in answers:
        tally.add({"x": None if answer is None else float(answer)})
    return tally


@pytest.mark.parametrize(("yes", "trials"), [(7, 7), (11, 12), (14, 15), (17, 20)])
def test_what_decides_and_that_one_yes_less_does_not(yes: int, trials: int) -> None:
    assert log_e_value(yes, trials) >= math.log(20) > log_e_value(yes - 1, trials)
    assert log_e_value(yes, trials) == pytest.approx(log_e_value(trials - yes, trials))


def test_e_is_a_martingale_under_a_fair_coin() -> None:
    """The mean over the next answer is the present value: E_n = (E_{n+1}(yes) + E_{n+1}(no)) / 2."""
    for trials in range(40):
        for yes in range(trials + 1):
            ahead = (math.exp(log_e_value(yes + 1, trials + 1)) + math.exp(log_e_value(yes, trials + 1))) / 2
            assert ahead == pytest.approx(math.exp(log_e_value(yes, trials)))


@pytest.mark.parametrize("share", [0.5, 0.4, 0.2])
def test_wrong_verdicts_are_at_most_five_per_cent_after_400_looks(share: float) -> None:
    """10,000 claims of which at most half of the trials say yes: how many are ever said to hold."""
    rng = np.random.default_rng(1)
    took, holds = first_decision(rng.random((10_000, 400)) < share)
    wrong = np.mean((took > 0) & holds) if share < 0.5 else np.mean(took > 0)
    # Ville's bound, and three standard errors of the simulation.
    assert wrong <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 10_000)
    assert np.mean((took > 0) & ~holds) > 0.95 or share > 0.3


def test_a_clear_claim_is_decided_soon() -> None:
    took, holds = first_decision(np.random.default_rng(2).random((10_000, 400)) < 0.9)
    assert np.mean((took > 0) & holds) > 0.99
    assert np.median(took[took > 0]) <= 12


@given(st.lists(st.booleans(), max_size=60))
def test_the_tally_agrees_with_the_vectorised_rule(answers: list[bool]) -> None:
    tally = tally_of(list(answers))
    took, holds = first_decision(np.array([answers or [False]]))
    if not answers or not took[0]:
        assert tally.verdict is Verdict.UNDECIDED
        assert tally.decided_at is None
    else:
        assert tally.decided_at == took[0]
        assert tally.verdict is (Verdict.HOLDS if holds[0] else Verdict.FAILS)


@given(st.lists(st.sampled_from([True, False, None]), max_size=60))
def test_skipped_trials_count_for_nothing(answers: list[bool | None]) -> None:
    with_skips, without = tally_of(answers), tally_of([answer for answer in answers if answer is not None])
    assert (with_skips.verdict, with_skips.yes, with_skips.answered) == (
        without.verdict,
        without.yes,
        without.answered,
    )
    assert with_skips.skipped == answers.count(None)


def test_a_verdict_stands_whatever_comes_after() -> None:
    tally = tally_of([True] * 7 + [False] * 100)
    assert (tally.verdict, tally.decided_at, tally.yes, tally.answered) == (Verdict.HOLDS, 7, 7, 107)


def test_one_trial_decides_what_is_deterministic() -> None:
    for answer, verdict in ((1.0, Verdict.HOLDS), (0.0, Verdict.FAILS)):
        tally = ClaimTally(Claim("c", "says yes", at_least("x", 0.5)), deterministic=True)
        tally.add({"x": answer})
        assert tally.verdict is verdict


@given(st.permutations(range(12)))
def test_the_order_of_arrival_changes_nothing(order: list[int]) -> None:
    rng = np.random.default_rng(3)
    trials = [COIN.trial(COIN.scales["quick"], rng) for _ in order]
    straight, shuffled = Tally(COIN), Tally(COIN)
    for index, trial in enumerate(trials):
        straight.add(index, trial)
    for index in order:
        shuffled.add(index, trials[index])
    assert straight.trials == shuffled.trials
    assert [claim.marks for claim in straight.claims] == [claim.marks for claim in shuffled.claims]


def test_only_the_unbroken_run_from_zero_counts() -> None:
    tally = Tally(COIN)
    trial = COIN.trial(COIN.scales["quick"], np.random.default_rng(0))
    tally.add(1, trial)
    assert tally.trials == []
    tally.add(0, trial)
    tally.add(0, trial)
    assert len(tally.trials) == 2


def test_medians_and_ranges_leave_out_what_does_not_apply() -> None:
    claim = Claim("c", "is large", at_least("x", 0.0))
    tally = Tally(Experiment("e", COIN.trial, COIN.scales, (claim,)))
    for index, value in enumerate([3.0, None, 1.0, 10.0]):
        tally.add(index, {"x": value})
    (measured,) = tally.measured(claim)
    assert (measured.median, measured.least, measured.greatest) == (3.0, 1.0, 10.0)


def test_measurements_become_plain() -> None:
    plain = check_measurements(
        COIN, {"mean": np.float32(0.5), "applies": None, "tosses": np.arange(3), "count": np.int64(2)}
    )
    assert plain == {"mean": 0.5, "applies": None, "tosses": [0.0, 1.0, 2.0], "count": 2.0}


@pytest.mark.parametrize(
    ("measurements", "message"),
    [
        ([1.0], "a dict of measurements"),
        ({"mean": "0.5"}, "'mean'"),
        ({"mean": 0.5, "applies": None, "tosses": [0.1, math.nan]}, "'tosses'"),
        ({"mean": 0.5, "applies": None, "tosses": np.zeros((2, 2))}, "'tosses'"),
        ({"mean": 0.5}, "no 'applies'"),
    ],
)
def test_unusable_measurements_are_named(measurements: object, message: str) -> None:
    with pytest.raises(InvalidMeasurement, match=message):
        check_measurements(COIN, measurements)
