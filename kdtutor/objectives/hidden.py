"""Terms on hidden states."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from kdtutor.objectives.formulas import ObjectiveError, cosine_hidden, hidden_states_mse
from kdtutor.objectives.terms import Batch, Term, output_of, width_of


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
        h_s, h_t = (
            output_of(student, "hidden_states", "student"),
            output_of(teacher, "hidden_states", "teacher"),
        )
        return cosine_hidden(h_s[-1], h_t[-1], mask=batch["attention_mask"], reduction=reduction)

    def count(self, batch: Batch) -> Tensor:
        return batch["attention_mask"].bool().sum()


class HiddenStates(CosineHidden):
    """Squared difference of hidden states, by a learned projection if widths differ: hidden_states_mse().

    layers: {student's: teacher's} indices into `hidden_states`: 0 the embeddings, 1 the first layer, −1 the
    last; None means {-1: -1}. A token's loss is the mean over these pairs. `projections`, made anew by
    `prepare` if widths differ, holds a linear map (D_S → D_T, no bias) for each pair: parameters, for the
    optimiser too. (One hint: Romero et al. 2015, arXiv:1412.6550; layer by layer: Jiao et al. 2020,
    arXiv:1909.10351.)
    """

    def __init__(self, layers: Mapping[int, int] | None = None) -> None:
        super().__init__()
        if layers is not None and not (isinstance(layers, Mapping) and layers):
            raise ObjectiveError(f"layers maps the student's to the teacher's, like {{1: 2}}, not {layers!r}")
        self.layers = {-1: -1} if layers is None else dict(layers)
        self.projections = nn.ModuleList()

    def prepare(self, student: nn.Module, teacher: nn.Module | None) -> None:
        Term.prepare(self, student, teacher)
        width, teacher_width = width_of(student, "student"), width_of(teacher, "teacher")
        both = ("student", student, self.layers.keys()), ("teacher", teacher, self.layers.values())
        for who, model, chosen in both:
            depth = getattr(model.config, "num_hidden_layers", math.inf)
            missing = [layer for layer in chosen if not -depth - 1 <= layer <= depth]
            if missing:
                raise ObjectiveError(
                    f"the {who} has no hidden states {missing}, only 0 (embeddings) to {depth}"
                )
        self.projections = nn.ModuleList(
            nn.Linear(width, teacher_width, bias=False, device=getattr(student, "device", None))
            for _ in (self.layers if width != teacher_width else ())
        )

    def forward(self, student: Any, teacher: Any, batch: Batch, reduction: str = "none") -> Tensor:
        h_s, h_t = (
            output_of(student, "hidden_states", "student"),
            output_of(teacher, "hidden_states", "teacher"),
        )
        how: dict[str, Any] = {"mask": batch["attention_mask"], "reduction": reduction}
        pairs = zip(self.layers.items(), self.projections or [None] * len(self.layers), strict=True)
        losses: list[Any] = [
            hidden_states_mse(h_s[i], h_t[j], projection, **how) for (i, j), projection in pairs
        ]
        return sum(losses) / len(losses)

    def extra_repr(self) -> str:
        return f"layers={self.layers}"
