"""The `assay` command."""

from __future__ import annotations

import enum
import json
import logging
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from assay import __version__

if TYPE_CHECKING:
    from assay.evidence.ledger import Ledger
    from assay.evidence.runner import Plan
    from assay.evidence.study import Study
    from assay.papers.people import Accounts


class Fetching(enum.StrEnum):
    """What `assay serve --fetch` takes."""

    DAILY = "daily"
    NEVER = "never"


RECORD_SECONDS = 600.0
"""What `assay record` may spend on a study."""

app = typer.Typer(
    name="assay",
    help="Daily papers, put to the test: each paper's claims with a verdict, each paper's method as code.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
papers_app = typer.Typer(
    help="The papers: list them, show one; fetch, add and import more.", no_args_is_help=True
)
ledger_app = typer.Typer(
    help="The ledger of trials: export and import it as JSON lines.", no_args_is_help=True
)
fetch_app = typer.Typer(help="Fetch papers from arXiv or Hugging Face.", no_args_is_help=True)
digest_app = typer.Typer(
    help="The digest that subscribers get by mail: look at an issue, send what is due.", no_args_is_help=True
)
people_app = typer.Typer(help="The people of the page: list them, give them roles.", no_args_is_help=True)
app.add_typer(papers_app, name="papers")
app.add_typer(people_app, name="people")
app.add_typer(digest_app, name="digest")
papers_app.add_typer(fetch_app, name="fetch")
app.add_typer(ledger_app, name="ledger")

Json = Annotated[
    bool, typer.Option("--json", help="Print JSON for programs; progress goes to standard error.")
]


def main() -> None:
    """Run the command; what the user can mend is said in one sentence, without a traceback."""
    try:
        app()
    except Exception as error:
        # Imported only now: SQLAlchemy would double the time of `assay --help`.
        from assay.database import DatabaseError

        if not isinstance(error, DatabaseError | ImportError | OSError):
            raise
        print(f"assay: {error}", file=sys.stderr)
        sys.exit(1)


def _print_version(asked: bool) -> None:
    if asked:
        print(f"assay {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version and exit."),
    ] = False,
) -> None:
    pass


@app.command()
def check(
    slugs: Annotated[
        list[str] | None, typer.Argument(metavar="SLUG…", help="The papers to check.", show_default=False)
    ] = None,
    all_: Annotated[bool, typer.Option("--all", help="Check every paper that has a study.")] = False,
    experiment: Annotated[
        str | None, typer.Option(help="Only the experiment of this name.", metavar="NAME")
    ] = None,
    scale: Annotated[
        str, typer.Option(help="The size to run at; every experiment has 'quick'.", metavar="NAME")
    ] = "quick",
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="Replace a setting; such trials give a verdict of their own.", metavar="NAME=VALUE"
        ),
    ] = None,
    trials: Annotated[
        int | None,
        typer.Option(min=1, help="Go on to so many trials in all, decided sooner or not.", metavar="N"),
    ] = None,
    budget: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Wall seconds per experiment; 120 at quick scale, else without end.",
            metavar="SECONDS",
            show_default=False,
        ),
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Trials to run at once.", metavar="N")] = 1,
    cluster: Annotated[
        str | None,
        typer.Option(help="Run the trials on the Dask cluster at this address.", metavar="ADDRESS"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Run the claims of papers as experiments, to a verdict.

    Every claim is a question that one trial answers yes or no. A verdict, *holds* or *fails*, falls when the
    answers leave at most a 5 % chance that it is wrong; until then the claim is *undecided*. Trials are kept
    in the ledger as they end: Ctrl-C loses only those under way, and the same command goes on from there.

    `assay check colide` checks one paper, `assay check --all --jobs 4` all, four trials at a time;
    `assay check colide --experiment unequal_noise --set nodes=50 --trials 20` tries another size.

    Exit status: 0 if all ran, whatever the verdicts; 1 if something broke; 2 if the command was not
    understood; 130 after Ctrl-C.
    """
    from assay import studies

    if bool(slugs) == all_:
        raise typer.BadParameter("name the papers to check, or use --all")
    ledger = _ledger()
    chosen = studies.slugs() if all_ else list(dict.fromkeys(_resolve(slug) for slug in slugs or []))
    loaded, broken = _load(chosen)
    plans = _plans(loaded, experiment, scale, _overrides(set_ or []))
    try:
        broken |= _run(plans, ledger, budget=budget, trials=trials, jobs=jobs, cluster=cluster)
    finally:
        _log_verdicts(loaded)
    _show(loaded, ledger, as_json, experiment)
    raise typer.Exit(1 if broken else 0)


@app.command()
def show(
    slug: Annotated[str, typer.Argument(metavar="SLUG", help="A paper's slug or arXiv id.")],
    as_json: Json = False,
) -> None:
    """Show how a paper's claims stand: published against measured, with the verdicts so far."""
    from assay import studies

    try:
        name = studies.resolve(slug)
    except studies.UnknownStudy:
        paper = _find(slug)
        if paper.slug not in studies.slugs():
            if as_json:
                print(json.dumps([{"study": paper.slug, "experiments": []}]))
            else:
                print(f"{paper.title}: no study of this paper is installed yet")
            return
        name = paper.slug
    loaded, broken = _load([name])
    _show(loaded, _ledger(), as_json)
    raise typer.Exit(1 if broken else 0)


@app.command()
def record(
    slugs: Annotated[list[str], typer.Argument(metavar="SLUG…", help="The papers whose evidence to record.")],
) -> None:
    """Check papers at quick scale and write the evidence that ships with the release.

    A study gets up to ten minutes. The trials go to the ledger as with `assay check`, and from there to
    recorded/SLUG.jsonl beside the study's module.
    """
    import time

    from assay import studies
    from assay.evidence import standing

    ledger = _ledger()
    for slug in [_resolve(slug) for slug in slugs]:
        loaded, broken = _load([slug])
        if broken:
            raise typer.Exit(1)
        plans = _plans(loaded, None, "quick", {})
        ends = time.monotonic() + RECORD_SECONDS
        for count, item in enumerate(plans):
            share = max(0.0, ends - time.monotonic()) / (len(plans) - count)
            broken |= _run([item], ledger, budget=share, jobs=1)
        if broken:
            print(f"assay: {slug} is broken, so nothing is recorded", file=sys.stderr)
            raise typer.Exit(1)
        path = standing.recorded_path(studies.module_of(slug))
        standing.write_recorded(path, [row for item in plans for row in ledger.rows(series=item.series)])
        print(f"{slug}: recorded in {path}")


@papers_app.command("list")
def papers_list(
    field: Annotated[str | None, typer.Option(help="Only papers of this field.", metavar="FIELD")] = None,
    as_json: Json = False,
) -> None:
    """List the papers: the built-in catalogue and what has been imported."""
    papers = _papers().list(field=field)
    if as_json:
        print(json.dumps([paper.as_json() for paper in papers], indent=2))
        return
    from rich.table import Table

    from assay import studies

    table = Table("slug", "arXiv", "submitted", "field", "title", box=None, pad_edge=False)
    for paper in papers:
        slug = f"[bold]{paper.slug}[/]" if paper.slug in studies.slugs() else paper.slug
        table.add_row(slug, paper.arxiv_id, str(paper.submitted or ""), paper.field, paper.title)
    _console().print(table)


@papers_app.command("show")
def papers_show(
    key: Annotated[str, typer.Argument(metavar="SLUG", help="A paper's slug or arXiv id.")],
    as_json: Json = False,
) -> None:
    """Show one paper: what is known of it, and its abstract where one was imported."""
    paper = _find(key)
    if as_json:
        print(json.dumps(paper.as_json(), indent=2))
        return
    for name, value in paper.as_json().items():
        if value not in (None, [], {}):
            print(f"{name}: {value}")


@papers_app.command("search")
def papers_search(
    words: Annotated[
        list[str],
        typer.Argument(metavar="WORDS…", help='What it is about, "exact phrases", names of authors.'),
    ],
    limit: Annotated[int, typer.Option(min=1, max=500, help="How many to show.", metavar="N")] = 10,
    as_json: Json = False,
) -> None:
    """Find papers by meaning, words and names: `assay papers search keep robots from colliding`."""
    search = _search()
    _found(search.rank(" ".join(words), limit=limit), as_json)


@papers_app.command("similar")
def papers_similar(
    key: Annotated[str, typer.Argument(metavar="SLUG", help="A paper's slug or arXiv id.")],
    limit: Annotated[int, typer.Option(min=1, max=500, help="How many to show.", metavar="N")] = 5,
    as_json: Json = False,
) -> None:
    """Find the papers nearest in meaning to one."""
    paper = _find(key)
    _found(_search().similar(paper.id, limit=limit), as_json)


@papers_app.command("import")
def papers_import(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="The saved page, as text or HTML, or a BibTeX file.")
    ],
    as_json: Json = False,
) -> None:
    """Import a saved Daily Papers page or a bibliography in BibTeX. Importing it again changes nothing.

    An entry that cannot be read is named by its line, and the rest is imported.
    """
    from assay.papers import saved_page, sources
    from assay.papers.records import ImportReport

    try:
        text = file.read_text(encoding="utf-8")
        page = None if sources.is_bibtex(text) else saved_page.parse(text)
    except UnicodeDecodeError as error:
        raise typer.BadParameter(f"{file} is to be a text or HTML file in UTF-8: {error.reason}") from error
    except saved_page.NotASavedPage as error:
        raise typer.BadParameter(f"{file}: {error}; nor is it BibTeX") from error
    papers = _papers()
    with _bar("reading" if page is None else "importing") as progress:
        if page is None:
            told, unreadable = sources.read_bibtex(text)
            report = papers.take(told, file.name, "bibliography", progress=progress(len(told)))
            report += ImportReport(unreadable=unreadable)
        else:
            report = papers.import_page(page, file.name, progress=progress(len(page.entries)))
    _reported(report, str(file), as_json)


@fetch_app.command("arxiv")
def papers_fetch_arxiv(
    category: Annotated[
        list[str] | None, typer.Option(help="A category of arXiv; may be repeated.", metavar="NAME")
    ] = None,
    since: Annotated[
        datetime | None,
        typer.Option(
            formats=["%Y-%m-%d"],
            help="The first day of submission; a week ago without.",
            metavar="YYYY-MM-DD",
        ),
    ] = None,
    until: Annotated[
        datetime | None,
        typer.Option(formats=["%Y-%m-%d"], help="The last day; today without.", metavar="YYYY-MM-DD"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Fetch papers from arXiv, one request each three seconds. After an interruption it goes on where it was.

    `assay papers fetch arxiv --category cs.LG --since 2026-11-01`
    """
    from assay.papers.records import ImportReport

    first = since.date() if since else datetime.now(UTC).date() - timedelta(days=7)
    report = ImportReport()
    with _sources() as sources, _console(stderr=True).status("asking arXiv") as status:
        for name in category or ["cs.LG"]:
            report += sources.fetch_arxiv(
                name,
                since=first,
                until=until.date() if until else None,
                progress=lambda day, papers, name=name: status.update(f"{name}: {papers} papers up to {day}"),
            )
    _reported(report, "arxiv", as_json)


@fetch_app.command("huggingface")
def papers_fetch_huggingface(
    date: Annotated[
        datetime | None,
        typer.Option(formats=["%Y-%m-%d"], help="The day of the list; today without.", metavar="YYYY-MM-DD"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Fetch the list of daily papers of Hugging Face for a day, with its votes, keywords and code."""
    with _sources() as sources, _console(stderr=True).status("asking Hugging Face"):
        report = sources.fetch_huggingface((date or datetime.now(UTC)).date())
    _reported(report, "huggingface", as_json)


@papers_app.command("add")
def papers_add(
    ids: Annotated[list[str], typer.Argument(metavar="ID…", help="arXiv ids, or addresses of their pages.")],
    as_json: Json = False,
) -> None:
    """Add papers by their arXiv ids: `assay papers add 2310.02895 2405.14124`."""
    with _sources() as sources, _console(stderr=True).status("asking arXiv"):
        report = sources.add(ids)
    _reported(report, "arxiv", as_json)


@digest_app.command("preview")
def digest_preview(
    query: Annotated[
        str, typer.Argument(help="A selection as in the page's addresses; all papers without.")
    ] = "",
    pace: Annotated[str, typer.Option(help="daily or weekly")] = "daily",
    until: Annotated[
        datetime | None,
        typer.Option(formats=["%Y-%m-%d"], help="The day of the issue; the last one's without."),
    ] = None,
    html: Annotated[bool, typer.Option("--html", help="Print the HTML part instead of the text.")] = False,
) -> None:
    """Print an issue as a subscriber would get it: `assay digest preview 'field=gating' --pace weekly`."""
    from assay.database import open_database
    from assay.web import mailings

    _papers()
    try:
        message = mailings.preview(open_database(), query, pace, until.date() if until else None)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    if message is None:
        print("nothing new, so no mail would be sent", file=sys.stderr)
        return
    if not html:
        print(f"Subject: {message['subject']}\n")
    part = message.get_body(("html" if html else "plain",))
    assert part is not None
    print(part.get_content().replace("\r\n", "\n"), end="")


@digest_app.command("send")
def digest_send() -> None:
    """Mail what is due, as the worker does by itself; nobody gets an issue twice, whoever sends it."""
    from collections import Counter

    from assay.database import open_database
    from assay.web import mailings

    outcomes = Counter(mailings.send_due(open_database()))
    print(", ".join(f"{count} {outcome}" for outcome, count in outcomes.items()) or "nothing is due")
    raise typer.Exit(0 if set(outcomes) <= {"sent", "empty", "gone"} else 1)


@people_app.command("list")
def people_list(as_json: Json = False) -> None:
    """List the people: their addresses, names and roles."""
    people = _accounts().list()
    if as_json:
        listed = [{"email": one.email, "name": one.name, "role": one.role} for one in people]
        print(json.dumps(listed, indent=2))
        return
    from rich.table import Table

    table = Table("e-mail", "role", "name", box=None, pad_edge=False)
    for one in people:
        table.add_row(one.email, one.role, one.name)
    _console().print(table)


@people_app.command("role")
def people_role(
    email: Annotated[str, typer.Argument(metavar="EMAIL", help="Who; they need not have signed in yet.")],
    role: Annotated[str, typer.Argument(metavar="ROLE", help="reader, curator or admin.")],
) -> None:
    """Give somebody a role: readers vote, comment and check; curators also moderate; admins give roles."""
    try:
        person = _accounts().set_role(email, role)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    print(f"{person.email}: {person.role}")


@ledger_app.command("export")
def ledger_export(
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="Where to; standard output without.")
    ] = None,
) -> None:
    """Write every trial as a line of JSON."""
    lines = _ledger().export()
    if file is None:
        for line in lines:
            print(line)
        return
    partial = file.with_name(f"{file.name}.partial")
    with partial.open("w", encoding="utf-8") as out:
        out.writelines(f"{line}\n" for line in lines)
    partial.replace(file)


@ledger_app.command("import")
def ledger_import(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `assay ledger export` wrote.")],
) -> None:
    """Take in trials from JSON lines; those already there are left as they are."""
    try:
        with file.open(encoding="utf-8") as lines:
            new = _ledger().load(lines)
    except ValueError as error:
        raise typer.BadParameter(f"{file}: {error}") from error
    print(f"{new} new trials")


@app.command()
def backup(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where to; an earlier one is replaced.")],
) -> None:
    """Write everything into one file: trials, papers, people, and the work that waits. Nothing need stop."""
    from assay.web import backup as web

    web.backup(file)
    print(f"{file}: {file.stat().st_size / 1e6:.1f} MB")


@app.command()
def restore(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `assay backup` wrote.")],
) -> None:
    """Put a backup in place of an empty database, or of none: `ASSAY_DATABASE_URL` names where."""
    from assay.web import backup as web

    web.restore(file)
    print(f"restored from {file}")


@app.command()
def serve(
    host: Annotated[str, typer.Option(help="The address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port to listen at.")] = 8000,
    makers: Annotated[
        int,
        typer.Option(
            min=0,
            max=64,
            help="So many processes more to make lists and searches, for where many read at once; each takes "
            "0.8 GB.",
        ),
    ] = 0,
    with_worker: Annotated[
        bool, typer.Option("--worker", help="Run the worker as well, until Ctrl-C.")
    ] = False,
    fetch: Annotated[
        Fetching | None,
        typer.Option(
            help="Have the worker fetch new papers every day, or never again; without, it stays as it was.",
            show_default=False,
        ),
    ] = None,
    category: Annotated[
        list[str] | None,
        typer.Option(
            help="With --fetch daily: a category of arXiv; may be repeated; cs.LG without.", metavar="NAME"
        ),
    ] = None,
) -> None:
    """Serve the page. `assay worker`, beside it, runs the checks that are asked for there."""
    import subprocess

    from assay.web import app as web

    _papers()
    if fetch is not None:
        _schedule(category or ["cs.LG"] if fetch is Fetching.DAILY else None)
    beside = subprocess.Popen([sys.executable, "-m", "assay.cli", "worker"]) if with_worker else None
    try:
        web.serve(host=host, port=port, makers=makers)
    finally:
        if beside is not None:
            beside.terminate()
            beside.wait()


@app.command()
def export(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where to; an earlier export is replaced.")],
    address: Annotated[
        str | None,
        typer.Option(help="The address that the files will have; feeds need it.", metavar="URL"),
    ] = None,
) -> None:
    """Write the page as static files that any host serves, search by words included."""
    from rich.progress import Progress

    from assay.database import open_database
    from assay.web import export as web

    _papers()
    with Progress(console=_console(stderr=True)) as bar:
        task = bar.add_task("pages", total=None)
        try:
            count = web.export(
                open_database(),
                folder,
                site=address,
                progress=lambda done, known: bar.update(task, completed=done, total=known),
            )
        except web.ExportError as error:
            raise typer.BadParameter(str(error)) from error
    print(f"{count} files in {folder}")


@app.command()
def worker() -> None:
    """Check papers one after another, and those asked for on the page first; one trial at a time, gently."""
    from assay.web import worker as web

    web.work()


def _schedule(categories: list[str] | None) -> None:
    """Have the worker fetch these categories of arXiv, and Hugging Face's list, every day; None ends it."""
    from dbos import DBOS, DBOSClient

    from assay.database import open_database
    from assay.papers import sources
    from assay.web.checks import APPLICATION, workflows_url

    url = workflows_url(open_database())
    DBOS.migrate(url)  # a client does not, and the worker may not have been there yet
    client = DBOSClient(system_database_url=url, application_name=APPLICATION, retry_connection_errors=False)
    try:
        if categories is None:
            sources.unschedule(client)
        else:
            sources.schedule(client, categories)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    finally:
        client.destroy()


def _console(*, stderr: bool = False) -> Any:
    from rich.console import Console

    return Console(stderr=stderr, highlight=False)


def _ledger() -> Ledger:
    from assay.database import open_database
    from assay.evidence.ledger import Ledger

    return Ledger(open_database())


def _accounts() -> Accounts:
    from assay.database import open_database
    from assay.papers.people import Accounts

    return Accounts(open_database())


def _papers() -> Any:
    from assay.database import open_database
    from assay.papers.records import Papers

    papers = Papers(open_database())
    papers.load_catalogue()
    return papers


@contextmanager
def _sources() -> Iterator[Any]:
    """The sources of papers; what the user can mend about a fetch is said in one sentence."""
    from assay.database import open_database
    from assay.papers.sources import Sources

    _papers()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    try:
        yield Sources(open_database())
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    except KeyboardInterrupt:
        print("assay: stopped; the same command goes on from here", file=sys.stderr)
        raise typer.Exit(130) from None


@contextmanager
def _bar(doing: str) -> Iterator[Any]:
    """A progress bar on standard error: called with a total it gives what is to hear how much is done."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = _console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(doing, total=None)

        def of(total: int) -> Any:
            progress.update(task, total=total)
            return lambda done: progress.update(task, completed=done)

        yield of


def _reported(report: Any, source: str, as_json: bool) -> None:
    """Print what an import or a fetch did, and exit with 1 if something could not be read."""
    if as_json:
        import dataclasses

        print(json.dumps(dataclasses.asdict(report)))
    else:
        for line, reason in report.unreadable:
            print(f"{source}:{line}: {reason}", file=sys.stderr)
        print(
            f"{report.new + report.changed + report.unchanged} papers: {report.new} new, "
            f"{report.changed} changed, {report.unchanged} unchanged; {report.tied} tied to the catalogue"
        )
    raise typer.Exit(1 if report.unreadable else 0)


def _search() -> Any:
    """The index, once every paper is in it."""
    from assay.database import open_database
    from assay.papers.search import Search

    _papers()
    search = Search(open_database())
    with _bar("indexing") as progress:
        search.refresh(progress(search.waiting()))
    return search


def _found(ids: list[int], as_json: bool) -> None:
    from assay.database import open_database
    from assay.papers import records

    with open_database().connect() as connection:
        papers = records.read(connection, ids)
    if as_json:
        print(json.dumps([paper.as_json() for paper in papers], indent=2))
        return
    for paper in papers:
        print(f"{paper.slug or paper.arxiv_id or ''}  {paper.title}".strip())


def _find(key: str) -> Any:
    try:
        return _papers().find(key)
    except LookupError as error:
        raise typer.BadParameter(str(error)) from error


def _resolve(slug: str) -> str:
    from assay import studies

    try:
        return studies.resolve(slug)
    except studies.UnknownStudy as error:
        raise typer.BadParameter(str(error)) from error


def _load(slugs: list[str]) -> tuple[list[Study], bool]:
    """The studies that can be loaded; True as well if one cannot, which is said."""
    from assay import studies

    loaded, broken = [], False
    for slug in slugs:
        try:
            loaded.append(studies.load(slug))
        except ImportError as error:
            broken = True
            print(f"assay: {slug} is broken: {error}", file=sys.stderr)
    return loaded, broken


def _overrides(texts: list[str]) -> dict[str, str]:
    overrides = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise typer.BadParameter(f"--set takes NAME=VALUE, such as nodes=50, got {text!r}")
        overrides[name] = value
    return overrides


def _log_verdicts(loaded: list[Study]) -> None:
    from assay import studies
    from assay.database import open_database
    from assay.evidence.verdict_log import VerdictLog

    log = VerdictLog(open_database())
    for study in loaded:
        log.refresh(study, studies.module_of(study.slug))


def _plans(loaded: list[Study], name: str | None, scale: str, overrides: dict[str, str]) -> list[Plan]:
    from assay import studies
    from assay.evidence.runner import plan

    plans = []
    for study in loaded:
        try:
            experiments = study.experiments if name is None else (study.experiment(name),)
            # Several experiments need not share their scales: those without this one are left out.
            fitting = [item for item in experiments if scale in item.scales] or experiments
            module = studies.module_of(study.slug)
            plans += [plan(study, item, module, scale=scale, overrides=overrides) for item in fitting]
        except (KeyError, ValueError) as error:
            raise typer.BadParameter(str(error.args[0])) from error
    return plans


def _run(
    plans: list[Plan],
    ledger: Ledger,
    *,
    budget: float | None = None,
    trials: int | None = None,
    jobs: int = 1,
    cluster: str | None = None,
) -> bool:
    """Run the plans with live progress; True if something broke."""
    from assay.evidence.runner import Ended, run
    from assay.evidence.workers import MEMORY_LIMIT, ClusterWorkers, LocalWorkers, Workers
    from assay.terminal import Progress

    broken = False
    quick = all(plan.scale == "quick" for plan in plans)
    with (
        _interruptions() as interrupted,
        Progress(_console(stderr=True), budget=budget, trials=trials) as progress,
    ):
        workers: Workers = (
            ClusterWorkers(cluster) if cluster else LocalWorkers(jobs, memory=MEMORY_LIMIT if quick else None)
        )
        try:
            events = run(plans, ledger, workers, budget=budget, trials=trials, should_stop=interrupted.is_set)
            for event in progress.follow(events):
                broken |= isinstance(event, Ended) and event.reason == "broken"
        finally:
            workers.close()
    if interrupted.is_set():
        print("assay: stopped; the same command goes on from here", file=sys.stderr)
        raise typer.Exit(130)
    return broken


@contextmanager
def _interruptions() -> Iterator[threading.Event]:
    """An event that Ctrl-C sets. As an exception it could strike anywhere, amid the record of a trial too."""
    interrupted = threading.Event()
    before = signal.signal(signal.SIGINT, lambda *_: interrupted.set())
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, before)


def _show(loaded: list[Study], ledger: Ledger, as_json: bool, experiment: str | None = None) -> None:
    from assay import studies, terminal
    from assay.evidence.standing import standings

    found = []
    for study in loaded:
        items = standings(ledger, study, studies.module_of(study.slug))
        found.append((study, [item for item in items if experiment in (None, item.experiment.name)]))
    if as_json:
        print(
            json.dumps(
                [
                    {"study": study.slug, "experiments": [item.as_json() for item in items]}
                    for study, items in found
                ],
                indent=2,
            )
        )
        return
    console = _console()
    for study, items in found:
        console.rule(f"[bold]{study.slug}")
        for item in items:
            console.print(terminal.standing(item))
    console.print(terminal.expected_errors([item for _, items in found for item in items]))


if __name__ == "__main__":
    main()
