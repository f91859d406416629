"""What a process of a training run holds in memory, by what takes it, and what would fit where that is too much.

Weights, gradients and optimiser are counted. What autograd keeps of the forward pass is measured on one and on two
texts, here, and drawn out to a micro-batch.
"""

from __future__ import annotations

import math
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kdtutor.hardware import MemoryFull, format_bytes, room
from kdtutor.models.forward import Outputs, forward, unembedding
from kdtutor.objectives.terms import Term
from kdtutor.training import vocabulary
from kdtutor.training.batches import Batches
from kdtutor.training.processes import Launch
from kdtutor.training.sharding import root_and_layers

# Of a chunk's logits: the student's, their log-softmax, its gradient and a product; with a teacher also the teacher's,
# its log-softmax, both softmaxes and a difference …
TABLES, TABLES_WITH_TEACHER = 4, 9
# … and of all logits, where autograd keeps what its way back needs.
PLAIN_TABLES = 10


def longest(batches: Batches) -> int:
    """Count the tokens of the longest text, read or written."""
    data = batches.data
    return int(max(part.lengths.max() for part in (data, data.written) if part is not None))


def memory_of(run: Any, launch: Launch, length: int) -> Callable[..., dict[str, int]]:
    """Measure what texts of `length` tokens need in a run (a Distillation) that is launched so.

    Returns a function of how many there are in a micro-batch, and perhaps of another launch: the bytes that a process
    holds at most, by what takes them. It is an upper bound, since peaks fall apart.
    """
    own, others = (
        sum(p.numel() for p in each.parameters() if p.requires_grad) for each in (run.student, run.objective)
    )
    one, two = (_kept_by_forward(run, launch.bf16, count, length) for count in (1, 2))
    teacher = _outputs_of_teacher(run, launch.bf16, length)
    root, layers = root_and_layers(run.student)
    largest = max(layers, default=0)

    def held(texts: int, launch: Launch = launch) -> dict[str, int]:
        kept = one.bytes + (texts - 1) * (two.bytes - one.bytes)  # bf16 copies of the weights are kept once
        parts = launch.processes if launch.sharded else 1
        trained = math.ceil(own / parts) + others
        memory = {
            "student's weights": math.ceil(_bytes(run.student.parameters()) / parts),
            # Beside what is in no layer, a layer that computes, and the next one as it comes and as it is laid out.
            "gathered weights": root + 3 * largest if launch.sharded else 0,
            "teacher's weights": _bytes(run.teacher.parameters()) if run.teacher_needs else 0,
            "gradients": 4 * trained,
            "AdamW's moments": 8 * trained,
            "activations": kept + texts * teacher,
            # Two gradients of the largest activation.
            "the way back": 2 * texts * (two.largest - one.largest),
        }
        if run.settings.keep_best:
            memory["best weights"] = memory["student's weights"]
        if launch.sharded:  # whole, and once more as they are sent
            memory["gradients on their way"] = 2 * max(root, largest)
        elif launch.processes > 1:
            memory["gradients on their way"] = 4 * trained
        if run.task.rules.per_token:
            memory["logits"] = _logits_memory(run, texts * length, launch.device)
        return {name: size for name, size in memory.items() if size}

    return held


def _logits_memory(run: Any, tokens: int, device: str) -> int:
    vocabulary_size = run.student.config.vocab_size
    if run.batches.positions == "masked":
        tokens = math.ceil(tokens * run.masking)
    if not run.chunked:
        return PLAIN_TABLES * 4 * tokens * vocabulary_size
    tables = TABLES_WITH_TEACHER if run.objective.needs_teacher else TABLES
    rows = min(tokens, vocabulary.default_chunk_size(vocabulary_size, device))
    # The matrix's gradient, and the one it is added to.
    gradients = 2 * 4 * unembedding(run.student).weight.numel()
    return tables * 4 * rows * vocabulary_size + gradients


@dataclass
class _Kept:
    bytes: int = 0
    largest: int = 0  # of one tensor


def _kept_by_forward(run: Any, bf16: bool, texts: int, length: int) -> _Kept:
    """Tell what autograd keeps of the student's forward pass for the way back, parameters and inputs left out."""
    batch, rows = _example(run, texts, length)
    known = {p.untyped_storage().data_ptr() for p in [*run.student.parameters(), *batch.values()]}
    kept: dict[int, torch.UntypedStorage] = {}  # as long as they live, no other takes their place

    def keep(tensor: Tensor) -> None:  # a tensor in its place would keep the graph that keeps it
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage

    with _as_it_was(run.student), torch.autograd.graph.saved_tensors_hooks(keep, lambda nothing: nothing):
        with torch.autocast(run.device.type, torch.bfloat16, enabled=bf16):
            outputs = forward(run.student.train(), batch, run.needs, rows, run.settings.fast)
        del outputs
    sizes = [storage.nbytes() for storage in kept.values()]
    return _Kept(sum(sizes), max(sizes, default=0))


@torch.no_grad()
def _outputs_of_teacher(run: Any, bf16: bool, length: int) -> int:
    """Count bytes of what the teacher hands over for one text: hidden states and the like, if needed, and features."""
    if not run.teacher_needs:
        return 0
    batch, rows = _example(run, 1, length)
    with torch.autocast(run.device.type, torch.bfloat16, enabled=bf16):
        outputs: Outputs = forward(run.teacher.eval(), batch, run.teacher_needs, rows, run.settings.fast)
    by_layer = (outputs.hidden_states, outputs.attentions, outputs.queries, outputs.keys, outputs.values)
    parts = [part for layers in by_layer for part in layers or ()]
    if outputs.features is not None:
        parts.append(outputs.features)
    return _bytes(parts)


def _example(run: Any, texts: int, length: int) -> tuple[dict[str, Tensor], Tensor | None]:
    ids = torch.ones(texts, length, dtype=torch.long, device=run.device)
    rows = None
    if run.task.rules.per_token:
        share = run.masking if run.batches.positions == "masked" else 1
        rows = torch.arange(math.ceil(texts * length * share), device=run.device)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return batch | ({"target_ids": ids} if run.task.rules.writes else {}), rows


@contextmanager
def _as_it_was(model: nn.Module) -> Iterator[None]:
    """Bring the model's mode and the random state back."""
    mode = model.training
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        try:
            yield
        finally:
            model.train(mode)


def _bytes(tensors) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


# ------------------------------------------------------------------------------------------------ when it is full


def what_would_fit(run: Any, error: RuntimeError) -> MemoryFull:
    """Say in one sentence for what there was no memory in a step of `run`, and how many micro-batches would fit."""
    # What the broken step had in hand is let go.
    traceback.clear_frames(error.__traceback__)
    for parameter in run.parameters:
        parameter.grad = None
    if run.device.type == "cuda":
        torch.cuda.empty_cache()

    batches, length = run.batches, longest(run.batches)
    texts, free = batches.micro_batch, room(run.device)
    told = (
        f"step {run.done + 1} found no memory for {texts} texts of at most {length} tokens at once; "
        f"{format_bytes(free)} are there for this process. "
    )
    if run.sharded:  # a forward pass of one process alone would wait for the others
        return MemoryFull(
            f"{told}Take a larger accumulate (--accumulate), more processes, or a smaller max_length"
        )
    without_table = run.task.rules.per_token and not run.settings.chunked
    others = f"a smaller batch_size or max_length{', or chunked=True (--chunked)' if without_table else ''}"
    try:
        held = memory_of(run, Launch(batches.world, run.device.type, run.bf16), length)
    except RuntimeError:
        return MemoryFull(f"{told}Not even one text finds room: take {others}")
    for micro in _smaller(texts, run.objective.terms):
        if (needed := sum(held(micro).values())) < free:
            parts = math.ceil(math.ceil(batches.batch_size / batches.world) / micro)
            return MemoryFull(
                f"{told}accumulate={parts} (--accumulate {parts}) takes the same step {micro} texts at a time, which "
                f"would fit (about {format_bytes(needed)}); or take {others}"
            )
    return MemoryFull(f"{told}Fewer at once would not fit either: take {others}, or a smaller student")


def _smaller(texts: int, terms: Iterable[Term]) -> Iterator[int]:
    """Halve a micro-batch, as long as every term finds enough texts to compare."""
    while (texts := texts // 2) >= max(1, *(term.fewest for term in terms)):
        yield texts
