"""Teachers, students, and what they cost.

    teacher = load_teacher(task)            # embedded and fine-tuned; frozen, eval mode
    student = half_depth(teacher)           # DistilBERT's way: every second layer, copied
    student = small_bert(task, layers=2, width=128)
    sizes(student)                          # parameters, bytes, multiply-adds

Models are plain `transformers` models, so that `student.save_pretrained(...)` loads in any pipeline.
"""

from __future__ import annotations

import inspect
import math
import os
from collections.abc import Iterable, Iterator, Sequence, Set
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import (
    AutoConfig,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForMaskedLM,
    DistilBertForSequenceClassification,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.utils import logging

from kdtutor import lean
from kdtutor.assets import manifest, verified
from kdtutor.data import Encoded, Task, hub_access, length_bucketed_batches, load_tokenizer, unavailable
from kdtutor.errors import KDTutorError, nearest

TEACHERS = {"supersense": "bert-supersense", "sentiment": "bert-sentiment", "glosses": "bert-glosses"}


@dataclass
class Outputs:
    """What a forward pass gives to the objective's terms.

    logits: (B, C), or (n, V) for the n selected tokens of a masked-LM batch. hidden_states: embeddings, then every
    layer, each (B, L, D). attentions: every layer, (B, H, L, L). features: instead of logits, those tokens' last
    vectors (n, D) before the `projection` onto the vocabulary; or, of a teacher, the `top` k log-probabilities and
    their tokens, (n, k) each.
    """

    logits: Tensor | None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    features: Tensor | None = None
    projection: nn.Linear | None = None
    top: tuple[Tensor, Tensor] | None = None


def load_teacher(task: Task, name: str | os.PathLike | None = None) -> PreTrainedModel:
    """The teacher of `task`, frozen and in eval mode: the embedded one, or any Hub name or local folder.

    Raises KDTutorError if no teacher ships for the task, or if the teacher has other classes, another vocabulary, or
    no trained head.
    """
    base = task.name.split("[")[0]
    if name is None and base not in TEACHERS:
        raise KDTutorError(
            f'no teacher ships for "{task.name}" (there are for {", ".join(TEACHERS)}); '
            'make one with kdtutor finetune, then load_teacher(task, "folder")'
        )
    name = name or TEACHERS[base]
    model, fresh = _load(name, task)
    if fresh:
        raise KDTutorError(
            f'{name} can\'t teach "{task.name}": it has no trained {fresh[0]}; run kdtutor finetune first'
        )
    return freeze(model)


def load_model(name: str | os.PathLike, task: Task) -> PreTrainedModel:
    """A model for `task` in float32: an embedded checkpoint's name, a local folder, or a Hub name.

    A checkpoint without the task's head (a masked LM, say) gets a fresh one, ready to be fine-tuned.
    Only safetensors are read and no code that comes with a checkpoint is ever run.
    """
    return _load(name, task)[0]


def _load(name: str | os.PathLike, task: Task) -> tuple[PreTrainedModel, list[str]]:
    """The model, and the names of the parameters that the checkpoint lacks."""
    place = verified(f"models/{name}") if str(name) in shipped() else Path(name)
    if place.is_dir() and not any(place.glob("*.safetensors")):
        raise KDTutorError(
            f"{name} holds no .safetensors file; kdtutor loads no other format, since a pickle can run code"
        )
    source, safe = str(place) if place.is_dir() else str(name), {"trust_remote_code": False}
    auto = AutoModelForMaskedLM if task.kind == "masked-lm" else AutoModelForSequenceClassification
    try:
        with hub_access(place), _quiet():
            config = AutoConfig.from_pretrained(source, **safe)
            _check_config(config, task, str(name), "ForSequenceClassification" in str(config.architectures))
            for key, value in _label_config(task).items():
                setattr(config, key, value)
            model, report = auto.from_pretrained(
                source,
                config=config,
                dtype=torch.float32,
                use_safetensors=True,
                attn_implementation="sdpa",
                output_loading_info=True,
                **safe,
            )
    except KDTutorError:
        raise
    except (
        Exception
    ) as error:  # no network, unknown name, a damaged file, remote code: a different type for each
        known = "" if place.is_dir() or "/" in str(name) else nearest("model", str(name), shipped()) + "; "
        raise KDTutorError(known + unavailable("model", name, error)) from error
    missing = sorted(report["missing_keys"])
    body = [key for key in missing if key.startswith(f"{model.base_model_prefix}.") and ".pooler." not in key]
    if body:
        raise KDTutorError(
            f"{name} is no {type(model).__name__}: {len(body)} parameters are missing, such as {body[0]}"
        )
    check_fits(model, task, str(name))
    _check_tokenizer(source, task)
    return model, [key for key in missing if ".pooler." not in key]


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' bars and tables about a loaded checkpoint: what matters in them is checked here."""
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
    """Names of the embedded checkpoints."""
    return sorted({name.split("/")[1] for name in manifest() if name.startswith("models/")})


def check_fits(model: PreTrainedModel, task: Task, who: str = "the model") -> None:
    """Refuse a model whose kind, classes, vocabulary or positions are not the task's."""
    other = "ForSequenceClassification" if task.kind == "masked-lm" else "ForMaskedLM"
    if other in type(model).__name__:
        raise KDTutorError(f'{who} is a {type(model).__name__}, but "{task.name}" is a {task.kind} task')
    _check_config(model.config, task, who, has_head=task.kind != "masked-lm")


def _check_config(config: PretrainedConfig, task: Task, who: str, has_head: bool) -> None:
    if has_head and task.kind != "masked-lm":
        names = [str(name) for _, name in sorted(config.id2label.items())]
        unnamed = any(name.startswith("LABEL_") for name in names)
        if len(names) != task.num_labels:
            raise KDTutorError(
                f'{who} has {len(names)} outputs, but "{task.name}" has {task.num_labels}: {_few(task.labels)}'
            )
        if not unnamed and [n.lower() for n in names] != [n.lower() for n in task.labels]:
            raise KDTutorError(
                f'{who} has the classes {_few(names)}, but "{task.name}" has {_few(task.labels)}'
            )
    surplus = config.vocab_size - len(task.tokenizer)
    if not 0 <= surplus <= 128:  # some models round their vocabulary up
        raise KDTutorError(
            f'{who} knows {config.vocab_size} tokens, but the tokenizer of "{task.name}" has {len(task.tokenizer)}: '
            'they must share one vocabulary (load_task(…, tokenizer="the model\'s name"))'
        )
    positions = getattr(config, "max_position_embeddings", math.inf)
    if config.model_type in _ROBERTAS:  # the first positions stand for padding
        positions -= (config.pad_token_id or 0) + 1
    if task.max_length > positions:
        raise KDTutorError(
            f'{who} has {positions} positions, but "{task.name}" allows {task.max_length} tokens a text: '
            f"load_task(…, max_length={positions})"
        )


def _check_tokenizer(source: str, task: Task) -> None:
    """Refuse a checkpoint whose own tokenizer, if it brings one, numbers the tokens otherwise than the task's."""
    if Path(source).is_dir() and not Path(source, "tokenizer.json").is_file():
        return
    try:
        theirs = load_tokenizer(source).get_vocab()
    except KDTutorError:  # it brings none
        return
    ours = task.tokenizer.get_vocab()
    if differing := sorted(ours.items() ^ theirs.items(), key=lambda item: item[1])[:1]:
        token, number = differing[0]
        raise KDTutorError(
            f'{source} has another tokenizer than "{task.name}": token {number} of one of them is "{token}", and not '
            'of the other (load_task(…, tokenizer="the model\'s name"))'
        )


def freeze(model: nn.Module) -> nn.Module:
    """Eval mode (no dropout: its answers are not noise) and no gradients. Returns the model."""
    return model.eval().requires_grad_(False)


#: what BERT and DistilBERT call it in their configurations
DROPOUTS = (
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "dropout",
    "attention_dropout",
    "seq_classif_dropout",
)


def set_dropout(model: PreTrainedModel, probability: float) -> PreTrainedModel:
    """The same dropout everywhere, in the modules and in the configuration that is saved. Returns the model."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = probability
    for name in DROPOUTS:
        if hasattr(model.config, name):
            setattr(model.config, name, probability)
    return model


def small_bert(
    task: Task,
    layers: int = 2,
    width: int = 128,
    heads: int | None = None,
    dropout: float = 0.1,
    seed: int | None = None,
) -> PreTrainedModel:
    """A BERT of any size with random weights for `task`; feed-forward 4 × width, heads of 32 (64 from width 512 on)."""
    if layers < 1 or width < 1:
        raise KDTutorError(f"a BERT of {layers} layers × {width}: both must be at least 1")
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
        **_label_config(task),
    )
    with torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        return BertForMaskedLM(config) if task.kind == "masked-lm" else BertForSequenceClassification(config)


def layer_choice(n: int, m: int) -> list[int]:
    """Which `m` of a teacher's `n` layers a student keeps: evenly spread, first and last included.

    `round(linspace(0, n - 1, m))`, halves to even: 12 → 6 gives DistilBERT's 0, 2, 4, 7, 9, 11; 6 → 3 gives 0, 2, 5.
    """
    if not 1 <= m <= n:
        raise KDTutorError(f"a student of {m} layers can't be cut from a teacher of {n}: choose 1 to {n}")
    return [round(i * (n - 1) / (m - 1)) for i in range(m)] if m > 1 else [0]


def half_depth(
    teacher: PreTrainedModel, depth: int | None = None, seed: int | None = None
) -> PreTrainedModel:
    """A DistilBERT with every second layer of `teacher` (BERT or DistilBERT), copied, never shared (Sanh et al. 2019).

    Same width and vocabulary; token-type embeddings and pooler are dropped, so the classification head starts fresh
    (at `seed`, if given) except for its last layer. `depth` chooses another number of layers. Gradients on, train mode.
    """
    config = teacher.config
    if not isinstance(teacher, _COPIED):
        kinds = ", ".join(kind.__name__ for kind in _COPIED)
        raise KDTutorError(
            f"half_depth copies {kinds}, but this is a {type(teacher).__name__}; take small_bert(task)"
        )
    activation = config.hidden_act if config.model_type == "bert" else config.activation
    if activation != "gelu" or getattr(config, "is_decoder", False):
        raise KDTutorError(
            f"half_depth copies encoders with the gelu activation, not a decoder or {activation}"
        )
    total = config.num_hidden_layers
    layers = layer_choice(total, depth if depth is not None else max(1, total // 2))
    student_config = DistilBertConfig(
        vocab_size=config.vocab_size,
        dim=config.hidden_size,
        n_layers=len(layers),
        n_heads=config.num_attention_heads,
        hidden_dim=getattr(config, "intermediate_size", None) or config.hidden_dim,
        max_position_embeddings=config.max_position_embeddings,
        pad_token_id=config.pad_token_id,
        id2label=config.id2label,
        label2id=config.label2id,
        problem_type=config.problem_type,
        seq_classif_dropout=0.1,
    )
    masked_lm = isinstance(teacher, (BertForMaskedLM, DistilBertForMaskedLM))
    with torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        student = (DistilBertForMaskedLM if masked_lm else DistilBertForSequenceClassification)(
            student_config
        )
    weights = _distilbert_weights(teacher.state_dict(), layers, config.model_type)
    missing, unexpected = student.load_state_dict(weights, strict=False)  # which copies the values
    if unexpected or set(missing) - {
        "pre_classifier.weight",
        "pre_classifier.bias",
        "vocab_projector.weight",
    }:
        raise KDTutorError(
            f"this teacher's weights fit no DistilBERT: missing {missing}, unexpected {unexpected}"
        )
    student.tie_weights()
    return student.train()


_COPIED = (
    BertForSequenceClassification,
    BertForMaskedLM,
    DistilBertForSequenceClassification,
    DistilBertForMaskedLM,
)

_LAYER_PARTS = {
    "bert": {
        "attention.self.query": "attention.q_lin",
        "attention.self.key": "attention.k_lin",
        "attention.self.value": "attention.v_lin",
        "attention.output.dense": "attention.out_lin",
        "attention.output.LayerNorm": "sa_layer_norm",
        "intermediate.dense": "ffn.lin1",
        "output.dense": "ffn.lin2",
        "output.LayerNorm": "output_layer_norm",
    },
    "distilbert": {},
}
_BERT_ELSEWHERE = {
    "bert.embeddings.word_embeddings.": "distilbert.embeddings.word_embeddings.",
    "bert.embeddings.position_embeddings.": "distilbert.embeddings.position_embeddings.",
    "bert.embeddings.LayerNorm.": "distilbert.embeddings.LayerNorm.",
    "cls.predictions.transform.dense.": "vocab_transform.",
    "cls.predictions.transform.LayerNorm.": "vocab_layer_norm.",
    "cls.predictions.bias": "vocab_projector.bias",
    "classifier.": "classifier.",
}


def _distilbert_weights(weights: dict[str, Tensor], layers: list[int], model_type: str) -> dict[str, Tensor]:
    """The chosen layers and everything around them, under DistilBERT's names."""
    prefix = {"bert": "bert.encoder.layer.", "distilbert": "distilbert.transformer.layer."}[model_type]
    chosen = {}
    for new, old in enumerate(layers):
        for name, value in weights.items():
            if name.startswith(f"{prefix}{old}."):
                part, kind = name.removeprefix(f"{prefix}{old}.").rsplit(".", 1)
                chosen[
                    f"distilbert.transformer.layer.{new}.{_LAYER_PARTS[model_type].get(part, part)}.{kind}"
                ] = value
    for name, value in weights.items():
        if model_type == "distilbert" and not name.startswith(prefix):
            chosen[name] = value
        for old, new in _BERT_ELSEWHERE.items() if model_type == "bert" else ():
            if name.startswith(old):
                chosen[name.replace(old, new, 1)] = value
    return chosen


# ------------------------------------------------------------------------------------------------ forward


def forward(
    model: nn.Module,
    batch: dict[str, Tensor],
    needs: Set[str] = frozenset({"logits"}),
    rows: Tensor | None = None,
) -> Outputs:
    """One forward pass that computes only what the objective `needs`.

    rows: for masked LMs, int64 (n,): which tokens' logits are wanted, as positions in the flattened (B·L) batch. The
    vocabulary projection, the costliest matrix product of a small model, then runs on those alone: logits is (n, V).
    Where "features" are needed instead of logits, it does not run at all.
    """
    inputs = inputs_of(model, batch)
    by_rows = rows is not None and any(hasattr(model, head) for head in ("vocab_transform", "cls", "lm_head"))
    known = by_rows or (rows is None and type(model) in _CLASSIFIERS)
    if known and "attentions" not in needs and lean.reads(model):
        keeps = "hidden_states" in needs
        states = lean.encode(model.base_model, **inputs, first_only=not (by_rows or keeps))
        last, states, maps = states[-1], tuple(states) if keeps else None, None
        if not by_rows:
            return Outputs(_CLASSIFIERS[type(model)](model, last), states)
    else:
        if _takes_full_masks(model):
            inputs["attention_mask"] = inputs["attention_mask"].bool()[:, None, None]  # (B, 1, 1, L)
        flags = {f"output_{name}": True for name in ("hidden_states", "attentions") if name in needs}
        out = (model.base_model if by_rows else model)(**inputs, **flags)
        if not by_rows:
            logits = out.logits if rows is None else out.logits.flatten(0, 1)[rows]
            return Outputs(logits, out.hidden_states, out.attentions)
        last, states, maps = out.last_hidden_state, out.hidden_states, out.attentions
    hidden = last.flatten(0, 1)[rows]  # (n, D)
    if "features" in needs:
        return Outputs(None, states, maps, _features(model, hidden), projection(model))
    return Outputs(_vocabulary_logits(model, hidden), states, maps)


def _takes_full_masks(model: nn.Module) -> bool:
    """Whether it takes a mask (B, 1, 1, L). Of (B, L) transformers asks whether it masks any, and a GPU has to wait."""
    config = getattr(model, "config", None)
    known = getattr(config, "model_type", None) in ("bert", "distilbert", "roberta")
    return known and config._attn_implementation == "sdpa"


def _bert_logits(model: BertForSequenceClassification, last: Tensor) -> Tensor:
    """(B, L, D) → (B, C)."""
    return model.classifier(model.dropout(model.bert.pooler(last)))


def _distilbert_logits(model: DistilBertForSequenceClassification, last: Tensor) -> Tensor:
    """(B, L, D) → (B, C)."""
    return model.classifier(model.dropout(model.pre_classifier(last[:, 0]).relu()))


_CLASSIFIERS = {
    BertForSequenceClassification: _bert_logits,
    DistilBertForSequenceClassification: _distilbert_logits,
}


def texts_at_once(device: torch.device) -> int:
    """How many texts a forward pass without gradients takes: a GPU wants many, a CPU what its cache holds."""
    return 256 if device.type == "cuda" else 32


def logits_of(model: nn.Module, encoded: Encoded, batch_size: int | None = None, autocast=None) -> Tensor:
    """The model's logits for encoded texts, in order: float32 (N, C) on the host. Eval mode; the mode is restored.

    batch_size: by default, what suits the model's device. Raises KDTutorError if there is no text, or, naming the first
    example, if a logit is not finite.
    """
    if not len(encoded):
        raise KDTutorError("there are no texts to compute logits for: the split is empty")
    order = length_bucketed_batches(
        encoded.lengths, batch_size or texts_at_once(next(model.parameters()).device)
    )
    gathered = torch.cat([*logits_by_batch(model, encoded, order, autocast)]).cpu()
    logits = torch.empty_like(gathered)
    logits[torch.cat(order)] = gathered
    return refuse_non_finite(logits, torch.arange(len(logits)))


@torch.no_grad()
def logits_by_batch(
    model: nn.Module, encoded: Encoded, order: Iterable[Tensor], autocast=None
) -> Iterator[Tensor]:
    """For each batch of indices its logits: float32 (n, C) on the model's device. Eval mode; the mode is restored."""
    device, was_training = next(model.parameters()).device, model.training
    model.eval()
    try:
        for index in order:
            batch = {
                name: value.to(device, non_blocking=True) for name, value in encoded.batch(index).items()
            }
            with autocast or nullcontext():
                yield forward(model, batch).logits.float()
    finally:
        model.train(was_training)


def refuse_non_finite(logits: Tensor, index: Tensor) -> Tensor:
    """`logits` (n, C) as they are. KDTutorError, naming the example by its `index` (n,), if one is NaN or infinite."""
    if not (finite := logits.isfinite().all(-1)).all():
        raise KDTutorError(f"the model's logits for example {int(index[~finite].min())} are not finite")
    return logits


def _vocabulary_logits(model: nn.Module, hidden: Tensor) -> Tensor:
    """The language-model head of DistilBERT, BERT or RoBERTa alone: (n, D) → (n, V)."""
    if hasattr(model, "vocab_transform"):
        return model.vocab_projector(_features(model, hidden))
    return (model.cls if hasattr(model, "cls") else model.lm_head)(hidden)


def projection(model: nn.Module) -> nn.Linear | None:
    """A masked LM's last matrix, D → V, with its bias; None if its head is not of a kind that is known here."""
    known = getattr(getattr(model, "config", None), "model_type", None) in _HEADS
    last = model.get_output_embeddings() if known else None
    return last if isinstance(last, nn.Linear) and last.bias is not None else None


def _features(model: nn.Module, hidden: Tensor) -> Tensor:
    """A masked LM's head but for its `projection`: (n, D) → (n, D)."""
    if hasattr(model, "vocab_transform"):
        return model.vocab_layer_norm(model.activation(model.vocab_transform(hidden)))
    if hasattr(model, "cls"):
        return model.cls.predictions.transform(hidden)
    return model.lm_head.layer_norm(nn.functional.gelu(model.lm_head.dense(hidden)))


_ROBERTAS = ("roberta", "xlm-roberta", "camembert")
_HEADS = ("bert", "distilbert", *_ROBERTAS)


def inputs_of(model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """What the model takes of a batch. `labels` never: the objective, not the model, computes the loss."""
    return {name: value for name, value in batch.items() if name in _known(type(model))}


@lru_cache
def _known(kind: type) -> frozenset[str]:
    return frozenset(inspect.signature(kind.forward).parameters) & {
        "input_ids",
        "attention_mask",
        "token_type_ids",
    }


# ------------------------------------------------------------------------------------------------ size


@dataclass(frozen=True)
class Sizes:
    """What a model costs: parameters; bytes as float32; multiply-adds to read one text of `length` tokens."""

    parameters: int
    bytes: int
    multiply_adds: int
    length: int

    def __str__(self) -> str:
        size = f"{self.parameters:,} parameters, {self.bytes / 1e6:.1f} MB"
        return f"{size}, {self.multiply_adds / 1e6:,.0f} M multiply-adds at {self.length} tokens"


def sizes(model: PreTrainedModel, length: int = 128) -> Sizes:
    """Count parameters (shared ones once), bytes and multiply-adds (look-ups, norms and activations cost none).

    The matrix products are counted as they run, by torch's own counter, so it holds for any model.
    """
    from torch.utils.flop_counter import FlopCounterMode

    parameters = sum(p.numel() for p in model.parameters())
    length = min(length, getattr(model.config, "max_position_embeddings", length))
    ids = torch.ones(1, length, dtype=torch.long, device=next(model.parameters()).device)
    was_training = model.training
    # The counter does not know the CPU's fused attention; written out, attention is two matrix products.
    with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids))
    model.train(was_training)
    return Sizes(parameters, 4 * parameters, counter.get_total_flops() // 2, length)


# ------------------------------------------------------------------------------------------------ small helpers


def _label_config(task: Task) -> dict:
    if task.kind == "masked-lm":
        return {}
    kind = "regression" if task.kind == "regression" else "single_label_classification"
    names = dict(enumerate(task.labels))
    return {"id2label": names, "label2id": {name: i for i, name in names.items()}, "problem_type": kind}


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
