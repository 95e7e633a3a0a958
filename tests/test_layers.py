"""Imports point one way, and importing needs nothing heavy."""

import ast
import os
import subprocess
import sys

import pytest

import edge_app

ROOT = os.path.dirname(edge_app.__file__)
HEAVY = ("cv2", "gi", "onnxruntime", "tensorrt", "pycuda", "aiohttp", "yaml", "jetson_utils", "onnx")


def modules():
    for folder, _, files in os.walk(ROOT):
        for name in sorted(files):
            if name.endswith(".py"):
                path = os.path.join(folder, name)
                dotted = os.path.relpath(path, os.path.dirname(ROOT))[:-3].replace(os.sep, ".")
                yield dotted, path


def imports(path, top_level_only=False):
    with open(path, encoding="utf-8") as file:
        tree = ast.parse(file.read())
    for node in tree.body if top_level_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield "{}.{}".format(node.module, alias.name)


@pytest.mark.parametrize("name, path", list(modules()))
def test_heavy_libraries_are_imported_where_they_are_opened(name, path):
    top = [one.split(".")[0] for one in imports(path, top_level_only=True)]
    assert not set(top) & set(HEAVY)


@pytest.mark.parametrize("name, path", list(modules()))
def test_the_path_never_imports_what_plugs_into_it(name, path):
    is_plugin = name.startswith(("edge_app.nvidia", "edge_app.appliance"))
    if is_plugin or name in ("edge_app.cli", "edge_app.__main__"):
        return
    for one in imports(path):
        assert one.split(".")[1:2] not in (["nvidia"], ["appliance"], ["cli"]), one


@pytest.mark.parametrize("name, path", list(modules()))
def test_nothing_reaches_for_the_training(name, path):
    assert not [one for one in imports(path) if one.split(".")[0] in ("training", "torch")]


def test_there_is_no_circle():
    graph = {name: set() for name, _ in modules()}
    for name, path in modules():
        for one in imports(path, top_level_only=True):
            for target in (one, one.rpartition(".")[0]):
                if target in graph:
                    graph[name].add(target)
    while graph:
        free = [name for name, needs in graph.items() if not needs]
        assert free, "these import each other: {}".format(sorted(graph))
        for name in free:
            del graph[name]
        for needs in graph.values():
            needs.difference_update(free)


def test_every_module_imports_with_the_heavy_libraries_blocked():
    script = "import sys\nfor name in {!r}: sys.modules[name] = None\n".format(HEAVY)
    for name, _ in modules():
        if not name.endswith("__main__"):
            script += "import {}\n".format(name.replace(".__init__", ""))
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
