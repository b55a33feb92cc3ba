"""What makes two mentions one paper: the arXiv id without its version, else the letters of the title."""

from __future__ import annotations

import re
import unicodedata

_ARXIV_ID = re.compile(
    r"""(?: (?:https?://)? (?:[a-z]+\.)? (?: arxiv\.org/(?:abs|pdf|html|format)/ | huggingface\.co/papers/ )
          | /papers/ | arxiv: \s* )?
        (?P<id> \d{4}\.\d{4,5} | (?P<archive>[a-z]+(?:-[a-z]+)?) (?:\.[a-z]{2})? / (?P<number>\d{7}) )
        (?:v\d+)? (?:\.pdf)? /? (?:[?\#].*)?""",
    re.VERBOSE | re.IGNORECASE,
)


def arxiv_id(text: str) -> str | None:
    """The arXiv id in `text`, an id or the address of its page, without version; None if it is neither.

    Ids from before April 2007 lose their subject class, which arXiv itself holds for optional.

    >>> arxiv_id("https://arxiv.org/abs/2405.14124v2"), arxiv_id("cs.AI/0112017"), arxiv_id("norga")
    ('2405.14124', 'cs/0112017', None)
    """
    found = _ARXIV_ID.fullmatch(text.strip())
    if found is None:
        return None
    if found["archive"]:
        return f"{found['archive'].lower()}/{found['number']}"
    return found["id"]


def title_key(title: str) -> str:
    """The letters and digits of a title, compatibility forms and case folded: equal for equal titles.

    >>> title_key("GUI-G²: Gaussian  Reward Modeling") == title_key("GUI-G^2 gaussian reward modeling")
    True
    """
    folded = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", title).casefold())
    # A title without any letter or digit still has to differ from other such titles.
    return "".join(character for character in folded if character.isalnum()) or folded.strip()
