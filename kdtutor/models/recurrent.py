"""LSTM and GRU students: BERT → BiLSTM, as Tang et al. (2019, arXiv:1903.12136) distilled it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from kdtutor.data.task import Task
from kdtutor.errors import KDTutorError, one_of
from kdtutor.models.shapes import (
    ShapeConfig,
    ShapeModel,
    known_to_transformers,
    make,
    masked_max,
    masked_mean,
    with_vectors,
)
from kdtutor.models.students import register

CELLS = {"lstm": nn.LSTM, "gru": nn.GRU}
POOLING = one_of("max", "mean", "last")


class RecurrentConfig(ShapeConfig):
    """hidden_size: of tokens and of every layer, half of it for each direction. cell: "lstm" or "gru"."""

    model_type = "kdtutor-recurrent"

    cell: str = "lstm"
    hidden_size: int = 256
    num_hidden_layers: int = 1
    pooling: str = "max"


class Recurrent(nn.Module):
    """Layers of two recurrent networks, one that reads a text from its first token on, one from its last.

    Each token has what was read before it, and before it from the other side: (B, L, D/2) twice. The two networks are
    modules of their own, since torch's own bidirectional ones begin the second reading in the padding, or want packed
    sequences, whose lengths a GPU would have to be waited for.
    """

    def __init__(self, config: RecurrentConfig):
        super().__init__()
        width, cell = config.hidden_size, CELLS[config.cell]
        self.features, self.pooling = width, config.pooling
        self.embeddings = nn.Embedding(config.vocab_size, width)
        self.dropout = nn.Dropout(config.dropout)
        self.forwards, self.backwards = (
            nn.ModuleList(cell(width, width // 2, batch_first=True) for _ in range(config.num_hidden_layers))
            for _ in range(2)
        )

    def forward(self, input_ids: Tensor, mask: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        # In which order each side reads: (B, L) places, padding behind all real tokens, so that it changes nothing.
        place = torch.arange(1, mask.shape[1] + 1, device=mask.device)
        from_first, from_last = largest_first(mask * (mask.shape[1] + 1 - place)), largest_first(mask * place)
        end = (mask.sum(1, keepdim=True) - 1).clamp(min=0)

        x = self.embeddings(input_ids) * mask[..., None]
        states = [x]
        for cells in zip(self.forwards, self.backwards, strict=True):
            both, x = (from_first, from_last), self.dropout(x)
            read = [cell(ordered(x, order))[0] for cell, order in zip(cells, both, strict=True)]
            last = torch.cat([ordered(side, end) for side in read], -1)[:, 0]
            put_back = [ordered(side, largest_first(-order)) for side, order in zip(read, both, strict=True)]
            x = torch.cat(put_back, -1) * mask[..., None]
            states.append(x)

        pooled = {"max": masked_max, "mean": masked_mean}.get(self.pooling)
        # What both have at their ends; a text without a token has no end.
        features = pooled(x, mask) if pooled else last * mask.any(1, keepdim=True)
        return features, tuple(states)


def largest_first(numbers: Tensor) -> Tensor:
    """Tell the order of the numbers in each row: (B, L) → places (B, L). Where equal ones stand is left open."""
    # Not argsort, which ONNX has no operation for.
    return numbers.topk(numbers.shape[1], dim=1).indices


def ordered(x: Tensor, order: Tensor) -> Tensor:
    """Put the tokens of each text into an order: (B, L, D) and places (B, L) → (B, L, D)."""
    # Not take_along_dim, which an export can follow for one length of text alone.
    return x.gather(1, order[..., None].expand(-1, -1, x.shape[-1]))


@known_to_transformers
class RecurrentForSequenceClassification(ShapeModel):
    """A bidirectional LSTM or GRU with a linear head. Its hidden states are the tokens, then every layer, (B, L, D)."""

    config_class = RecurrentConfig
    body = Recurrent
    gives = frozenset({"logits", "hidden_states"})


def lstm_student(
    task: Task | str,
    teacher: PreTrainedModel | None = None,
    layers: int = 1,
    width: int = 256,
    dropout: float = 0.2,
    pooling: str = "max",
    cell: str = "lstm",
    seed: int | None = None,
) -> PreTrainedModel:
    """Make a bidirectional LSTM (Hochreiter & Schmidhuber 1997) for `task`, each direction of half the width.

    pooling: what of its states the head reads: of each feature the "max" over the real tokens, their "mean", or, as in
    Tang et al. 2019, the "last" that each direction has read. teacher: whose vectors the tokens start from
    (`token_vectors`); None: random ones. Padding is never read.
    """
    if width % 2:
        raise KDTutorError(f"width {width} is odd: each of two directions has half of it")
    POOLING("pooling", pooling)
    settings = {"hidden_size": width, "num_hidden_layers": layers, "dropout": dropout}
    return make(
        RecurrentForSequenceClassification, task, teacher, seed, cell=cell, pooling=pooling, **settings
    )


def gru_student(task: Task | str, teacher: PreTrainedModel | None = None, **options) -> PreTrainedModel:
    """Make a bidirectional GRU (Cho et al. 2014, arXiv:1406.1078): `lstm_student` with three gates for four."""
    return lstm_student(task, teacher, cell="gru", **options)


register("lstm")(with_vectors(lstm_student))
register("gru")(with_vectors(gru_student))
