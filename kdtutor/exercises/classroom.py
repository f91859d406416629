"""What an instructor does with the exercises: `kdtutor class report`, `handout` and `solutions`.

    kdtutor class report FOLDER                        who solved what, and which mistakes the class shares
    kdtutor class handout notebooks/*.ipynb --to DIR   copies without outputs and solutions
    kdtutor class solutions notebooks/*.ipynb --to DIR copies with each solution in place of its stub

The report reads the JSON files that `check.progress("ada.json", name="Ada")` writes.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kdtutor.errors import Flags, KDTutorError
from kdtutor.exercises import load_exercises
from kdtutor.exercises.progress import ProgressError, Record, read
from kdtutor.files import write_atomically

SOLUTION = re.compile(r"\n*<details>\s*<summary><b>Solution</b></summary>(.*?)</details>\n*", re.DOTALL)


def main(argv: Sequence[str]) -> int:
    """Run `kdtutor class …`."""
    parser = Flags(prog="kdtutor class", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("report", help="read a folder of progress files")
    command.add_argument("folder", type=Path)
    command.add_argument("--picture", type=Path, help="default: class.png in that folder")
    command.add_argument(
        "--grades", type=Path, help="also write a CSV file: a row per learner, a column per exercise"
    )
    for name, what in (
        ("handout", "without outputs and solutions"),
        ("solutions", "with the solutions filled in"),
    ):
        command = commands.add_parser(name, help=f"copy notebooks {what}")
        command.add_argument("notebooks", nargs="+", type=Path)
        command.add_argument("--to", type=Path, required=True, help="the folder for the copies")
    options = parser.parse_args(argv)
    if options.command == "report":
        return _print_report(options.folder, options.picture or options.folder / "class.png", options.grades)
    copy_notebooks(options.notebooks, options.to, handout if options.command == "handout" else solutions)
    return 0


# ------------------------------------------------------------------------------------------------ the report


def _print_report(folder: Path, picture: Path, grades: Path | None) -> int:
    learners, refused = read_class(folder)
    print(report(learners))
    for reason in refused:
        print(f"Not counted: {reason}.")
    if learners:
        from kdtutor.plots import class_progress

        drawn = class_progress(counts(learners), len(learners))
        picture.write_bytes(drawn.png()[0])
        print(f"{drawn.alt}\nDrawn in {picture}.")
    if learners and grades:
        write_grades(learners, grades)
        print(f"Grades in {grades}.")
    return 0 if learners else 1


def read_class(folder: Path) -> tuple[dict[str, dict[str, Record]], list[str]]:
    """Return the records of each learner by name, and a sentence on each file that was refused."""
    if not folder.is_dir():
        raise KDTutorError(f"{folder} is no folder: give the one that holds the class's progress files")
    learners, refused = {}, []
    for path in sorted(folder.glob("*.json")):
        try:
            content = read(path)
            _check_against_the_course(path, content["exercises"])
            name = content["name"] or path.stem
            if name in learners:
                raise ProgressError(f"{path} is a second file of {name}")
        except ProgressError as error:
            refused.append(str(error))
        else:
            learners[name] = content["exercises"]
    return learners, refused


def _check_against_the_course(path: Path, records: Mapping[str, Record]) -> None:
    """Refuse what no check of this course can have written."""
    exercises = load_exercises()
    for name, record in records.items():
        if name not in exercises:
            raise ProgressError(f"{path} has an exercise that the course has not, {name}")
        if record["attempts"] < 1 or record["solved"] != bool(record.get("solved_at")):
            raise ProgressError(f"{path} cannot be right about {name}: it was edited")


def counts(learners: Mapping[str, Mapping[str, Record]]) -> dict[str, tuple[int, int]]:
    """Count for each exercise that anybody has tried, "5.1 Title", by how many it is solved, and tried in vain."""
    found = {}
    for name, exercise in load_exercises().items():
        tried = [records[name] for records in learners.values() if name in records]
        if tried:
            solved = sum(record["solved"] for record in tried)
            found[f"{exercise.number} {exercise.title}"] = solved, len(tried) - solved
    return found


def report(learners: Mapping[str, Mapping[str, Record]]) -> str:
    """Make two tables: the learners with what they solved, and the exercises with the mistakes made there."""
    if not learners:
        return "No progress file could be counted."
    width = max(map(len, learners))
    lines = [f"{'Learner':<{width}}  solved  tried  tries"]
    for name, records in sorted(learners.items()):
        solved = sum(record["solved"] for record in records.values())
        tries = sum(record["attempts"] for record in records.values())
        lines.append(f"{name:<{width}}  {solved:>6}  {len(records):>5}  {tries:>5}")
    lines += ["", f"{'Exercise':<50}  solved  tries  commonest mistakes, and how many made them"]
    for name, exercise in load_exercises().items():
        tried = [records[name] for records in learners.values() if name in records]
        if not tried:
            continue
        solved = sum(record["solved"] for record in tried)
        tries = sum(record["attempts"] for record in tried) / len(tried)
        shared = Counter(mistake for record in tried for mistake in record["mistakes"])
        said = "; ".join(f"{mistake} ({times})" for mistake, times in shared.most_common(3))
        title = f"{exercise.number} {exercise.title}"
        lines.append(f"{title:<50}  {solved:>2}/{len(learners):<3}  {tries:>5.1f}  {said}")
    return "\n".join(line.rstrip() for line in lines)


def write_grades(learners: Mapping[str, Mapping[str, Record]], file: Path) -> None:
    """Write a CSV file for a spreadsheet or a learning platform: 1 is solved, 0 tried in vain, empty not tried."""
    exercises, text = load_exercises(), io.StringIO(newline="")
    rows = csv.writer(text)
    rows.writerow(["learner", "solved", *(exercise.number for exercise in exercises.values())])
    for name, records in sorted(learners.items()):
        marks = [int(records[e]["solved"]) if e in records else "" for e in exercises]
        # A name that begins like a formula would be computed by the spreadsheet that opens it.
        shown = f"'{name}" if name.startswith(("=", "+", "-", "@", "\t", "\r")) else name
        rows.writerow([shown, sum(map(bool, marks)), *marks])
    # The mark in front tells a spreadsheet that this is UTF-8.
    write_atomically(file, "\ufeff" + text.getvalue())


# ------------------------------------------------------------------------------------------------ copies


def copy_notebooks(paths: Sequence[Path], folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Write a changed copy of each notebook into `folder`, without outputs; the notebooks themselves stay."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in paths:
        copied = folder / path.name
        if copied.resolve() == path.resolve():
            raise KDTutorError(f"{path} would be overwritten: choose another folder for the copies")
        try:
            notebook = json.loads(path.read_text(encoding="utf-8"))
            for cell in notebook["cells"]:
                cell["source"] = "".join(cell["source"])
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise KDTutorError(f"{path} is no notebook that can be read: {error}") from error
        change(notebook)
        for cell in notebook["cells"]:
            if cell["cell_type"] == "code":
                cell["outputs"], cell["execution_count"] = [], None
            cell["source"] = cell["source"].splitlines(keepends=True)
        copied.write_text(json.dumps(notebook, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        print(copied)


def handout(notebook: dict[str, Any]) -> None:
    """Take the solutions out of a notebook."""
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            cell["source"] = SOLUTION.sub("\n", cell["source"]).strip("\n")


def solutions(notebook: dict[str, Any]) -> None:
    """Put each solution in place of the stub above it; what is said about it stays below."""
    stub = None
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code" and re.search(
            r"^check\.(\w+)\((\1|prediction, measured, because)\)\s*\Z", cell["source"], re.MULTILINE
        ):
            stub = cell
        elif stub and (folded := SOLUTION.search(cell["source"])):
            code = re.search(r"```python\n(.*?)```", folded[1], re.DOTALL)
            if code:
                above = re.match(r"((?:from|import) .*\n)*", stub["source"])[0]
                check = stub["source"].rstrip().rpartition("\n")[2]
                stub["source"] = f"{above}\n\n{code[1].rstrip()}\n\n\n{check}".lstrip("\n")
            stub = None
