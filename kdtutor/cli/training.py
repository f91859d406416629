"""What pretrain, finetune and distill do once student, teacher and objective are there: train, save, measure, tell."""

from __future__ import annotations

import json
import os
import platform
import re
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path
from statistics import mean

from kdtutor.cli.arguments import TrainArguments
from kdtutor.cli.control import difference, make_control, told
from kdtutor.cli.hub import push, write_card
from kdtutor.cli.reporting import Report, reporting
from kdtutor.files import write_atomically
from kdtutor.training.settings import Settings

Say = Callable[..., None]
PACKAGES = ("torch", "transformers", "accelerate", "kdtutor")  # whose versions a card has


def train(a: TrainArguments, command: str, flags: Sequence[str], model, teacher, task, objective) -> None:
    """Train, save, measure the saved model, and write its card. flags: the fields that the command has."""
    # evaluation is for later: what it lacks is noticed now
    from kdtutor import evaluation, models  # noqa: F401
    from kdtutor.training.diagnosis import ClippingWarning
    from kdtutor.training.distillation import Distillation

    sizes = None if a.dry_run else models.sizes(model)  # of the whole model, which a run may divide
    settings = {f.name: getattr(a, f.name) for f in fields(Settings)}
    settings["folder"] = Path(a.output, "checkpoints")
    if a.dry_run:
        _print_plan(a, model, teacher, task, objective, settings)
        return
    output, given = Path(a.output), _given(a, flags)
    warnings.simplefilter("ignore", ClippingWarning)  # it is said at the end, with the scores
    with reporting(a.report_to, output, given) as report:
        run = Distillation(model, teacher, task, objective, **settings)
        control = make_control(run, output / "control") if getattr(a, "control", False) else None
        say = partial(print, file=sys.stderr if a.json else sys.stdout, flush=True)
        if not run.accelerator.is_main_process:
            say = _nothing

        _go_on(run, a.resume, say)
        say(sizes)
        _say_what_is_read(run, say)
        _steps(run, say, report)
    is_main = run.accelerator.is_main_process
    save = partial(_save, a=a, command=command, flags=flags, say=say)
    student, card = save(run, output)
    if control is not None:
        say("\nthe control: the same student, data and steps without a teacher")
        _go_on(control, a.resume, say)
        _steps(control, say)
        saved = save(control, output / "control")
        if is_main:
            _compare(task, a.metric, (student, card), saved, output, say)
    if is_main:
        if a.json:
            print(json.dumps(card, indent=2))  # in ASCII, whatever the terminal can show
        if a.push_to_hub:
            say(f"pushed to {push(output, a.hub_model_id)}")


def _compare(task, metric: str | None, student: tuple, control: tuple, output: Path, say: Say) -> None:
    """Say what the teacher changed, and write it into the student's card.

    student, control: a model each, and its card.
    """
    (model, card), (other, its_card) = student, control
    name = metric if metric in task.rules.scores else task.rules.scores[0]
    card["control"] = difference(model, other, task, card, its_card, name)
    _write(card, output)
    say(f"\n{told(card, name)}")


def _given(a: TrainArguments, flags: Sequence[str]) -> dict:
    """Return what each flag was, in what JSON knows: a setting of several parts, as OnPolicy, in its own words."""
    values = {name: getattr(a, name) for name in flags}
    plain = (str, int, float, bool, tuple, list, type(None))
    return {name: value if isinstance(value, plain) else str(value) for name, value in values.items()}


def _nothing(*_: object, **__: object) -> None:
    """Say nothing: the main process speaks for all."""


def _go_on(run, resume: bool, say: Say) -> None:
    """Resume the run from its folder's newest checkpoint, if that is wanted and there is one."""
    from kdtutor.training import checkpoints

    if resume and checkpoints.found(run.folder):
        say(f"going on after step {run.resume().done}")
    elif resume:
        say("no checkpoint yet: beginning with the first step")


def _say_what_is_read(run, say: Say) -> None:
    """Say what is trained on, and how many texts are cut."""
    task, texts = run.task, len(run.task.split("train"))
    size = f"{texts:,} examples, {run.total_steps:,} steps on {run.device}"
    say(f"{size}; objective {run.objective}; teacher {run.teacher_mode}")
    if run.sharded:
        say(f"{run.sharded}; forward passes run as transformers has them")
    full = int((task.encode("train").lengths >= task.max_length).sum())
    if full and not task.splits_long:
        reach = f"reach {task.max_length:,} tokens (--max_length)"
        say(f"{full:,} of {texts:,} training texts {reach}: what is beyond is not read")


def _steps(run, say: Say, report: Report = lambda values, step: None) -> None:
    """Take all steps that are left, with a line now and then, and one each time validation was measured."""
    started, first, every = time.time(), run.done, max(1, run.total_steps // 50)
    for step in run:
        is_told = step.number % every == 0 or run.is_over
        if is_told:
            losses = _losses(run)
            report(losses | {"learning_rate": run.history[-1]["learning_rate"]}, step.number)
        # A terminal has a bar instead.
        if is_told and not sys.stderr.isatty():
            left = (time.time() - started) / (step.number - first) * (run.total_steps - step.number) / 60
            where = f"step {step.number:>6} of {run.total_steps}, epoch {step.epoch:.2f}"
            loss, *terms = (f"{name} {value:.4f}" for name, value in losses.items())
            each = f" ({', '.join(terms)})" if terms else ""
            say(f"{where}: {loss}{each}, {left:.1f} min left")
        if step.number in run.validation.measured:
            found = run.history[step.number - 1]["validation"]
            scores = ", ".join(f"{name} {value:.4f}" for name, value in found.items())
            report({f"validation/{name}": value for name, value in found.items()}, step.number)
            best = "; the best so far" if run.validation.best == step.number else ""
            say(f"validation after step {step.number}: {scores}{best}")

    if run.done < run.total_steps:
        say(f"ended early: {run.settings.patience} measurements on validation in a row were no better")
    if run.settings.keep_best:
        say(f"the weights are those after step {run.validation.best}, the best on validation")


def _losses(run) -> dict[str, float]:
    """Average the loss over the last 50 steps, and that of each of several terms."""
    names = ("loss", *(run.term_names if len(run.term_names) > 1 else ()))
    return {name: mean(row[name] for row in run.history[-50:]) for name in names}


def _print_plan(a: TrainArguments, model, teacher, task, objective, settings: dict) -> None:
    from kdtutor import models
    from kdtutor.training.plan import plan
    from kdtutor.training.processes import read_launch

    launch = read_launch(a.launch, a.precision) if a.launch else None
    planned = plan(model, teacher, task, objective, launch=launch, bandwidth=a.bandwidth, **settings)
    if int(os.environ.get("RANK", 0)) == 0:
        print(f"{'model':<26}{models.sizes(model, task.max_length)}\n{planned}")


def _save(run, output: Path, a: TrainArguments, command: str, flags: Sequence[str], say: Say) -> tuple:
    """Save the model, its tokenizer, and a card with the scores of what was saved, and whether it is trained.

    Returns the model as it was saved, and the card; the main process does it, and others return None twice.
    """
    import torch

    from kdtutor import evaluation, models
    from kdtutor.models.save import save
    from kdtutor.training.diagnosis import diagnose

    student, task = run.whole(), run.task  # of which every process may have a part
    if not run.accelerator.is_main_process:
        return None, None
    max_length = save(student, task, output, getattr(torch, a.save_dtype))
    saved = models.freeze(models.load_model(output, task)).to(run.device)
    scores = {
        split: evaluation.evaluate(saved, task, split, latency=False, masking=run.masking, metric=a.metric)
        for split in ("validation", "test")
    }
    is_trained = diagnose(saved, task, run.split, masking=run.masking, clipped=run.clipped)
    seconds = sum(row["seconds"] for row in run.history)
    card = {
        # A run that was resumed ends as if it had not been interrupted.
        "command": re.sub(r" --resume\b(=\S+| (?!-)\S+)?", "", command),
        "settings": _given(a, flags) | {"objective": repr(run.objective)},
        "seed": a.seed,
        "data": {"task": task.name, "fingerprint": task.fingerprint, "train": len(task.split("train"))},
        "scores": {split: found.to_dict() for split, found in scores.items()},
        "diagnosis": is_trained.to_dict(),
        "max_length": max_length,
        "steps": run.done,
        "best_step": run.validation.best if run.settings.keep_best else None,
        "tokens": sum(row["tokens"] for row in run.history),
        "seconds": round(seconds),
        "hardware": _hardware(run),
        "versions": {name: __import__(name).__version__ for name in PACKAGES},
    }
    _write(card, output)
    made_from = getattr(a, "teacher", None) or getattr(a, "model", None)
    write_card(output, card, task.kind, made_from if isinstance(made_from, str) else None)
    say(*scores.values(), is_trained, sep="\n")
    say(f"saved to {output} after {seconds / 60:.1f} minutes")
    return saved, card


def _write(card: dict, output: Path) -> None:
    write_atomically(output / "card.json", json.dumps(card, indent=2, ensure_ascii=False) + "\n")


def _hardware(run) -> str:
    import torch

    if run.device.type == "cuda":
        return f"{run.accelerator.num_processes} × {torch.cuda.get_device_name(run.device)}"
    return f"CPU ({platform.machine()}), {torch.get_num_threads()} threads of {os.cpu_count()} cores"
