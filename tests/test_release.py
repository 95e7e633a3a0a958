"""What the documents say is what the program is."""

import os
import re
import subprocess

import pytest

import edge_app

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(edge_app.__file__)))


def text(*path):
    with open(os.path.join(ROOT, *path), encoding="utf-8") as file:
        return file.read()


def documents():
    for folder in ("", "docs", os.path.join("docs", "decisions"), "deploy", "engines"):
        for name in sorted(os.listdir(os.path.join(ROOT, folder))):
            if name.endswith(".md"):
                yield os.path.join(folder, name)


def test_the_changelog_begins_with_this_version():
    assert re.search(r"^## (\S+)", text("CHANGELOG.md"), re.M).group(1) == edge_app.__version__


@pytest.mark.parametrize("document", list(documents()))
def test_every_make_target_a_document_names_exists(document):
    targets = set(re.findall(r"^([a-z0-9-]+):", text("Makefile"), re.M))
    named = set(re.findall(r"`make ([a-z0-9-]+)", text(document)))
    named |= set(re.findall(r"^ *make ([a-z0-9-]+)", text(document), re.M))
    assert named <= targets


@pytest.mark.parametrize("document", list(documents()))
def test_every_link_within_the_project_leads_somewhere(document):
    for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text(document)):
        assert os.path.exists(os.path.join(ROOT, os.path.dirname(document), link)), link


def test_architecture_names_every_module_of_the_path():
    written = text("ARCHITECTURE.md")
    for name in sorted(os.listdir(os.path.join(ROOT, "edge_app"))):
        if name.endswith(".py") and not name.startswith("__"):
            assert "`{}`".format(name[:-3]) in written or "edge_app/{}`".format(name) in written, name


def test_help_lists_every_target():
    listed = subprocess.check_output(["make", "-s", "-C", ROOT, "help"]).decode().splitlines()
    makefile = text("Makefile").replace("\\\n", "")
    phony = re.search(r"^\.PHONY: (.*)$", makefile, re.M).group(1).split()
    assert sorted(line.split()[0] for line in listed) == sorted(phony)


def test_continuous_integration_runs_the_same_command():
    assert re.search(r"^EDGE_APP_CI=1 make test$", text(".ci", "run"), re.M)


def test_no_model_is_committed_without_its_card_or_with_another():
    from edge_app.card import card_path, load_card, verify_model

    folder = os.path.join(ROOT, "engines")
    for name in sorted(os.listdir(folder)):
        if name.endswith(".onnx"):
            path = os.path.join(folder, name)
            card = load_card(card_path(path))
            verify_model(card, path)
            assert "non-commercial" in card.licence
