"""A trained model as a folder that needs no PyTorch: model.onnx, its tokenizer, its labels, and what was checked.

    export(student, task, "my-student", precision="int8")
    OnnxModel("my-student").logits(["a warm and funny film"])      # session.py

The graph takes input_ids and attention_mask (and token_type_ids, if the model reads pairs of texts by them), int64
(B, L), of any batch and length, and gives logits, float32 (B, C).
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from transformers import PreTrainedModel

from kdtutor.data.task import Task
from kdtutor.data.tokens import length_bucketed_batches, tokenize
from kdtutor.deploy.extra import PRECISION, require
from kdtutor.deploy.int8 import quantize_dynamic, quantize_static
from kdtutor.deploy.recurrent import cells_of_onnx
from kdtutor.deploy.session import OnnxModel
from kdtutor.errors import KDTutorError
from kdtutor.evaluation.scores import SCORES
from kdtutor.files import remove_forsaken
from kdtutor.hardware import format_bytes, is_full, release_freed_memory, within_memory
from kdtutor.models.families import refuse_whole_numbers
from kdtutor.models.forward import evaluating, inputs_of, logits_of
from kdtutor.models.load import check_fits
from kdtutor.models.reading import read_by
from kdtutor.models.save import save_tokenizer

OPSET = 18  # what onnxruntime and onnxruntime-web read today, and PyTorch's exporter writes
LARGEST = 1e-4  # difference between PyTorch's logits and float32 ONNX's, on the texts that are compared


@dataclass(frozen=True)
class Export:
    """What was written, and how it compares with the model in PyTorch on real texts that it was not trained on.

    bytes: of model.onnx. difference: the largest of any logit. agreement: the fraction of texts whose first answer is
    the same; None for numbers. score, torch_score: the task's first score of both; None without labels.
    """

    folder: str
    precision: str
    opset: int
    bytes: int
    max_length: int
    pad_token_id: int
    task: str
    split: str
    texts: int
    difference: float
    agreement: float | None
    score_name: str
    score: float | None
    torch_score: float | None
    versions: dict[str, str]

    def __str__(self) -> str:
        same = "" if self.agreement is None else f", the same answer to {self.agreement:.1%}"
        where = f"{self.texts:,} {self.split} texts of {self.task}"
        lines = [
            f"{Path(self.folder).name}: {self.precision}, opset {self.opset}, {format_bytes(self.bytes)}",
            f"  on {where}: logits differ by at most {self.difference:.2g}{same}",
        ]
        if self.score is not None:
            lines.append(
                f"  {self.score_name} {self.score:.4f}, in PyTorch and float32 {self.torch_score:.4f}"
            )
        return "\n".join(lines)


def export(
    model: PreTrainedModel,
    task: Task,
    folder: str | os.PathLike,
    precision: str = "float32",
    split: str = "validation",
    texts: int = 256,
    graph: str | os.PathLike | None = None,
) -> Export:
    """Write `model` as ONNX, with tokenizer and labels, and compare it with PyTorch on so many texts of `split`.

    precision: "float32" is refused if a logit differs by more than 1e-4; "float16", "int8" (activations are scaled as
    they come) and "int8-static" (scaled once, by texts of the training part) are judged by agreement and score. Files
    of an earlier export are replaced only once the new ones have passed. graph: a float32 model.onnx of this model that
    is there already, so that it need not be traced again. Raises KDTutorError if a package of the extra
    `deploy` is missing, the model has an operation that can't be exported, or its answers belong to tokens.
    """
    PRECISION("precision", precision)
    require("an export", "onnx", "onnxruntime", "onnxscript")
    task, folder = _as_read(model, task), Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    remove_forsaken(folder)
    compared = task.subset(min(texts, len(task.split(split))), split=split)
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    told = f"its {format_bytes(weights)} of weights are there several times meanwhile"
    with (
        within_memory("the export", f"Take a smaller model, or end other programs: {told}"),
        TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-", suffix=".partial") as temporary,
    ):
        made = Path(temporary)
        found = _written(model, task, made, precision, compared, split, graph)
        found = replace(found, folder=str(folder), task=task.name)
        about = asdict(found)
        del about["folder"]
        _write_json(made / "export.json", about)
        folder.mkdir(exist_ok=True)
        for file in made.iterdir():
            shutil.move(file, folder / file.name)
    # The exporter's copies of the model are gone by now, and what they took is not asked for again.
    release_freed_memory()
    return found


def _as_read(model: PreTrainedModel, task: Task) -> Task:
    """Return the task as the model reads it. KDTutorError if the two can't be exported, whatever the graph."""
    if task.rules.per_token:
        raise KDTutorError(f"an export answers a text as a whole, but {task.name} is a {task.kind} task")
    check_fits(model, task)
    _refuse_rounded(model)
    task = read_by(model, task)
    if not getattr(task.tokenizer, "is_fast", False):
        raise KDTutorError(
            f"a {type(task.tokenizer).__name__} has no tokenizer.json, which an exported model is read with: take a "
            "tokenizer that has a fast version"
        )
    return task


def _written(
    model: PreTrainedModel,
    task: Task,
    folder: Path,
    precision: str,
    compared: Task,
    split: str,
    graph: str | os.PathLike | None,
) -> Export:
    """Write graph, tokenizer and configuration into `folder`, and compare them with PyTorch in float32 first."""
    length = save_tokenizer(model, task, folder)
    _write_json(folder / "config.json", json.loads(model.config.to_json_string()))
    file = folder / "model.onnx"
    if graph is None:
        write_graph(model, task, file)
    else:
        shutil.copyfile(graph, file)
    theirs = logits_of(model, tokenize(task.tokenizer, compared.split(split).texts, length), fast=False)
    found = _compare(theirs, compared, split, folder, "float32", length)
    # Not "above": a difference that is no number is refused too.
    if not found.difference <= LARGEST:
        raise KDTutorError(
            f"exported, the {type(model).__name__} answers otherwise than in PyTorch: a logit differs by "
            f"{found.difference:.2g}, more than {LARGEST:g}; nothing was written"
        )
    if precision == "float32":
        return found
    _convert(file, precision, model, task)
    return _compare(theirs, compared, split, folder, precision, length)


def _refuse_rounded(model: PreTrainedModel) -> None:
    """Refuse a model that is quantised already, or is still trained to be."""
    refuse_whole_numbers(
        model, "the model", 'of PyTorch are not exported: export it in float32, with precision="int8"'
    )
    if any(map(parametrize.is_parametrized, model.modules())):
        raise KDTutorError(
            "the model is still rounded in passing: end that by settled(model), and export it then"
        )


class _Logits(nn.Module):
    """A model with its inputs by place, and nothing but logits to give, which is what a graph has."""

    def __init__(self, model: PreTrainedModel, names: tuple[str, ...]):
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.model(**dict(zip(self.names, inputs, strict=True))).logits


def write_graph(model: PreTrainedModel, task: Task, file: Path) -> None:
    """Write a model in eval mode as ONNX, in float32. KDTutorError if it has an operation that can't be exported."""
    part = task.encode("train")
    # Three texts: what is traced with one row, or with equal lengths, would be taken for a constant.
    batch = inputs_of(model, part.batch(torch.arange(3) % len(part)))
    shape = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    try:
        with evaluating(model, torch.device("cpu")), _silent(), cells_of_onnx(model):
            torch.onnx.export(
                _Logits(model, tuple(batch)),
                tuple(batch.values()),
                file,
                dynamo=True,
                verbose=False,
                opset_version=OPSET,
                input_names=[*batch],
                output_names=["logits"],
                dynamic_shapes=((shape,) * len(batch),),
                external_data=False,
            )
        _forget_origins(file)
    # Each step of the exporter has errors of its own, and some are torch.export's.
    except Exception as error:
        if is_full(error):
            raise
        raise KDTutorError(f"a {type(model).__name__} can't be exported: {_why(error)}") from error


def _forget_origins(file: Path) -> None:
    """Clear what the exporter notes at each node: the lines of code that it is from, with this machine's folders."""
    import onnx

    graph = onnx.load(file)
    for noted in (*graph.graph.node, *graph.graph.value_info):
        del noted.metadata_props[:]
    onnx.save(graph, file)


def _why(error: BaseException) -> str:
    """Say in a few words what stopped the exporter: the operation, if that is what it was."""
    said = f"{error}\n{error.__cause__}"
    if found := re.search(r"No ONNX function found for <OpOverload\(op='([\w.]+)'", said):
        return f"ONNX has no operation for {found[1]}"
    lines = [line.strip() for line in str(error.__cause__ or error).splitlines() if line.strip()]
    return " ".join(lines)[:200] or type(error).__name__


def _convert(file: Path, precision: str, model: PreTrainedModel, task: Task) -> None:
    """Turn a float32 graph into one of another precision, in the same place."""
    with _silent():
        if precision == "float16":
            _to_float16(file)
        elif precision == "int8":
            quantize_dynamic(file, file)
        else:
            encoded = task.encode("train")
            order = length_bucketed_batches(encoded.lengths, 16, torch.Generator().manual_seed(0))[:16]
            quantize_static(file, file, [inputs_of(model, encoded.batch(index)) for index in order])


def _to_float16(file: Path) -> None:
    """Store weights and compute in float16; inputs and logits stay as they were."""
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    onnx.save(convert_float_to_float16(onnx.load(file), keep_io_types=True), file)


def _compare(theirs: Tensor, task: Task, split: str, folder: Path, precision: str, length: int) -> Export:
    """Compare what lies in `folder` with PyTorch's logits (N, C), text by text, each side with its own tokenizer."""
    part = task.split(split)
    rows = part.texts[0] if len(part.texts) == 1 else [*zip(*part.texts, strict=True)]
    about = {"max_length": length, "pad_token_id": task.tokenizer.pad_token_id or 0}
    _write_json(folder / "export.json", about)
    ours = torch.from_numpy(OnnxModel(folder).logits(rows))

    name, has_labels = task.rules.scores[0], part.targets is not None and bool(part.labelled.all())
    scores = [float(SCORES[name](x, part.targets)) if has_labels else None for x in (ours, theirs)]
    packages = ("torch", "transformers", "onnx", "onnxscript", "onnxruntime", "kdtutor")
    return Export(
        folder=str(folder),
        precision=precision,
        opset=OPSET,
        bytes=(folder / "model.onnx").stat().st_size,
        **about,
        task=task.name,
        split=split,
        texts=len(part),
        difference=float((ours - theirs).abs().max()),
        agreement=agreement(ours, theirs, task),
        score_name=name,
        score=scores[0],
        torch_score=scores[1],
        versions={package: __import__(package).__version__ for package in packages},
    )


def agreement(logits: Tensor, others: Tensor, task: Task) -> float | None:
    """Compute the fraction of texts (N, C) to which both give the same answer; None where answers are numbers."""
    if not task.rules.named:
        return None
    if task.rules.problem_type == "multi_label_classification":
        return float(((logits > 0) == (others > 0)).all(1).double().mean())
    return float((logits.argmax(-1) == others.argmax(-1)).double().mean())


def _write_json(file: Path, content: dict) -> None:
    file.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


@contextmanager
def _silent() -> Iterator[None]:
    """Silence what exporter and quantisers log about packages that are not needed."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logging.disable(before)
