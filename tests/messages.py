"""Every message of the program and of deploy/ that tells of a problem, read out of the source.

What changes from time to time in a message is written as an ellipsis: ``…: no frame for … s``.
"""

import ast
import os
import re

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
ANY = "…"
# Raised for us, not for people: the normal end of something, or what a type cannot do.
_NOT_FOR_PEOPLE = (
    "EndOfStream",
    "SlotClosed",
    "NotImplementedError",
    "ArgumentTypeError",
    "StageError",
)
_LOUD = ("warning", "error", "exception", "critical")
_PROBLEM = re.compile(r"\b(no|not|cannot|failed|missing|without|is (?:full|gone))\b", re.IGNORECASE)
_LETTERS = 8  # a template with fewer only passes on what somebody else says


class Message:
    """A message: its text with ellipses, and where it stands."""

    def __init__(self, text, path, line):
        self.text = " ".join(text.split())
        self.place = "{}:{}".format(os.path.relpath(path, ROOT), line)


def says_something(text):
    """Whether a text has words of its own besides the ellipses."""
    return len(re.findall(r"[A-Za-z]", text)) >= _LETTERS


def collect():
    """Every message of edge_app/ and deploy/ that says something."""
    found = []
    for top in ("edge_app", "deploy"):
        for folder, _, names in os.walk(os.path.join(ROOT, top)):
            for name in sorted(names):
                path = os.path.join(folder, name)
                if name.endswith(".py"):
                    found += _of_python(path)
                elif name.endswith(".sh"):
                    found += _of_shell(path)
    told = {message.text: message for message in reversed(found)}
    return sorted(
        (message for message in told.values() if says_something(message.text)),
        key=lambda message: message.place,
    )


def _of_python(path):
    with open(path, encoding="utf-8") as file:
        tree = ast.parse(file.read())
    constants = {}
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            constants[node.targets[0].id] = template(node.value, constants)
    for node in ast.walk(tree):
        for argument in _told(node):
            yield Message(template(argument, constants), path, node.lineno)


def _told(node):
    """The expressions of a node that become a message."""
    if isinstance(node, ast.Raise) and isinstance(
        node.exc, ast.Call
    ):  # an error, or what makes one
        return () if _is_for_us(node.exc) else node.exc.args
    if isinstance(node, ast.Call) and re.search("(Error|Refused)$", _name(node.func)):
        return () if _is_for_us(node) else node.args
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        owner, method = _name(node.func.value), node.func.attr
        if owner in ("log", "_LOG", "logging") and method in _LOUD:
            return node.args[:1]
        if owner in ("log", "_LOG") and method == "log" and "WARNING" in ast.dump(node.args[0]):
            return node.args[1:2]
        if owner == "problems" and method == "append":  # joined and raised at the end
            return node.args
    return ()


def _is_for_us(call):
    return _name(call.func) in _NOT_FOR_PEOPLE


def _name(node):
    return getattr(node, "id", getattr(node, "attr", ""))


def template(node, constants):
    """An expression that makes a text, with an ellipsis for whatever is only known when it runs."""
    if isinstance(node, ast.Name):
        return constants.get(node.id, ANY)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return template(node.left, constants) + template(node.right, constants)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mod):
        return _without_percents(template(node.left, constants))
    if isinstance(node, ast.JoinedStr):
        return "".join(template(part, constants) for part in node.values)
    if isinstance(node, ast.Call) and _name(node.func) == "format":
        return re.sub(r"\{[^{}]*\}", ANY, template(node.func.value, constants))
    text = getattr(node, "s", None)  # a constant; ast.Str until Python 3.7
    if not isinstance(text, str):
        text = getattr(node, "value", None) if type(node).__name__ == "Constant" else None
    return _without_percents(text) if isinstance(text, str) else ANY


def _without_percents(text):
    return re.sub(r"%(\.\d+)?[sdfgr]", ANY, text)


def _of_shell(path):
    """What a script says by die with a status or by trouble, gives as a reason, or tells of a problem by echo."""
    with open(path, encoding="utf-8") as file:
        lines = file.read().splitlines()
    for number, line in enumerate(lines, 1):
        for dies, said in re.findall(r'\b(?:(die [1-9]\d* |why=|trouble )|echo )"([^"]*)', line):
            if dies or _PROBLEM.search(said):
                yield Message(
                    re.sub(r"\$(\{[^}]*\}|\(\([^)]*\)\)|\([^)]*\)?|\w+|[@*#?])", ANY, said),
                    path,
                    number,
                )
