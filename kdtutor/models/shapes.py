"""What students of another shape share: configuration, head, and a start from what the teacher knows of its tokens.

    student = lstm_student(task, teacher)      # recurrent.py, where gru_student is too
    student = cnn_student(task, teacher)       # convolutional.py
    student = static_student(task, teacher)    # static.py

Each is a `PreTrainedModel`, trained by the same loop and saved like any other. transformers does not know their
architectures by itself: `import kdtutor.models` tells them to its `Auto…` classes and pipelines, once in each process.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForSequenceClassification, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from kdtutor.data.load import as_task
from kdtutor.data.task import Task
from kdtutor.errors import COUNT, FRACTION, KDTutorError, one_of
from kdtutor.models.load import label_config
from kdtutor.models.seeds import drawn_by
from kdtutor.models.vectors import token_vectors

VECTORS = one_of("teacher", "random")


class ShapeConfig(PretrainedConfig):
    """What every student of another shape writes down."""

    vocab_size: int = 30522
    dropout: float = 0.1
    pad_token_id: int | None = 0
    # The texts of a pair are read one behind the other: token types are not looked at.
    type_vocab_size: int = 1


class ShapeModel(PreTrainedModel):
    """A body that makes features of a text, dropout, and a linear layer with an output for each class.

    body: the class of the body, made from a configuration. It has a table of tokens, `embeddings`, and the number of
    its `features`. Called with input_ids (B, L) and a mask (B, L), True at real tokens, it returns the features (B, F)
    and its hidden states, each (B, L, D), none if it has none. gives: what a term of an objective may ask it for.
    """

    base_model_prefix = "encoder"
    body: ClassVar[type[nn.Module]]
    gives: ClassVar[frozenset[str]] = frozenset({"logits"})

    def __init__(self, config: ShapeConfig):
        super().__init__(config)
        self.encoder = self.body(config)
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(self.encoder.features, config.num_labels)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
    ) -> SequenceClassifierOutput:
        """Compute logits (B, C) from input_ids (B, L); with `labels` the loss too, as transformers' models do.

        No padding is ever read, wherever it stands: where attention_mask (B, L) is 0, or, without one, wherever the
        padding token is. The features of a text without any token are 0, so its logits are the bias of the head.
        """
        asked = {"hidden_states": output_hidden_states, "attentions": output_attentions}
        if lacks := [name for name, wanted in asked.items() if wanted and name not in self.gives]:
            raise KDTutorError(f"{type(self).__name__} has no {lacks[0].replace('_', ' ')}")
        if attention_mask is None:
            attention_mask = input_ids != self.config.pad_token_id
        if input_ids.shape[1] == 0:
            # A whole batch of empty texts.
            input_ids, attention_mask = (nn.functional.pad(t, (0, 1)) for t in (input_ids, attention_mask))

        features, states = self.encoder(input_ids, attention_mask.bool())
        logits = self.classifier(self.dropout(features))
        loss = None
        if labels is not None:
            loss = self.loss_function(labels=labels, pooled_logits=logits, config=self.config)
        return SequenceClassifierOutput(loss, logits, states if output_hidden_states else None)

    def get_input_embeddings(self) -> nn.Module:
        return self.encoder.embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.encoder.embeddings = value

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Draw weights as torch does, but for the tokens, whose mean is to be a small number: N(0, 0.1²)."""
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.1)
        elif isinstance(module, (nn.Linear, nn.Conv1d, nn.RNNBase)):
            module.reset_parameters()


def make(
    kind: type[ShapeModel], task: Task | str, teacher: PreTrainedModel | None, seed: int | None, **settings
) -> ShapeModel:
    """Make a student for `task`, in train mode; its table of tokens starts from the teacher's vectors if there is one.

    settings: fields of the kind's configuration. Raises KDTutorError for a task whose answers belong to tokens, and for
    sizes that can't be.
    """
    task = as_task(task)
    if task.rules.per_token:
        raise KDTutorError(
            f'a {kind.__name__} answers a text as a whole, but "{task.name}" is a {task.kind} task'
        )
    settings["dropout"] = float(FRACTION("dropout", settings["dropout"]))
    for name, value in settings.items():
        if isinstance(value, int) and not isinstance(value, bool):
            COUNT(name, value)
    config = kind.config_class(
        vocab_size=len(task.tokenizer),
        pad_token_id=task.tokenizer.pad_token_id,
        **settings,
        **label_config(task),
    )
    with drawn_by(seed):
        model = kind(config)
    if teacher is not None:
        table = model.encoder.embeddings
        table.weight.data.copy_(token_vectors(teacher, task, table.embedding_dim))
    return model.train()


def start_from(teacher: PreTrainedModel | None, vectors: str) -> PreTrainedModel | None:
    """Return the teacher from whose `vectors` of the tokens a student starts, or None where they are to be random."""
    return teacher if VECTORS("vectors", vectors) == "teacher" else None


def with_vectors(make: Callable[..., PreTrainedModel]) -> Callable[..., PreTrainedModel]:
    """Turn lstm_student and its kin into what the register takes."""

    def student(teacher, task, layers=1, width=256, dropout=0.2, vectors="teacher", seed=None):
        return make(
            task, start_from(teacher, vectors), layers=layers, width=width, dropout=dropout, seed=seed
        )

    return student


def masked_max(x: Tensor, mask: Tensor) -> Tensor:
    """Take the largest value of each feature over real tokens: (B, L, D), bool (B, L) → (B, D); 0 if there are none."""
    best = x.masked_fill(~mask[..., None], -torch.inf).amax(1)
    return best.masked_fill(~mask.any(1, keepdim=True), 0)


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Average over a text's real tokens: (B, L, D) and bool (B, L) → (B, D), 0 if there are none."""
    return (x * mask[..., None]).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)


def known_to_transformers(kind: type[ShapeModel]) -> type[ShapeModel]:
    """Decorate a class of models: AutoConfig, AutoModelForSequenceClassification and pipelines find it by its type."""
    AutoConfig.register(kind.config_class.model_type, kind.config_class)
    AutoModelForSequenceClassification.register(kind.config_class, kind)
    return kind
