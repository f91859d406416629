"""What a model costs: parameters, bytes, multiply-adds."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import PreTrainedModel

from kdtutor.errors import KDTutorError
from kdtutor.models.forward import evaluating, inputs_of


@dataclass(frozen=True)
class Sizes:
    """What a model costs: parameters; bytes as float32; multiply-adds to read one text of `length` tokens,
    and to write one where that is what a model does."""

    parameters: int
    bytes: int
    multiply_adds: int
    length: int

    def __str__(self) -> str:
        size = f"{self.parameters:,} parameters, {self.bytes / 1e6:.1f} MB"
        return f"{size}, {self.multiply_adds / 1e6:,.0f} M multiply-adds at {self.length} tokens"


def sizes(model: PreTrainedModel, length: int = 128) -> Sizes:
    """Count parameters (shared ones once), bytes and multiply-adds (look-ups, norms and activations cost none).

    The matrix products are counted as they run, by torch's own counter, so it holds for any model.
    """
    from torch.utils.flop_counter import FlopCounterMode

    if not isinstance(model, nn.Module):
        raise KDTutorError(
            f"sizes are of a model, not of a {type(model).__name__}: load_model(name, task) loads one"
        )
    parameters = sum(p.numel() for p in model.parameters())
    length = min(length, getattr(model.config, "max_position_embeddings", length))
    ids = torch.ones(1, length, dtype=torch.long, device=next(model.parameters()).device)
    with evaluating(model), _written_out(), FlopCounterMode(display=False) as counter, torch.no_grad():
        # An encoder–decoder reads and writes so many tokens.
        batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "target_ids": ids}
        model(**inputs_of(model, batch))
    return Sizes(parameters, 4 * parameters, counter.get_total_flops() // 2, length)


@contextmanager
def _written_out() -> Iterator[None]:
    """Let models run in operations that the counter knows, fused attention and the CPU's fused LSTM taken apart."""
    with warnings.catch_warnings(), sdpa_kernel(SDPBackend.MATH):
        warnings.simplefilter("ignore", UserWarning)  # about GPUs that are not there
        with torch.backends.mkldnn.flags(enabled=False):
            yield
