from dataclasses import dataclass

import numpy as np
import pytest
from assay_toy.toy import STUDY, Coin, coin

from assay.evidence import Claim, Experiment, Study, at_least, trial_generator
from assay.evidence.runner import plan, replace_settings
from assay.evidence.study import seed_sequence

CLAIM = Claim("c", "is positive", at_least("x", 0.0))


def test_trials_draw_from_their_names_and_index_alone() -> None:
    draws = {
        trial_generator(slug, experiment, index).random()
        for slug in ("a", "b")
        for experiment in ("one", "two")
        for index in range(50)
    }
    assert len(draws) == 200
    # The first words of this stream are part of the evidence rules: to change them is to void every ledger.
    assert seed_sequence("toy", "coin", 3).entropy[1] == 3
    again = np.random.default_rng(np.random.SeedSequence(seed_sequence("toy", "coin", 3).entropy))
    assert again.random() == trial_generator("toy", "coin", 3).random()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Claim("Not A Name", "", at_least("x", 0.0)), "lower-case"),
        (lambda: Experiment("e", coin, {"quick": Coin()}, ()), "no claims"),
        (lambda: Experiment("e", coin, {"quick": Coin()}, (CLAIM, CLAIM)), "two claims of one name"),
        (lambda: Experiment("e", coin, {"large": Coin()}, (CLAIM,)), "first of its scales"),
        (lambda: Experiment("e", coin, {"quick": {"tosses": 1}}, (CLAIM,)), "dataclass instance"),
        (lambda: Study("s", ()), "needs experiments"),
    ],
)
def test_what_is_no_study_is_refused(build: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


def test_an_unknown_experiment_or_scale_names_those_there() -> None:
    with pytest.raises(KeyError, match="coin, arithmetic"):
        STUDY.experiment("dice")
    with pytest.raises(ValueError, match="quick, large"):
        plan(STUDY, STUDY.experiment("coin"), "assay_toy.toy", scale="huge")


@dataclass(frozen=True)
class Everything:
    whole: int = 1
    real: float = 0.5
    flag: bool = False
    name: str = "a"
    sizes: tuple[int, ...] = (1, 2)
    maybe: float | None = 1.0


def test_settings_are_read_from_text_by_their_types() -> None:
    texts = {"whole": "3", "real": "2", "flag": "true", "name": "b c", "sizes": "[4, 5]", "maybe": "none"}
    assert replace_settings(Everything(), texts, "e") == Everything(3, 2.0, True, "b c", (4, 5), None)


@pytest.mark.parametrize(
    ("name", "text"),
    [("whole", "2.5"), ("whole", "true"), ("real", "x"), ("flag", "1"), ("sizes", "3"), ("none", "1")],
)
def test_a_setting_that_does_not_fit_is_named(name: str, text: str) -> None:
    with pytest.raises(ValueError, match=f"'{name}'"):
        replace_settings(Everything(), {name: text}, "e")


def test_replaced_settings_make_a_series_of_their_own() -> None:
    experiment = STUDY.experiment("coin")
    declared = plan(STUDY, experiment, "assay_toy.toy")
    replaced = plan(STUDY, experiment, "assay_toy.toy", overrides={"tosses": "20"})
    assert declared.series.key != replaced.series.key
    assert replaced.settings == Coin(tosses=20)
