"""A convolutional student: filters over a few neighbouring tokens, and of each the best place (Kim 2014)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from kdtutor.data.task import Task
from kdtutor.errors import KDTutorError
from kdtutor.models.shapes import ShapeConfig, ShapeModel, known_to_transformers, make, masked_max, start_from
from kdtutor.models.students import register


class ConvolutionalConfig(ShapeConfig):
    """embedding_size: of the tokens. kernels: how many neighbouring tokens a filter sees; filters: of each kind."""

    model_type = "kdtutor-convolutional"

    embedding_size: int = 128
    filters: int = 100
    kernels: list[int] | None = None


class Convolutional(nn.Module):
    """Filters of several widths, ReLU, and of each its largest value over the text.

    Around a text stand zeros, so that one shorter than a filter has a place too; a padded place is one of these zeros,
    and no filter is centred there.
    """

    def __init__(self, config: ConvolutionalConfig):
        super().__init__()
        self.embeddings = nn.Embedding(config.vocab_size, config.embedding_size)
        self.filters = nn.ModuleList(
            nn.Conv1d(config.embedding_size, config.filters, kernel) for kernel in config.kernels
        )
        self.features = config.filters * len(config.kernels)

    def forward(self, input_ids: Tensor, mask: Tensor) -> tuple[Tensor, None]:
        x = (self.embeddings(input_ids) * mask[..., None]).transpose(1, 2)  # (B, D, L)
        found = torch.cat([conv(_widened(x, *conv.kernel_size)) for conv in self.filters], 1)
        return masked_max(found.transpose(1, 2), mask).relu(), None


def _widened(x: Tensor, kernel: int) -> Tensor:
    """Put zeros around (B, D, L), so that a filter of this width has as many places as there are tokens."""
    return F.pad(x, ((kernel - 1) // 2, kernel // 2))


@known_to_transformers
class ConvolutionalForSequenceClassification(ShapeModel):
    """Convolutions over tokens with a linear head. It has features of a text, but no hidden states of its tokens."""

    config_class = ConvolutionalConfig
    body = Convolutional


def cnn_student(
    task: Task | str,
    teacher: PreTrainedModel | None = None,
    filters: int = 100,
    width: int = 128,
    kernels: Sequence[int] = (3, 4, 5),
    dropout: float = 0.5,
    seed: int | None = None,
) -> PreTrainedModel:
    """Make a convolutional network for `task` (Kim 2014, arXiv:1408.5882): so many filters of each kernel's width.

    width: of the tokens' vectors. teacher: whose vectors they start from (`token_vectors`); None: random ones.
    """
    if not kernels or min(kernels) < 1:
        raise KDTutorError(f"kernels are the widths of the filters, such as (3, 4, 5), not {tuple(kernels)}")
    settings = {"embedding_size": width, "filters": filters, "dropout": dropout}
    return make(ConvolutionalForSequenceClassification, task, teacher, seed, kernels=[*kernels], **settings)


@register("cnn")
def _cnn(teacher, task, width=128, dropout=0.5, vectors="teacher", seed=None):
    return cnn_student(task, start_from(teacher, vectors), width=width, dropout=dropout, seed=seed)
