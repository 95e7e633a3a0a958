"""What looks like a password in a text, found and hidden: the one home of that question."""

import re
from typing import List, Match, NamedTuple, Tuple

HIDDEN = "***"

_WORD = re.compile(r"[^\s\"']+")
_USER_END = re.compile(r"[:@/]")
# GStreamer's user-pw=, a camera's &psw=, JSON, YAML; the value may be quoted, the quote escaped.
# A file "mqtt.password: Permission denied" is none.
_NAME = (
    r"(?:token|passw(?:or)?d|passphrase|secret|psw|pwd|api[_-]?key|(?<![a-z])(?:pass|pw|loginpas))"
    r"[\"']?[ \t]*"
)
_NAMED = re.compile(
    r"(?i)((?:{0}=|(?<![./]){0}:)[ \t]*(?:\(\w+\)[ \t]*)?)".format(_NAME)
    + r"(?:(\\?[\"'])(.{0,1000}?)(?<!\\)\2|(\\?[\"'])?((?:\\.|[^\s\"'&\\])+))"
)
_HEADER = re.compile(r"(?im)^(.*\b(?:authorization|cookie)\b[\"']?[ \t]*[:=]).*$")


class Login(NamedTuple):
    """A password, and whose it is where that is known; as they stand in the text."""

    user: str
    password: str


def hide(text: str) -> str:
    """The text with ``***`` in the place of what looks like a password; a second time changes nothing."""
    text = _WORD.sub(lambda match: _without_login(match.group()), text)
    text = _NAMED.sub(_hidden, text)
    return _HEADER.sub(r"\1 " + HIDDEN, text)


def logins(text: str) -> List[Login]:
    """Every password in a text, of its URIs first."""
    found = []
    for word in _WORD.findall(text):
        start, end, at = _login(word)
        if end < at:
            found.append(Login(word[start:end], word[end + 1 : at]))
    found += [Login("", match.group(3) or match.group(5) or "") for match in _NAMED.finditer(text)]
    return [login for login in found if login.password]


def _without_login(word: str) -> str:
    start, end, at = _login(word)
    if end < at:
        return word[: end + 1] + HIDDEN + word[at:]
    return word[:start] + HIDDEN + word[at:] if start < at else word


def _login(word: str) -> Tuple[int, int, int]:
    """Where the user of a URI begins and ends, and where its password does; the same place thrice: none.

    A password ends at the last @: people do not escape the / and @ in theirs. Without one the user may
    be a token, and ends there.
    """
    at = word.rfind("@")
    start = word.find("://") + 3
    while 3 <= start <= at:
        end = _USER_END.search(word, start)
        if end is not None and end.group() == ":":
            return start, end.start(), at
        if end is not None and end.group() == "@":
            return start, at, at
        start = word.find("://", start) + 3
    return 0, 0, 0


def _hidden(match: Match[str]) -> str:
    opened = match.group(2) or match.group(4) or ""
    return match.group(1) + opened + HIDDEN + (match.group(2) or "")
