"""The commands that train and measure: their fields, and what they do."""

from __future__ import annotations

import json
import sys
from argparse import SUPPRESS, ArgumentParser
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import Field, asdict, fields, replace
from functools import partial
from inspect import get_annotations
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from kdtutor.cli.answers import label, predict
from kdtutor.cli.arguments import (
    DEFAULT_OBJECTIVE,
    DataArguments,
    DistillArguments,
    EvaluateArguments,
    ExportArguments,
    FileArguments,
    FinetuneArguments,
    LabelArguments,
    PredictArguments,
    PretrainArguments,
    ServeArguments,
    TrainArguments,
    columns_named,
)
from kdtutor.cli.training import train
from kdtutor.errors import SWITCH, KDTutorError, did_you_mean, nearest
from kdtutor.files import write_atomically
from kdtutor.training.settings import Settings

#: What the fields that several commands share are about, for --help.
HEADINGS = {
    FileArguments: "the data",
    DataArguments: "the data",
    Settings: "the training",
    TrainArguments: "what is kept and said",
}


def flags_of(kind: type) -> dict[str, Field]:
    """Return the fields that a command takes as flags and in a YAML file, by name."""
    command = next((name for name, (arguments, _) in COMMANDS.items() if issubclass(kind, arguments)), None)
    return {f.name: f for f in fields(kind) if command in f.metadata.get("commands", (command,))}


def parse(kind: type, argv: list[str], name: str, recipe: Sequence[str] = (), asks_for_task: bool = False):
    """Read flags, or a YAML file and flags that win over it, into a `kind`. An unknown field lists those there are.

    A `kind` with a `first` field takes that without its flag, if it stands first. recipe: the flags of a file that was
    read already. asks_for_task: whether the task has to be named.
    """
    known = flags_of(kind)
    usage = f"{name} [{getattr(kind, 'first', 'RECIPE.yaml')}] [--field VALUE …]"
    parser = ArgumentParser(
        prog=name, usage=usage, description=kind.__doc__, allow_abbrev=False, argument_default=SUPPRESS
    )
    parser.error = _raise_error  # argparse itself would print all flags and leave
    groups = {title: parser.add_argument_group(title) for title in ("of this command", *HEADINGS.values())}
    for flag in known.values():
        _add(groups[_heading(kind, flag.name)], flag, has_default=not (asks_for_task and flag.name == "task"))
    if argv and not argv[0].startswith("-"):
        is_recipe = argv[0].endswith((".yaml", ".yml")) or not hasattr(kind, "first")
        given = flags(argv[0], read_recipe(argv[0]), known) if is_recipe else [f"--{kind.first}={argv[0]}"]
        recipe, argv = given, argv[1:]
    parsed, unknown = parser.parse_known_args(argv)
    if unknown and unknown[0].endswith((".yaml", ".yml")):
        raise KDTutorError(f"name the YAML file before the flags: {name} {unknown[0]} …")
    if unknown:
        raise KDTutorError(did_you_mean("field", unknown[0].lstrip("-").split("=")[0], known, "--"))
    chosen = vars(parser.parse_args(recipe)) | vars(parsed)
    read = kind(**chosen)
    if asks_for_task and "task" not in chosen:
        raise KDTutorError(
            f"{name} of which task? --task reviews.csv --text … --label … for a file of your own, --task supersense for"
            " the course's"
        )
    return read


def _heading(kind: type, name: str) -> str:
    """Say under which heading of --help a field stands: by the class that has it."""
    owner = next(part for part in kind.__mro__ if name in get_annotations(part))
    return HEADINGS.get(owner, "of this command")


def _add(parser, flag: Field, has_default: bool = True) -> None:
    """Add a field as --batch_size and --batch-size; what is True by default also as --no_…"""

    def spelt(name: str) -> list[str]:
        return [*dict.fromkeys((f"--{name}", f"--{name.replace('_', '-')}"))]

    check, help = flag.metadata["check"], flag.metadata["help"]
    if "{students}" in help:
        from kdtutor.models.students import student_names

        help = help.format(students=", ".join(student_names()))
    if has_default and flag.default is not None and "default" not in help:
        help += f" (default: {flag.default})"
    optional_value: dict = {"nargs": "?", "const": True} if check is SWITCH else {}
    if flag.metadata.get("several"):
        optional_value = {"action": "append"}
    read, metavar = partial(check.from_text, flag.name), flag.name.upper()
    parser.add_argument(
        *spelt(flag.name), type=read, metavar=metavar, help=help.replace("%", "%%"), **optional_value
    )
    if flag.default is True:
        parser.add_argument(*spelt(f"no_{flag.name}"), dest=flag.name, action="store_false")


def read_recipe(file: str) -> dict:
    """Read a YAML file's `field: value` lines."""
    import yaml

    try:
        text = Path(file).read_text(encoding="utf-8")
        recipe, node = yaml.safe_load(text), yaml.compose(text, yaml.SafeLoader)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        why = " ".join(str(error).split())[:300]
        raise KDTutorError(f"{file} can't be read as YAML: {why}") from error
    if not isinstance(recipe, dict) or not recipe:
        what = f"a {type(recipe).__name__}" if recipe else "nothing"
        raise KDTutorError(f"{file} should hold `field: value` lines, and holds {what}")
    names = [key.value for key, _ in node.value]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise KDTutorError(f"{file} gives {twice[0]} twice")
    return recipe


def flags(file: str, recipe: Mapping[str, Any], known: Mapping[str, Field]) -> list[str]:
    """Turn a recipe into flags; `field:` without a value, or null, leaves the default."""
    for key, value in recipe.items():
        if key not in known:
            raise KDTutorError(f"{file}: " + nearest("field", key, known))
        if isinstance(value, dict) or (isinstance(value, list) and not known[key].metadata.get("several")):
            raise KDTutorError(f"{file}: {key} takes one value, not a {type(value).__name__}")
    values = ((key, each) for key, value in recipe.items() for each in _each(value))
    return [f"--{key}={value}" for key, value in values if value is not None]


def _each(value: object) -> list:
    return [*value] if isinstance(value, (list, tuple)) else [value]


def _raise_error(message: str) -> None:
    raise KDTutorError(message)


def pretrain(a: PretrainArguments, command: str) -> None:
    import torch

    from kdtutor import models
    from kdtutor.objectives.parse import parse_objective

    task = task_of(a)
    if not task.rules.per_token:
        raise KDTutorError(
            f"pretrain needs raw text, or texts to be written, but {task.name} is a {task.kind} task: --task glosses"
        )
    torch.manual_seed(a.seed)  # the head, if the checkpoint has none
    if a.model:
        model = models.load_model(a.model, task)
    else:
        small = {"causal-lm": models.small_gpt2, "seq2seq": models.small_seq2seq}.get(
            task.kind, models.small_bert
        )
        model = small(task, a.layers, a.width, dropout=a.dropout, seed=a.seed)
    train(a, command, [*flags_of(type(a))], model, None, task, parse_objective(task.rules.hard))


def finetune(a: FinetuneArguments, command: str) -> None:
    import torch

    from kdtutor import models
    from kdtutor.objectives.parse import parse_objective

    task = task_of(a)
    torch.manual_seed(a.seed)  # the new head
    model = models.load_model(a.model, task)
    if a.dropout is not None:
        models.set_dropout(model, a.dropout)
    train(a, command, [*flags_of(type(a))], model, None, task, parse_objective(_hard(a, task.rules)))


def distill(a: DistillArguments, command: str) -> None:
    from kdtutor.objectives.parse import parse_objective

    parse_objective(a.objective)  # whether it can be read is said now, not after loading
    task = task_of(a)
    objective = parse_objective(formula_of(a, task.rules))
    teacher = teacher_of(a, task)
    train(a, command, [*flags_of(type(a))], student_of(a, teacher, task), teacher, task, objective)


def student_of(a: DistillArguments, teacher, task):
    """Make the student that a recipe describes."""
    from kdtutor import models

    options = {name: getattr(a, name) for name in ("layers", "width", "heads", "token_types", "vectors")}
    # Of several teachers the first is cut in half, or gives its vectors.
    first = getattr(teacher, "members", [teacher])[0]
    student = models.make_student(a.student, first, task, seed=a.seed, **options)
    if a.dropout is not None:
        models.set_dropout(student, a.dropout)
    return student


def teacher_of(a: DistillArguments, task):
    """Load the teacher, or the ensemble of those that are named."""
    from kdtutor import models

    weights = a.teacher_weights
    # Numbers, or the name of what decides by text.
    if weights is not None and set(weights) <= set("0123456789.,-+e "):
        try:
            weights = [float(part) for part in weights.split(",")]
        except ValueError:
            raise KDTutorError(f"--teacher_weights are numbers, as in 2,1,1, not {weights[:80]}") from None
    if isinstance(a.teacher, tuple):
        return models.load_ensemble(task, a.teacher, weights, a.combine, a.label_map)
    if weights is not None or a.combine != "probabilities":
        raise KDTutorError(
            "--teacher_weights and --combine are for several teachers: --teacher a --teacher b"
        )
    return models.load_teacher(task, a.teacher, a.label_map)


def formula_of(a: DistillArguments, rules) -> str:
    """Return the objective, or the sum that --alpha and --temperature are short for, as the kind of task has it."""
    short = [a.alpha, a.temperature, a.class_weights] != [None] * 3
    if a.objective != DEFAULT_OBJECTIVE:
        if short:
            raise KDTutorError(
                "--alpha, --temperature and --class_weights are short for an --objective: give the one or the other"
            )
        return a.objective
    alpha, temperature = 0.1 if a.alpha is None else a.alpha, a.temperature or 4
    if rules.soft != "SoftTargets" or a.class_weights is not None:
        return f"{alpha:g} * {_hard(a, rules)} + {1 - alpha:g} * {rules.soft}(temperature={temperature:g})"
    return f"blend(alpha={alpha:g}, temperature={temperature:g})" if short else a.objective


def _hard(a: FinetuneArguments | DistillArguments, rules) -> str:
    """Return the formula of the labels alone, with the class weights that were given."""
    if a.class_weights is None:
        return rules.hard
    if rules.hard != "HardLabels()":
        raise KDTutorError(f"--class_weights is for HardLabels(), and this task is learned by {rules.hard}")
    weights = '"balanced"' if a.class_weights == "balanced" else f"[{a.class_weights}]"
    return f"HardLabels(class_weights={weights})"


def evaluate(a: EvaluateArguments, command: str) -> None:
    from kdtutor import models
    from kdtutor.evaluation.scores import evaluate as measure
    from kdtutor.training.checkpoints import writable

    if a.output:
        writable(Path(a.output).parent)  # said now, not after the measuring
    task = task_of(a)
    model = models.load_teacher(task, a.model, None if a.teacher else a.label_map)
    teacher = None
    if a.teacher:
        load = models.load_ensemble if isinstance(a.teacher, tuple) else models.load_teacher
        teacher = load(task, a.teacher, label_map=a.label_map)
    evaluation = measure(model, task, a.split, teacher=teacher, metric=a.metric)
    text = json.dumps({"command": command, **evaluation.to_dict()}, indent=2)
    print(text if a.json else evaluation)
    if a.output:
        write_atomically(Path(a.output), text + "\n")


def export(a: ExportArguments, command: str) -> None:
    from kdtutor.deploy.costs import costs
    from kdtutor.deploy.onnx import export as write
    from kdtutor.deploy.pruning import head_importance, prune_heads, prune_vocabulary
    from kdtutor.models import load_teacher

    a = _as_trained(a)
    task = task_of(a)
    model = load_teacher(task, a.model, a.label_map)
    if a.heads is not None:
        model = prune_heads(model, head_importance(model, task), a.heads)
    with TemporaryDirectory() as pieces:
        read = task
        if a.used_pieces:
            model, read = prune_vocabulary(model, task, pieces)
        made = write(model, read, a.output, a.precision, a.split, a.texts)
    print(json.dumps(asdict(made), indent=2) if a.json else made)
    if a.costs:
        few = task.subset(min(a.texts, len(task.split(a.split))), split=a.split)
        found = costs({Path(a.output).name: a.output}, few, a.split, min(32, a.texts))
        print(found, file=sys.stderr if a.json else None)


def _as_trained(a: ExportArguments) -> ExportArguments:
    """Fill in the task that a model was trained on, and how its file is read, where no task was given."""
    from kdtutor.models import TEACHERS

    taught = {model: {"task": task} for task, model in TEACHERS.items()}
    card = Path(a.model, "card.json")
    if a.task is not None:
        return a
    if a.model not in taught and not card.is_file():
        raise KDTutorError(f"{a.model} does not say what it was trained on: --task …")
    settings = taught.get(a.model) or json.loads(card.read_text(encoding="utf-8"))["settings"]
    known = {field.name for field in fields(DataArguments)} - {"json"}
    return replace(a, **{name: value for name, value in settings.items() if name in known})


def serve(a: ServeArguments, command: str) -> None:
    from kdtutor.deploy.extra import require

    require("kdtutor serve", "fastapi", "uvicorn", "onnxruntime")
    from kdtutor.deploy.server import Limits
    from kdtutor.deploy.server import serve as answer

    answer(a.folder, a.host, a.port, a.wait_ms / 1000, a.most, Limits(per_minute=a.per_minute))


COMMANDS = {
    "pretrain": (PretrainArguments, pretrain),
    "finetune": (FinetuneArguments, finetune),
    "distill": (DistillArguments, distill),
    "evaluate": (EvaluateArguments, evaluate),
    "predict": (PredictArguments, predict),
    "label": (LabelArguments, label),
    "export": (ExportArguments, export),
    "serve": (ServeArguments, serve),
}


def task_of(a: DataArguments):
    from kdtutor.data.load import load_task

    named = (f.name for f in fields(DataArguments) if f.name not in ("task", "tokenizer", "json"))
    options = {name: getattr(a, name) for name in named} | {"label": columns_named(a.label)}
    # What is said of your own data stays out of what is to be JSON.
    with redirect_stdout(sys.stderr if a.json else sys.stdout):
        task = load_task(a.task, tokenizer=a.tokenizer or _own_tokenizer(a), **options)
    if getattr(a, "pool", False):
        task = task.with_pool()
    task = task.subset(a.subset, a.seed) if getattr(a, "subset", None) is not None else task
    if getattr(a, "augment", None):
        from kdtutor.data.augment import augment

        task = augment(task, a.augment, seed=a.seed)
    return task


def _own_tokenizer(a: DataArguments) -> str | None:
    """Find the tokenizer that lies with the model that is trained or measured; None for the course's."""
    from kdtutor.models import student_names
    from kdtutor.models.load import tokenizer_of

    name = getattr(a, "model", None)
    if isinstance(a, DistillArguments):  # a new student reads as its teacher does
        name = _each(a.teacher)[0] if a.student in student_names() else a.student
    return None if name is None else tokenizer_of(name)
