"""The settings of a training run, each said once.

`Distillation`, the command line and its help, YAML files, `plan`, the twin of a live run and `resume` all read them
here. To add one, write one field: default, what it may be, and a sentence; `twin`, `resume`, `commands` where needed.
"""

# ruff: noqa: RUF009 (setting() makes a field)

from __future__ import annotations

import ast
import inspect
import math
import os
import textwrap
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields
from typing import Any, cast

from kdtutor.errors import (
    COUNT,
    FOLDER,
    POSITIVE,
    SEED,
    SWITCH,
    TEXT,
    Check,
    Checked,
    KDTutorError,
    nearest,
    number,
    one_of,
    optional,
)

ALL = ("pretrain", "finetune", "distill")
MASKED = ("pretrain", "distill")  # the commands that may have a masked-LM task


@dataclass(frozen=True)
class TopK:
    """Keep each token's k largest logits of the teacher, in memory or in a folder, where other runs find them.

    Raises KDTutorError if k is no whole number above 0, or the folder no name.
    """

    k: int
    folder: str | os.PathLike | None = None

    def __post_init__(self) -> None:
        if isinstance(self.k, bool) or not isinstance(self.k, int) or self.k < 1:
            raise KDTutorError(f"topk keeps a whole number of logits, 1 or more, not {self.k!r}")
        optional(FOLDER)("topk's folder", self.folder)

    def __str__(self) -> str:
        return f"topk:{self.k}" if self.folder is None else f"topk:{self.k}:{self.folder}"


@dataclass(frozen=True)
class OnPolicy:
    """How a student writes the texts that it learns from: see on_policy.py.

    share: λ, the chance of a step whose texts are the student's own; the other steps have the data's. temperature: at
    which it draws its tokens; None takes the likeliest. That of the loss belongs to the objective's terms. prompt: of a
    causal LM's text so many tokens are given; an encoder–decoder gets all that there is to read. max_new_tokens: by
    default as many as the task's texts may have. Raises KDTutorError for what these can't be.
    """

    share: float = 1.0
    temperature: float | None = 1.0
    prompt: int = 4
    max_new_tokens: int | None = None

    def __post_init__(self) -> None:
        number("a fraction above 0, at most 1", lambda value: 0 < value <= 1)("share", self.share)
        optional(POSITIVE)("temperature", self.temperature)
        COUNT("prompt", self.prompt)
        optional(COUNT)("max_new_tokens", self.max_new_tokens)


def _cache(value: object) -> bool | str | os.PathLike | TopK:
    if isinstance(value, str) and value.startswith("topk:"):
        count, *folder = value.removeprefix("topk:").split(":", 1)
        return TopK(cast(int, int(count) if count.isdecimal() else count), *folder)
    return value if isinstance(value, (bool, TopK)) else FOLDER.keep(value)


def _on_policy(value: object) -> OnPolicy | None:
    if value is not None and not isinstance(value, OnPolicy):
        raise TypeError
    return value


def _read_on_policy(text: str) -> OnPolicy:
    """Read a share alone, "0.5", or all that is to be said, "OnPolicy(share=0.5, temperature=0.8)"."""
    with suppress(ValueError):
        return OnPolicy(float(text))
    try:
        node = ast.parse(text.strip(), mode="eval").body
        if not isinstance(node, ast.Call) or ast.unparse(node.func) != "OnPolicy":
            raise ValueError
        given = {keyword.arg: ast.literal_eval(keyword.value) for keyword in node.keywords}
        return OnPolicy(*map(ast.literal_eval, node.args), **given)
    except (SyntaxError, RecursionError, MemoryError) as error:
        raise ValueError from error


def _interval(value: object) -> int | str:
    return "epoch" if value == "epoch" else COUNT.keep(value)


INTERVAL = Check(
    'a whole number, 1 or more, or "epoch"', _interval, lambda text: text if text == "epoch" else int(text)
)
ON_POLICY = Check("OnPolicy(share=0.5, …) or None, as a flag also a share", _on_policy, _read_on_policy)
CACHE = Check(
    'True, False, a folder, "topk:64" or "topk:64:FOLDER"',
    _cache,
    lambda text: {"true": True, "false": False}.get(text.lower(), text),
)


def setting(
    default: Any,
    check: Check,
    help: str,
    *,
    twin: bool = True,
    resume: bool = True,
    commands: tuple[str, ...] = ALL,
) -> Any:
    """Return a field of Settings. twin: the twin of a live run has the same; resume: a resumed run must have the same;
    commands: those of the command line that have it as a flag."""
    return field(
        default=default,
        metadata={"check": check, "help": help, "twin": twin, "resume": resume, "commands": commands},
    )


@dataclass(frozen=True)
class Settings(Checked):
    epochs: float = setting(3, POSITIVE, "passes over the training split; a fraction will do", resume=False)
    steps: int | None = setting(
        None,
        optional(COUNT),
        "optimiser steps, instead of epochs; the data is repeated as needed",
        resume=False,
    )
    batch_size: int = setting(32, COUNT, "examples per optimiser step, over all processes")
    sampling: str = setting(
        "uniform",
        one_of("uniform", "balanced"),
        "uniform has each training text once per pass; balanced draws as many, with replacement, and each class as "
        "often as any other (unlabelled texts as often as before)",
    )
    accumulate: int = setting(1, COUNT, "micro-batches that a process cuts its part of a step into")
    learning_rate: float = setting(
        5e-4,
        number("a number above 0, at most 1000", lambda value: 0 < value <= 1000),
        "the peak, after the warm-up; from there a linear decay to 0",
    )
    warmup: float = setting(
        0.05,
        number("a fraction from 0 to 1", lambda value: 0 <= value <= 1),
        "fraction of the steps for the linear warm-up",
    )
    weight_decay: float = setting(
        0.01,
        number("a number, 0 or more", lambda value: 0 <= value < math.inf),
        "AdamW's, on matrices and embeddings, never on biases and LayerNorm",
    )
    max_norm: float = setting(
        1.0, number("a number above 0", lambda value: value > 0), "gradients are clipped to this norm"
    )
    masking: float = setting(
        0.15,
        number("a fraction between 0 and 1", lambda value: 0 < value < 1),
        "masked LM: fraction of the tokens to predict",
        commands=MASKED,
    )
    rare_words: float = setting(
        0.0,
        number("an exponent, 0 or more", lambda value: 0 <= value < math.inf),
        "masked LM: 0 draws all tokens alike (BERT), 0.7 in proportion to count^-0.7 in the training texts "
        "(DistilBERT), any exponent likewise",
        commands=MASKED,
    )
    seed: int = setting(
        0,
        SEED,
        "decides order, masks and dropout of every step, whatever else draws random numbers in between",
    )
    split: str = setting("train", TEXT, "the part of the task to train on", commands=())
    folder: str | os.PathLike | None = setting(
        None,
        optional(FOLDER),
        "where checkpoints go; the newest two are kept",
        twin=False,
        resume=False,
        commands=(),
    )
    save_every: int | None = setting(
        None,
        optional(COUNT),
        "steps between two checkpoints, by default an epoch's",
        twin=False,
        resume=False,
    )
    validate_every: int | str | None = setting(
        None,
        optional(INTERVAL),
        'steps between two measurements on validation, or "epoch"; by default an epoch\'s if keep_best or patience '
        "asks for them, or else none",
        resume=False,
    )
    keep_best: bool = setting(
        False, SWITCH, "end with the weights that were best on validation, instead of the last ones"
    )
    metric: str | None = setting(
        None,
        optional(TEXT),
        "what is best on validation, and stands first in the table: a score of the task's kind, such as macro_f1, or "
        "loss (default: the main score)",
    )
    patience: int | None = setting(
        None,
        optional(COUNT),
        "end early after so many measurements on validation in a row that were no better than the best before",
        resume=False,
    )
    cache: bool | str | os.PathLike | TopK = setting(
        True,
        CACHE,
        "True keeps the teacher's logits in memory, a folder keeps them on disk for other runs, False asks the teacher "
        'anew at each step; "topk:64" (language models) fixes the masks, if any, and keeps each token\'s 64 largest '
        'logits, an approximation, in memory; "topk:64:FOLDER" keeps them on disk for other runs',
        commands=("distill",),
    )
    on_policy: OnPolicy | None = setting(
        None,
        ON_POLICY,
        "language models: in a share of the steps the student writes the texts itself, and the teacher judges each "
        "token: OnPolicy(share=0.5, temperature=1.0, prompt=4, max_new_tokens=None), or as a flag the share alone",
        twin=False,
        commands=("distill",),
    )
    precision: str = setting(
        "auto", one_of("auto", "bf16", "fp32"), "bf16 or fp32; auto takes bf16 where it is faster"
    )
    compile: bool = setting(
        False, SWITCH, "torch.compile on the student; where that fails, plain, with a warning", resume=False
    )
    chunked: bool = setting(
        True,
        SWITCH,
        "masked-LM logits a few hundred tokens at a time, where every term that reads them can",
        resume=False,
    )
    fast: bool = setting(
        True,
        SWITCH,
        "run BERT and DistilBERT in fewer operations than transformers does, with the same results",
    )
    check_teacher: bool = setting(
        True,
        SWITCH,
        "measure a teacher on some labelled texts before it teaches, and refuse one that is worse than chance",
        resume=False,
        commands=("distill",),
    )
    progress: bool | None = setting(
        None,
        optional(SWITCH),
        "whether to show a bar, by default in notebooks and terminals",
        twin=False,
        resume=False,
        commands=(),
    )

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Settings:
        """Make settings of these. KDTutorError, with the nearest name first, if there is no such setting."""
        known = [f.name for f in fields(cls)]
        for name in given:
            if name not in known:
                raise KDTutorError(nearest("setting", name, known))
        return cls(**given)

    def marked(self, mark: str) -> dict[str, Any]:
        """Return the values of the settings that have the mark "twin" or "resume"."""
        return {f.name: getattr(self, f.name) for f in fields(Settings) if f.metadata[mark]}

    def schedule(self, step: int, total: int) -> float:
        """Give the rate at a step (0 for the first) as a fraction of its peak: linear warm-up, then linear decay.

        The decay would reach 0 a step after the last.
        """
        warm = round(self.warmup * total)
        rise = (step + 1) / max(1, warm)
        fall = (total - step) / max(1, total - warm)
        return min(1.0, rise, fall)


def check_setting(name: str, value: object) -> Any:
    """Return `value` as the setting `name` is kept, or KDTutorError."""
    [found] = [f for f in fields(Settings) if f.name == name]
    return found.metadata["check"](name, value)


def takes_settings(function: Any) -> Any:
    """Let `function(…, **settings)` show every setting in its signature, with its default."""
    own = inspect.signature(function)
    kept = [p for p in own.parameters.values() if p.kind is not p.VAR_KEYWORD]
    added = [
        inspect.Parameter(f.name, inspect.Parameter.KEYWORD_ONLY, default=f.default, annotation=f.type)
        for f in fields(Settings)
    ]
    function.__signature__ = own.replace(parameters=[*kept, *added])
    return function


def describe() -> str:
    """Return every setting in a sentence, for a docstring."""
    lines = []
    for f in fields(Settings):
        sentence = f"{f.name}: {f.metadata['help']}. Must be {f.metadata['check'].allowed}."
        lines += textwrap.wrap(sentence, 110, initial_indent="    ", subsequent_indent="        ")
    return "\n".join(lines)
