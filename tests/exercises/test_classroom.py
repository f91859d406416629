"""A class's progress files become a report, damaged and forged ones are refused by name; copies of notebooks."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import nbformat
import pytest

from kdtutor.cli import main
from kdtutor.exercises import Check, load_exercises
from kdtutor.exercises.checker import judge
from kdtutor.exercises.classroom import counts, read_class, report

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"


def right(z, t):
    return (z / t).softmax(-1)


def wrong(z, t):
    return (z * t).softmax(-1)


@pytest.fixture
def folder(tmp_path):
    """Ada needed three tries, Bo is stuck at the same mistake, and one file was edited."""
    for name, answers in (("Ada", (wrong, wrong, right)), ("Bo", (wrong,)), ("Cy", (wrong,))):
        check = Check()
        for answer in answers:
            check.softmax_with_temperature(answer)
        check.progress(tmp_path / f"{name}.json", name=name)
    forged = tmp_path / "Cy.json"
    content = json.loads(forged.read_text(encoding="utf-8"))
    content["exercises"]["softmax_with_temperature"] |= {
        "solved": True,
        "solved_at": "2026-01-01T00:00:00+00:00",
    }
    forged.write_text(json.dumps(content), encoding="utf-8")
    (tmp_path / "torn.json").write_text('{"format": "kdtutor pro')
    return tmp_path


def test_a_report_says_who_solved_what_and_which_mistakes_are_shared(folder, capsys):
    assert main(["class", "report", str(folder)]) == 0
    said = capsys.readouterr().out
    assert "Ada       1      1      3" in said
    assert "Bo        0      1      1" in said
    assert "0.1 Softmax with a temperature" in said and "1/2" in said and "times T (2)" in said
    assert (folder / "class.png").stat().st_size > 5000
    assert "most are stuck at 0.1 Softmax with a temperature, where 1 has tried in vain" in said


def test_grades_are_a_row_per_learner_and_no_name_is_a_formula(folder, tmp_path):
    check = Check()
    check.softmax_with_temperature(right)
    check.progress(folder / "eve.json", name="=HYPERLINK(1)")
    file = tmp_path / "grades.csv"
    assert main(["class", "report", str(folder), "--grades", str(file)]) == 0
    header, *rows = csv.reader(file.read_text(encoding="utf-8-sig").splitlines())
    assert header[:3] == ["learner", "solved", "0.1"] and len(header) == 2 + len(load_exercises())
    assert [row[:3] for row in rows] == [["'=HYPERLINK(1)", "1", "1"], ["Ada", "1", "1"], ["Bo", "0", "0"]]
    assert {*rows[0][3:]} == {""}


def test_forged_and_damaged_files_are_refused_by_name(folder, capsys):
    main(["class", "report", str(folder)])
    refused = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Not counted")]
    assert len(refused) == 2
    assert "Cy.json was changed after check.progress wrote it" in refused[0]
    assert "torn.json is damaged" in refused[1]
    assert not any("choose another name" in line for line in refused), (
        "that is for who writes, not for who reads"
    )


def test_a_class_without_any_file_and_no_folder_are_said(tmp_path, capsys):
    assert main(["class", "report", str(tmp_path)]) == 1
    assert "No progress file could be counted" in capsys.readouterr().out
    assert main(["class", "report", str(tmp_path / "missing")]) == 1
    assert "is no folder" in capsys.readouterr().err


def test_each_learner_counts_once(folder):
    (folder / "again.json").write_bytes((folder / "Ada.json").read_bytes())
    learners, refused = read_class(folder)
    assert set(learners) == {"Ada", "Bo"}
    assert any("is a second file of Ada" in reason for reason in refused)
    assert counts(learners) == {"0.1 Softmax with a temperature": (1, 1)}
    assert report(learners).count("Ada") == 1


def test_handouts_have_no_outputs_and_no_solutions_but_hints(tmp_path):
    source = NOTEBOOKS / "05_distilling_logits.ipynb"
    before = source.read_bytes()
    assert main(["class", "handout", str(source), "--to", str(tmp_path)]) == 0
    copied = nbformat.read(tmp_path / source.name, as_version=4)
    nbformat.validate(copied)
    text = "\n".join(cell.source for cell in copied.cells)
    assert "<b>Solution</b>" not in text and text.count("<b>Hint</b>") == 9
    assert not any(cell.outputs for cell in copied.cells if cell.cell_type == "code")
    assert source.read_bytes() == before


def test_solution_copies_hold_each_solution_where_its_stub_was(tmp_path):
    source = NOTEBOOKS / "04_temperature.ipynb"
    assert main(["class", "solutions", str(source), "--to", str(tmp_path)]) == 0
    copied = nbformat.read(tmp_path / source.name, as_version=4)
    filled = [cell.source for cell in copied.cells if "check.blend(blend)" in cell.source]
    assert len(filled) == 1 and "..." not in filled[0]
    scope = {}
    exec("import torch, torch.nn.functional as F\n" + filled[0].rpartition("check.")[0], scope)
    assert judge(load_exercises()["blend"], scope["blend"]).solved


def test_a_notebook_is_never_overwritten(capsys):
    assert main(["class", "handout", str(NOTEBOOKS / "00_start_here.ipynb"), "--to", str(NOTEBOOKS)]) == 1
    assert "would be overwritten" in capsys.readouterr().err


def test_what_was_solved_is_there_again_after_a_restart_of_the_kernel(tmp_path):
    kept = tmp_path / ".kdtutor-solved.json"
    before = Check(kept)
    for answer in (wrong, right):
        before.softmax_with_temperature(answer)
    before.tempered_entropy(lambda logits, temperature: logits)
    after = Check(kept)
    assert "solved, 2 attempts" in str(after.progress())
    assert f"1 of {len(load_exercises())} solved, 1 of them in earlier sessions." in str(after.progress())
    kept.write_text("{")  # a file that cannot be read stops nobody
    assert f"0 of {len(load_exercises())} solved in this session." in str(Check(kept).progress())


def test_attempts_of_an_earlier_session_are_not_counted_twice(tmp_path):
    kept, path = tmp_path / ".kdtutor-solved.json", tmp_path / "ada.json"
    first = Check(kept)
    first.softmax_with_temperature(wrong)
    first.progress(path, name="Ada")
    first.softmax_with_temperature(right)
    Check(kept).progress(path, name="Ada")
    record = json.loads(path.read_text(encoding="utf-8"))["exercises"]["softmax_with_temperature"]
    assert (record["solved"], record["attempts"], record["mistakes"]) == (True, 2, {"times T": 1})


def test_the_guides_term_has_every_notebook_and_every_exercise_once():
    guide = (NOTEBOOKS.parent / "docs/teaching.md").read_text(encoding="utf-8")
    term = guide.partition("**A term**")[2].partition("\n## ")[0]
    weeks = re.findall(r"^\| \d+ \| ([\d, ]+) \| .+ \| (.+) \|$", term, re.MULTILINE)
    met = {number for notebooks, _ in weeks for number in notebooks.split(", ")}
    assert met == {path.name[:2] for path in NOTEBOOKS.glob("[0-9]*.ipynb")}
    given = []
    for part in ", ".join(home for _, home in weeks).split(", "):
        first, _, last = part.partition(" to ")
        notebook, low = first.split(".")
        high = (last or first).split(".")[1]
        given += [f"{notebook}.{number}" for number in range(int(low), int(high) + 1)]
    assert sorted(given) == sorted(exercise.number for exercise in load_exercises().values())


def test_the_guides_sections_of_the_lesson_plans_are_there():
    guide = (NOTEBOOKS.parent / "docs/teaching.md").read_text(encoding="utf-8")
    plans = guide.partition("## Three plans")[2].partition("**A term**")[0]
    named = re.findall(r"[Nn]otebook (\d\d), sections? (\d+)(?:(?: to |, )(\d+))*", plans)
    assert len(named) >= 5
    for notebook, *sections in named:
        [path] = NOTEBOOKS.glob(f"{notebook}_*.ipynb")
        text = path.read_text(encoding="utf-8")
        assert all(f"## {section} ·" in text for section in sections if section), (notebook, sections)
