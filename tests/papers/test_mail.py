from __future__ import annotations

import email
import email.policy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from assay.papers import mail

if TYPE_CHECKING:
    from conftest import MailServer


def made(**values: Any) -> mail.EmailMessage:
    return mail.message(**({"to": "ada@example.org", "subject": "Papers", "text": "Read this."} | values))


def read(content: bytes) -> Any:
    return email.message_from_bytes(content, policy=email.policy.default)


def test_without_a_server_mail_is_a_file_that_only_the_owner_reads(tmp_path: Path) -> None:
    mail.send(made(subject="Größe", text="ü" * 200, html="<p>ü</p>"))
    (file,) = (tmp_path / "outbox").iterdir()
    assert file.suffix == ".eml"
    assert (file.stat().st_mode & 0o777, file.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    found = read(file.read_bytes())
    assert (found["to"], found["subject"]) == ("ada@example.org", "Größe")
    assert found.get_body(("plain",)).get_content().strip() == "ü" * 200
    assert found.get_body(("html",)).get_content().strip() == "<p>ü</p>"
    assert all(len(line) <= 78 and line.isascii() for line in file.read_bytes().splitlines())


def test_a_server_gets_the_message_for_one_person(
    mail_server: MailServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ASSAY_MAIL_FROM", "The lab's papers <papers@example.org>")
    mail.send(made(to=" Ada@Example.ORG", html="<p>Read this.</p>"))
    ((recipient, content),) = mail_server.received
    found = read(content)
    assert recipient == found["to"] == "ada@example.org"
    assert found["from"].addresses[0].addr_spec == "papers@example.org"
    assert found["message-id"].endswith("@example.org>")
    assert found.get_content_type() == "multipart/alternative"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ada",
        "ada@",
        "@example.org",
        "ada@example..org",
        "ada@example.org, eve@example.org",
        "ada@example.org\nBcc: eve@example.org",
        "ada@example.org\r\n",
        "Ada <ada@example.org>",
        '"ada eve"@example.org',
        "ada@[127.0.0.1]",
        "ada@exämple.org",
        "ada@example.org\x00",
        f"{'a' * 65}@example.org",
        f"ada@{'a.' * 130}org",
    ],
)
def test_what_is_no_single_address_is_refused(text: str) -> None:
    if text.strip() == "ada@example.org":
        assert mail.address(text) == "ada@example.org"
        return
    with pytest.raises(ValueError, match="an e-mail address is to look like"):
        made(to=text)


@pytest.mark.parametrize("line_break", ["\r\n", "\n", "\r", "\u2028", "\x0b", "\x00"])
def test_no_header_can_be_injected(mail_server: MailServer, line_break: str) -> None:
    hostile = f"Papers{line_break}Bcc: eve@example.org{line_break}{line_break}<p>Hello"
    mail.send(made(subject=hostile, text=hostile))
    ((recipient, content),) = mail_server.received
    found = read(content)
    assert (recipient, found["bcc"]) == ("ada@example.org", None)
    assert found["subject"] == "Papers Bcc: eve@example.org <p>Hello"
    if line_break in "\r\n":
        with pytest.raises(ValueError, match="linefeed or carriage return"):
            made(headers={"List-Id": hostile})


def test_the_address_to_unsubscribe_at_is_never_encoded(mail_server: MailServer) -> None:
    address = f"<https://papers.{'long-name.' * 10}example.org/digest/{'x' * 40}>"
    mail.send(made(headers={"List-Unsubscribe": address}))
    assert f"\r\nList-Unsubscribe: {address}\r\n".encode() in mail_server.received[0][1]


def failed() -> mail.MailError:
    with pytest.raises(mail.MailError) as caught:
        mail.send(made())
    return caught.value


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [("550 No such person", "refused"), ("451 Come back later", "not sent"), ("452 Full", "not sent")],
)
def test_a_refusal_says_whether_to_try_again(mail_server: MailServer, answer: str, outcome: str) -> None:
    mail_server.answers["ada@example.org"] = answer
    error = failed()
    assert error.outcome == outcome
    assert answer[4:] in str(error)
    assert mail_server.received == []


def test_a_server_that_is_away_has_taken_nothing(mail_server: MailServer) -> None:
    mail_server.stop()
    error = failed()
    assert error.outcome == "not sent"
    assert "127.0.0.1" in str(error)


def test_nobody_knows_of_a_message_whose_answer_was_cut_off(mail_server: MailServer) -> None:
    mail_server.hangs_up = True
    assert failed().outcome == "unknown"


def test_a_password_is_not_sent_in_the_clear(
    mail_server: MailServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ASSAY_SMTP_URL", mail_server.url.replace("//", "//ada:secret@"))
    error = failed()
    assert error.outcome == "not sent"
    assert "STARTTLS" in str(error)
    assert "secret" not in str(error)
    assert mail_server.received == []


@pytest.mark.parametrize(
    "url", ["mail.example.org", "http://mail.example.org", "smtp://", "file:", "smtp://a:99999", "smtp://[a"]
)
def test_what_names_no_server_is_said_in_one_sentence(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASSAY_SMTP_URL", url)
    assert "ASSAY_SMTP_URL" in str(failed())


def test_a_sender_that_is_none_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASSAY_MAIL_FROM", "the lab")
    with pytest.raises(mail.MailError, match="ASSAY_MAIL_FROM is to be a sender"):
        made()


def test_an_outbox_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("ASSAY_SMTP_URL", (tmp_path / "file" / "outbox").as_uri())
    assert "cannot write into the outbox" in str(failed())
