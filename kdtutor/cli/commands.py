"""The commands that train and measure: their fields, and what they do."""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from statistics import mean

from kdtutor.errors import KDTutorError, nearest


@dataclass
class DataArguments:
    task: str = field(
        default="supersense",
        metadata={"help": "embedded task, Hub task, or a CSV / JSON lines / Parquet file"},
    )
    text: str | None = field(default=None, metadata={"help": "text column of your own file"})
    pair: str | None = field(default=None, metadata={"help": "second text column"})
    label: str | None = field(default=None, metadata={"help": "label column"})
    tokenizer: str | None = field(
        default=None, metadata={"help": "tokenizer name or folder (default: the course's)"}
    )
    max_length: int = field(default=128, metadata={"help": "tokens a text is cut to"})


@dataclass
class TrainArguments(DataArguments):
    output: str = field(default="runs/latest", metadata={"help": "folder for model, card and checkpoints"})
    epochs: float = field(
        default=3, metadata={"help": "passes over the training split, or a fraction of one"}
    )
    steps: int | None = field(default=None, metadata={"help": "optimiser steps, instead of epochs"})
    batch_size: int = field(default=32, metadata={"help": "examples an optimiser step, over all processes"})
    accumulate: int = field(
        default=1, metadata={"help": "micro-batches a process cuts its part of a step into"}
    )
    learning_rate: float = field(default=5e-4, metadata={"help": "peak learning rate"})
    warmup: float = field(default=0.05, metadata={"help": "fraction of the steps for the linear warm-up"})
    weight_decay: float = field(default=0.01, metadata={"help": "AdamW's, not on biases and LayerNorm"})
    max_norm: float = field(default=1.0, metadata={"help": "gradients are clipped to this norm"})
    seed: int = field(default=0, metadata={"help": "order, masks, dropout, new weights"})
    subset: int | None = field(default=None, metadata={"help": "train on this many random examples"})
    precision: str = field(default="auto", metadata={"help": "auto, bf16 or fp32"})
    compile: bool = field(default=False, metadata={"help": "torch.compile the model"})
    save_dtype: str = field(
        default="float32", metadata={"help": "float32, or float16 for a model half the size"}
    )
    save_every: int | None = field(
        default=None, metadata={"help": "steps between checkpoints (default: an epoch)"}
    )
    resume: bool = field(
        default=False, metadata={"help": "go on from the newest checkpoint in the output folder"}
    )
    dry_run: bool = field(
        default=False, metadata={"help": "print steps, tokens, memory and time, and train nothing"}
    )
    launch: str | None = field(
        default=None, metadata={"help": "for --dry_run: accelerate's configuration that it is meant for"}
    )


RARE_WORDS = "masked LM: exponent by which rare words are masked more often; 0.7 is DistilBERT's, 0 none"


@dataclass
class PretrainArguments(TrainArguments):
    """Masked-LM pre-training of a BERT with random weights (or of --model)."""

    task: str = field(
        default="glosses", metadata={"help": "a masked-LM task: glosses, wikitext, or your own file"}
    )
    model: str | None = field(
        default=None, metadata={"help": "go on from this checkpoint instead of random weights"}
    )
    layers: int = field(default=6, metadata={"help": "depth of a new model"})
    width: int = field(default=256, metadata={"help": "hidden size of a new model"})
    dropout: float = field(default=0.1, metadata={"help": "dropout of a new model"})
    masking: float = field(default=0.15, metadata={"help": "fraction of tokens to predict"})
    rare_words: float = field(default=0.0, metadata={"help": RARE_WORDS})


@dataclass
class FinetuneArguments(TrainArguments):
    """Fine-tune a pretrained model on a task's hard labels."""

    model: str = field(default="bert-glosses", metadata={"help": "embedded checkpoint, folder or Hub name"})
    dropout: float | None = field(
        default=None, metadata={"help": "dropout while fine-tuning (default: the model's)"}
    )


@dataclass
class DistillArguments(TrainArguments):
    """Distil a teacher into a smaller student."""

    teacher: str | None = field(
        default=None, metadata={"help": "folder or Hub name (default: the embedded teacher of the task)"}
    )
    student: str = field(
        default="half-depth", metadata={"help": "half-depth, small-bert, or a folder or Hub name"}
    )
    layers: int | None = field(default=None, metadata={"help": "the student's depth"})
    width: int = field(default=128, metadata={"help": "a small-bert's hidden size"})
    dropout: float | None = field(default=None, metadata={"help": "the student's (default: as it comes)"})
    objective: str = field(
        default="0.1 * HardLabels() + 0.9 * SoftTargets(temperature=4)",
        metadata={"help": "a formula as in Python: terms, weights, blend(alpha=…, temperature=…)"},
    )
    cache: str | None = field(
        default=None,
        metadata={"help": "folder that keeps the teacher's answers for other runs, or topk:64 (masked LM)"},
    )
    masking: float = field(default=0.15, metadata={"help": "masked LM: fraction of tokens to predict"})
    rare_words: float = field(default=0.0, metadata={"help": RARE_WORDS})


@dataclass
class EvaluateArguments(DataArguments):
    """Measure a model on a task's held-out split."""

    model: str | None = field(
        default=None,
        metadata={"help": "folder, Hub name or embedded checkpoint (default: the embedded teacher)"},
    )
    teacher: str | None = field(default=None, metadata={"help": "to compare with: retention"})
    split: str = field(default="test", metadata={"help": "validation while choosing, test once at the end"})
    output: str | None = field(default=None, metadata={"help": "write the result to this JSON file"})


def parse(kind: type, argv: list[str], name: str):
    """Flags, or a YAML file and flags that win over it, into a `kind`. An unknown field lists those that exist."""
    from transformers import HfArgumentParser

    known = [f.name for f in fields(kind)]
    parser = HfArgumentParser(kind, prog=name, description=kind.__doc__, allow_abbrev=False)
    parser.error = _refuse  # argparse itself would print all flags and leave
    if argv and not argv[0].startswith("-"):
        argv = [*_flags(argv[0], known), *argv[1:]]  # argparse lets the later flag win
    parsed, unknown = parser.parse_args_into_dataclasses(
        argv, return_remaining_strings=True, look_for_args_file=False
    )
    if unknown and unknown[0].endswith((".yaml", ".yml")):
        raise KDTutorError(f"name the YAML file before the flags: {name} {unknown[0]} …")
    if unknown:
        raise KDTutorError(nearest("field", unknown[0].lstrip("-").split("=")[0], known))
    return parsed


def _flags(file: str, known: list[str]) -> list[str]:
    """A YAML file's `field: value` lines as flags; `field:` without a value, or null, leaves the default."""
    import yaml

    try:
        recipe = yaml.safe_load(Path(file).read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise KDTutorError(f"{file} can't be read as YAML: {error}") from error
    if not isinstance(recipe, dict):
        raise KDTutorError(f"{file} should hold `field: value` lines, not a {type(recipe).__name__}")
    for key, value in recipe.items():
        if key not in known:
            raise KDTutorError(f"{file}: " + nearest("field", key, known))
        if isinstance(value, (list, dict)):
            raise KDTutorError(f"{file}: {key} takes one value, not a {type(value).__name__}")
    return [f"--{key}={value}" for key, value in recipe.items() if value is not None]


def _refuse(message: str) -> None:
    raise KDTutorError(message)


def pretrain(a: PretrainArguments, command: str) -> None:
    from kdtutor import models
    from kdtutor.objectives.logits import MaskedLM

    task = _task(a)
    if not task.rules.masks:
        raise KDTutorError(f"pretrain needs raw text, but {task.name} is a {task.kind} task: --task glosses")
    model = (
        models.load_model(a.model, task)
        if a.model
        else models.small_bert(task, a.layers, a.width, dropout=a.dropout, seed=a.seed)
    )
    _train(a, command, model, None, task, MaskedLM(), masking=a.masking, rare_words=a.rare_words)


def finetune(a: FinetuneArguments, command: str) -> None:
    import torch

    from kdtutor import models
    from kdtutor.objectives.parse import parse_objective

    task = _task(a)
    torch.manual_seed(a.seed)  # the new head
    model = models.load_model(a.model, task)
    if a.dropout is not None:
        models.set_dropout(model, a.dropout)
    _train(a, command, model, None, task, parse_objective(task.rules.hard))


def distill(a: DistillArguments, command: str) -> None:
    from kdtutor import models
    from kdtutor.objectives.parse import parse_objective

    objective, task = parse_objective(a.objective), _task(a)
    teacher = models.load_teacher(task, a.teacher)
    if a.student == "half-depth":
        student = models.half_depth(teacher, a.layers, seed=a.seed)
    elif a.student == "small-bert":
        student = models.small_bert(task, a.layers or 2, a.width, seed=a.seed)
    else:
        student = models.load_model(a.student, task)
    if a.dropout is not None:
        models.set_dropout(student, a.dropout)
    masks = {"masking": a.masking, "rare_words": a.rare_words}
    _train(a, command, student, teacher, task, objective, cache=a.cache or True, **masks)


def evaluate(a: EvaluateArguments, command: str) -> None:
    from kdtutor import models
    from kdtutor.evaluation.scores import evaluate as measure
    from kdtutor.training.checkpoints import writable

    if a.output:
        writable(Path(a.output).parent)  # said now, not after the measuring
    task = _task(a)
    model = models.load_teacher(task, a.model)
    teacher = models.load_teacher(task, a.teacher) if a.teacher else None
    evaluation = measure(model, task, a.split, teacher=teacher)
    print(evaluation)
    if a.output:
        text = json.dumps({"command": command, **evaluation.to_dict()}, indent=2)
        Path(a.output).write_text(text + "\n", encoding="utf-8")


COMMANDS = {
    "pretrain": (PretrainArguments, pretrain),
    "finetune": (FinetuneArguments, finetune),
    "distill": (DistillArguments, distill),
    "evaluate": (EvaluateArguments, evaluate),
}


def _task(a: DataArguments):
    from kdtutor.data.load import load_task

    task = load_task(
        a.task, text=a.text, pair=a.pair, label=a.label, tokenizer=a.tokenizer, max_length=a.max_length
    )
    return task.subset(a.subset, a.seed) if getattr(a, "subset", None) is not None else task


def _train(a: TrainArguments, command: str, model, teacher, task, objective, **more) -> None:
    """Train, save, measure the saved model, and write its card."""
    from kdtutor import evaluation, models

    # evaluation is for later: what it lacks is noticed now
    from kdtutor.training import checkpoints
    from kdtutor.training.distillation import Distillation

    if a.save_dtype not in ("float32", "float16"):
        raise KDTutorError(nearest("save_dtype", a.save_dtype, ["float32", "float16"]))
    passed = ("epochs", "steps", "batch_size", "accumulate", "learning_rate", "warmup", "weight_decay", "max_norm",
              "seed", "precision", "compile", "save_every")  # fmt: skip
    settings = {name: getattr(a, name) for name in passed} | more
    if a.dry_run:
        _print_plan(a, model, teacher, task, objective, settings)
        return
    run = Distillation(model, teacher, task, objective, folder=Path(a.output, "checkpoints"), **settings)
    begun = checkpoints.found(run.folder)
    if a.resume and begun:
        run.resume()
    main_process = run.accelerator.is_main_process
    if main_process:
        if a.resume:
            print(
                f"going on after step {run.done}"
                if begun
                else "no checkpoint yet: beginning with the first step"
            )
        print(models.sizes(model))
        print(f"{len(task.split('train')):,} examples, {run.total_steps:,} steps on {run.device}", end="; ")
        print(f"objective {objective}; teacher {run.teacher_mode}", flush=True)
    started, first, every = time.time(), run.done, max(1, run.total_steps // 50)
    wanted = main_process and not sys.stderr.isatty()  # a terminal has a bar instead
    for step in run:
        if wanted and (step.number % every == 0 or step.number == run.total_steps):
            left = (time.time() - started) / (step.number - first) * (run.total_steps - step.number) / 60
            loss = mean(row["loss"] for row in run.history[-50:])
            where = f"step {step.number:>6} of {run.total_steps}, epoch {step.epoch:.2f}"
            print(f"{where}: loss {loss:.4f}, {left:.1f} min left", flush=True)
    if main_process:
        _save(run, a, command, evaluation)


def _print_plan(a: TrainArguments, model, teacher, task, objective, settings: dict) -> None:
    from kdtutor import models
    from kdtutor.training.plan import plan
    from kdtutor.training.processes import read_launch

    launch = read_launch(a.launch, a.precision) if a.launch else None
    planned = plan(model, teacher, task, objective, launch=launch, **settings)
    if int(os.environ.get("RANK", 0)) == 0:
        print(f"{'model':<26}{models.sizes(model, task.max_length)}\n{planned}")


def _save(run, a: TrainArguments, command: str, evaluation) -> None:
    """The model, its tokenizer, and a card with the scores of what was saved."""
    import torch

    from kdtutor import models

    task, output = run.task, Path(a.output)
    with models.load.quiet():
        run.student.to(getattr(torch, a.save_dtype)).save_pretrained(output)
    task.tokenizer.save_pretrained(output)  # so that transformers' pipeline(output) works
    saved = models.freeze(models.load_model(output, task)).to(run.device)

    def scores(split: str) -> dict:
        return evaluation.evaluate(saved, task, split, latency=False, masking=run.masking).to_dict()

    seconds = sum(row["seconds"] for row in run.history)
    packages = ("torch", "transformers", "accelerate", "kdtutor")
    card = {
        "command": command,
        "settings": asdict(a) | {"objective": repr(run.objective)},
        "seed": a.seed,
        "data": {"task": task.name, "fingerprint": task.fingerprint, "train": len(task.split("train"))},
        "scores": {split: scores(split) for split in ("validation", "test")},
        "steps": run.total_steps,
        "tokens": sum(row["tokens"] for row in run.history),
        "seconds": round(seconds),
        "hardware": _hardware(run),
        "versions": {name: __import__(name).__version__ for name in packages},
    }
    (output / "card.json").write_text(json.dumps(card, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"{json.dumps(card['scores'], indent=2)}\nsaved to {output} after {seconds / 60:.1f} minutes")


def _hardware(run) -> str:
    import torch

    if run.device.type == "cuda":
        return f"{run.accelerator.num_processes} × {torch.cuda.get_device_name(run.device)}"
    return f"CPU ({platform.machine()}), {torch.get_num_threads()} threads of {os.cpu_count()} cores"
