"""What holds for every study of this package: its parts are there, its recorded evidence is its own."""

import importlib
from pathlib import Path

import pytest

from assay import studies
from assay.evidence.fingerprint import fingerprint
from assay.evidence.runner import plan
from assay.evidence.standing import recorded_rows
from assay.papers.catalogue import catalogue

ROOT = Path(__file__).parents[2]
SLUGS = [slug for slug in studies.slugs() if studies.module_of(slug).startswith("assay.")]
FIELDS = {entry.slug: entry.field for entry in catalogue()}


@pytest.mark.parametrize("slug", SLUGS)
def test_a_study_has_all_its_parts(slug: str) -> None:
    field = FIELDS[slug]
    importlib.import_module(f"assay.{field}.{slug}")
    for part in (
        f"tests/{field}/test_{slug}.py",
        f"tests/studies/test_{slug}.py",
        f"benchmarks/bench_{slug}.py",
    ):
        assert (ROOT / part).is_file(), part


@pytest.mark.parametrize("field", sorted({FIELDS[slug] for slug in SLUGS}))
def test_every_public_name_of_a_field_is_there(field: str) -> None:
    package = importlib.import_module(f"assay.{field}")
    for name in package.__all__:
        assert getattr(package, name).__doc__, name


@pytest.mark.parametrize("slug", SLUGS)
def test_recorded_evidence_is_of_the_present_code(slug: str) -> None:
    """After a change to the study or its method: `assay record SLUG`."""
    module = studies.module_of(slug)
    rows = recorded_rows(module)
    assert {row.series.fingerprint for row in rows} == {fingerprint(module)}
    assert {row.series.origin for row in rows} == {"recorded"}
    study = studies.load(slug)
    declared = {plan(study, experiment, module).series.settings for experiment in study.experiments}
    assert {row.series.settings for row in rows} == declared
    assert {row.series.experiment for row in rows} == {experiment.name for experiment in study.experiments}


@pytest.mark.parametrize("slug", SLUGS)
def test_a_quick_trial_fits_into_two_gigabytes(slug: str) -> None:
    for row in recorded_rows(studies.module_of(slug)):
        assert row.peak_memory is None or row.peak_memory <= 2 * 2**30, row.series.experiment
