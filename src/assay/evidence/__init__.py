"""Claims, verdicts, the runner and the ledger; knows no paper and no page."""

from assay.evidence.predicates import (
    InvalidMeasurement,
    Measurements,
    Predicate,
    all_of,
    at_least,
    at_most,
    better,
    between,
    near,
)
from assay.evidence.study import Claim, Experiment, Published, Study, trial_generator

__all__ = [
    "Claim",
    "Experiment",
    "InvalidMeasurement",
    "Measurements",
    "Predicate",
    "Published",
    "Study",
    "all_of",
    "at_least",
    "at_most",
    "better",
    "between",
    "near",
    "trial_generator",
]
