"""What the page asks of the worker: checks, kept by DBOS until they are done, and the pause."""

from __future__ import annotations

import json
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import sqlalchemy as sa

from assay.database import write
from assay.papers import sources
from assay.papers.people import TAKE_IN

if TYPE_CHECKING:
    from dbos import DBOSClient

APPLICATION = "assay"
QUEUE = "checks"
WORKFLOW = "check"
EXECUTOR = "assay-worker"
VERSION = "1"
"""The version of the workflow's steps, not of the release: an upgrade must not strand what is queued."""

ABSENT_AFTER = 10.0
"""Seconds without a sign of life after which the page says that no worker runs."""

metadata = sa.MetaData()

controls = sa.Table(
    "controls",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)


def workflows_url(engine: sa.Engine) -> str:
    """Where DBOS keeps its tables: a file of its own beside an SQLite ledger, in PostgreSQL a schema."""
    url = engine.url
    if url.get_backend_name() == "sqlite":
        assert url.database is not None
        path = Path(url.database).absolute()
        url = url.set(database=str(path.with_name(f"{path.stem}-workflows.sqlite")))
    return url.render_as_string(hide_password=False)


class QuotaSpent(RuntimeError):
    """The person has asked for as many checks as one may in a day."""


class Controls:
    """The words that page and worker exchange in the database: paused or not, what is being checked."""

    def __init__(self, engine: sa.Engine) -> None:
        self.engine = engine

    @property
    def paused(self) -> bool:
        return self._words().get("paused") == "yes"

    @paused.setter
    def paused(self, value: bool) -> None:
        self._write("paused", "yes" if value else "no")

    def report(self, study: str | None) -> None:
        """The worker's sign of life: `study` is what it is checking."""
        self._write("worker", json.dumps({"at": time.time(), "study": study}))

    def leave(self) -> None:
        """The worker's last word."""
        self._write("worker", json.dumps({"at": 0.0, "study": None}))

    def as_json(self) -> dict[str, Any]:
        """The state of the worker as plain data: whether it runs, is paused, and the study that it checks."""
        words = self._words()
        said = json.loads(words.get("worker", '{"at": 0, "study": null}'))
        present = time.time() - said["at"] < ABSENT_AFTER
        paused = words.get("paused") == "yes"
        return {"running": present, "paused": paused, "study": said["study"] if present else None}

    def _words(self) -> dict[str, str]:
        with self.engine.connect() as connection:
            rows = connection.execute(sa.select(controls.c.name, controls.c.value)).all()
        return {row.name: row.value for row in rows}

    def _write(self, name: str, value: str) -> None:
        with write(self.engine) as connection:
            update = controls.update().where(controls.c.name == name).values(value=value)
            if connection.execute(update).rowcount == 0:
                connection.execute(controls.insert().values(name=name, value=value))


class Checks:
    """The queue of checks as the server sees it. Only the worker launches DBOS; this is a client of it."""

    def __init__(self, engine: sa.Engine) -> None:
        self._url = workflows_url(engine)
        self._lock = threading.Lock()
        self._asking = threading.Lock()
        self._known_client: DBOSClient | None = None

    def start(self, slug: str, person_id: int, *, quota: int | None = None) -> None:
        """Queue a check of the study; one that is queued or running already is enough.

        Raises `QuotaSpent` where the person has asked for `quota` checks within a day already.
        """
        client = self._client()
        with self._asking:  # two requests at once must not both have the last check
            if quota is not None and slug not in self.under_way():
                since = datetime.now(UTC) - timedelta(days=1)
                asked = client.list_workflows(
                    name=WORKFLOW,
                    user=str(person_id),
                    start_time=since.isoformat(),
                    load_input=False,
                    load_output=False,
                )
                if len(asked) >= quota:
                    raise QuotaSpent
            client.enqueue(
                {
                    "workflow_name": WORKFLOW,
                    "queue_name": QUEUE,
                    "app_version": VERSION,
                    "deduplication_id": slug,
                    "duplication_policy": "return-existing",
                    "authenticated_user": str(person_id),
                },
                slug,
            )

    def cancel(self, slug: str) -> bool:
        """End the check of the study, queued or running; what it has measured stays. False without one."""
        found = self._client().list_workflows(
            queue_name=QUEUE, status=["ENQUEUED", "PENDING"], load_input=False, load_output=False
        )
        own = [workflow.workflow_id for workflow in found if workflow.deduplication_id == slug]
        for workflow_id in own:
            self._client().cancel_workflow(workflow_id)
        return bool(own)

    def take_in(self, submission_id: int) -> None:
        """Have the worker fetch a paper that somebody handed in."""
        self._client().enqueue(
            {
                "workflow_name": TAKE_IN,
                "queue_name": sources.QUEUE,
                "app_version": VERSION,
                "workflow_id": f"submission-{submission_id}",  # asked for again, it is still one
            },
            submission_id,
        )

    def under_way(self) -> dict[str, Literal["queued", "running"]]:
        """The slugs of the studies whose check is queued or running."""
        found = self._client().list_workflows(
            queue_name=QUEUE, status=["ENQUEUED", "PENDING"], load_input=False, load_output=False
        )
        return {
            workflow.deduplication_id: "queued" if workflow.status == "ENQUEUED" else "running"
            for workflow in found
            if workflow.deduplication_id is not None
        }

    def close(self) -> None:
        """Give back the connections."""
        with self._lock:
            if self._known_client is not None:
                self._known_client.destroy()
                self._known_client = None

    def _client(self) -> DBOSClient:
        with self._lock:
            if self._known_client is None:
                from dbos import DBOS, DBOSClient

                DBOS.migrate(self._url)  # a client does not, and the worker may not have been there yet
                self._known_client = DBOSClient(
                    system_database_url=self._url,
                    application_name=APPLICATION,
                    retry_connection_errors=False,
                )
            return self._known_client
