"""A static student: a table of tokens and nothing else, the mean of a text's vectors, and a linear head."""

from __future__ import annotations

from torch import Tensor, nn
from transformers import PreTrainedModel

from kdtutor.data.task import Task
from kdtutor.models.shapes import (
    ShapeConfig,
    ShapeModel,
    known_to_transformers,
    make,
    masked_mean,
    start_from,
)
from kdtutor.models.students import register


class StaticConfig(ShapeConfig):
    """embedding_size: of the tokens, and so of a text."""

    model_type = "kdtutor-static"

    embedding_size: int = 256


class Static(nn.Module):
    """The mean of the vectors of a text's tokens: their order does not count."""

    def __init__(self, config: StaticConfig):
        super().__init__()
        self.features = config.embedding_size
        self.embeddings = nn.Embedding(config.vocab_size, self.features)

    def forward(self, input_ids: Tensor, mask: Tensor) -> tuple[Tensor, None]:
        return masked_mean(self.embeddings(input_ids), mask), None


@known_to_transformers
class StaticForSequenceClassification(ShapeModel):
    """A bag of vectors with a linear head. It has features of a text, but no hidden states of its tokens."""

    config_class = StaticConfig
    body = Static


def static_student(
    task: Task | str,
    teacher: PreTrainedModel | None = None,
    width: int = 256,
    dropout: float = 0.1,
    seed: int | None = None,
) -> PreTrainedModel:
    """Make a bag of `width`-dimensional token vectors for `task` (fastText: Joulin et al. 2017, arXiv:1607.01759).

    teacher: whose averaged vectors it starts from (`token_vectors`), as model2vec does; None: random ones. It has no
    matrix product but its head's, so what it costs is memory.
    """
    return make(StaticForSequenceClassification, task, teacher, seed, embedding_size=width, dropout=dropout)


@register("static")
def _static(teacher, task, width=256, dropout=0.1, vectors="teacher", seed=None):
    return static_student(task, start_from(teacher, vectors), width, dropout, seed)
