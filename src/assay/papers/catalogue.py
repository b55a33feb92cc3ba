"""The catalogue: the papers that studies are about, as data.

The papers of this release are in `catalogue.toml` beside this module. Another distribution adds its own by
the entry-point group `assay.catalogues`, whose value names a package that contains a `catalogue.toml`.
"""

from __future__ import annotations

import functools
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, fields
from datetime import date
from importlib.metadata import entry_points
from importlib.resources import files
from importlib.resources.abc import Traversable

from assay.papers.identity import arxiv_id, title_key

FIELDS = (
    "gating",
    "diffusion",
    "networks",
    "language",
    "decisions",
    "control",
    "optimize",
    "inference",
    "robustness",
    "quantum",
)
"""The fields of the house, as the packages of the methods are named."""

_SENTENCE_AT_MOST = 200


@dataclass(frozen=True)
class CatalogueEntry:
    """A paper of the catalogue, checked: see `catalogue`."""

    slug: str
    title: str
    arxiv_id: str
    submitted: date
    """The day of the first version, as arXiv gives it (UTC)."""
    authors: int
    field: str
    sentence: str
    """What the paper proposes or shows, in our words."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            expected = {"submitted": date, "authors": int}.get(field.name, str)
            if type(value) is not expected:
                raise ValueError(f"{field.name} is to be a {expected.__name__}, got {value!r}")
        if not re.fullmatch(r"[a-z][a-z0-9_]*", self.slug):
            raise ValueError(f"slug is to be a lower-case module name, got {self.slug!r}")
        if not self.title.strip():
            raise ValueError("title is empty")
        if arxiv_id(self.arxiv_id) != self.arxiv_id:
            raise ValueError(f"arxiv_id is to be an arXiv id without version, got {self.arxiv_id!r}")
        if self.authors < 1:
            raise ValueError(f"authors is to be 1 or more, got {self.authors}")
        if self.field not in FIELDS:
            raise ValueError(f"field is to be one of {', '.join(FIELDS)}, got {self.field!r}")
        if not 0 < len(self.sentence.strip()) <= _SENTENCE_AT_MOST:
            raise ValueError(
                f"sentence is to have 1 to {_SENTENCE_AT_MOST} characters, got {len(self.sentence.strip())}"
            )


@functools.cache
def catalogue() -> tuple[CatalogueEntry, ...]:
    """The papers of this release in the order of the page that listed them, then those from elsewhere.

    Raises `ValueError`, which names the file and the entry, when an entry is malformed or names a paper for
    the second time.
    """
    sources = [files("assay.papers") / "catalogue.toml"]
    for point in sorted(entry_points(group="assay.catalogues"), key=lambda point: point.name):
        try:
            sources.append(files(point.value) / "catalogue.toml")
        except ModuleNotFoundError as error:
            raise ValueError(
                f"entry point {point.name!r} of assay.catalogues is to name a package, got {point.value!r}"
            ) from error
    entries: list[CatalogueEntry] = []
    seen: dict[str, str] = {}
    for source in sources:
        for place, entry in _read(source):
            for key in (entry.slug, entry.arxiv_id, title_key(entry.title)):
                if key in seen:
                    raise ValueError(f"{place}: {entry.slug!r} repeats {key!r} of {seen[key]}")
                seen[key] = place
            entries.append(entry)
    return tuple(entries)


def _read(source: Traversable) -> Iterator[tuple[str, CatalogueEntry]]:
    """Each entry of a catalogue file with the place that messages name it by."""
    try:
        content = tomllib.loads(source.read_text("utf-8"))
    except OSError as error:
        raise ValueError(f"{source}: there is no such catalogue") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{source}: is to be a TOML file of [[paper]] tables: {error}") from error
    papers = content.get("paper")
    if content.keys() != {"paper"} or not isinstance(papers, list):
        raise ValueError(f"{source}: is to hold [[paper]] tables and nothing else, got {', '.join(content)}")
    names = {field.name for field in fields(CatalogueEntry)}
    for number, paper in enumerate(papers, start=1):
        place = f"{source}, entry {number}"
        if not isinstance(paper, dict):
            raise ValueError(f"{place}: is to be a table, got {paper!r}")
        if "slug" in paper:
            place += f" ({paper['slug']})"
        if paper.keys() != names:
            wrong = sorted(names ^ paper.keys())
            raise ValueError(f"{place}: missing or unknown: {', '.join(wrong)}")
        try:
            yield place, CatalogueEntry(**paper)
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from error
