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

import transformers
from torch import nn
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedModel,
)

from kdtutor.data.load import as_task
from kdtutor.data.task import Task
from kdtutor.data.tokens import end_of_text, start_of_text
from kdtutor.errors import COUNT, FRACTION, KDTutorError, nearest, whole
from kdtutor.models.depth import half_depth
from kdtutor.models.load import label_config, load_model
from kdtutor.models.seeds import drawn_by

# Making thousands of layers takes minutes before anything can be said.
DEPTH = whole("a whole number from 1 to 1000", lambda value: 1 <= value <= 1000)

_REGISTER: dict[str, Callable[..., PreTrainedModel]] = {}


def register(name: str) -> Callable:
    """Decorate a function `(teacher, task, **options)` that makes a student: from now on `name` stands for it.

    Its options are its keywords; --layers, --width, --heads, --token_types, --vectors and --seed on the command line.
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
    layers, width, heads, dropout = _sizes(layers, width, heads, dropout)
    if not hasattr(transformers, f"BertFor{task.rules.head}"):
        raise KDTutorError(
            f'a BERT reads both ways and writes nothing, but "{task.name}" is a {task.kind} task: '
            "small_gpt2(task) (--student small-gpt2) for causal-lm, small_seq2seq(task) (--student small-seq2seq)"
        )
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
    return drawn(getattr(transformers, f"BertFor{task.rules.head}"), config, seed)


def small_gpt2(
    task: Task | str,
    layers: int = 2,
    width: int = 128,
    heads: int | None = None,
    dropout: float = 0.1,
    seed: int | None = None,
) -> PreTrainedModel:
    """Make a GPT-2 (Radford et al. 2019) with random weights for a causal-lm task, its heads as of `small_bert`."""
    task = as_task(task)
    layers, width, heads, dropout = _sizes(layers, width, heads, dropout)
    _check_kind(task, "CausalLM", "A GPT-2 predicts next tokens")
    config = GPT2Config(
        vocab_size=len(task.tokenizer),
        n_positions=task.max_length,
        n_embd=width,
        n_layer=layers,
        n_head=heads,
        resid_pdrop=dropout,
        embd_pdrop=dropout,
        attn_pdrop=dropout,
        **special_tokens(task),
    )
    return drawn(GPT2LMHeadModel, config, seed)


def small_seq2seq(
    task: Task | str,
    layers: int = 2,
    width: int = 128,
    heads: int | None = None,
    dropout: float = 0.1,
    decoder_layers: int | None = None,
    seed: int | None = None,
) -> PreTrainedModel:
    """Make an encoder–decoder with random weights for a seq2seq task: `transformer.Transformer`'s shape, as a BART.

    Norms behind each residual, ReLU, embeddings times √D that are the output layer too (Vaswani et al. 2017), but
    learned places. decoder_layers: of the decoder alone, which writing token by token waits for; by default `layers`.
    """
    task = as_task(task)
    layers, width, heads, dropout = _sizes(layers, width, heads, dropout)
    _check_kind(task, "Seq2SeqLM", "An encoder–decoder writes a text that answers another")
    special = special_tokens(task)
    config = BartConfig(
        vocab_size=len(task.tokenizer),
        max_position_embeddings=task.max_length,
        d_model=width,
        encoder_layers=layers,
        decoder_layers=layers if decoder_layers is None else DEPTH("decoder_layers", decoder_layers),
        encoder_attention_heads=heads,
        decoder_attention_heads=heads,
        encoder_ffn_dim=4 * width,
        decoder_ffn_dim=4 * width,
        activation_function="relu",
        scale_embedding=True,
        dropout=dropout,
        attention_dropout=dropout,
        decoder_start_token_id=special["bos_token_id"],
        forced_eos_token_id=None,
        **special,
    )
    return drawn(BartForConditionalGeneration, config, seed)


def _sizes(layers: int, width: int, heads: int | None, dropout: float) -> tuple[int, int, int, float]:
    """Check the sizes of a new Transformer; without `heads` they are 32 wide, 64 from width 512 on."""
    dropout = FRACTION("dropout", dropout)
    layers, width = DEPTH("layers", layers), COUNT("width", width)
    heads = COUNT("heads", heads) if heads is not None else max(1, width // (64 if width >= 512 else 32))
    if width % heads:
        raise KDTutorError(f"width {width} is not divisible by {heads} heads")
    return layers, width, heads, dropout


def _check_kind(task: Task, head: str, what: str) -> None:
    if task.rules.head != head:
        raise KDTutorError(f'{what}, but "{task.name}" is a {task.kind} task')


def special_tokens(task: Task) -> dict[str, int]:
    """Return the tokens that a model which writes has to know; they stand in its configuration."""
    tokenizer = task.tokenizer
    ends = {"bos_token_id": start_of_text(tokenizer), "eos_token_id": end_of_text(tokenizer)}
    return ends | {"pad_token_id": tokenizer.pad_token_id}


def drawn(kind: type[PreTrainedModel], config, seed: int | None) -> PreTrainedModel:
    """Make a model with random weights, drawn by `seed` if there is one."""
    with drawn_by(seed):
        return kind(config)


# ------------------------------------------------------------------------------------------- the register's own


@register("half-depth")
def _half_depth(teacher, task, layers=None, token_types="fold", seed=None):
    return half_depth(teacher, layers, seed, token_types)


@register("small-bert")
def _small_bert(teacher, task, layers=2, width=128, heads=None, dropout=0.1, seed=None):
    return small_bert(task, layers, width, heads, dropout, seed)


@register("small-gpt2")
def _small_gpt2(teacher, task, layers=2, width=128, dropout=0.1, seed=None):
    return small_gpt2(task, layers, width, dropout=dropout, seed=seed)


@register("small-seq2seq")
def _small_seq2seq(teacher, task, layers=2, width=128, dropout=0.1, seed=None):
    return small_seq2seq(task, layers, width, dropout=dropout, seed=seed)
