"""The studies: one module a paper, found by its slug.

A module `assay.studies.<slug>` holds `STUDY`; a distribution of its own offers more through the entry-point
group `assay.studies` (name: the slug, value: ``module:STUDY``). Nothing is imported until it is asked for.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import pkgutil
from importlib.metadata import entry_points

from assay.evidence import Study


class UnknownStudy(KeyError):
    """No study has that slug; the message suggests the nearest one."""

    def __str__(self) -> str:
        return str(self.args[0])


@functools.cache
def _references() -> dict[str, str]:
    """Slug -> ``module:attribute`` of every study that is installed, those of this package first."""
    built_in = {
        module.name: f"{__name__}.{module.name}:STUDY"
        for module in pkgutil.iter_modules(__path__)
        if not module.ispkg and not module.name.startswith("_")
    }
    installed = {entry.name: entry.value for entry in entry_points(group="assay.studies")}
    return dict(sorted((installed | built_in).items()))


def slugs() -> list[str]:
    """The slugs of all installed studies, sorted."""
    return list(_references())


def resolve(slug: str) -> str:
    """The slug as installed: hyphens are taken for underscores. Raises `UnknownStudy`."""
    name = slug.strip().lower().replace("-", "_")
    if name not in _references():
        nearest = difflib.get_close_matches(name, slugs(), n=1, cutoff=0.5)
        hint = f"; did you mean {nearest[0]!r}?" if nearest else f"; there are {', '.join(slugs()) or 'none'}"
        raise UnknownStudy(f"no study is called {slug!r}{hint}")
    return name


def module_of(slug: str) -> str:
    """The dotted name of the module that holds the study."""
    return _references()[resolve(slug)].partition(":")[0]


def load(slug: str) -> Study:
    """Import the study of that slug. Raises `UnknownStudy`; an ImportError names the extra that it needs."""
    name = resolve(slug)
    module, _, attribute = _references()[name].partition(":")
    study = getattr(importlib.import_module(module), attribute)
    if not isinstance(study, Study) or study.slug != name:
        raise TypeError(f"{_references()[name]} is to be a Study with the slug {name!r}, got {study!r}")
    return study
