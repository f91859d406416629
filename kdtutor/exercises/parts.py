"""Puts what learners wrote in notebooks 01 and 02 into a real model, in place of the library's parts."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from kdtutor.exercises.n01_attention import scaled_dot_product_attention
from kdtutor.exercises.n02_transformer import encoder_layer
from kdtutor.transformer import Bert, EncoderLayer


class YourLayer(nn.Module):
    """An encoder layer's weights, read by your attention and put together by your layer."""

    def __init__(self, layer: EncoderLayer, attention: Callable, put_together: Callable) -> None:
        super().__init__()
        self.layer, self.attention, self.put_together = layer, attention, put_together

    def forward(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, None]:
        layer = self.layer
        return self.put_together(
            x, lambda y: self._gather(y, mask), layer.feed_forward, layer.norm1, layer.norm2
        ), None

    def _gather(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Lay all heads of all texts into one batch: (B, L, D) → (B · H, L, D / H) and back."""
        heads = self.layer.attention
        parts = [heads.split(matrix(x)) for matrix in (heads.query, heads.key, heads.value)]
        size = (*parts[0].shape[:-1], x.shape[1])  # B, H, L, L
        seen = torch.ones(size, dtype=torch.bool) if mask is None else mask.expand(size)
        mixed = self.attention(*(part.flatten(0, 1) for part in (*parts, seen)))
        return heads.output(heads.merge(mixed.unflatten(0, size[:2])))


def with_your_parts(
    bert: Bert, attention: Callable = scaled_dot_product_attention, layer: Callable = encoder_layer
) -> Bert:
    """Return a copy of a model whose layers run `attention` (exercise 1.2) and `layer` (exercise 2.3)."""
    mine = copy.deepcopy(bert)
    mine.encoder.layers = nn.ModuleList(YourLayer(each, attention, layer) for each in mine.encoder.layers)
    return mine
