"""Whatever a program sends, no route fails; and what the read API's description says is so."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import schemathesis
import sqlalchemy as sa
from fastapi import FastAPI
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from assay import studies
from assay.web.api import document
from assay.web.app import create_app
from assay.web.guard import SESSION, Limits

HEADERS = {"Host": "127.0.0.1:8000", "Origin": "http://127.0.0.1:8000"}

THOROUGH = settings(
    max_examples=5,
    deadline=None,
    derandomize=True,  # a run that fails is to fail again
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture
def app(engine: sa.Engine, outbox: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FastAPI]:
    monkeypatch.setattr(studies, "slugs", lambda: ["coins", "crash", "lacking"])
    monkeypatch.setattr(Limits, "spend", lambda *_: None)
    app = create_app(engine)
    with TestClient(app, raise_server_exceptions=False):
        yield app


def fuzz(schema: Any, app: FastAPI, **call: Any) -> None:
    """Call every operation of the schema with what fits it and with what does not."""
    schema.app = app
    for found in schema.get_all_operations():
        for mode in schemathesis.GenerationMode:

            @THOROUGH
            @given(case=found.ok().as_strategy(generation_mode=mode))
            def stands(case: schemathesis.Case) -> None:
                case.call_and_validate(headers=HEADERS, **call)

            with suppress(Unsatisfiable):  # it takes nothing that could be wrong
                stands()


def test_the_read_api_is_as_it_says(app: FastAPI) -> None:
    # Nor more than that: a schema cannot say, for example, that a day and a week exclude each other.
    checks = [
        not_a_server_error,
        status_code_conformance,
        content_type_conformance,
        response_schema_conformance,
    ]
    fuzz(schemathesis.openapi.from_dict(document()), app, checks=checks)


def test_no_route_fails_an_admin(app: FastAPI, session: Callable[[str], str]) -> None:
    # All routes, those with forms too; but streams have no end, and signing out would be the end of it.
    schema = schemathesis.openapi.from_dict(app.openapi()).exclude(path_regex="(/events|/sign-out)$")
    fuzz(schema, app, cookies={SESSION: session("admin")}, checks=[not_a_server_error])
