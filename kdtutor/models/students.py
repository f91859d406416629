"""Students by name: half of a teacher's layers (depth.py), a small BERT, another shape (shapes.py), or your own.

    @register("my-lstm")
    def my_lstm(teacher, task, width=64, seed=None): ...

Then `make_student("my-lstm", teacher, task, width=128)` makes one, and so does `kdtutor distill --student my-lstm`.
"""

from __future__ import annotations

import importlib
import inspect
import os
import pkgutil
import re
from collections.abc import Callable
from difflib import get_close_matches

import torch
import transformers
from torch import nn
from transformers import BertConfig, PreTrainedModel

from kdtutor.data.load import as_task
from kdtutor.data.task import Task
from kdtutor.errors import COUNT, FRACTION, SEED, KDTutorError, nearest, whole
from kdtutor.models.depth import half_depth
from kdtutor.models.load import label_config, load_model

# Making thousands of layers takes minutes before anything can be said.
DEPTH = whole("a whole number from 1 to 1000", lambda value: 1 <= value <= 1000)

_REGISTER: dict[str, Callable[..., PreTrainedModel]] = {}


def register(name: str) -> Callable:
    """Decorate a function `(teacher, task, **options)` that makes a student: from now on `name` stands for it.

    Its options are its keywords. On the command line, --layers, --width, --token_types, --vectors and --seed are.
    """

    def add(make: Callable[..., PreTrainedModel]) -> Callable[..., PreTrainedModel]:
        _REGISTER[name] = make
        return make

    return add


def student_names() -> list[str]:
    """Return the names in the register; a file in this folder that registers one is found by itself."""
    package = importlib.import_module(__package__)
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{__package__}.{module.name}")
    return [*_REGISTER]


def make_student(
    name: str, teacher: PreTrainedModel | None, task: Task, seed: int | None = None, **options
) -> PreTrainedModel:
    """Make a new student by its name in the register, or a model from a folder or the Hub.

    Options that are None are left at their defaults. Raises KDTutorError for an option that the student doesn't take.
    """
    names, options = student_names(), {k: value for k, value in options.items() if value is not None}
    close = not os.path.isdir(name) and get_close_matches(name, names, cutoff=0.8)
    if close and name not in names:
        raise KDTutorError(nearest("student", name, names))
    make = _REGISTER.get(name, lambda teacher, task: load_model(name, task))

    known = inspect.signature(make).parameters
    if unknown := options.keys() - known.keys():
        takes = ", ".join([*known][2:]) or "none"
        raise KDTutorError(f"the student {name} has no option {min(unknown)}; those it has: {takes}")
    return make(teacher, task, **options | ({"seed": seed} if "seed" in known else {}))


def set_dropout(model: PreTrainedModel, probability: float) -> PreTrainedModel:
    """Set the same dropout everywhere, in the modules and in the configuration that is saved. Returns the model."""
    probability = FRACTION("dropout", probability)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = probability
    # Some keep it as a plain number, under names such as attention_dropout, resid_pdrop and drop_prob.
    for owner in (model.config, *model.modules()):
        for name, value in [*vars(owner).items()]:
            is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if is_number and re.search("dropout|pdrop$|drop_prob$", name):
                setattr(owner, name, probability)
    return model


def small_bert(
    task: Task | str,
    layers: int = 2,
    width: int = 128,
    heads: int | None = None,
    dropout: float = 0.1,
    seed: int | None = None,
) -> PreTrainedModel:
    """Make a BERT with random weights for `task`: feed-forward 4 × width, heads of 32 (64 from width 512 on)."""
    task = as_task(task)
    dropout = FRACTION("dropout", dropout)
    layers, width = DEPTH("layers", layers), COUNT("width", width)
    heads = heads if heads is None else COUNT("heads", heads)
    seed = seed if seed is None else SEED("seed", seed)
    heads = heads or max(1, width // (64 if width >= 512 else 32))
    if width % heads:
        raise KDTutorError(f"width {width} is not divisible by {heads} heads")
    config = BertConfig(
        vocab_size=len(task.tokenizer),
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=4 * width,
        max_position_embeddings=task.max_length,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        pad_token_id=task.tokenizer.pad_token_id,
        **label_config(task),
    )
    with torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        return getattr(transformers, f"BertFor{task.rules.head}")(config)


# ------------------------------------------------------------------------------------------- the register's own


@register("half-depth")
def _half_depth(teacher, task, layers=None, token_types="fold", seed=None):
    return half_depth(teacher, layers, seed, token_types)


@register("small-bert")
def _small_bert(teacher, task, layers=2, width=128, dropout=0.1, seed=None):
    return small_bert(task, layers, width, dropout=dropout, seed=seed)
