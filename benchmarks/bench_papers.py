"""Import of 100,000 generated papers into a fresh SQLite database: a saved page, a bibliography, again."""

import contextlib
import html
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path

PAPERS = 100_000
WORDS = [
    a + b
    for a in ("gra", "ten", "lo", "mi", "su", "ker", "van", "po")
    for b in ("dient", "sor", "ss", "nel", "rix")
]


def told() -> Iterator[dict[str, object]]:
    """Papers as a page's JSON has them, with abstracts as long as arXiv's (about 1,100 characters)."""
    draw = random.Random(0)
    for number in range(PAPERS):
        day = date(2023, 5, 4) + timedelta(days=number // 80)
        yield {
            "paper": {
                "id": f"{day:%y%m}.{number % 100_000:05}",
                "title": f"{' '.join(draw.choices(WORDS, k=9)).capitalize()} {number}",
                "summary": " ".join(draw.choices(WORDS, k=160)).capitalize() + ".",
                "authors": [{"name": f"{draw.choice(WORDS)} {draw.choice(WORDS)}".title()} for _ in range(4)],
                "publishedAt": f"{day}T10:00:00.000Z",
                "submittedOnDailyAt": f"{day + timedelta(days=1)}T10:00:00.000Z",
                "submittedOnDailyBy": {"name": draw.choice(WORDS)},
                "upvotes": draw.randrange(200),
                "ai_keywords": draw.choices(WORDS, k=4),
                "githubRepo": f"https://github.com/lab/{number}",
                "githubStars": draw.randrange(5000),
            },
            "numComments": draw.randrange(9),
            "organization": {"name": "lab", "fullname": "The Laboratory"},
        }


def write_page(path: Path) -> None:
    props = html.escape(json.dumps({"dailyPapers": list(told())}))
    path.write_text(f'<html><div data-target="DailyPapers" data-props="{props}"></div></html>', "utf-8")


def write_bibliography(path: Path) -> None:
    with path.open("w", encoding="utf-8") as out:
        for item in told():
            paper = item["paper"]
            assert isinstance(paper, dict)
            authors = " and ".join(author["name"] for author in paper["authors"])
            fields = {
                "title": paper["title"],
                "author": authors,
                "eprint": paper["id"],
                "abstract": paper["summary"],
            }
            body = ",\n".join(f"  {name} = {{{value}}}" for name, value in fields.items())
            out.write(f"@article{{p{paper['id']},\n{body},\n  archivePrefix = {{arXiv}}\n}}\n")


def timed(name: str, *command: str, environment: dict[str, str]) -> None:
    start = time.perf_counter()
    shown = subprocess.run(
        [sys.executable, "-m", "assay.cli", *command],
        env=os.environ | environment,
        check=True,
        text=True,
        stdout=subprocess.PIPE,
    ).stdout.strip()
    print(f"{name:<44} {time.perf_counter() - start:7.1f} s   {shown}", flush=True)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        page, bibliography = Path(folder, "page.html"), Path(folder, "papers.bib")
        write_page(page)
        write_bibliography(bibliography)
        for name, file in (("page", page), ("bibliography", bibliography)):
            environment = {"ASSAY_DATABASE_URL": f"sqlite:///{folder}/{name}.sqlite"}
            timed(
                f"import of {PAPERS:,} papers, {name}", "papers", "import", str(file), environment=environment
            )
            timed(f"the same again, {name}", "papers", "import", str(file), environment=environment)
            size = Path(folder, f"{name}.sqlite").stat().st_size
            print(f"{'database':<44} {size / 2**20:7.0f} MiB", flush=True)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
