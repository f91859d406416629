"""kdtutor predict and kdtutor label: a model's answers to the texts of a file, written beside them."""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path

from kdtutor.cli.arguments import LabelArguments, PredictArguments, columns_named
from kdtutor.errors import KDTutorError


def predict(a: PredictArguments, command: str) -> None:
    """Write every text with the model's answer; of several labels, those above ½, with --separator between.

    What a language model writes is its answer: an encoder–decoder's to the text, or how a causal LM goes on from it.
    """
    from kdtutor.data.rows import ReadOptions
    from kdtutor.models.load import read_config

    options = ReadOptions(a.text, a.pair, None, a.delimiter, a.encoding, quote=a.quote)
    config = read_config(a.model)
    if kind := _kind_that_writes(config):
        columns, written = _written(a, options, config, kind)
        _write(a, [a.text, "written"], columns.texts, [written])
        empty = f", {written.count(''):,} of them with nothing" if "" in written else ""
        print(f"{len(columns):,} texts answered by {a.model}{empty}, written to {a.output}")
        return
    columns, answers, kind = _answered(a, options)
    heads = {"classification": ("label", "probability"), "multi-label": ("labels", "probabilities")}
    head = heads.get(kind, ("value",))
    _write(a, [a.text, a.pair, *head], columns.texts, [*zip(*answers, strict=True)])
    print(f"{len(columns):,} texts answered by {a.model}, written to {a.output}")


def label(a: LabelArguments, command: str) -> None:
    """Write every text with its own label, or with the teacher's where it has none.

    Of several labels per text: with --separator between them, and the separator alone where none fits, or as 0 and 1 in
    a column each, as files are read.
    """
    from kdtutor.data.columns import spelt_out
    from kdtutor.data.rows import BY, TEACHER, ReadOptions

    (names, config), column = _names(a), columns_named(a.label)
    each = column if isinstance(column, tuple) else ()
    if each and (config.problem_type != "multi_label_classification" or {*each} != {*names}):
        known, asked = (", ".join(map(repr, columns)) for columns in (names, each))
        raise KDTutorError(f"{a.model} knows {known}: it fills no columns {asked}")
    options = ReadOptions(a.text, a.pair, column, a.delimiter, a.encoding, quote=a.quote)
    columns, answers, kind = _answered(a, options)
    columns = spelt_out(columns)
    given = columns.labels.to_pylist()
    if kind == "multi-label":
        given = [mine and _several(mine, columns, names, a) for mine in given]
        answers = [(theirs[0] or a.separator,) for theirs in answers]
    elif kind == "classification":
        _check_known({*given} - {None}, names, a)
    filled = [theirs[0] if mine is None else mine for mine, theirs in zip(given, answers, strict=True)]
    by = [TEACHER if mine is None else "given" for mine in given]
    marks = [[int(name in cell.split(a.separator)) for cell in filled] for name in each]
    _write(a, [a.text, a.pair, *(each or [column]), BY], columns.texts, [*(marks or [filled]), by])
    print(f"{by.count(TEACHER):,} of {len(columns):,} labels are by {a.model}, written to {a.output}")


def _several(cell: str, columns, names: tuple, a: LabelArguments) -> str:
    """Write a cell that holds several labels, as JSON, as a list or with separators, with separators."""
    from kdtutor.data.labels import split_cell

    separator = None if cell.strip()[:1] in "[({" else a.separator
    parts = split_cell(cell, separator, bool(columns.several))
    found = {cell} if parts is None else {*parts}
    _check_known(found, names, a)
    return a.separator.join(name for name in names if name in found) or a.separator


def _check_known(labels: set, names: tuple, a: LabelArguments) -> None:
    if odd := labels - {*names}:
        raise KDTutorError(
            f"{a.task} has the label {min(odd)!r}, which {a.model} does not know: its classes are {', '.join(names)}"
        )


def _read(a: PredictArguments, options):
    """Read the texts of a file, once it is known that the answers can be written, and say how it was read."""
    from kdtutor.data.columns import columns_of
    from kdtutor.data.files import READERS, format_of, read_file
    from kdtutor.data.packed import advice
    from kdtutor.training.checkpoints import writable

    path = Path(os.path.expanduser(a.task))
    if not format_of(path):
        raise KDTutorError(f"{path}: files are read as {', '.join(READERS)}{advice(path.suffix)}")
    writable(Path(a.output).parent)  # said now, not after the work
    columns = columns_of(read_file(path, options), options, str(path))
    for note in columns.notes:
        print(f"{path}: {note}")
    return columns


def _written(a: PredictArguments, options, config, kind: str):
    """Let the model write: the columns, and a text for each row."""
    from kdtutor.data.task import Split, Task
    from kdtutor.models import generate, load_teacher
    from kdtutor.models.load import tokenizer_of

    if a.pair is not None:
        raise KDTutorError(f"{a.model} writes, and reads one text at a time: leave --pair out")
    columns = _read(a, options)
    tokenizer = a.tokenizer or tokenizer_of(a.model)
    most = a.max_length or _limit(config, tokenizer)
    task = Task(Path(a.task).name, kind, (), {"train": Split(columns.texts, None)}, tokenizer, most)
    return columns, generate(load_teacher(task, a.model), task, columns.texts[0])


def _kind_that_writes(config) -> str | None:
    """Tell whether a model was saved as an encoder–decoder or a causal LM."""
    from kdtutor.data.kinds import KINDS
    from kdtutor.models.load import classes_with

    for kind in ("seq2seq", "causal-lm"):
        if {made.__name__ for made in classes_with(config, KINDS[kind].head)} & {
            *(config.architectures or ())
        }:
            return kind
    return None


def _answered(a: PredictArguments, options):
    """Read the texts and ask the model: the columns, a tuple for each row, and the kind of the answers."""
    from kdtutor.data.task import Split, Task
    from kdtutor.evaluation.scores import predict as logits_of_split
    from kdtutor.models import load_teacher
    from kdtutor.models.load import tokenizer_of

    columns, path = _read(a, options), Path(a.task)
    names, config = _names(a)
    kind = "classification" if len(names) > 1 else "regression"
    if config.problem_type == "multi_label_classification":
        kind = "multi-label"
        if odd := [name for name in names if a.separator in name]:
            raise KDTutorError(
                f"the label {odd[0]!r} has --separator {a.separator!r} in its name: say another"
            )
    split, tokenizer = Split(columns.texts, None), a.tokenizer or tokenizer_of(a.model)
    most = a.max_length or _limit(config, tokenizer)
    task = Task(path.name, kind, names, {"train": split}, tokenizer, most)
    teacher = load_teacher(task, a.model)
    if full := int((task.encode("train").lengths >= most).sum()):
        print(f"{full:,} of {len(columns):,} texts reach {most:,} tokens: what is beyond was not read")
    logits = logits_of_split(teacher, task, "train")
    if kind == "regression":
        return columns, [(f"{value:.6g}",) for value in logits[:, 0].tolist()], kind
    if kind == "multi-label":
        return columns, [_above_half(row, names, a.separator) for row in logits.sigmoid().tolist()], kind
    sure = logits.softmax(-1).max(-1)
    found = zip(sure.indices.tolist(), sure.values.tolist(), strict=True)
    return columns, [(names[number], f"{probability:.4f}") for number, probability in found], kind


def _above_half(probabilities: list[float], names: tuple, separator: str) -> tuple[str, str]:
    """Write the labels of a text that are likelier than not, and how likely each is."""
    chosen = [(name, p) for name, p in zip(names, probabilities, strict=True) if p > 0.5]
    return separator.join(name for name, _ in chosen), separator.join(f"{p:.4f}" for _, p in chosen)


def _limit(config, tokenizer: str | None) -> int:
    """Tell how many tokens of a text a model reads: what its positions and its tokenizer allow, or else 512."""
    from kdtutor.data.tokens import load_tokenizer
    from kdtutor.models.families import token_limit

    most = min(token_limit(config), load_tokenizer(tokenizer).model_max_length)
    return int(most) if most < 10**6 else 512  # without a limit they say an enormous number


def _names(a: PredictArguments) -> tuple:
    """Return what the model calls its outputs, and its configuration."""
    from kdtutor.models.load import read_config
    from kdtutor.models.outputs import output_names

    config = read_config(a.model)
    if "ForSequenceClassification" not in str(config.architectures):
        raise KDTutorError(f"{a.model} answers no texts: it is no classifier; kdtutor finetune makes one")
    return tuple(output_names(config)), config


def _write(a: PredictArguments, head: list, texts: tuple, columns: list) -> None:
    from kdtutor.files import write_atomically

    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([name for name in head if name is not None])
    writer.writerows(zip(*texts, *columns, strict=True))
    write_atomically(Path(a.output), out.getvalue())
