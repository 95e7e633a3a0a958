"""What looks like a password in a text, found and hidden: the one home of that question."""

import re
from typing import List, Match, NamedTuple

HIDDEN = "***"

# The authority of a URI, up to the last @ before a space or a quote: people do not escape the / in theirs.
_LOGIN = re.compile(r"(?<=://)([^:@/\s\"']*):([^\s\"']*)@")
_USER = re.compile(r"(?<=://)[^:@/\s\"']+@")  # without a password it may be a token
# GStreamer's user-pw=, a camera's &psw=, JSON, YAML; the value may be quoted, the quote escaped.
# A file "mqtt.password: Permission denied" is none.
_NAME = (
    r"(?:token|passw(?:or)?d|passphrase|secret|psw|pwd|api[_-]?key|(?<![a-z])(?:pass|pw|loginpas))"
    r"[\"']?[ \t]*"
)
_NAMED = re.compile(
    r"(?i)((?:{0}=|(?<![./]){0}:)[ \t]*(?:\(\w+\)[ \t]*)?)".format(_NAME)
    + r"(?:(\\?[\"'])(.*?)(?<!\\)\2|(\\?[\"'])?((?:\\.|[^\s\"'&\\])+))"
)
_HEADER = re.compile(r"(?im)^(.*\b(?:authorization|cookie)\b[\"']?[ \t]*[:=]).*$")


class Login(NamedTuple):
    """A password, and whose it is where that is known; as they stand in the text."""

    user: str
    password: str


def hide(text: str) -> str:
    """The text with ``***`` in the place of what looks like a password; a second time changes nothing."""
    text = _LOGIN.sub(r"\1:{}@".format(HIDDEN), text)
    text = _USER.sub(HIDDEN + "@", text)
    text = _NAMED.sub(_hidden, text)
    return _HEADER.sub(r"\1 " + HIDDEN, text)


def logins(text: str) -> List[Login]:
    """Every password in a text, of its URIs first."""
    found = [Login(*match.groups()) for match in _LOGIN.finditer(text)]
    found += [Login("", match.group(3) or match.group(5) or "") for match in _NAMED.finditer(text)]
    return [login for login in found if login.password]


def _hidden(match: Match[str]) -> str:
    opened = match.group(2) or match.group(4) or ""
    return match.group(1) + opened + HIDDEN + (match.group(2) or "")
