"""Similar papers on a paper's page, and the index that the server keeps fresh by itself."""

from __future__ import annotations

import sqlalchemy as sa
from fastapi.testclient import TestClient

from assay.papers.search import Search
from assay.web.app import create_app


def test_a_page_shows_similar_papers_once_the_server_has_indexed_them(engine: sa.Engine, processes) -> None:
    with TestClient(create_app(engine), base_url="http://127.0.0.1:8000") as client:
        processes.until(lambda: Search(engine).waiting() == 0)
        page = client.get("/papers/gui_g1").text
        similar = page.partition('id="similar"')[2]
        assert 'href="/papers/gui_g2"' in similar
        twin = client.get("/papers/gui_g1.json").json()["similar"]
        assert twin[0]["address"] == "/papers/gui_g2.json"
        assert len(twin) == 5
        # A title from elsewhere is text, whatever it looks like.
        assert "<script>alert" not in client.get("/papers/slow").text


def test_without_an_index_a_page_shows_no_similar_papers(engine: sa.Engine) -> None:
    client = TestClient(create_app(engine), base_url="http://127.0.0.1:8000")  # not started: indexes nothing
    assert 'id="similar"' not in client.get("/papers/gui_g1").text
    assert client.get("/papers/gui_g1.json").json()["similar"] == []
