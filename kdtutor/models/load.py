"""Teachers and other models: embedded, from a folder, or from the Hub; what does not fit the task is refused."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
import transformers
from torch import nn
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel
from transformers.utils import logging

from kdtutor.assets import asset_path, manifest, verified
from kdtutor.data.hub import hub_access, unavailable
from kdtutor.data.kinds import KINDS
from kdtutor.data.load import as_task
from kdtutor.data.task import Task
from kdtutor.errors import KDTutorError, nearest
from kdtutor.hardware import format_bytes, within_memory
from kdtutor.models.ensemble import Ensemble, Weights, is_ensemble, read_listed
from kdtutor.models.families import token_limit
from kdtutor.models.folders import check_all_layers_read, check_complete, check_not_quantized, wrapped
from kdtutor.models.outputs import LabelMap, first_five, is_unnamed, order_of, output_names, reorder
from kdtutor.models.reading import (
    check_is_causal,
    own_tokenizer,
    read_by,
    settle_padding,
    tokenizer_at,
    warn_of_first_teachers,
)

TEACHERS = {
    "supersense": "bert-supersense",
    "sentiment": "bert-sentiment",
    "glosses": "bert-glosses",
    "pronunciation": "bart-pronunciation",
}

#: No code that comes with a checkpoint is ever run.
SAFE = {"trust_remote_code": False}


def load_teacher(
    task: Task | str, name: str | os.PathLike | None = None, label_map: LabelMap | None = None
) -> PreTrainedModel:
    """Load the teacher of `task`, frozen and in eval mode: the embedded one, or any Hub name or local folder.

    The task may be given by its name. Classes are matched by name; label_map says which is which where names differ,
    as {"NEGATIVE": "0", "POSITIVE": "1"} or "NEGATIVE=0,POSITIVE=1". A folder may hold an `Ensemble`. Raises
    KDTutorError if no teacher ships for the task, or if one has other classes, another vocabulary, or no trained head.
    """
    task = as_task(task)
    if name is not None and not str(name).strip():
        raise KDTutorError(
            "the teacher's name is empty: leave it out for the one that ships, or name a folder"
        )
    if name is not None and is_ensemble(name):
        return freeze(load_ensemble(task, name, label_map=label_map))
    base = task.name.split("[")[0] + (" (causal-lm)" if task.kind == "causal-lm" else "")
    if name is None and base not in TEACHERS:
        raise KDTutorError(
            f'no teacher ships for "{task.name}" (there are for {", ".join(TEACHERS)}); '
            'make one with kdtutor finetune, then load_teacher(task, "folder")'
        )
    name = TEACHERS[base] if name is None else name
    model, fresh = _load(name, task, label_map, teaches=True)
    if fresh:
        raise KDTutorError(
            f'{name} can\'t teach "{task.name}": it has no trained {fresh[0]}; run kdtutor finetune first'
        )
    warn_of_first_teachers(model, task, str(name))
    return freeze(model)


def load_ensemble(
    task: Task | str,
    names: Sequence[str | os.PathLike] | str | os.PathLike,
    weights: Weights = None,
    combine: str | None = None,
    label_map: LabelMap | None = None,
) -> Ensemble:
    """Load an ensemble for `task`: from the names of its teachers, each as for load_teacher, or from a saved folder.

    weights, combine: by default all alike and "probabilities", or what the folder says. Raises KDTutorError if a
    teacher is missing, named twice, or does not fit.
    """
    task = as_task(task)
    if isinstance(names, (str, os.PathLike)):
        listed = read_listed(Path(names))
        names = [Path(names, name) for name in listed["teachers"]]
        weights = listed["weights"] if weights is None else weights
        combine = combine or listed["combine"]
    places = [os.path.realpath(name) if os.path.exists(name) else str(name) for name in names]
    for place, name in zip(places, names, strict=True):
        if places.count(place) > 1:
            raise KDTutorError(
                f"{name} is named twice as a teacher: a weight of 2 says that it counts double"
            )
    return Ensemble(
        [load_teacher(task, name, label_map) for name in names], weights, combine or "probabilities"
    )


def load_model(name: str | os.PathLike, task: Task | str) -> PreTrainedModel:
    """Load a model for `task` in float32: an embedded checkpoint's name, a local folder, or a Hub name.

    A checkpoint without the task's head (a masked LM, say) gets a fresh one, ready to be fine-tuned.
    Only safetensors are read and no code that comes with a checkpoint is ever run.
    """
    return _load(name, as_task(task))[0]


class Described(NamedTuple):
    """What a checkpoint says of itself before its weights are read. task: as this model reads it."""

    config: PretrainedConfig
    has_head: bool
    task: Task
    own_tokenizer: str | None
    outputs: list[str]
    order: list[int] | None  # which of its outputs answers each class; None as they stand


def _load(
    name: str | os.PathLike, task: Task, label_map: LabelMap | None = None, teaches: bool = False
) -> tuple[PreTrainedModel, list[str]]:
    """Load the model, and name the parameters that the checkpoint lacks: those of its head, then of its pooler."""
    place, name = _place_of(name), str(name)
    source = str(place) if os.path.isdir(place) else name
    with _reading(name, place):
        config, has_head, task, own, outputs, order = _describe(name, place, source, task, label_map, teaches)
        size = sum(file.stat().st_size for file in Path(source).glob("*.safetensors"))
        told = f"the model {name}{f' ({format_bytes(size)} on disk)' if size else ''}"
        with within_memory(told, "Take a smaller model, or end other programs"):
            auto = getattr(transformers, f"AutoModelFor{task.rules.head}")
            model, report = _from_pretrained(auto, source, config)

    missing = sorted(report["missing_keys"], key=lambda key: (".pooler." in key, key))
    _check_has_body(model, missing, report["unexpected_keys"], name)
    check_all_layers_read(config, report["unexpected_keys"], name)
    if teaches and not missing and not has_head and config.architectures:
        made = f"is a {config.architectures[0]}, whose head answers something else"
        raise KDTutorError(f'{name} can\'t teach "{task.name}": it {made}; run kdtutor finetune first')

    model.reads_with = own
    check_fits(model, task, name)
    settle_padding(model, task, name)
    check_is_causal(model, task, name)

    if order is not None:
        reorder(model, order, task)
        outputs = [outputs[number] for number in order]
    # For whoever has to say which output is meant, or knows the teacher already.
    model.output_names, model.is_shipped = tuple(outputs), name in shipped()
    return model, missing


def _place_of(name: str | os.PathLike) -> Path:
    """Tell where a model lies: embedded, in a folder, whose files must be complete, or nowhere here."""
    place = verified(f"models/{name}") if str(name) in shipped() else Path(name)
    if os.path.isfile(place):
        raise KDTutorError(f"{name} is a file: name its folder, {place.parent}")
    if os.path.isdir(place):
        check_complete(place)
    return place


def read_config(name: str | os.PathLike) -> PretrainedConfig:
    """Read what a checkpoint says of itself: an embedded one's name, a folder, or a Hub name."""
    place = _place_of(name)
    with _reading(str(name), place):
        return AutoConfig.from_pretrained(place if os.path.isdir(place) else str(name), **SAFE)


@contextmanager
def _reading(name: str, place: Path) -> Iterator[None]:
    """Read in silence, from the Hub where no folder lies there; whatever goes wrong is one sentence."""
    try:
        with hub_access(place), quiet():
            yield
    except KDTutorError:
        raise
    # No network, an unknown name, a damaged file, remote code: a different type for each.
    except Exception as error:
        known = "" if os.path.isdir(place) or "/" in name else nearest("model", name, shipped()) + "; "
        raise KDTutorError(known + unavailable("model", name, error)) from error


def _describe(
    name: str, place: Path, source: str, task: Task, label_map: LabelMap | None, teaches: bool
) -> Described:
    """Read the configuration, refuse what does not fit, and write the task's outputs into it."""
    config = AutoConfig.from_pretrained(source, **SAFE)
    _check_architecture(config, task, name)
    check_not_quantized(config, place, name)
    has_head = _has_head(config, task.rules.head)

    # A teacher of classes may read with a tokenizer of its own: its answers belong to the text.
    own = own_tokenizer(
        (tokenizer_of(name) or asset_path("tokenizer")) if name in shipped() else source, task
    )
    if own and not (teaches and not task.rules.per_token):
        raise KDTutorError(
            f'{source} has another tokenizer than "{task.name}": load_task(…, tokenizer="{source}") '
            f"(--tokenizer {source})"
        )
    if own:
        task = replace(task, tokenizer_name=own, max_length=int(min(task.max_length, token_limit(config))))

    # The architecture is the checkpoint's, the head is the one that the task needs.
    _check_config(config, task, name, has_head)
    if teaches and has_head:
        _check_answers(config, task, name)
    outputs, order = output_names(config), None
    if has_head and task.rules.named:
        order = order_of(outputs, task, name, label_map)
    for key, value in label_config(task).items():
        setattr(config, key, value)
    return Described(config, has_head, task, own, outputs, order)


def _check_architecture(config: PretrainedConfig, task: Task, name: str) -> None:
    """Refuse encoder–decoders where nothing is written, a classifier where each token is to be answered, and what has
    no such head."""
    if config.is_encoder_decoder and not task.rules.writes:
        kind = f"{config.model_type}, an encoder–decoder"
        raise KDTutorError(
            f'{name} is a {kind}: such are for seq2seq tasks, and "{task.name}" is a {task.kind} task'
        )
    if task.rules.per_token and "ForSequenceClassification" in str(config.architectures):
        raise KDTutorError(
            f'{name} answers with classes, but "{task.name}" has no label column: label="…" (--label …) names '
            "it; its cells may be empty, where a text is there to be answered by the teacher"
        )
    if not classes_with(config, task.rules.head):
        forms = {"MaskedLM": "masked LM", "CausalLM": "causal LM", "Seq2SeqLM": "encoder–decoder"}
        head = forms.get(task.rules.head, "head for classes or numbers")
        raise KDTutorError(
            f'{name} is a {config.model_type}, which has no {head}, but "{task.name}" is a {task.kind} task'
        )


def _has_head(config: PretrainedConfig, head: str) -> bool:
    """Tell whether a checkpoint was saved with a head of this kind, as its configuration says."""
    return bool({kind.__name__ for kind in classes_with(config, head)} & {*(config.architectures or ())}) or (
        f"For{head}" in str(config.architectures)
    )


def classes_with(config: PretrainedConfig, head: str) -> tuple[type, ...]:
    """Return transformers' classes of models with this configuration and head."""
    # AutoModel tells it nowhere else.
    found = getattr(transformers, f"AutoModelFor{head}")._model_mapping.get(type(config), ())  # noqa: SLF001
    return found if isinstance(found, tuple) else (found,)


def _check_answers(config: PretrainedConfig, task: Task, name: str) -> None:
    """Refuse a teacher of several labels per text where there is one: its logits are no classes' log-probabilities."""
    several = "multi_label_classification"
    if config.problem_type == several and task.rules.problem_type not in (None, several):
        raise KDTutorError(
            f'{name} answers each label by itself ({several}), but "{task.name}" is a {task.kind} task'
        )


def _check_has_body(model: PreTrainedModel, missing: list[str], unused: Iterable[str], name: str) -> None:
    """Refuse a checkpoint that lacks more than a head and the pooler, which belongs to the head."""
    body = [key for key in missing if key.startswith(f"{model.base_model_prefix}.") and ".pooler." not in key]
    if body:
        told = f"{len(body)} parameters are missing, such as {body[0]}{wrapped(unused)}"
        raise KDTutorError(f"{name} is no {type(model).__name__}: {told}")


def tokenizer_of(name: str | os.PathLike) -> str | None:
    """Tell where the tokenizer lies that a model brings along; None if it has none, or reads with the course's."""
    if str(name) in shipped():
        folder = verified(f"models/{name}")
        return str(folder) if (folder / "tokenizer.json").is_file() else None
    return None if tokenizer_at(name) is None else str(name)


def _from_pretrained(auto, source: str, config: PretrainedConfig) -> tuple[PreTrainedModel, dict]:
    """Read the weights; with fused attention where the architecture has it."""

    def read(attention: str) -> tuple[PreTrainedModel, dict]:
        return auto.from_pretrained(
            source,
            config=config,
            dtype=torch.float32,
            use_safetensors=True,
            attn_implementation=attention,
            output_loading_info=True,
            **SAFE,
        )

    try:
        return read("sdpa")
    except ValueError as error:
        if "scaled_dot_product_attention" not in str(error):
            raise
        return read("eager")
    except RuntimeError as error:
        if "ignore_mismatched_sizes" not in str(error):
            raise
        raise KDTutorError(
            f"{source}: its weights have other shapes than its config.json says: do they belong together, and has "
            "id2label an entry for each output?"
        ) from error


@contextmanager
def quiet() -> Iterator[None]:
    """Silence transformers' bars and tables about a checkpoint read or saved: what matters is checked here."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def shipped() -> list[str]:
    """List the names of the embedded checkpoints."""
    return sorted({name.split("/")[1] for name in manifest() if name.startswith("models/")})


def check_fits(model: PreTrainedModel, task: Task, who: str = "the model") -> None:
    """Refuse a model whose kind, classes, vocabulary or positions are not the task's."""
    if not isinstance(getattr(model, "config", None), PretrainedConfig):
        name = type(model).__name__
        raise KDTutorError(f"{who} is a {name}, not a model of transformers: its configuration is missing")
    others = {rules.head for rules in KINDS.values()} - {task.rules.head}
    one = getattr(model, "members", [model])[0]  # an ensemble's teachers have the same head
    if not _is_made_for(one, task.rules.head) and any(_is_made_for(one, other) for other in others):
        raise KDTutorError(f'{who} is a {type(one).__name__}, but "{task.name}" is a {task.kind} task')
    _check_config(model.config, read_by(model, task), who, has_head=True)
    names = output_names(model.config)
    named = task.rules.named and not is_unnamed(names)
    if named and [name.lower() for name in names] != [name.lower() for name in task.labels]:
        theirs, ours = first_five(names), first_five(task.labels)
        raise KDTutorError(f'{who} has the classes {theirs}, but "{task.name}" has {ours}')


def _is_made_for(model: PreTrainedModel, head: str) -> bool:
    return type(model) in classes_with(model.config, head) or f"For{head}" in type(model).__name__


def _check_config(config: PretrainedConfig, task: Task, who: str, has_head: bool) -> None:
    # As many outputs as the task has.
    if has_head and task.rules.problem_type and config.num_labels != task.num_labels:
        raise KDTutorError(
            f'{who} has {config.num_labels} outputs, but "{task.name}" has {task.num_labels}: {first_five(task.labels)}'
        )

    # The vocabulary; some models round it up.
    surplus = config.vocab_size - len(task.tokenizer)
    if not 0 <= surplus <= max(128, len(task.tokenizer) // 100):
        raise KDTutorError(
            f'{who} knows {config.vocab_size} tokens, but the tokenizer of "{task.name}" has {len(task.tokenizer)}: '
            'they must share one vocabulary (load_task(…, tokenizer="the model\'s name"))'
        )

    if task.rules.writes and config.decoder_start_token_id is None:
        raise KDTutorError(
            f"{who} doesn't say which token its decoder begins with: model.config.decoder_start_token_id = …"
        )

    if task.max_length > (most := token_limit(config)):
        raise KDTutorError(
            f'{who} has {most} positions, but "{task.name}" allows {task.max_length} tokens per text: '
            f"load_task(…, max_length={most}) (--max_length {most})"
        )


def freeze(model: nn.Module) -> nn.Module:
    """Set eval mode (no dropout: its answers are not noise) and no gradients, old ones included. Returns the model."""
    model.zero_grad(set_to_none=True)
    return model.eval().requires_grad_(False)


def label_config(task: Task) -> dict:
    """Return what a model's configuration says of its outputs: their names, and the kind of problem."""
    if task.rules.problem_type is None:
        return {}
    names = dict(enumerate(task.labels))
    numbers = {name: i for i, name in names.items()}
    return {"id2label": names, "label2id": numbers, "problem_type": task.rules.problem_type}
