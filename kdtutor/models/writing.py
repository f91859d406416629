"""What language models write: the likeliest token at each step, by beam search, or drawn. transformers does the work.

generate(student, task, ["a small furry animal that"])          # a causal LM goes on
generate(student, task, ["hello"], beams=4)                     # an encoder–decoder answers
generate(student, task, ["hello"] * 5, temperature=1.0)         # drawn
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import torch
from torch import Tensor
from transformers import PreTrainedModel

from kdtutor.data.load import as_task
from kdtutor.data.task import Task
from kdtutor.data.tokens import Encoded, end_of_text, length_bucketed_batches
from kdtutor.errors import COUNT, POSITIVE, SEED, KDTutorError
from kdtutor.models.families import token_limit
from kdtutor.models.forward import as_memory_allows, evaluating
from kdtutor.neighbours import beside_neighbours

AT_ONCE = 256  # texts, at most
FAR = 10**6  # tokens: nothing is cut off


def generate(
    model: PreTrainedModel,
    task: Task | str,
    texts: Sequence[str] | str,
    *,
    beams: int = 1,
    temperature: float | None = None,
    max_new_tokens: int | None = None,
    seed: int = 0,
) -> list[str]:
    """Let a causal LM go on from each text, and an encoder–decoder answer it; what was read is not repeated.

    beams: how many beginnings are followed at once; 1 takes the likeliest token at each step. temperature: draws each
    token from softmax(z / temperature) instead, by `seed`. max_new_tokens: by default as many as the task's texts may
    have. A text may come out empty. Raises KDTutorError for a kind of task that doesn't write, a text without a token,
    and one that is longer than the model reads.
    """
    task, texts = as_task(task), [texts] if isinstance(texts, str) else list(texts)
    encoded = prompts(model, task, texts)
    found = [""] * len(texts)
    if not texts:
        return found
    order = beside_neighbours(length_bucketed_batches(encoded.lengths, AT_ONCE), model.device)
    for number, index in enumerate(order):

        def written(index: Tensor, number: int = number) -> list[str]:
            ids, _ = generated_ids(
                model, task, encoded.batch(index), beams=beams, temperature=temperature,
                max_new_tokens=max_new_tokens, seed=seed + number,
            )  # fmt: skip
            return task.tokenizer.batch_decode(ids, skip_special_tokens=True)

        length = int(encoded.lengths[index].max())
        said = chain.from_iterable(as_memory_allows(written, index, model.device, length))
        for row, text in zip(index.tolist(), said, strict=True):
            found[row] = text.strip()
    return found


def prompts(model: PreTrainedModel, task: Task, texts: Sequence[str]) -> Encoded:
    """Tokenize what a model is to go on from, or to answer; without its end, where it goes on."""
    if not task.rules.per_token or task.rules.masks:
        raise KDTutorError(
            f'"{task.name}" is a {task.kind} task: models of causal-lm and seq2seq tasks write'
        )
    encoded = task.rules.tokenize(task.tokenizer, (list(texts),), FAR)
    ends = torch.tensor([end_of_text(task.tokenizer) if not task.rules.writes else -1])
    if len(encoded):
        last = encoded.ids[(encoded.offsets[1:] - 1).clamp(min=0)]
        encoded = _shortened(encoded, (last == ends) & (encoded.lengths > 0))

    most = token_limit(model.config) - (0 if task.rules.writes else 1)
    for row, length in enumerate(encoded.lengths.tolist()):
        if not length:
            raise KDTutorError(
                f"text {row} is empty: {task.tokenizer.name_or_path} makes no token of it to begin with"
            )
        if length > most:
            raise KDTutorError(
                f"text {row} has {length} tokens, but the model reads {most:.0f} at most: {texts[row][:40]!r} …"
            )
    return encoded


@torch.no_grad()
def generated_ids(
    model: PreTrainedModel,
    task: Task,
    batch: dict[str, Tensor],
    *,
    beams: int = 1,
    temperature: float | None = None,
    max_new_tokens: int | None = None,
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    """Let a model write, given input_ids and attention_mask (B, L) padded on the right: see `generate`.

    Returns the new tokens, int64 (B, N), the end of text among them, and a mask (B, N) of those up to it. On the
    model's device, in eval mode, which is restored; no random state is changed.
    """
    if not model.can_generate():
        raise KDTutorError(f"a {type(model).__name__} can't write: it has no generate()")
    device, is_decoder = model.device, not task.rules.writes
    ids, mask = (batch[name].to(device) for name in ("input_ids", "attention_mask"))
    if is_decoder:
        ids, mask = _padded_left(ids, mask)

    room = token_limit(model.config) - (ids.shape[1] if is_decoder else 1)
    wished = task.max_length - (ids.shape[1] if is_decoder else 0)
    wished = max(1, wished) if max_new_tokens is None else COUNT("max_new_tokens", max_new_tokens)
    end, pad = end_of_text(task.tokenizer), task.tokenizer.pad_token_id
    how = {"num_beams": COUNT("beams", beams), "do_sample": temperature is not None}
    if temperature is not None:
        # From all tokens: by default only the 50 likeliest can be drawn.
        how |= {"temperature": POSITIVE("temperature", temperature), "top_k": 0}
    most = int(min(room, wished))
    with evaluating(model), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(SEED("seed", seed))
        written = model.generate(
            input_ids=ids, attention_mask=mask, max_new_tokens=most, eos_token_id=end, pad_token_id=pad, **how
        )
    return _up_to_end(written[:, ids.shape[1] if is_decoder else 1 :], end, pad)


def _padded_left(ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Move the padding (B, L) from the right to the left: what a decoder goes on from has to stand last."""
    place = torch.arange(ids.shape[1], device=ids.device) - (mask == 0).sum(1, keepdim=True)
    place %= ids.shape[1]
    return ids.take_along_dim(place, 1), mask.take_along_dim(place, 1)


def _up_to_end(new: Tensor, end: int, pad: int) -> tuple[Tensor, Tensor]:
    """Pad what was written (B, N) behind its first end of text; and a mask of the rest, that end among it."""
    ended = (new == end).cumsum(1)
    mask = (ended == 0) | ((ended == 1) & (new == end))
    return new.masked_fill(~mask, pad), mask


def _shortened(encoded: Encoded, which: Tensor) -> Encoded:
    """Leave out the last token of some texts, bool (N,)."""
    keep = torch.ones(len(encoded.ids), dtype=torch.bool)
    keep[encoded.offsets[1:][which] - 1] = False
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), (encoded.lengths - which.long()).cumsum(0)])
    return Encoded(encoded.ids[keep], offsets, None, pad=encoded.pad)
