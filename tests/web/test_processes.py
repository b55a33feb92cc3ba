"""The real server and the real worker, as processes: what they do, how they stop and what they survive."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from assay.database import open_database
from assay.evidence.ledger import Ledger
from assay.web.checks import Checks, Controls
from assay.web.guard import SESSION

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from conftest import Processes


def trials(engine: sa.Engine, slug: str) -> list[int]:
    return [row.index for row in Ledger(engine).rows(slug)]


def checks_under_way(engine: sa.Engine) -> dict[str, Any]:
    checks = Checks(engine)
    try:
        return dict(checks.under_way())
    finally:
        checks.close()


def ask(engine: sa.Engine, slug: str) -> None:
    checks = Checks(engine)
    checks.start(slug, 1)
    checks.close()


def test_sweep_says_each_verdict(processes: Processes, engine: sa.Engine) -> None:
    worker = processes.work("coins", "crash", "lacking")
    processes.until(lambda: trials(engine, "crash") and len(trials(engine, "coins")) >= 7)
    processes.until(lambda: Controls(engine).as_json()["study"] is None)
    # Nothing is run again: not what is decided, not what is broken.
    time.sleep(1)
    assert trials(engine, "coins") == list(range(7))
    assert trials(engine, "crash") == [0]
    worker.send_signal(signal.SIGINT)
    said = worker.communicate(timeout=10)[0]
    assert worker.returncode == 0
    assert "coins  tossing/beats_old  holds  7 of 7\n" in said
    assert "coins  tossing/is_large  fails  0 of 7\n" in said
    assert "crash  tossing  broken  RuntimeError: <b>no</b> such luck\n" in said
    assert "lacking  cannot be imported: lacking needs the extra assay[lucky] <b>\n" in said
    assert Controls(engine).as_json() == {"running": False, "paused": False, "study": None}


def test_check_outlives_the_worker_killed_amid_it(processes: Processes, engine: sa.Engine) -> None:
    ask(engine, "slow")
    worker = processes.work()
    processes.until(lambda: len(trials(engine, "slow")) >= 2)
    worker.kill()
    worker.wait()
    before = trials(engine, "slow")
    assert len(before) < 7
    assert checks_under_way(engine) == {"slow": "running"}
    processes.work()
    processes.until(lambda: not checks_under_way(engine), 60)
    assert trials(engine, "slow") == list(range(7))
    assert trials(engine, "slow")[: len(before)] == before


def test_check_outlives_the_worker_stopped_amid_it(processes: Processes, engine: sa.Engine) -> None:
    ask(engine, "slow")
    worker = processes.work()
    processes.until(lambda: len(trials(engine, "slow")) >= 2)
    began = time.monotonic()
    worker.send_signal(signal.SIGTERM)
    said = worker.communicate(timeout=15)[0]
    assert time.monotonic() - began < 5
    assert (worker.returncode, "Traceback" in said) == (0, False), said
    assert Ledger(engine).running() == set()
    assert checks_under_way(engine) == {"slow": "running"}
    processes.work()
    processes.until(lambda: not checks_under_way(engine), 60)
    assert trials(engine, "slow") == list(range(7))


def test_check_is_cancelled_amid_a_trial(processes: Processes, engine: sa.Engine) -> None:
    ask(engine, "slow")
    worker = processes.work()
    processes.until(lambda: trials(engine, "slow"))
    checks = Checks(engine)
    assert checks.cancel("slow")
    assert checks.under_way() == {}
    processes.until(lambda: Controls(engine).as_json()["study"] is None)
    assert 0 < len(trials(engine, "slow")) < 7
    assert Ledger(engine).running() == set()
    # The next one is not held up, and one that waits is cancelled as well.
    Controls(engine).paused = True
    processes.until(lambda: Controls(engine).as_json()["paused"])
    checks.start("coins", 1)
    checks.start("crash", 1)
    assert checks.cancel("crash")
    assert not checks.cancel("crash")
    Controls(engine).paused = False
    processes.until(lambda: not checks.under_way())
    assert trials(engine, "coins") == list(range(7))
    assert trials(engine, "crash") == []
    checks.close()
    worker.send_signal(signal.SIGTERM)
    said = worker.communicate(timeout=10)[0]
    assert "Traceback" not in said, said


def test_pause_holds_between_trials_and_a_check_goes_before_the_sweep(
    processes: Processes, engine: sa.Engine
) -> None:
    controls = Controls(engine)
    worker = processes.work("slow")
    processes.until(lambda: trials(engine, "slow"))
    controls.paused = True
    time.sleep(1.5)
    held = len(trials(engine, "slow"))
    assert held < 7
    ask(engine, "coins")
    time.sleep(1.5)
    assert len(trials(engine, "slow")) == held
    assert trials(engine, "coins") == []
    assert Ledger(engine).running() == set()
    assert controls.as_json()["paused"]
    controls.paused = False
    processes.until(lambda: len(trials(engine, "slow")) == 7)
    assert trials(engine, "coins") == list(range(7))
    order = [row.series.study for row in Ledger(engine).rows()]
    assert order.index("coins") < len(order) - 7  # not after all of the sweep
    worker.send_signal(signal.SIGTERM)
    worker.communicate(timeout=10)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_server_stops_within_two_seconds_with_streams_open(
    processes: Processes, number: signal.Signals
) -> None:
    server = processes.serve()
    streams = []
    for path in ("/events", "/papers/coins/events"):
        connection = http.client.HTTPConnection("127.0.0.1", processes.port, timeout=10)
        connection.request("GET", path)
        answer = connection.getresponse()
        assert answer.getheader("content-type", "").startswith("text/event-stream")
        assert answer.readline() == b"event: update\n"
        streams.append((connection, answer))
    began = time.monotonic()
    server.send_signal(number)
    said = server.communicate(timeout=10)[0]
    took = time.monotonic() - began
    assert took < 2, took
    assert "Traceback" not in said
    for connection, _ in streams:
        connection.close()


def test_stream_says_when_a_check_is_over(processes: Processes, session: Callable[[str], str]) -> None:
    processes.serve()
    processes.work()
    request = urllib.request.Request(
        f"{processes.address}/papers/coins/check",
        method="POST",
        headers={"Origin": processes.address, "Cookie": f"{SESSION}={session('reader')}"},
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert b"A check is queued" in answer.read()
    with urllib.request.urlopen(f"{processes.address}/papers/coins/events", timeout=30) as stream:
        said = []
        for line in stream:
            said.append(line.decode())
            if line == b"event: ended\n":
                break
    assert "7 of 7" in "".join(said)
    with urllib.request.urlopen(f"{processes.address}/papers/coins.json", timeout=10) as answer:
        assert json.load(answer)["study"]["counts"] == {"holds": 1, "fails": 1}


def test_check_on_postgresql(processes_on_postgresql: Processes) -> None:
    engine = open_database()
    ask(engine, "coins")
    processes_on_postgresql.work()
    processes_on_postgresql.until(lambda: not checks_under_way(engine), 60)
    assert trials(engine, "coins") == list(range(7))
    schemas = {"public": "trials", "dbos": "workflow_status"}
    for schema, table in schemas.items():
        assert sa.inspect(engine).get_table_names(schema).count(table) == 1
    engine.dispose()


# ------------------------------------------------------------------------------------ the browser


def test_reader_checks_a_paper(
    processes: Processes, browser: Browser, hostile_title: str, session: Callable[[str], str]
) -> None:
    processes.serve()
    processes.work()
    context = browser.new_context()
    context.add_cookies([{"name": SESSION, "value": session("curator"), "url": processes.address}])
    page = context.new_page()
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("dialog", lambda dialog: complaints.append(dialog.message))
    foreign: list[str] = []
    page.on(
        "request", lambda sent: None if sent.url.startswith(processes.address) else foreign.append(sent.url)
    )

    page.goto(f"{processes.address}/?field=gating")
    page.get_by_role("link", name=hostile_title).click()
    page.get_by_role("heading", name=hostile_title).wait_for()
    assert page.get_by_role("cell", name="unchecked").count() == 2
    page.get_by_role("button", name="Check now").click()
    # Without a reload: the stream brings the verdicts.
    page.get_by_role("cell", name="holds").wait_for(timeout=30_000)
    page.get_by_role("cell", name="fails").wait_for()
    page.get_by_role("cell", name="7 of 7", exact=True).wait_for()
    page.get_by_role("button", name="Check now").wait_for(timeout=10_000)
    page.locator("figure.own img").scroll_into_view_if_needed()
    processes.until(lambda: page.evaluate("document.querySelector('figure.own img').naturalWidth") > 100)

    page.get_by_role("button", name="Pause").click()
    page.get_by_text("The worker is paused.").wait_for()
    page.get_by_role("button", name="Check now").click()
    # Queued, or, once the worker has taken it up, held before its first trial.
    page.locator("p[data-status]", has_text="when you resume").wait_for()
    page.get_by_role("button", name="Resume").click()
    page.get_by_role("button", name="Check now").wait_for(timeout=15_000)

    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        for width in (375, 1440):
            page.set_viewport_size({"width": width, "height": 900})
            for path in ("/", "/papers/coins", "/source/toystudies.coins"):
                page.goto(processes.address + path)
                wide = page.evaluate("document.documentElement.scrollWidth")
                assert wide <= width, (path, wide)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    assert complaints == []
    assert foreign == []
    context.close()


def test_without_javascript(processes: Processes, browser: Browser) -> None:
    """Somebody alone with the server: a link from its terminal signs them in, and they are its admin."""
    server = processes.serve()
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{processes.address}/papers/coins")
    page.get_by_role("link", name="Sign in to check it now").click()
    page.get_by_label("Your e-mail address").fill("Ada@Example.org")
    page.get_by_role("button", name="Send me a link").click()
    page.get_by_text("The link is in the terminal").wait_for()
    assert server.stdout is not None
    said = next(line for line in server.stdout if line.startswith("sign in"))
    page.goto(said.split()[-1])
    page.get_by_text("You sign in as ada@example.org").wait_for()
    page.get_by_label("Your name").fill("Ada")
    page.get_by_role("button", name="Sign in").click()
    page.get_by_role("link", name="People").wait_for()
    page.get_by_role("button", name="Check now").click()
    page.get_by_text("A check is queued. No worker is running").wait_for()
    context.close()


# ------------------------------------------------------------------------------------ makers


def makers_of(process: subprocess.Popen[str]) -> list[int]:
    """The processes that make lists for the server."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [int(child) for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]


linux = pytest.mark.skipif(
    not Path("/proc/self/task").exists(), reason="asks Linux for the children of a process"
)


@linux
def test_makers_answer_as_the_server_does_and_are_replaced(processes: Processes) -> None:
    def answers() -> list[object]:
        found: list[object] = []
        for path in ("/papers.json?sort=trending", "/papers.json?q=toy", "/?after=nonsense", "/?q=toy"):
            connection = http.client.HTTPConnection("127.0.0.1", processes.port, timeout=60)
            connection.request("GET", path)
            answer = connection.getresponse()
            body = answer.read()
            # Not the evidence: server and makers import the studies each at its own pace.
            papers = json.loads(body)["papers"] if ".json" in path else []
            found += [answer.status, b"toy" in body, *(paper["title"] for paper in papers)]
            connection.close()
        return found

    alone = processes.serve()
    processes.until(lambda: "The toy slow" in answers())
    expected = answers()
    alone.send_signal(signal.SIGTERM)
    alone.communicate(timeout=10)

    server = processes.serve(makers=1)
    assert answers() == expected
    (killed,) = makers_of(server)
    os.kill(killed, signal.SIGKILL)
    assert answers() == expected
    (left,) = makers_of(server)
    assert left != killed
    server.send_signal(signal.SIGTERM)
    said = server.communicate(timeout=10)[0]
    assert "Traceback" not in said
    assert "leaked" not in said
    processes.until(lambda: not Path(f"/proc/{left}").exists())


@linux
def test_makers_end_with_a_server_that_is_killed(processes: Processes) -> None:
    server = processes.serve(makers=1)
    (left,) = makers_of(server)
    server.kill()
    server.communicate(timeout=10)
    processes.until(lambda: not Path(f"/proc/{left}").exists())
