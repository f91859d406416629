"""The encoder of BERT and DistilBERT in fewer operations: transformers' modules and weights, the same hidden states.

In a small student's step, what surrounds the matrix products takes as long as they do. `encode` gives what calling
transformers' encoder gives, with the same gradients, and leaves out

    most of the last layer, where a classification head reads [CLS] alone: see `_attend_first`;
    modules that call modules that call modules.

`can_encode` says for which models it stands in. Others, and those that somebody changed or hooked into, run as they
are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from operator import attrgetter
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import BertModel, DistilBertModel

from kdtutor.models.names import layer_names

LONG = 48  # tokens: from here on the CPU's fused attention, which draws no dropout, is the faster one


class _Layer(NamedTuple):
    """The modules of one layer."""

    query: nn.Linear
    key: nn.Linear
    value: nn.Linear
    weights_dropout: nn.Dropout
    out: nn.Linear
    out_dropout: nn.Dropout | None  # DistilBERT has none here
    out_norm: nn.LayerNorm
    widen: nn.Linear
    activation: nn.Module
    narrow: nn.Linear
    narrow_dropout: nn.Dropout
    narrow_norm: nn.LayerNorm


def can_encode(model: nn.Module) -> bool:
    """Tell whether `encode` can stand in for this model's encoder: a BERT or DistilBERT as transformers made it."""
    encoder = getattr(model, "base_model", None)
    if type(encoder) not in (BertModel, DistilBertModel) or getattr(encoder.config, "is_decoder", False):
        return False
    return not any(_is_touched(module) for module in model.modules())


def _is_touched(module: nn.Module) -> bool:
    """Tell whether it is compiled, hooked into, saving memory, or of another kind: an adapter, an int8 matrix."""
    return bool(
        module._compiled_call_impl
        or module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or module.__dict__.get("gradient_checkpointing")
        or "forward" in module.__dict__
        or not type(module).__module__.startswith(("torch.nn.modules.", "transformers."))
    )


def encode(
    encoder: BertModel | DistilBertModel,
    input_ids: Tensor,
    attention_mask: Tensor,
    token_type_ids: Tensor | None = None,
    first_only: bool = False,
    seen: Mapping[str, list[Tensor]] | None = None,
) -> list[Tensor]:
    """Return the hidden states behind the embeddings and behind every layer, each (B, L, D).

    input_ids, attention_mask, token_type_ids: (B, L). first_only: of the last layer the first token's alone, (B, 1, D).
    seen: lists, by "queries", "keys" or "values", to which every layer adds its own (B, L, D); not with first_only.
    """
    layers, heads = _layers_and_heads(encoder)
    x = _embed(encoder.embeddings, input_ids, token_type_ids)
    padding = x.new_zeros(input_ids.shape).masked_fill_(attention_mask == 0, -math.inf)[:, None]  # (B, 1, L)
    states = [x]
    for i, layer in enumerate(layers):
        if first_only and i == len(layers) - 1:
            attended, x = _attend_first(layer, x, padding, heads), x[:, :1]
        else:
            attended = _attend(layer, x, padding, heads, seen or {})
        x = _norm(layer.out_norm, x + _dropout(layer.out_dropout, _linear(layer.out, attended)))
        wide = layer.activation(_linear(layer.widen, x))
        x = _norm(layer.narrow_norm, x + _dropout(layer.narrow_dropout, _linear(layer.narrow, wide)))
        states.append(x)
    return states


def _embed(embeddings: nn.Module, input_ids: Tensor, token_type_ids: Tensor | None) -> Tensor:
    """Add up words, places and, in BERT, which of two texts: (B, L) → (B, L, D)."""
    words, places = embeddings.word_embeddings, embeddings.position_embeddings.weight[: input_ids.shape[1]]
    if hasattr(embeddings, "token_type_embeddings"):
        types = embeddings.token_type_embeddings.weight
        places = places + (types[0] if token_type_ids is None else F.embedding(token_type_ids, types))
    x = F.embedding(input_ids, words.weight, words.padding_idx) + places
    return _dropout(embeddings.dropout, _norm(embeddings.LayerNorm, x))


def _attend(
    layer: _Layer, x: Tensor, padding: Tensor, heads: int, seen: Mapping[str, list[Tensor]]
) -> Tensor:
    """Compute softmax(Q Kᵀ / √d) V of every head, side by side: (B, L, D)."""
    parts = [_linear(module, x) for module in (layer.query, layer.key, layer.value)]  # (B, L, D) each
    for name, part in zip(("queries", "keys", "values"), parts, strict=True):
        if name in seen:
            seen[name].append(part)
    q, k, v = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in parts)  # (B, H, L, d)
    p = _probability(layer.weights_dropout)
    if x.is_cpu and (p or x.shape[1] < LONG):
        q, k, v = (part.flatten(0, 1) for part in (q, k, v))  # (B·H, L, d)
        padding = padding.repeat_interleave(heads, 0)
        scores = torch.baddbmm(padding, q, k.transpose(1, 2), alpha=1 / math.sqrt(q.shape[-1]))
        weights = _dropout(layer.weights_dropout, scores.softmax(-1))
        mixed = (weights @ v).unflatten(0, (-1, heads))
    else:
        mixed = F.scaled_dot_product_attention(q, k, v, (padding == 0)[:, None], dropout_p=p)
    return mixed.transpose(1, 2).flatten(-2)


def _attend_first(layer: _Layer, x: Tensor, padding: Tensor, heads: int) -> Tensor:
    """Compute what the first token gets from all others: (B, 1, D). Of these, no key or value is computed, for

    q · (W_K x + b_K) = (W_Kᵀ q) · x + q · b_K    and    Σ p (W_V x + b_V) = W_V (Σ p x) + b_V Σ p.

    q · b_K is the same for every token, so the softmax does not see it.
    """
    q = _linear(layer.query, x[:, 0]).unflatten(-1, (heads, -1)).transpose(0, 1)  # (H, B, d)
    w_k, w_v = (m.weight.unflatten(0, (heads, -1)) for m in (layer.key, layer.value))  # (H, d, D)
    asked = (q @ w_k).transpose(0, 1)  # W_Kᵀ q: (B, H, D)
    scores = torch.baddbmm(padding, asked, x.transpose(1, 2), alpha=1 / math.sqrt(q.shape[-1]))  # (B, H, L)
    p = _dropout(layer.weights_dropout, scores.softmax(-1))
    mixed = ((p @ x).transpose(0, 1) @ w_v.transpose(1, 2)).transpose(0, 1)  # W_V Σ p x: (B, H, d)
    mixed = mixed + p.sum(-1, keepdim=True) * layer.value.bias.unflatten(0, (heads, -1))
    return mixed.flatten(1)[:, None]


def _dropout(module: nn.Dropout | None, x: Tensor) -> Tensor:
    return F.dropout(x, p) if (p := _probability(module)) else x


def _probability(module: nn.Dropout | None) -> float:
    return module.p if module is not None and module.training else 0.0


def _linear(module: nn.Linear, x: Tensor) -> Tensor:
    return F.linear(x, module.weight, module.bias)


def _norm(module: nn.LayerNorm, x: Tensor) -> Tensor:
    return F.layer_norm(x, module.normalized_shape, module.weight, module.bias, module.eps)


def _layers_and_heads(encoder: BertModel | DistilBertModel) -> tuple[list[_Layer], int]:
    kind = encoder.config.model_type
    layers = (encoder.transformer if kind == "distilbert" else encoder.encoder).layer
    get = _GETTERS[kind]
    parts = [_Layer(*(part(layer) if part else None for part in get)) for layer in layers]
    return parts, encoder.config.num_attention_heads


def _getters(kind: str) -> list[attrgetter | None]:
    """Find what reads each field of a `_Layer` from a layer of transformers' own."""
    names = layer_names(kind)
    return [attrgetter(names[part]) if part in names else None for part in _PARTS]


# The fields of a `_Layer`, by the names of the table.
_PARTS = (
    "attention.query", "attention.key", "attention.value", "attention.dropout", "attention.output", "dropout1", "norm1",
    "feed_forward.up", "activation", "feed_forward.down", "dropout2", "norm2",
)  # fmt: skip
_GETTERS = {kind: _getters(kind) for kind in ("bert", "distilbert")}
