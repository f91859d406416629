"""A setting that is defined here, in a test: loop, plan, live twin, checkpoint, flag and YAML take it as it is."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

# In a process of its own, since the field must be there before anything has read the fields.
SCRIPT = """
import json
from dataclasses import dataclass

from kdtutor.training import settings


@dataclass(frozen=True)
class Settings(settings.Settings):
    bend: float = settings.setting(1.0, settings.POSITIVE, "power of the learning rate's schedule")

    def schedule(self, step, total):
        return super().schedule(step, total) ** self.bend


settings.Settings = Settings

import inspect
import sys
from pathlib import Path

from helpers import make_run, make_task, model, refusal, sharp_teacher

import kdtutor as kd
from kdtutor.cli.commands import COMMANDS, parse
from kdtutor.objectives.parse import parse_objective
from kdtutor.training.plan import plan
from kdtutor.widgets.live_parts import make_twin

task, goal = make_task(), kd.blend(alpha=0.3, temperature=2)
folder = Path(sys.argv[1])
runs = {bend: make_run(task, goal, steps=4, bend=bend, folder=folder / str(bend)) for bend in (1.0, 2.0)}
rates = [[row["learning_rate"] for row in run.run()] for run in runs.values()]
runs[2.0].save()
same, other = (make_run(task, goal, steps=4, bend=bend) for bend in (2.0, 3.0))


def distill(*given):
    return parse(COMMANDS["distill"][0], list(given), "kdtutor")


def settings_of(arguments):
    return {name: getattr(arguments, name) for name in ("batch_size", "steps", "learning_rate", "bend")}


tokens = make_task("masked-lm")
formula = "0.5 * SoftTargets(2) + 0.5 * MaskedLM()"
typed = distill("--objective", formula, "--bend=2.5", "--steps=2", "--batch_size=8")
by_formula = [
    make_run(tokens, parse_objective(typed.objective), chunked=chunked, **settings_of(typed))
    for chunked in (True, False)
]
learned = [[(row["loss"], row["learning_rate"]) for row in run.run()] for run in by_formula]
recipe = folder / "recipe.yaml"
recipe.write_text("bend: 3\\n", encoding="utf-8")
planned = plan(model(task), sharp_teacher(task), task, goal, batch_size=8, epochs=1, bend=2, measure=False)
print(json.dumps({
    "rates": rates,
    "shown": [str(inspect.signature(shown).parameters["bend"].default) for shown in (kd.Distillation, plan)],
    "described": "bend: power of the learning rate's schedule" in kd.Distillation.__doc__,
    "planned": planned.steps,
    "twin": make_twin(runs[2.0], True)[0].settings.bend,
    "resumed": same.resume(folder / "2.0").done,
    "not resumed": refusal(other.resume, folder / "2.0"),
    "wrong": refusal(make_run, task, goal, bend=-1),
    "misspelt": refusal(make_run, task, goal, bnd=2),
    "flag": typed.bend,
    "yaml": distill(str(recipe)).bend,
    "chunked": [run.chunked for run in by_formula],
    "learned": learned,
}))
"""


@pytest.fixture(scope="module")
def seen(tmp_path_factory) -> dict:
    """What the script has found, in the words that it prints."""
    pytest.importorskip("anywidget")
    path = os.pathsep.join(filter(None, sys.path))
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path_factory.mktemp("own"))],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_the_loop_trains_with_it(seen):
    straight, bent = seen["rates"]
    assert bent[-1] < straight[-1]
    # Both have the same peak, to which the schedule is a fraction.
    assert bent == pytest.approx([1e-3 * (rate / 1e-3) ** 2 for rate in straight])


def test_python_and_plan_show_its_default_and_say_what_it_is(seen):
    assert seen["shown"] == ["1.0", "1.0"]
    assert seen["described"] and seen["planned"] == 6


def test_a_live_twin_has_the_same(seen):
    assert seen["twin"] == 2


def test_a_resumed_run_must_have_the_same(seen):
    assert seen["resumed"] == 4
    assert "made with another bend: 2.0, now 3.0" in seen["not resumed"]


def test_a_flag_and_a_recipe_give_it(seen):
    assert (seen["flag"], seen["yaml"]) == (2.5, 3)


def test_a_formula_from_the_command_line_trains_with_it_by_chunks_as_by_the_plain_path(seen):
    assert seen["chunked"] == [True, False]
    by_chunks, plain = seen["learned"]
    for step, plain_step in zip(by_chunks, plain, strict=True):
        assert step == pytest.approx(plain_step, rel=1e-5)


def test_what_it_may_not_be_is_one_sentence_and_a_slip_of_the_name_finds_it(seen):
    assert seen["wrong"].startswith("bend must be ") and seen["wrong"].endswith("not -1")
    assert 'unknown setting "bnd"; there are: bend' in seen["misspelt"]
