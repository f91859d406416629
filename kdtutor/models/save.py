"""A model saved as transformers' pipelines want it: with its tokenizer, and with the length it can read."""

from __future__ import annotations

import copy
import os
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import PreTrainedModel

from kdtutor.data.task import Task
from kdtutor.errors import KDTutorError
from kdtutor.models.families import has_token_types, refuse_whole_numbers, token_limit
from kdtutor.models.load import quiet


def save(
    model: PreTrainedModel, task: Task, folder: str | os.PathLike, dtype: torch.dtype = torch.float32
) -> int:
    """Save model and tokenizer, and return how many tokens a text may have there.

    `pipeline(folder)(text, truncation=True)` then cuts a text of any length to what the model's positions allow, and
    nothing of how texts were cut in training is left in the tokenizer. Raises KDTutorError where it can't be written,
    on a full disk say.
    """
    refuse_whole_numbers(model, "the model", "of PyTorch are not saved so: save it in float32, or export it")
    try:
        with quiet():
            model.to(dtype).save_pretrained(Path(folder))
        return save_tokenizer(model, task, folder)
    except (OSError, SafetensorError) as error:
        raise KDTutorError(f"the model can't be saved in {folder}: {error}") from error


def save_tokenizer(model: PreTrainedModel, task: Task, folder: str | os.PathLike) -> int:
    """Save the tokenizer as `model` reads by it, and return how many tokens a text may have."""
    given = task.tokenizer.model_max_length
    # A tokenizer without a limit says so by an enormous number.
    length = int(min(token_limit(model.config), max(task.max_length, given if given < 10**6 else 0)))
    tokenizer = copy.deepcopy(task.tokenizer)
    tokenizer.model_max_length = length
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        backend.no_truncation()
        backend.no_padding()
    for name in ("max_length", "stride", "truncation_strategy", "truncation_side", "pad_to_multiple_of"):
        tokenizer.init_kwargs.pop(name, None)
    # A pipeline gives a model all that its tokenizer makes, whatever the model takes it for.
    if not has_token_types(model.config):
        inputs = [name for name in tokenizer.model_input_names if name != "token_type_ids"]
        tokenizer.model_input_names = tokenizer.init_kwargs["model_input_names"] = inputs
    tokenizer.save_pretrained(Path(folder))
    return length
