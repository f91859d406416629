"""Terms on relations among the texts of a batch.

Their batch is a micro-batch of one process: batch_size / (accumulate · processes) texts, whichever of the two it is cut
by. They have one value for each, and a step's loss is the mean over its micro-batches. Larger ones hold more relations:
it is a setting that changes the objective, so compare runs where it is equal.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from kdtutor.objectives.layers import LayerMap, check_layers, layer_pairs
from kdtutor.objectives.relation_formulas import (
    contrastive,
    relational_angle,
    relational_distance,
    similarity_preserving,
)
from kdtutor.objectives.rows import ObjectiveError, check_number, wide
from kdtutor.objectives.terms import Batch, Term, depth_of, hidden_of_both, one_value, width_of


class RelationalDistance(Term):
    """Distances between texts, student's against teacher's (RKD-D, Park et al. 2019): relational_distance().

    layers: which hidden states, by default the last: see layers.py; the loss is the mean over these pairs. pooling:
    what stands for a text, "cls", its first token, or "mean", the mean over its tokens, for models whose first token
    does not see the others.
    """

    needs = frozenset({"hidden_states"})
    fewest = 3  # of two texts the one distance is the mean itself, whatever the model
    formula = staticmethod(relational_distance)

    def __init__(self, layers: LayerMap = "last", pooling: str = "cls") -> None:
        super().__init__()
        if pooling not in ("cls", "mean"):
            raise ObjectiveError(f'pooling is "cls" or "mean", not {pooling!r}')
        self.layers, self.pooling = check_layers(layers), pooling

    def prepare(self, student: nn.Module, teacher: nn.Module | None) -> None:
        super().prepare(student, teacher)
        self.pairs = layer_pairs(self.layers, depth_of(student), depth_of(teacher))

    def forward(self, student: Any, teacher: Any, batch: Batch, reduction: str = "none") -> Tensor:
        mask = batch["attention_mask"]
        h_s, h_t = hidden_of_both(student, teacher)
        losses: list[Any] = [
            self.compare(
                n, text_vectors(h_s[i], mask, self.pooling), text_vectors(h_t[j], mask, self.pooling)
            )
            for n, (i, j) in enumerate(self.pairs.items())
        ]
        return one_value(sum(losses) / len(losses), len(mask) >= self.fewest, reduction)

    def compare(self, pair: int, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the loss, 0-d, of one pair of layers: (N, D_S) and (N, D_T)."""
        return self.formula(student, teacher)

    def count(self, batch: Batch) -> Tensor:
        mask = batch["attention_mask"]
        return torch.full((), int(len(mask) >= self.fewest), device=mask.device)

    def extra_repr(self) -> str:
        return f"layers={self.layers!r}, pooling={self.pooling!r}"


class RelationalAngle(RelationalDistance):
    """Angles that texts form by threes, student's against teacher's (RKD-A, Park et al. 2019): relational_angle().

    layers, pooling: as in RelationalDistance.
    """

    formula = staticmethod(relational_angle)


class SimilarityPreserving(RelationalDistance):
    """Which texts excite a model alike (Tung & Mori 2019): similarity_preserving().

    layers, pooling: as in RelationalDistance. The paper flattens a layer's activations, which in a text would compare
    its third token with another text's third, and padding with padding; a vector per text is compared here.
    """

    fewest = 2
    formula = staticmethod(similarity_preserving)


class Contrastive(RelationalDistance):
    """Each text's vector nearest to the teacher's of the same text (after CRD, Tian et al. 2020): contrastive().

    temperature: of the cosines. width: of the space into which two learned maps (no bias) bring each pair of layers.
    layers, pooling: as in RelationalDistance.
    """

    fewest = 2
    formula = staticmethod(contrastive)

    def __init__(
        self, temperature: float = 0.1, width: int = 128, layers: LayerMap = "last", pooling: str = "cls"
    ) -> None:
        super().__init__(layers, pooling)
        if type(width) is not int or width < 1:
            raise ObjectiveError(f"width is a whole number, 1 or more, not {width!r}")
        # By another name than a soft target's, whose slider in a live run is not for it.
        self.cosine_temperature, self.width = check_number("temperature", temperature), width
        self.projections = nn.ModuleList()

    def prepare(self, student: nn.Module, teacher: nn.Module | None) -> None:
        super().prepare(student, teacher)
        widths = width_of(student, "student"), width_of(teacher, "teacher")
        device = getattr(student, "device", None)
        self.projections = nn.ModuleList(
            nn.ModuleList(nn.Linear(width, self.width, bias=False, device=device) for width in widths)
            for _ in self.pairs
        )

    def compare(self, pair: int, student: Tensor, teacher: Tensor) -> Tensor:
        ours, theirs = self.projections[pair]
        return self.formula(ours(student), theirs(teacher.detach()), self.cosine_temperature)

    def extra_repr(self) -> str:
        return f"temperature={self.cosine_temperature:g}, width={self.width}, {super().extra_repr()}"


def text_vectors(hidden: Tensor, mask: Tensor, pooling: str) -> Tensor:
    """Return one vector per text, (B, L, D) → (B, D): its first token's, or the mean over its tokens (mask (B, L))."""
    if pooling == "cls":
        return wide(hidden[:, 0])
    real = mask.bool()[..., None]
    return wide(hidden).masked_fill(~real, 0).sum(1) / real.sum(1).clamp(min=1)
