"""CONTRIBUTING.md is true: its examples run, its map shows what is there, and what it quotes stands in the code."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import kdtutor

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


def test_its_examples_run_one_after_the_other(capsys):
    names = {"__name__": "examples"}
    for block in blocks("python"):
        exec(block, names)
    said = capsys.readouterr().out
    assert "'BothWays':" in said, "the new term has a loss at every step"
    assert names["student"].config.num_attention_heads == 1
    assert "which of the two is divided by which?" in said, "the new exercise recognises its mistake"


def test_the_setting_it_quotes_stands_in_the_code():
    [quoted] = [block for block in blocks("text") if "setting(" in block]
    assert quoted in (ROOT / "kdtutor" / "training" / "settings.py").read_text(encoding="utf-8")


def test_its_map_has_a_line_for_every_part_of_the_package():
    [tree] = [block for block in blocks("text") if block.startswith("kdtutor/")]
    named = re.findall(r"^  ([\w.]+/?) ", tree, re.MULTILINE)
    there = {
        path.name + "/" * path.is_dir()
        for path in (ROOT / "kdtutor").iterdir()
        if path.name not in {"__init__.py", "__main__.py", "py.typed"}
        and not path.name.startswith((".", "__py"))
    }
    assert set(named) == there
    for folder in re.findall(r"^(\w+)/ ", tree, re.MULTILINE):
        assert (ROOT / folder).is_dir()


def entries() -> dict[str, str]:
    """Return what the map says of each folder of the package, on one line."""
    [tree] = [block for block in blocks("text") if block.startswith("kdtutor/")]
    one_line_each = re.sub(r"\n {9,}", " ", tree)
    return dict(re.findall(r"^  (\w+)/ +(.*)$", one_line_each, re.MULTILINE))


@pytest.mark.parametrize("name", entries())
def test_the_modules_that_the_map_names_in_a_folder_are_those_that_lie_there(name):
    _, _, parts = entries()[name].partition(": ")
    named = re.sub(r" \([^)]*\)", "", parts).split(", ") if parts else []
    there = {file.stem for file in (ROOT / "kdtutor" / name).glob("[!_]*.py")}
    assert sorted(named) == sorted(file for file in there if not re.match(r"n\d\d_", file))


def test_the_packages_docstring_is_the_same_map_in_few_lines():
    [door] = re.findall(r"\n\n((?:    \w[^\n]*\n)+)\nImporting", kdtutor.__doc__)
    lines = re.findall(r"^    (\w+(?:, \w+)*)  ", door, re.MULTILINE)
    there = {path.stem for path in (ROOT / "kdtutor").iterdir() if path.suffix == ".py" or path.is_dir()}
    assert sorted(", ".join(lines).split(", ")) == sorted(name for name in there if name[0] not in "_.")
    assert len(lines) <= 16


def test_its_links_lead_somewhere_and_the_readme_leads_to_it():
    for target in re.findall(r"\]\(([^)#]+)", TEXT):
        assert (ROOT / target).exists(), target
    assert "(CONTRIBUTING.md)" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_functions_have_at_most_40_lines_and_files_400():
    """Reference solutions, which hold the mistakes that are made in them, and the lesson in one file may be longer."""
    for file in (ROOT / "kdtutor").rglob("*.py"):
        text = file.read_text(encoding="utf-8")
        assert len(text.splitlines()) <= 400 or file.name == "transformer.py", file.name
        if file.parent.name == "exercises":
            continue
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                first, *_ = node.body
                told = first.end_lineno - first.lineno + 1 if ast.get_docstring(node) else 0
                lines = node.end_lineno - node.lineno + 1 - told
                assert lines <= 40, f"{file.name}, {node.name}: {lines} lines besides its docstring"


def test_docstrings_of_functions_begin_with_a_verb():
    """A list of what verbs are would be long: what a sentence without one begins with is few words, or a formula."""
    nouns = "A All An Both By Each Every For From How In It Its Of On One The These Those Two What Where Whether Which"
    for file in [*(ROOT / "kdtutor").rglob("*.py"), *(ROOT / "tools").glob("*.py")]:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and ast.get_docstring(node):
                first, *_ = ast.get_docstring(node).split()
                assert re.fullmatch("[A-Z][a-z-]+,?", first), f"{file.name}, {node.name}: {first}"
                assert first not in nouns.split(), f"{file.name}, {node.name}: {first}"
