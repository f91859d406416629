"""What is written, held against what should have been: errors per token by edit distance, and exact answers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from kdtutor.data.task import Task
from kdtutor.errors import KDTutorError
from kdtutor.models.writing import generate


def edit_distance(a: Sequence, b: Sequence) -> int:
    """Count the fewest insertions, deletions and substitutions that turn `a` into `b` (Levenshtein 1966)."""
    row = [*range(len(b) + 1)]
    for i, x in enumerate(a, 1):
        before, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (x != y))
    return row[-1]


def error_rates(written: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Compute errors per token of what was written, tokens being what stands between spaces: phonemes, or words.

    error_rate: Σ edit distance / Σ length of the reference, over all texts (so it may exceed 1); of phonemes it is the
    phoneme error rate, of words the word error rate. error_rate_half_width: of its 95 % interval over texts, by the
    linearised variance of a ratio. exact: the share of texts without an error.
    """
    if len(written) != len(references) or not references:
        raise KDTutorError(
            f"{len(written)} texts for {len(references)} references: each needs one, and there must be one at least"
        )
    pairs = [(mine.split(), reference.split()) for mine, reference in zip(written, references, strict=True)]
    if empty := [row for row, (_, reference) in enumerate(pairs) if not reference]:
        raise KDTutorError(f"reference {empty[0]} is empty: errors are counted per token of it")
    errors = torch.tensor([edit_distance(*pair) for pair in pairs], dtype=torch.float64)
    lengths = torch.tensor([len(reference) for _, reference in pairs], dtype=torch.float64)
    rate = errors.sum() / lengths.sum()
    n = len(pairs)
    spread = (errors - rate * lengths).square().sum() * n / max(1, n - 1)
    return {
        "error_rate": float(rate),
        "error_rate_half_width": 1.96 * math.sqrt(spread) / float(lengths.sum()) if n > 1 else math.inf,
        "exact": float((errors == 0).double().mean()),
    }


def written_scores(
    model: PreTrainedModel, task: Task, split: str = "test", *, beams: int = 1
) -> dict[str, float]:
    """Let the model write every text of a split, and compute `error_rates`; beams: as for `generate`."""
    read, references = task.split(split).texts
    return error_rates(generate(model, task, read, beams=beams), references)
