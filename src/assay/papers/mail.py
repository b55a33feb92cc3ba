"""Mail: one message to one person, over SMTP or, where no server is named, as a file in an outbox folder.

`ASSAY_SMTP_URL` names the server: `smtp://user:password@host:587` (TLS by STARTTLS wherever the server has
it, and always where there is a password), `smtps://…` (TLS from the start), or `file:///folder` for an outbox
elsewhere than beside the database. `ASSAY_MAIL_FROM` is the sender, such as `assay <papers@example.org>`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from email import policy
from email.errors import MessageError
from email.headerregistry import Address, HeaderRegistry, UnstructuredHeader
from email.message import EmailMessage
from email.utils import localtime, make_msgid, parseaddr
from pathlib import Path
from typing import Literal
from urllib.parse import SplitResult, unquote, urlsplit
from urllib.request import url2pathname

from assay.database import database_url

SECONDS = 30.0
"""How long to wait for the server at each step of the conversation."""

_PORTS = {"smtp": 25, "smtps": 465}
_LONGEST = 254  # characters of an address, RFC 5321
_ADDRESS = re.compile(
    r"(?P<local>[a-z0-9!#$%&'*+/=?^_`{|}~-]+(?:\.[a-z0-9!#$%&'*+/=?^_`{|}~-]+)*)"
    r"@(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)*[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?",
    re.ASCII,
)


Outcome = Literal["not sent", "refused", "unknown"]


class MailError(OSError):
    """The message was not handed over, or nobody knows.

    `outcome` is "not sent" where trying again later is safe and may help (the server was away, or said so),
    "refused" where it would be refused again, and "unknown" where the server may have taken it.
    """

    def __init__(self, sentence: str, outcome: Outcome = "not sent") -> None:
        super().__init__(sentence)
        self.outcome = outcome


def address(text: str) -> str:
    """The e-mail address in the one spelling by which people are known: trimmed and in small letters.

    Raises ValueError with one sentence for what is no single address.

    >>> address(" Ada@Example.org ")
    'ada@example.org'
    """
    spelled = text.strip().lower()
    found = _ADDRESS.fullmatch(spelled)
    if found is None or len(spelled) > _LONGEST or len(found["local"]) > 64:
        raise ValueError(f"an e-mail address is to look like ada@example.org, got {text[:80]!r}")
    return spelled


def message(
    *, to: str, subject: str, text: str, html: str | None = None, headers: Mapping[str, str] | None = None
) -> EmailMessage:
    """A message to one address, ready for `send`.

    Whatever `to`, `subject` and the values of `headers` hold, they become no header or recipient of their
    own: a subject loses its line breaks, an address or value with one raises ValueError.
    """
    made = EmailMessage(policy=_POLICY)
    made["From"] = _sender()
    made["To"] = Address(addr_spec=address(to))
    made["Subject"] = " ".join("".join(c if c.isprintable() else " " for c in subject).split())
    made["Date"] = localtime()
    made["Message-ID"] = make_msgid(domain=made["From"].addresses[0].domain)
    made["Auto-Submitted"] = "auto-generated"
    for name, value in (headers or {}).items():
        made[name] = value
    made.set_content(text, cte="quoted-printable")
    if html is not None:
        made.add_alternative(html, subtype="html", cte="quoted-printable")
    return made


def send(message: EmailMessage) -> None:
    """Hand the message over; it is the server's, or lies in the outbox, when this returns.

    Raises `MailError`. Blocks: in a coroutine, call it by `asyncio.to_thread`.
    """
    given = os.environ.get("ASSAY_SMTP_URL", "").strip()
    try:
        url = urlsplit(given)
        port = url.port or _PORTS.get(url.scheme, 0)
    except ValueError:  # half an IPv6 address, or a port that is none
        url, port = urlsplit("none:"), 0
    if not given:
        _file(message, _outbox())
    elif url.scheme == "file" and url.path:
        _file(message, Path(url2pathname(url.path)))
    elif url.scheme in _PORTS and url.hostname:
        asyncio.run(_submit(message, url, port))
    else:  # the value may hold a password, so it is not shown
        raise MailError(
            "ASSAY_SMTP_URL is to be like smtp://user:password@mail.example.org:587, smtps://… "
            "or file:///folder"
        )


class _Verbatim(UnstructuredHeader):
    """A header that is never folded: Python would encode an address that is longer than a line."""

    max_count = 1

    def fold(self, *, policy: policy.Policy) -> str:
        name: str = self.name  # type: ignore[attr-defined]  # the registry mixes in the class that has it
        return f"{name}: {self}{policy.linesep}"


_REGISTRY = HeaderRegistry()
_REGISTRY.map_to_type("list-unsubscribe", _Verbatim)  # type: ignore[arg-type]
_POLICY = policy.EmailPolicy(linesep="\r\n", header_factory=_REGISTRY)


def _sender() -> Address:
    given = os.environ.get("ASSAY_MAIL_FROM", "").strip() or "assay <assay@localhost>"
    name, spec = parseaddr(given)
    try:
        return Address(name, addr_spec=address(spec))
    except ValueError as error:
        raise MailError(
            f"ASSAY_MAIL_FROM is to be a sender like assay <papers@example.org>, got {given!r}"
        ) from error


def _outbox() -> Path:
    url = database_url()
    if url.get_backend_name() == "sqlite":
        assert url.database is not None
        return Path(url.database).with_name("outbox")
    import platformdirs

    return Path(platformdirs.user_data_dir("assay")) / "outbox"


def _file(message: EmailMessage, folder: Path) -> None:
    """Write the message into the folder: whole or not at all, and for the owner's eyes, as it may hold a
    link that signs somebody in."""
    name = f"{datetime.now(UTC):%Y%m%dT%H%M%S.%f}-{secrets.token_hex(4)}.eml"
    partial = folder / f"{name}.partial"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(message.as_bytes())
            file.flush()
            os.fsync(file.fileno())
        partial.rename(folder / name)
    except OSError as error:
        raise MailError(f"cannot write into the outbox {folder}: {error.strerror}") from error


async def _submit(message: EmailMessage, url: SplitResult, port: int) -> None:
    import aiosmtplib

    username, password = (unquote(part) if part else None for part in (url.username, url.password))
    server = aiosmtplib.SMTP(
        hostname=url.hostname,
        port=port,
        username=username,
        password=password,
        use_tls=url.scheme == "smtps",
        # None is: where the server offers it. A password is never sent in the clear.
        start_tls=True if password and url.scheme == "smtp" else None,
        timeout=SECONDS,
    )
    place = f"the mail server {url.hostname}:{port}"
    try:
        await server.connect()
    except (aiosmtplib.SMTPException, OSError) as error:
        raise MailError(f"{place} cannot be used: {error}") from error
    try:
        await server.send_message(message)
    except aiosmtplib.SMTPRecipientsRefused as error:
        refused = error.recipients[0]
        raise MailError(f"{place} refused the address: {refused}", _outcome(refused.code)) from error
    except aiosmtplib.SMTPResponseException as error:
        raise MailError(f"{place} refused the message: {error}", _outcome(error.code)) from error
    except (aiosmtplib.SMTPException, MessageError, OSError) as error:
        # It may have been taken: the line broke before the server said so, or after.
        raise MailError(f"{place} did not say whether it took the message: {error}", "unknown") from error
    finally:
        with contextlib.suppress(aiosmtplib.SMTPException, OSError):
            await server.quit()


def _outcome(code: int) -> Outcome:
    return "not sent" if code < 500 else "refused"
