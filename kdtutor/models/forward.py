"""One forward pass that computes only what an objective needs, and the logits of many texts."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import BertForSequenceClassification, DistilBertForSequenceClassification
from transformers.utils import ModelOutput

from kdtutor.data.tokens import Encoded, length_bucketed_batches, round_up
from kdtutor.errors import KDTutorError
from kdtutor.hardware import MemoryFull, fast_float32, is_full, release_freed_memory, within_memory
from kdtutor.models import lean
from kdtutor.models.families import PLAIN_ATTENTION, PLAIN_HEADS, ROBERTAS, has_token_types
from kdtutor.models.names import attention_modules
from kdtutor.models.pools import Pool
from kdtutor.neighbours import beside_neighbours

#: what an objective may need of every layer's attention, and the module that makes it, as names.py calls it
ATTENTION_PARTS = {"queries": "query", "keys": "key", "values": "value"}
RECORDED = "_kdtutor_recorded"  # an attribute of a compiled model: what its hooks saw in the last call
MANY = 500  # texts before which freed memory is given back: it takes some 20 ms


T = TypeVar("T")


@dataclass
class Outputs:
    """What a forward pass gives to the objective's terms.

    logits: (B, C), or (n, V) for the n selected tokens of a language model's batch. hidden_states: embeddings, then
    every layer, each (B, L, D). attentions: every layer, (B, H, L, L), after dropout. Of an encoder–decoder, both are
    the decoder's. queries, keys, values: every layer, its heads side by side, (B, L, D), of the models that
    PLAIN_ATTENTION names. features: instead of logits, those tokens' last vectors before the `unembedding` onto the
    vocabulary, (n or a few more, D), padded at the end; or, of a teacher, the `top` k log-probabilities and their
    tokens, (n, k) each. pool: of several teachers, what each answers; `logits` are theirs together at temperature 1.
    """

    logits: Tensor | None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    queries: Sequence[Tensor] | None = None
    keys: Sequence[Tensor] | None = None
    values: Sequence[Tensor] | None = None
    features: Tensor | None = None
    unembedding: nn.Linear | None = None
    top: tuple[Tensor, Tensor] | None = None
    pool: Pool | None = None

    def narrowed(self, vocabulary: int) -> Outputs:
        """Keep the logits of the first tokens of a larger vocabulary, (…, V), or the rows of what makes them."""
        logits, last = self.logits, self.unembedding
        if logits is not None and logits.shape[-1] > vocabulary:
            logits = logits[..., :vocabulary]
        if last is not None and last.out_features > vocabulary:
            whole, last = last, nn.Linear(last.in_features, vocabulary, last.bias is not None, device="meta")
            for name, parameter in whole.named_parameters():
                setattr(last, name, nn.Parameter(parameter[:vocabulary], requires_grad=False))
        return replace(self, logits=logits, unembedding=last)


def forward(
    model: nn.Module,
    batch: dict[str, Tensor],
    needs: Set[str] = frozenset({"logits"}),
    rows: Tensor | None = None,
    fast: bool = True,
) -> Outputs:
    """Run one forward pass that computes only what the objective `needs`.

    rows: for language models, int64 (n,): which tokens' logits are wanted, as places in the flattened (B·L) batch, or
    (B·M) of what an encoder–decoder writes (see `inputs_of`). The unembedding, the costliest matrix product of a small
    model, then runs on those alone: logits is (n, V). Where "features" are needed instead of logits, it does not run at
    all. fast: whether BERT and DistilBERT may run in fewer operations (see lean.py), or as transformers has them.
    """
    inputs = inputs_of(model, batch)
    by_rows = rows is not None and unembedding(model) is not None
    classify = _CLASSIFIERS.get(type(model)) if rows is None else None
    parts: dict[str, Any] = {name: [] for name in ATTENTION_PARTS if name in needs}

    # The body in fewer operations, its last layer for [CLS] alone where nobody sees the other tokens …
    if fast and (by_rows or classify) and "attentions" not in needs and lean.can_encode(model):
        keep = "hidden_states" in needs
        states = lean.encode(
            model.base_model, **inputs, first_only=not (by_rows or keep or parts), seen=parts
        )
        last, states, maps = states[-1], tuple(states) if keep else None, None
        if classify:
            return Outputs(classify(model, last), states, **parts)

    # … or as transformers has it: with the head, unless that is known here and runs on some rows alone.
    else:
        with _recorded(model, parts):
            out = _call(model.base_model if by_rows else model, inputs, needs)
        if not by_rows:
            logits = out.logits if rows is None else out.logits.flatten(0, 1)[rows]
            return Outputs(logits, *_seen(out), **parts)
        last, (states, maps) = out.last_hidden_state, _seen(out)

    # A language model's head, on these rows and as many more as make it one of few sizes: zeros, with gradients of 0.
    hidden = F.pad(last.flatten(0, 1)[rows], (0, 0, 0, round_up(len(rows)) - len(rows)))
    features, matrix = _features(model, hidden), unembedding(model)
    if "features" in needs:
        return Outputs(None, states, maps, **parts, features=features, unembedding=matrix)
    return Outputs(matrix(features)[: len(rows)], states, maps, **parts)


def _seen(out: Any) -> tuple[tuple[Tensor, ...] | None, tuple[Tensor, ...] | None]:
    """Return hidden states and attention maps, if they were asked for: those of the side that answers."""
    side = "decoder_" if getattr(out, "encoder_last_hidden_state", None) is not None else ""
    # Not out.get(): the course's own Transformer answers with a dataclass.
    return getattr(out, f"{side}hidden_states", None), getattr(out, f"{side}attentions", None)


def attention_parts(model: nn.Module, need: str) -> list[nn.Module]:
    """Return the modules that make every layer's "queries", "keys" or "values"; none if they are not known here."""
    config = getattr(model, "config", None)
    if getattr(config, "model_type", None) not in PLAIN_ATTENTION or getattr(config, "is_decoder", False):
        return []
    return attention_modules(model, ATTENTION_PARTS[need])


@contextmanager
def _recorded(model: nn.Module, parts: Mapping[str, list[Tensor]]) -> Iterator[None]:
    """Add to the lists what each layer's query, key and value modules give, while the model is called."""
    if kept := getattr(model, RECORDED, None):
        for seen in kept.values():
            seen.clear()
        yield
        for name, seen in parts.items():
            seen.extend(kept[name])
        return
    with ExitStack() as hooks:
        for name, seen in parts.items():
            for handle in _record(model, name, seen):
                hooks.callback(handle.remove)
        yield


def record_for_good(model: nn.Module, needs: Set[str]) -> None:
    """Let a model that is to be compiled record queries, keys and values at every call: what is compiled knows no hook
    that comes later."""
    # Nor does it ask whether there is one: else this model would run what was compiled for another without any.
    torch._dynamo.config.skip_nnmodule_hook_guards = False
    kept: dict[str, list[Tensor]] = {name: [] for name in ATTENTION_PARTS if name in needs}
    for name, seen in kept.items():
        _record(model, name, seen)
    setattr(model, RECORDED, kept)


def _record(model: nn.Module, name: str, seen: list[Tensor]) -> list[Any]:
    """Add what the modules of one part give to a list from now on; returns what ends it."""
    modules = attention_parts(model, name)
    return [m.register_forward_hook(lambda _, __, output: seen.append(output)) for m in modules]


def _call(model: nn.Module, inputs: dict[str, Tensor], needs: Set[str]) -> ModelOutput:
    """Call the model itself, with no more outputs than are needed."""
    config = getattr(model, "config", None)
    if (
        getattr(config, "model_type", None) in ("bert", "distilbert", "roberta")
        and config._attn_implementation == "sdpa"
    ):
        # Given a mask (B, L), transformers asks whether it masks any token, and a GPU has to wait.
        inputs = inputs | {"attention_mask": inputs["attention_mask"].bool()[:, None, None]}  # (B, 1, 1, L)
    flags = {f"output_{name}": True for name in ("hidden_states", "attentions") if name in needs}
    if "use_cache" in _parameters(type(model).forward):
        # For writing token by token alone.
        flags["use_cache"] = False
    return model(**inputs, **flags)


def _bert_logits(model: BertForSequenceClassification, last: Tensor) -> Tensor:
    """Compute (B, L, D) → (B, C)."""
    return model.classifier(model.dropout(model.bert.pooler(last)))


def _distilbert_logits(model: DistilBertForSequenceClassification, last: Tensor) -> Tensor:
    """Compute (B, L, D) → (B, C)."""
    return model.classifier(model.dropout(model.pre_classifier(last[:, 0]).relu()))


_CLASSIFIERS = {
    BertForSequenceClassification: _bert_logits,
    DistilBertForSequenceClassification: _distilbert_logits,
}


@contextmanager
def evaluating(model: nn.Module, device: torch.device | None = None) -> Iterator[nn.Module]:
    """Hold a model in eval mode, on another device if one is named, and bring both back."""
    was_training, before = model.training, device and next(model.parameters()).device
    try:
        yield model.eval() if device is None else model.eval().to(device)
    finally:
        model.train(was_training)
        if before is not None:
            model.to(before)


def texts_at_once(device: torch.device) -> int:
    """Tell how many texts a forward pass without gradients takes: a GPU wants many, a CPU what its cache holds."""
    return 256 if device.type == "cuda" else 32


def logits_of(model: nn.Module, encoded: Encoded, batch_size: int | None = None, fast: bool = True) -> Tensor:
    """Compute the model's logits for encoded texts, in order: float32 (N, C) on the host; in eval mode, then restored.

    batch_size: by default, what suits the model's device. fast: as for `forward`. Raises KDTutorError if there is no
    text, or, naming the first example, if a logit is not finite.
    """
    if not len(encoded):
        raise KDTutorError("there are no texts to compute logits for: the split is empty")
    device = next(model.parameters()).device
    if device.type == "cpu" and len(encoded) >= MANY:
        release_freed_memory()  # what a training run just over held, say
    order = length_bucketed_batches(encoded.lengths, batch_size or texts_at_once(device))
    gathered = torch.cat([*logits_by_batch(model, encoded, order, fast=fast)]).cpu()
    logits = torch.empty_like(gathered)
    logits[torch.cat(order)] = gathered
    return check_finite_logits(logits, torch.arange(len(logits)))


@torch.no_grad()
def logits_by_batch(
    model: nn.Module, encoded: Encoded, order: Iterable[Tensor], autocast=None, fast: bool = True
) -> Iterator[Tensor]:
    """Yield each batch's logits: float32 (n, C) on the model's device. Eval mode; the mode is restored."""
    device = next(model.parameters()).device
    with evaluating(model):
        for index in beside_neighbours(order, device):

            def answered(index: Tensor) -> Tensor:
                batch = encoded.batch(index, rounded=True)
                batch = {name: value.to(device, non_blocking=True) for name, value in batch.items()}
                # A batch that is not full has a shape of its own, for which programs would be made and kept.
                is_full_batch = len(index) == texts_at_once(device)
                with autocast or nullcontext(), fast_float32(device) if is_full_batch else nullcontext():
                    return forward(model, batch, fast=fast).logits.float()

            parts = [*as_memory_allows(answered, index, device, int(encoded.lengths[index].max()))]
            yield parts[0] if len(parts) == 1 else torch.cat(parts)


def as_memory_allows(
    compute: Callable[[Tensor], T], index: Tensor, device: torch.device, length: int
) -> Iterator[T]:
    """Compute something of the texts `index` (n,) at once, or, where there is no memory for that, half by half.

    Raises MemoryFull if one text, of `length` tokens at most, finds none.
    """
    one = within_memory(
        f"one text of at most {length} tokens",
        "Take a smaller max_length (--max_length), or a smaller model",
        device,
    )
    try:
        with one if len(index) == 1 else nullcontext():
            found = [compute(index)]
    except RuntimeError as error:
        if isinstance(error, MemoryFull) or not is_full(error):
            raise
        found = []
    if not found:  # out here, where the error no longer holds what the pass had in hand
        if device.type == "cuda":
            torch.cuda.empty_cache()
        for half in index.tensor_split(2):
            yield from as_memory_allows(compute, half, device, length)
    yield from found


def check_finite_logits(logits: Tensor, index: Tensor) -> Tensor:
    """Return `logits` (n, C) as they are, unless one is NaN or infinite: KDTutorError names it by its `index` (n,)."""
    if not (finite := logits.isfinite().all(-1)).all():
        raise KDTutorError(f"the model's logits for example {int(index[~finite].min())} are not finite")
    return logits


def unembedding(model: nn.Module) -> nn.Linear | None:
    """Return a language model's last matrix, D → V, with its bias if it has one; None if its head is not known here."""
    kind = getattr(getattr(model, "config", None), "model_type", None)
    is_known = kind in _MASKED_LM_HEADS or _has_plain_head(model)
    last = model.get_output_embeddings() if is_known else None
    if not isinstance(last, nn.Linear) or (kind in _MASKED_LM_HEADS and last.bias is None):
        return None
    # What BART's kin add to their logits besides; in its own checkpoints it is 0.
    more = getattr(model, "final_logits_bias", None)
    return last if more is None or not more.any() else None


def _has_plain_head(model: nn.Module) -> bool:
    """Tell whether a model's logits are one matrix times the last vectors of its body, and nothing else.

    A class that the table of families does not know says so itself: `plain_head = True`.
    """
    kind = getattr(getattr(model, "config", None), "model_type", None)
    return getattr(model, "plain_head", kind in PLAIN_HEADS)


def _features(model: nn.Module, hidden: Tensor) -> Tensor:
    """Run a language model's head but for its `unembedding`: (n, D) → (n, D)."""
    if _has_plain_head(model):
        return hidden
    if hasattr(model, "vocab_transform"):
        return model.vocab_layer_norm(model.activation(model.vocab_transform(hidden)))
    if hasattr(model, "cls"):
        return model.cls.predictions.transform(hidden)
    return model.lm_head.layer_norm(nn.functional.gelu(model.lm_head.dense(hidden)))


_MASKED_LM_HEADS = ("bert", "distilbert", *ROBERTAS)


def inputs_of(model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Select what the model takes of a batch. `labels` never: the objective, not the model, computes the loss.

    An encoder–decoder's decoder gets what is to be written, target_ids (B, M), one place later: its place t, which
    answers with token t, reads the tokens before it, and the first one the model's own start.
    """
    config = getattr(model, "config", None)
    known = {"input_ids", "attention_mask", *(["token_type_ids"] if has_token_types(config) else [])}
    known &= _parameters(type(model).forward)
    inputs = {name: value for name, value in batch.items() if name in known}
    if getattr(config, "is_encoder_decoder", False) and "target_ids" in batch:
        inputs["decoder_input_ids"] = F.pad(
            batch["target_ids"][:, :-1], (1, 0), value=config.decoder_start_token_id
        )
    return inputs


@lru_cache
def _parameters(function: Callable) -> frozenset[str]:
    return frozenset(inspect.signature(function).parameters)
