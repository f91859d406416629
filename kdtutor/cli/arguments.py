"""The fields that each command takes, as flags and in a YAML file."""

from __future__ import annotations

import csv
from dataclasses import dataclass, field
from typing import ClassVar

from kdtutor.deploy.extra import PRECISION
from kdtutor.errors import (
    COUNT,
    FOLDER,
    FRACTION,
    POSITIVE,
    SWITCH,
    TEXT,
    Check,
    Checked,
    number,
    one_of,
    optional,
    several,
    whole,
)
from kdtutor.hardware import BANDWIDTH
from kdtutor.training.settings import Settings

LABEL_MAP = "which output of the model is which class, where names differ: NEGATIVE=0,POSITIVE=1"


CLASS_WEIGHTS = (
    "a factor for each class in the loss, as in 1,2.5, or balanced: what all classes weigh alike with"
)
SHARE = number("a fraction from 0 to 1", lambda value: 0 <= value <= 1)
PORT = whole("a port, 1 to 65535", lambda value: 1 <= value <= 65535)
WAIT = number("milliseconds, 0 to 1000", lambda value: 0 <= value <= 1000)
DEFAULT_OBJECTIVE = "0.1 * HardLabels() + 0.9 * SoftTargets(temperature=4)"


def field_of(default: object, check: Check, help: str, **more: object):
    """Make a field. several=True: as a flag it may be given more than once, and in a YAML file be a list."""
    return field(default=default, metadata={"check": check, "help": help, **more})


LABEL = "label column; several, as in food,staff, say 0 or 1 of one label each (a name with a comma: '\"a, b\",c')"


def columns_named(label: str | None) -> str | tuple[str, ...] | None:
    """Read the names of label columns with commas between, in quotation marks those that have commas themselves."""
    if label is None or "," not in label:
        return label
    names = tuple(name.strip() for name in next(csv.reader([label], skipinitialspace=True)))
    return names if len(names) > 1 else names[0]


@dataclass(frozen=True)
class FileArguments(Checked):
    task: str = field_of("texts.csv", TEXT, "file with the texts")
    text: str | None = field_of(None, optional(TEXT), "text column of your own file")
    pair: str | None = field_of(None, optional(TEXT), "second text column")
    delimiter: str | None = field_of(
        None,
        optional(TEXT),
        "between the columns of your text file: one character, or tab (default: what fits)",
    )
    encoding: str | None = field_of(
        None, optional(TEXT), "of your text file, such as cp1252 (default: what fits)"
    )
    quote: str | None = field_of(
        None, optional(TEXT), 'around cells of your text file: one character, or none (default: ")'
    )
    tokenizer: str | None = field_of(
        None, optional(TEXT), "tokenizer name or folder (default: that of the model)"
    )


@dataclass(frozen=True)
class DataArguments(FileArguments):
    task: str = field_of("supersense", TEXT, "embedded task, Hub task, or a file or folder of your own data")
    label: str | None = field_of(None, optional(TEXT), LABEL)
    kind: str | None = field_of(
        None,
        optional(one_of("classification", "multi-label", "regression", "masked-lm", "causal-lm", "seq2seq")),
        "whether labels are classes, several per text, numbers, or (seq2seq) texts to be written; of raw text, whether "
        "masked or next tokens are predicted (default: as they look, which is printed)",
    )
    stratify: bool = field_of(
        False, SWITCH, "cut your file exactly, class by class, instead of by a hash of each text"
    )
    separator: str | None = field_of(
        None, optional(TEXT), "between several labels of one text, as in food;staff: --kind multi-label"
    )
    max_length: int = field_of(128, COUNT, "tokens a text is cut to")
    json: bool = field_of(False, SWITCH, "print what was measured as JSON, and nothing else")


@dataclass(frozen=True)
class TrainArguments(DataArguments, Settings):
    output: str = field_of("runs/latest", FOLDER, "folder for model, card and checkpoints")
    subset: int | None = field_of(None, optional(COUNT), "train on this many random examples")
    save_dtype: str = field_of(
        "float32", one_of("float32", "float16"), "float32, or float16 for a model half the size"
    )
    resume: bool = field_of(False, SWITCH, "go on from the newest checkpoint in the output folder")
    dry_run: bool = field_of(False, SWITCH, "print steps, tokens, memory and time, and train nothing")
    report_to: str | None = field_of(
        None, optional(TEXT), "a tracker that accelerate knows: tensorboard, wandb, mlflow, …"
    )
    push_to_hub: bool = field_of(False, SWITCH, "upload the model and its card to the Hub at the end")
    hub_model_id: str | None = field_of(
        None, optional(TEXT), "for --push_to_hub: owner/name there (default: the output folder's name)"
    )
    launch: str | None = field_of(
        None, optional(TEXT), "for --dry_run: accelerate's configuration that it is meant for"
    )
    bandwidth: float = field_of(
        BANDWIDTH, POSITIVE, "for --dry_run: gigabytes a second from each process to the next"
    )


@dataclass(frozen=True)
class PretrainArguments(TrainArguments):
    """Training of a language model with random weights (or of --model): BERT; GPT-2 with --kind causal-lm; BART."""

    task: str = field_of(
        "glosses", TEXT, "raw text (glosses, wikitext, your own file), or texts to be written: pronunciation"
    )
    model: str | None = field_of(None, optional(TEXT), "go on from this checkpoint instead of random weights")
    layers: int = field_of(6, COUNT, "depth of a new model")
    width: int = field_of(256, COUNT, "hidden size of a new model")
    dropout: float = field_of(0.1, FRACTION, "dropout of a new model")


@dataclass(frozen=True)
class FinetuneArguments(TrainArguments):
    """Fine-tune a pretrained model on a task's hard labels."""

    model: str = field_of("bert-glosses", TEXT, "embedded checkpoint, folder or Hub name")
    dropout: float | None = field_of(
        None, optional(FRACTION), "dropout while fine-tuning (default: the model's)"
    )
    class_weights: str | None = field_of(None, optional(TEXT), CLASS_WEIGHTS)


@dataclass(frozen=True)
class DistillArguments(TrainArguments):
    """Distil a teacher into a smaller student."""

    teacher: str | tuple[str, ...] | None = field_of(
        None,
        optional(several(TEXT)),
        "folder or Hub name (default: the embedded teacher of the task); named more than once, an ensemble",
        several=True,
    )
    teacher_weights: str | None = field_of(
        None,
        optional(TEXT),
        "of several teachers: a number each, as in 2,1,1, or agreement or confidence (default: all alike)",
    )
    combine: str = field_of(
        "probabilities", one_of("probabilities", "logits"), "of several teachers: whose mean is taken"
    )
    label_map: str | None = field_of(None, optional(TEXT), LABEL_MAP)
    pool: bool = field_of(
        False, SWITCH, "learn from the task's pool too, whose labels are hidden: supersense has one"
    )
    augment: int | None = field_of(
        None,
        optional(COUNT),
        "learn from this many variants of each training text too, which the teacher labels",
    )
    student: str = field_of("half-depth", TEXT, "one of {students}, or a folder or Hub name")
    layers: int | None = field_of(None, optional(COUNT), "the student's depth")
    width: int | None = field_of(
        None, optional(COUNT), "hidden size of a small-bert (default: 128) or of a student of another shape"
    )
    heads: int | None = field_of(
        None, optional(COUNT), "attention heads of a small-bert (default: of 32, or of 64 from width 512 on)"
    )
    vectors: str | None = field_of(
        None,
        optional(one_of("teacher", "random")),
        "an lstm's, gru's, cnn's or static's of tokens at the start: the teacher's, averaged (default), or random",
    )
    token_types: str | None = field_of(
        None, optional(one_of("fold", "drop")), "half-depth: into the positions (default), or left out"
    )
    dropout: float | None = field_of(None, optional(FRACTION), "the student's (default: as it comes)")
    alpha: float | None = field_of(
        None,
        optional(SHARE),
        "short for an objective: blend(alpha=…), of the labels; the teacher has the rest",
    )
    temperature: float | None = field_of(
        None, optional(POSITIVE), "short for an objective: blend(temperature=…), of the teacher's answers"
    )
    class_weights: str | None = field_of(None, optional(TEXT), f"{CLASS_WEIGHTS}; short for an objective")
    objective: str = field_of(
        DEFAULT_OBJECTIVE,
        TEXT,
        "a formula as in Python: terms, weights, blend(alpha=…, temperature=…)",
    )
    control: bool = field_of(
        False, SWITCH, "train the same student without a teacher as well, and say what the teacher is worth"
    )


@dataclass(frozen=True)
class SearchArguments(DistillArguments):
    """Search a recipe's hyper-parameters with Optuna, by their score on validation: its `search:` says which."""

    output: str = field_of(
        "runs/search", FOLDER, "folder for the study, the best recipe, its model and the card"
    )
    trials: int = field_of(20, COUNT, "how many students shall be trained, or given up early, in all")
    sampler: str = field_of("tpe", one_of("tpe", "random", "grid"), "how the next trial is chosen")
    pruner: str | None = field_of(
        None,
        optional(one_of("none", "median", "hyperband")),
        "how trials that look bad on the way are given up (default: median; with a cost none)",
    )
    target: str = field_of(
        "validation", TEXT, "the split whose score (--metric) is made as high as it can be: validation"
    )
    cost: str | None = field_of(
        None,
        optional(one_of("latency", "multiply_adds", "parameters")),
        "what is kept low at the same time: of several best trials, the Pareto front",
    )
    budget: int | None = field_of(
        None, optional(COUNT), "multiply-adds for a text of max_length tokens; what needs more is not trained"
    )
    study: str | None = field_of(
        None,
        optional(FOLDER),
        "SQLite file of the trials; the same command goes on with it (default: in output)",
    )
    processes: int = field_of(1, COUNT, "search with so many processes side by side, each in one thread")


@dataclass(frozen=True)
class EvaluateArguments(DataArguments):
    """Measure a model on a task's held-out split."""

    model: str | None = field_of(
        None,
        optional(TEXT),
        "folder, Hub name or embedded checkpoint (default: the embedded teacher)",
    )
    teacher: str | tuple[str, ...] | None = field_of(
        None, optional(several(TEXT)), "to compare with: retention; more than once: an ensemble", several=True
    )
    label_map: str | None = field_of(None, optional(TEXT), LABEL_MAP)
    metric: str | None = field_of(
        None, optional(TEXT), "the score to judge by, such as macro_f1 (default: the main one)"
    )
    split: str = field_of("test", TEXT, "validation while choosing, test once at the end")
    output: str | None = field_of(None, optional(TEXT), "write the result to this JSON file")


@dataclass(frozen=True)
class PredictArguments(FileArguments):
    """Write a model's answers to every text of a file: its class and how sure it is of it, its number, or its text."""

    model: str = field_of("bert-supersense", TEXT, "folder, Hub name or embedded checkpoint")
    max_length: int | None = field_of(
        None, optional(COUNT), "tokens a text is cut to (default: as many as the model reads)"
    )
    separator: str = field_of(";", TEXT, "between several labels of one text")
    output: str = field_of("answers.csv", TEXT, "CSV file to write")


@dataclass(frozen=True)
class LabelArguments(PredictArguments):
    """Fill the empty cells of a label column with a teacher's answers; labels that are there stay."""

    label: str = field_of("label", TEXT, LABEL)
    output: str = field_of("labelled.csv", TEXT, "CSV file to write")


@dataclass(frozen=True)
class ServeArguments(Checked):
    """Answer texts over HTTP with an exported model, requests that come together in one batch."""

    first: ClassVar[str] = "folder"

    folder: str = field_of("exported", FOLDER, "what kdtutor export wrote")
    host: str = field_of("127.0.0.1", TEXT, "address to listen on: 0.0.0.0 is the whole network")
    port: int = field_of(8000, PORT, "port to listen on")
    wait_ms: float = field_of(5.0, WAIT, "milliseconds for which requests are collected")
    most: int = field_of(32, COUNT, "texts in a batch at most")
    per_minute: int = field_of(600, COUNT, "requests of one client in a minute at most")


@dataclass(frozen=True)
class ExportArguments(DataArguments):
    """Write a trained model as a folder that needs no PyTorch: ONNX, its tokenizer, its labels."""

    first: ClassVar[str] = "model"

    task: str | None = field_of(
        None, optional(TEXT), "whose texts it is compared on (default: what the model was trained on)"
    )
    model: str = field_of("bert-supersense", TEXT, "folder, Hub name or embedded checkpoint")
    label_map: str | None = field_of(None, optional(TEXT), LABEL_MAP)
    precision: str = field_of("float32", PRECISION, "float32, float16, int8 or int8-static")
    used_pieces: bool = field_of(False, SWITCH, "keep only the WordPieces that the training texts use")
    heads: int | None = field_of(
        None,
        optional(COUNT),
        "keep so many heads of attention in each layer, the most important (default: all)",
    )
    texts: int = field_of(256, COUNT, "how many texts it is compared on")
    split: str = field_of("validation", TEXT, "the part of the task that they are from")
    costs: bool = field_of(
        False, SWITCH, "measure it too, alone in a process: cold start, latency, throughput, memory, energy"
    )
    output: str = field_of("exported", FOLDER, "folder to write")
