"""CONTRIBUTING.md is true: its examples run, its map shows what is there, and what it quotes stands in the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

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


@pytest.mark.parametrize("name", re.findall(r"^  (\w+)/ ", TEXT, re.MULTILINE))
def test_the_parts_of_a_folder_that_its_line_names_are_files(name):
    line = re.search(rf"^  {name}/ +(.*)$", TEXT, re.MULTILINE).group(1)
    _, _, parts = line.partition(": ")
    for part in re.sub(r" \([^)]*\)", "", parts).split(", "):
        assert not part or (ROOT / "kdtutor" / name / f"{part}.py").is_file(), f"{name}/{part}.py"


def test_its_links_lead_somewhere_and_the_readme_leads_to_it():
    for target in re.findall(r"\]\(([^)#]+)", TEXT):
        assert (ROOT / target).exists(), target
    assert "(CONTRIBUTING.md)" in (ROOT / "README.md").read_text(encoding="utf-8")
