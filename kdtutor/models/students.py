"""Students: half of a teacher's layers, copied, or a small BERT with random weights."""

from __future__ import annotations

import torch
import transformers
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForMaskedLM,
    DistilBertForSequenceClassification,
    PreTrainedModel,
)

from kdtutor.data.load import as_task
from kdtutor.data.task import Task
from kdtutor.errors import FRACTION, KDTutorError
from kdtutor.models.load import label_config

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
    probability = FRACTION("dropout", probability)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = probability
    for name in DROPOUTS:
        if hasattr(model.config, name):
            setattr(model.config, name, probability)
    return model


def small_bert(
    task: Task | str,
    layers: int = 2,
    width: int = 128,
    heads: int | None = None,
    dropout: float = 0.1,
    seed: int | None = None,
) -> PreTrainedModel:
    """A BERT of any size with random weights for `task`; feed-forward 4 × width, heads of 32 (64 from width 512 on)."""
    task = as_task(task)
    dropout = FRACTION("dropout", dropout)
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
        **label_config(task),
    )
    with torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        return getattr(transformers, f"BertFor{task.rules.head}")(config)


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
