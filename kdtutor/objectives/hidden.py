"""Terms on hidden states."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, nn

from kdtutor.objectives.formulas import cls_patience, cosine_hidden, hidden_states_mse
from kdtutor.objectives.layers import LayerMap, check_layers, layer_pairs
from kdtutor.objectives.rows import ObjectiveError
from kdtutor.objectives.terms import Batch, Term, depth_of, hidden_of_both, texts_in, width_of


class CosineHidden(Term):
    """1 − cosine of the last hidden layers, token by token (Sanh et al. 2019): cosine_hidden()."""

    label = "cosine of hidden states"
    needs = frozenset({"hidden_states"})

    def prepare(self, student: nn.Module, teacher: nn.Module | None) -> None:
        super().prepare(student, teacher)
        width, teacher_width = width_of(student, "student"), width_of(teacher, "teacher")
        if width != teacher_width:
            raise ObjectiveError(
                f"CosineHidden compares hidden states of one width, but the student's is {width} and the "
                f"teacher's {teacher_width}: use HiddenStates(), which learns a projection"
            )

    def forward(self, student: Any, teacher: Any, batch: Batch, reduction: str = "none") -> Tensor:
        h_s, h_t = hidden_of_both(student, teacher)
        return cosine_hidden(h_s[-1], h_t[-1], mask=batch["attention_mask"], reduction=reduction)

    def count(self, batch: Batch) -> Tensor:
        return batch["attention_mask"].bool().sum()


class HiddenStates(CosineHidden):
    """Squared difference of hidden states, by a learned projection if widths differ: hidden_states_mse().

    layers: {student's: teacher's} indices into `hidden_states`: 0 the embeddings, 1 the first layer, −1 the last; a
    list; or a name, such as "every second": see layers.py. None means {-1: -1}. A token's loss is the mean over these
    pairs. projection: whether a linear map W is learned for each pair (D_S → D_T, no bias), by default where widths
    differ. `projections`, made anew by `prepare`, holds them: parameters, for the optimiser too. (One hint: Romero et
    al. 2015, arXiv:1412.6550; layer by layer: Jiao et al. 2020, arXiv:1909.10351.)
    """

    def __init__(self, layers: LayerMap | None = None, projection: bool | None = None) -> None:
        super().__init__()
        if projection not in (None, True, False):
            raise ObjectiveError(
                f"projection is True, False or None (where widths differ), not {projection!r}"
            )
        self.layers = check_layers({-1: -1} if layers is None else layers)
        self.projection = projection
        # The map written out; where its name has to know the depths, by `prepare`.
        self.pairs = (
            layer_pairs(self.layers, math.inf, math.inf) if isinstance(self.layers, dict | list) else {}
        )
        self.projections = nn.ModuleList()

    def prepare(self, student: nn.Module, teacher: nn.Module | None) -> None:
        Term.prepare(self, student, teacher)
        width, teacher_width = width_of(student, "student"), width_of(teacher, "teacher")
        if self.projection is False and width != teacher_width:
            raise ObjectiveError(
                f"without a projection {type(self).__name__} compares hidden states of one width, but the student's is "
                f"{width} and the teacher's {teacher_width}"
            )
        self.pairs = self.pairs_of(depth_of(student), depth_of(teacher))
        is_projected = width != teacher_width if self.projection is None else self.projection
        self.projections = nn.ModuleList(
            nn.Linear(width, teacher_width, bias=False, device=getattr(student, "device", None))
            for _ in (self.pairs if is_projected else ())
        )

    def pairs_of(self, student_depth: float, teacher_depth: float) -> dict[int, int]:
        """Write the map out for these depths."""
        return layer_pairs(self.layers, student_depth, teacher_depth)

    def forward(self, student: Any, teacher: Any, batch: Batch, reduction: str = "none") -> Tensor:
        h_s, h_t = hidden_of_both(student, teacher)
        pairs = zip(self.pairs.items(), self.projections or [None] * len(self.pairs), strict=True)
        losses: list[Any] = [
            self.compare(h_s[i], h_t[j], project, batch, reduction) for (i, j), project in pairs
        ]
        return sum(losses) / len(losses)

    def compare(
        self, h_s: Tensor, h_t: Tensor, project: nn.Module | None, batch: Batch, reduction: str
    ) -> Tensor:
        """Return the loss of one pair of layers, (B, L, D_S) and (B, L, D_T)."""
        return hidden_states_mse(h_s, h_t, project, mask=batch["attention_mask"], reduction=reduction)

    def extra_repr(self) -> str:
        shown = f"layers={self.layers!r}"
        return shown if self.projection is None else f"{shown}, projection={self.projection}"


class CLSPatience(HiddenStates):
    """Squared distance of normalised [CLS] states below the last layer (PKD, Sun et al. 2019): cls_patience().

    layers, projection: as in HiddenStates. A map by name leaves out the student's last layer, as the paper does: what
    the head reads, soft targets teach already. A list or a dict is taken as it stands. A text's loss is the mean over
    pairs.
    """

    label = "[CLS] patience"

    def __init__(self, layers: LayerMap = "evenly", projection: bool | None = None) -> None:
        super().__init__(layers, projection)

    def pairs_of(self, student_depth: float, teacher_depth: float) -> dict[int, int]:
        pairs = super().pairs_of(student_depth, teacher_depth)
        if not isinstance(self.layers, str):
            return pairs
        pairs = {i: j for i, j in pairs.items() if i not in (-1, student_depth)}
        if not pairs:
            raise ObjectiveError(
                f'CLSPatience("{self.layers}") leaves the student\'s last layer out, and then none is left: '
                "name the pair, as in CLSPatience({1: 2})"
            )
        return pairs

    def compare(
        self, h_s: Tensor, h_t: Tensor, project: nn.Module | None, batch: Batch, reduction: str
    ) -> Tensor:
        return cls_patience(h_s[:, 0], h_t[:, 0], project, reduction=reduction)

    def count(self, batch: Batch) -> Tensor:
        return texts_in(batch)
