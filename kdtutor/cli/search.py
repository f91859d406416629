"""`kdtutor search recipe.yaml`: train many students by a recipe of which some fields vary, and keep the best recipe.

    kdtutor search recipe.yaml --trials 30             # may be killed at any time; the same command goes on
    kdtutor distill runs/search/best.yaml              # what it found, as a recipe

Students are compared on validation. When all trials have an end, the best recipe is trained once more, and its student
is measured on test: once. What stands in `search:` is read by studies/space.py, the trials are kept by
studies/search.py.
"""

from __future__ import annotations

import json
import shlex
import sys
import warnings
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from filelock import FileLock

from kdtutor.cli.arguments import DataArguments, DistillArguments, SearchArguments
from kdtutor.cli.commands import (
    flags,
    flags_of,
    formula_of,
    parse,
    read_recipe,
    student_of,
    task_of,
    teacher_of,
)
from kdtutor.cli.study import side_by_side
from kdtutor.cli.training import train
from kdtutor.errors import KDTutorError
from kdtutor.files import write_atomically
from kdtutor.training.settings import Settings

TEST = (
    "the test split can't be what is searched by: the best of many students was chosen for its luck on the very texts, "
    "and no unseen ones are left to tell; search by validation, and test is measured once, at the end"
)
SEED = (
    "seed can't be searched: the best of several seeds was lucky on the validation texts, and no other text shares its "
    "luck; keep one seed while searching, and compare the winner with its control over several"
)


def main(argv: list[str]) -> int:
    """Run `kdtutor search`."""
    from kdtutor.studies.search import Search, optuna
    from kdtutor.training.checkpoints import writable

    a, recipe, given = _read(argv)
    optuna()  # whether it is there is said before anything is loaded
    space = _space(given, recipe)
    bench = _Bench(a, recipe)
    for point in _corners(space):
        bench.arguments(space, point)  # what can't be read is said now
    output = writable(a.output)
    if a.processes > 1:
        return side_by_side(a.processes, ["search", *argv])

    search = Search(
        Path(a.study) if a.study else output / "study.db",
        space,
        bench.about(given),
        trials=a.trials,
        sampler=a.sampler,
        pruner=a.pruner or ("none" if a.cost else "median"),
        costs=int(a.cost is not None),
        seed=a.seed,
    )
    try:
        for trial in search:
            bench.make(search, trial)
            _tell(search, trial, bench.measure, a)
    finally:
        search.close()
    with FileLock(output / ".best.lock"):
        return _end(search, bench, " ".join(["kdtutor", "search", *map(shlex.quote, argv)]))


def _read(argv: list[str]) -> tuple[SearchArguments, dict, object]:
    """Read the recipe and the flags: all arguments, the recipe's fields as they were given, and its `search:`."""
    if not argv or argv[0].startswith("-"):
        if {"-h", "--help"} & {*argv}:
            parse(SearchArguments, argv, "kdtutor search")
        raise KDTutorError("a search needs a recipe: kdtutor search recipe.yaml, with search: in it")
    file, *rest = argv
    recipe = read_recipe(file)
    given = recipe.pop("search", None)
    # A formula with braces is none yet; what stands in them is looked at with the space.
    parsed = parse(SearchArguments, rest, "kdtutor search", flags(file, recipe, flags_of(SearchArguments)))
    if parsed.target != "validation":
        what = TEST if "test" in parsed.target.lower() else "target must be validation"
        raise KDTutorError(f"target {parsed.target}: {what}")
    if parsed.resume or parsed.dry_run:
        raise KDTutorError(
            "a search has no --resume and no --dry_run: the same command goes on with its study"
        )
    if parsed.cost and parsed.pruner not in (None, "none"):
        raise KDTutorError(f"with a cost nothing is pruned: leave --pruner {parsed.pruner} out, or --cost")
    default = SearchArguments()
    named = {name: getattr(parsed, name) for name in flags_of(DistillArguments)}
    recipe = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in named.items()
        if value != getattr(default, name)
    }
    recipe.pop("output", None)
    return parsed, recipe, given


def _space(given: object, recipe: Mapping[str, Any]):
    from kdtutor.studies.space import read_space

    known = flags_of(DistillArguments)
    data = [f.name for f in fields(DataArguments) if f.name != "max_length"]
    kept = [
        *data,
        "output",
        "metric",
        "control",
        "resume",
        "dry_run",
        "launch",
        "bandwidth",
        "report_to",
        "push_to_hub",
        "hub_model_id",
    ]
    refused = {
        name: f"{name} can't be searched: it decides what is measured, not what is learned" for name in kept
    }
    checks = {name: f.metadata["check"] for name, f in known.items() if name not in {*kept, "seed"}}
    return read_space(given, recipe, checks, refused | {"seed": SEED})


def _corners(space) -> list[dict]:
    """List a few points that have every choice, and both ends of every range, at least once."""
    values = {n: d if isinstance(d, list) else [d.low, d.high] for n, d in space.dimensions.items()}
    most = max(map(len, values.values()))
    return [{name: found[i % len(found)] for name, found in values.items()} for i in range(most)]


class _Bench:
    """Trains the students. Task and teacher are loaded once for all trials that have the same."""

    def __init__(self, a: SearchArguments, recipe: Mapping[str, Any]):
        self.a, self.recipe = a, recipe
        self._loaded: dict[tuple, tuple] = {}
        self.measure = ""

    def arguments(self, space, point: Mapping[str, Any]) -> DistillArguments:
        """Return what `kdtutor distill` would be given at a point of the space."""
        from kdtutor.objectives.parse import parse_objective

        made = DistillArguments(**space.fields(self.recipe, point))
        parse_objective(made.objective)
        return made

    def loaded(self, a: DistillArguments) -> tuple:
        """Load the task and the teacher."""
        names = [f.name for f in fields(DataArguments)]
        names += ["teacher", "teacher_weights", "combine", "label_map", "subset", "pool", "augment"]
        names += ["student", "seed"]
        key = tuple(getattr(a, name) for name in names)
        if key not in self._loaded:
            task = task_of(a)
            self._loaded = {key: (task, teacher_of(a, task))}
        return self._loaded[key]

    def about(self, given: object) -> dict:
        """Return what all trials of the study have in common."""
        from kdtutor.models.fingerprint import fingerprint

        plain = {name: value for name, value in self.recipe.items() if name != "objective"}
        task, teacher = self.loaded(DistillArguments(**plain | {"output": self.a.output}))
        self.measure = self.a.metric or task.rules.scores[0]
        return {
            "task": f"{task.name} {task.fingerprint}",
            "teacher": fingerprint(teacher),
            "recipe": {name: str(value) for name, value in self.recipe.items()},
            "space": given,
            "score": self.measure,
            "cost": self.a.cost,
        }

    def make(self, search, trial) -> None:
        """Train the student of a trial, and write down what it is worth; one that diverges is given up."""
        from kdtutor.training.history import NonFiniteLoss

        try:
            self._make(search, trial)
        except NonFiniteLoss:
            search.end(trial, None, "diverged")
        except KDTutorError as error:
            search.failed(trial, error)
            raise KDTutorError(f"trial {trial.number} ({_told(trial.params)}): {error}") from error

    def _make(self, search, trial) -> None:
        from kdtutor.models.sizes import sizes
        from kdtutor.objectives.parse import parse_objective
        from kdtutor.training.distillation import Distillation

        a = self.arguments(search.space, trial.params)
        task, teacher = self.loaded(a)
        student = student_of(a, teacher, task)
        size = sizes(student, task.max_length)
        if self.a.budget and size.multiply_adds > self.a.budget:
            search.end(trial, None, f"{size.multiply_adds:,} multiply-adds, over the budget")
            return
        settings = {f.name: getattr(a, f.name) for f in fields(Settings)}
        settings |= {"validate_every": a.validate_every or "epoch", "progress": False}
        if a.cache is True:  # the teacher's answers, once for all trials and processes
            settings["cache"] = Path(self.a.output, "answers")
        with warnings.catch_warnings(action="ignore"):
            run = Distillation(student, teacher, task, parse_objective(formula_of(a, task.rules)), **settings)
            search.looks = -(-run.total_steps // run.validation.every)
            for step in run:
                seen = run.validation.measured
                if step.number in seen and search.is_pruned(trial, len(seen), seen[step.number]):
                    search.end(trial, None, f"given up after {len(seen)} of {search.looks} looks")
                    return
        values = [*run.validation.measured.values()]
        score = max(values) if a.keep_best else values[-1]
        search.end(trial, [score, *self._cost(student, task, size)])

    def _cost(self, student, task, size) -> list[float]:
        from kdtutor.evaluation.speed import latencies_ms

        if self.a.cost is None:
            return []
        if self.a.cost == "latency":
            return [latencies_ms({"student": student}, task, "validation", texts=20, rounds=3)["student"]]
        return [getattr(size, self.a.cost)]


def _told(point: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in point.items()
    )


def _tell(search, trial, measure: str, a: SearchArguments) -> None:
    """Say what came of a trial, in a line."""
    found = search.study.get_trials(deepcopy=False)[trial.number]
    worth = found.user_attrs.get("why", "")
    if found.values:
        cost = f", {a.cost.replace('_', '-')} {found.values[1]:,.4g}" if a.cost else ""
        worth = f"validation {measure} {abs(found.values[0]):.4f}{cost}"
    done = sum(count for name, count in search.counts().items() if name != "failed")
    print(f"{done} of {search.trials}: {_told(trial.params)}: {worth}", file=_to(a), flush=True)


def _to(a: SearchArguments):
    return sys.stderr if a.json else sys.stdout


def _end(search, bench: _Bench, command: str) -> int:
    """Write the best recipe, train it once more, and measure it on test; what is there already is only told."""
    import yaml

    a, output = bench.a, Path(bench.a.output)
    best = search.best()
    for i, trial in enumerate(best):
        recipe = search.space.fields(bench.recipe, trial.params)
        head = (
            f"# kdtutor search, trial {trial.number}: validation {bench.measure} {abs(trial.values[0]):.4f}\n"
        )
        name = "best.yaml" if i == 0 else f"front-{i + 1}.yaml"
        write_atomically(output / name, head + yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True))
    card_file = output / "search.json"
    if card_file.is_file():
        card = json.loads(card_file.read_text(encoding="utf-8"))
        if card["winner"]["trial"] == best[0].number and card["trials"] == search.counts():
            return _say(card, a, output)
    card = _card(search, best, bench, command) | {"winner": _winner(best[0], search, bench, output, command)}
    write_atomically(card_file, json.dumps(card, indent=2, ensure_ascii=False) + "\n")
    return _say(card, a, output)


def _winner(trial, search, bench: _Bench, output: Path, command: str) -> dict:
    """Train the best recipe again, with its card, and compare validation, by which it was chosen, with test."""
    from kdtutor.evaluation.scores import LOWER_IS_BETTER
    from kdtutor.objectives.parse import parse_objective

    a = replace(bench.arguments(search.space, trial.params), output=str(output / "best"), resume=True)
    task, teacher = bench.loaded(a)
    student, objective = student_of(a, teacher, task), parse_objective(formula_of(a, task.rules))
    train(a, command, [*flags_of(DistillArguments)], student, teacher, task, objective)
    scores = json.loads((output / "best" / "card.json").read_text(encoding="utf-8"))["scores"]
    validation, test = abs(trial.values[0]), scores["test"][bench.measure]
    sign = -1 if bench.measure in LOWER_IS_BETTER else 1
    return {
        "trial": trial.number,
        "point": trial.params,
        "validation": validation,
        "test": test,
        "optimism": sign * (validation - test),
    }


def _card(search, best: list, bench: _Bench, command: str) -> dict:
    a = bench.a
    return {
        "command": command,
        "trials": search.counts(),
        "sampler": a.sampler,
        "pruner": search.pruner,
        "score": bench.measure,
        "cost": a.cost,
        **search.about,
        "front": [{"trial": t.number, "point": t.params, "values": t.values} for t in best]
        if a.cost
        else None,
        "versions": {name: __import__(name).__version__ for name in ("optuna", "torch", "kdtutor")},
    }


def _say(card: dict, a: SearchArguments, output: Path) -> int:
    if a.json:
        print(json.dumps(card, indent=2, ensure_ascii=False))
        return 0
    winner, counts = card["winner"], card["trials"]
    print(
        f"\n{counts['complete']} students trained to the end, {counts['pruned']} given up early; the best is trial "
        f"{winner['trial']}: {_told(winner['point'])}\n"
        f"validation {card['score']} {winner['validation']:.4f}, by which it was chosen; test {winner['test']:.4f}, "
        f"measured once\noptimism (validation minus test, in which the two splits differ as well): "
        f"{winner['optimism']:+.4f}\nthe recipe is {output / 'best.yaml'}, its student {output / 'best'}"
    )
    return 0
