"""A row of each study is made again: what is stored is what today's code gives.

Not of those made with another torch (on a GPU), which the command refuses to go on with, nor of those whose cheapest
row needs models that take minutes.
"""

from __future__ import annotations

import json

import pytest

from kdtutor import studies
from kdtutor.cli import main
from kdtutor.studies.stored import write

#: a row that is made in seconds: its configuration and seed
ROWS = {
    "shapes": ("BERT, 1 × 64, hard labels", 0),
    "shapes-sentiment": ("static, hard labels", 0),
    "grid": ("α = 0.6, T = 1", 0),
    "robustness": ("hard labels", 0),
    "sequences": ("start", 0),
}


@pytest.mark.slow
@pytest.mark.parametrize("study", ROWS)
def test_a_row_that_ships_is_what_todays_code_makes(study, tmp_path):
    """To the last bit on the machine that made it, nearly so on another: roundings differ."""
    name, file = ROWS[study], tmp_path / "x.json"

    def is_the_row(row) -> bool:
        return (row["configuration"], row["seed"]) == name

    record = json.loads(studies.results_file(study).read_text(encoding="utf-8"))
    write(file, record | {"runs": [row for row in record["runs"] if not is_the_row(row)]})
    assert main(["study", study, "--output", str(file), "--folder", str(tmp_path / "work")]) == 0
    again = json.loads(file.read_text(encoding="utf-8"))
    assert len(again["runs"]) == len(record["runs"]) and again["choosing"] == record["choosing"]
    (old,), (new,) = ([row for row in rows["runs"] if is_the_row(row)] for rows in (record, again))
    assert (new.get("settings"), new.get("steps")) == (old.get("settings"), old.get("steps"))
    for measure in {"accuracy", "error_rate"} & old["test"].keys():
        assert new["test"][measure] == pytest.approx(old["test"][measure], abs=0.01)
