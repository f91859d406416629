"""How a model reads a task's texts: with which tokenizer, and that padding changes nothing."""

from __future__ import annotations

import os
import warnings
from dataclasses import replace
from hashlib import sha256

import torch
from torch import Tensor
from transformers import PreTrainedModel

from kdtutor.assets import asset_path
from kdtutor.data.task import Task
from kdtutor.data.tokens import load_tokenizer
from kdtutor.errors import KDTutorError
from kdtutor.models.families import PADDED, token_limit
from kdtutor.models.forward import evaluating, forward

COMPARED = 64  # texts that two tokenizers must read alike

#: SHA-256 of the pieces, in their order, of the course's tokenizer before its teachers began from MiniLM.
FIRST_PIECES = "8a3d24ce4d1c26a5d21d572a198ce2b02578a03678db11ecced09eae80fa613d"


def own_tokenizer(source: str | os.PathLike, task: Task) -> str | None:
    """Return `source` if a tokenizer lies there that reads texts otherwise than the task's; None if not.

    What counts is what it does, not in which files it lies: the same texts must give the same ids.
    """
    if task.tokenizer_name is None and str(source) == str(asset_path("tokenizer")):
        return None
    try:
        theirs = tokenizer_at(source)
    except KDTutorError:
        if task.tokenizer_name is None:
            raise
        theirs = None  # another one was named
    if theirs is None:
        return None
    texts = [*task.split("train").texts[0][:COMPARED], "Ünïcode, 3.14 & UPPER case; a-b_c!", *task.labels]
    texts += task.tokenizer.all_special_tokens
    alike = theirs(texts)["input_ids"] == task.tokenizer(texts)["input_ids"]
    # Pieces that none of these texts has.
    ours, others = task.tokenizer.get_vocab(), theirs.get_vocab()
    return None if alike and all(others.get(token, i) == i for token, i in ours.items()) else str(source)


def tokenizer_at(source: str | os.PathLike):
    """Load the tokenizer that lies with a model; None if there is none. KDTutorError if one in a folder is broken."""
    if os.path.isdir(source) and not any(
        name.startswith(("tokenizer", "vocab", "spiece", "sentencepiece", "merges"))
        for name in os.listdir(source)
    ):
        return None
    try:
        return load_tokenizer(source)
    except KDTutorError as error:
        if not os.path.isdir(source):  # the Hub has models without one
            return None
        raise KDTutorError(
            f'{error}; load_task(…, tokenizer="…") (--tokenizer …) names another one'
        ) from error


def read_by(model: PreTrainedModel, task: Task) -> Task:
    """Return the task as `model` reads it: with the tokenizer that it brought along, if that is another one."""
    own = getattr(model, "reads_with", None)
    if own is None or own == task.tokenizer_name:
        return task
    return replace(task, tokenizer_name=own, max_length=int(min(task.max_length, token_limit(model.config))))


def warn_of_first_teachers(model: PreTrainedModel, task: Task, who: str) -> None:
    """Warn of a teacher that reads with the course's first tokenizer: it has seen labels that the pool hides now."""
    pieces = read_by(model, task).tokenizer.get_vocab()
    if sha256("\n".join(sorted(pieces, key=pieces.get)).encode(errors="replace")).hexdigest() == FIRST_PIECES:
        warnings.warn(
            f"{who} reads with kdtutor's first tokenizer: it is none of today's teachers, and those of that time were "
            "fine-tuned on the labels that supersense's pool hides now",
            stacklevel=3,
        )


def settle_padding(model: PreTrainedModel, task: Task, who: str) -> None:
    """Let a model that isn't known here give two texts the same answers alone and padded, or refuse it.

    A decoder looks for a text's last token: it has to know which token is padding.
    """
    if model.config.model_type in PADDED:
        return
    tokenizer = task.tokenizer
    if model.config.pad_token_id is None:
        model.config.pad_token_id = tokenizer.pad_token_id
    if _difference(model, task) <= 1e-3:
        return
    model.config.pad_token_id = tokenizer.pad_token_id
    if (found := _difference(model, task)) > 1e-3:
        raise KDTutorError(
            f"{who}, a {type(model).__name__}, answers otherwise when a text is padded (by {found:.2g}, padding "
            f"{tokenizer.pad_token!r}): such answers depend on what else is in a batch"
        )


@torch.no_grad()
def _difference(model: PreTrainedModel, task: Task) -> float:
    """Tell how far the answers to two texts are from those to the same texts padded."""
    encoded = task.encode_texts(["one", " ".join(["a much longer text, and then some more of it"] * 8)])
    with evaluating(model):
        together = _answers(model, encoded.batch(torch.arange(2)))
        alone = [_answers(model, encoded.batch(torch.tensor([i]))) for i in range(2)]
    return max(
        float((one[0] - both[: len(one[0])]).abs().max()) for one, both in zip(alone, together, strict=True)
    )


def _answers(model: PreTrainedModel, batch: dict[str, Tensor]) -> Tensor:
    """Compute logits (B, C) or (B, L, V); an encoder–decoder is to write what it reads."""
    return forward(model, batch | {"target_ids": batch["input_ids"]}, fast=False).logits.float()


@torch.no_grad()
def check_is_causal(model: PreTrainedModel, task: Task, who: str) -> None:
    """Refuse a model that is to predict next tokens and reads them: its loss would fall to 0, and it can't write."""
    if task.rules.head != "CausalLM":
        return
    ids = torch.arange(min(8, len(task.tokenizer)), device=model.device)[None]
    other = torch.cat([ids[:, :-1], ids[:, :1]], 1)  # another last token
    with evaluating(model):
        one, two = (
            _answers(model, {"input_ids": x, "attention_mask": torch.ones_like(x)}) for x in (ids, other)
        )
    if (found := float((one - two)[:, :-1].abs().max())) > 1e-5 * max(1.0, float(one.abs().max())):
        raise KDTutorError(
            f"{who}, a {type(model).__name__}, reads the tokens that it is to predict (its answers change by "
            f"{found:.2g} with them): an encoder is no causal LM; take a decoder, such as small_gpt2(task)"
        )
