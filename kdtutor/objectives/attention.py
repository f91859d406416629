"""Terms on attention: its maps, and MiniLM's relations among a text's tokens.

They are made from what the layers' query, key and value modules give, so nothing hinders fused attention, no other
layer's map is computed, and dropout, which transformers applies to the maps that it returns, is not in them.
"""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, nn

from kdtutor.models.families import PLAIN_ATTENTION
from kdtutor.models.forward import attention_parts
from kdtutor.objectives.layers import LayerMap, check_layers, layer_pairs
from kdtutor.objectives.relation_formulas import attention_kl, attention_mse, check_heads, relation_scores
from kdtutor.objectives.rows import ObjectiveError
from kdtutor.objectives.terms import Batch, Term, output_of, width_of


class AttentionRelations(Term):
    """KL of how the tokens of a text attend to each other, last layer's (MiniLM, Wang et al. 2020): attention_kl().

    heads: into how many relation heads queries and keys are cut: any number that divides both widths (MiniLMv2, Wang et
    al. 2021); by default as many as the teacher has heads, or the next smaller number that does. layers: which layer of
    the teacher each of the student's learns from, counted from 1: see layers.py. A token's loss is the mean over these
    pairs.
    """

    parts = "queries", "keys"  # the two sides of the relation
    needs = frozenset(parts)

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.needs = frozenset(cls.parts)

    def __init__(self, heads: int | None = None, layers: LayerMap = "last") -> None:
        super().__init__()
        if heads is not None and (type(heads) is not int or heads < 1):
            raise ObjectiveError(f"heads is a number of relation heads, 1 or more, not {heads!r}")
        self.heads, self.layers = heads, check_layers(layers)

    def prepare(self, student: nn.Module, teacher: nn.Module | None) -> None:
        super().prepare(student, teacher)
        depth, teacher_depth = self._depth_of(student, "student"), self._depth_of(teacher, "teacher")
        self.pairs = layer_pairs(self.layers, depth, teacher_depth, lowest=1)
        self.heads_used = self._heads_for(student, teacher)

    def _depth_of(self, model: Any, who: str) -> int:
        """Count the layers whose parts can be read. Raises ObjectiveError if there are none."""
        found = [len(attention_parts(model, part)) for part in self.parts]
        if not all(found):
            raise ObjectiveError(
                f"{type(self).__name__} compares the {' and '.join(sorted(self.needs))} of attention layers, and the "
                f"{who}, a {type(model).__name__}, has none that are known; they are of {', '.join(PLAIN_ATTENTION)}"
            )
        return found[0]

    def _heads_for(self, student: Any, teacher: Any) -> int:
        """Tell into how many relation heads both widths are cut."""
        widths = {"student": width_of(student, "student"), "teacher": width_of(teacher, "teacher")}
        if self.heads is None:
            common, most = math.gcd(*widths.values()), teacher.config.num_attention_heads
            return max(heads for heads in range(1, most + 1) if common % heads == 0)
        for who, width in widths.items():
            check_heads(self.heads, width, who)
        return self.heads

    def forward(self, student: Any, teacher: Any, batch: Batch, reduction: str = "none") -> Tensor:
        mask = batch["attention_mask"]
        losses: list[Any] = []
        for i, j in self.pairs.items():
            s, t = self._scores(student, i, mask, "student"), self._scores(teacher, j, mask, "teacher")
            losses.append(self.compare(s, t, mask=mask, reduction=reduction))
        return sum(losses) / len(losses)

    def _scores(self, outputs: Any, layer: int, mask: Tensor, who: str) -> Tensor:
        """Return the scores of one layer's relation, (B, heads, L, L)."""
        at = layer - 1 if layer > 0 else layer
        a, b = (output_of(outputs, part, who)[at] for part in self.parts)
        return relation_scores(a, b, self.heads_used, mask=mask)

    def compare(self, student_scores: Tensor, teacher_scores: Tensor, **how: Any) -> Tensor:
        """Return the loss of one pair of layers."""
        return attention_kl(student_scores, teacher_scores, **how)

    def count(self, batch: Batch) -> Tensor:
        return batch["attention_mask"].bool().sum()

    def extra_repr(self) -> str:
        heads = [] if self.heads is None else [f"heads={self.heads}"]
        return ", ".join([*heads, f"layers={self.layers!r}"])


class ValueRelations(AttentionRelations):
    """KL of softmax(V Vᵀ / √d), last layer's: whose values are alike (MiniLM, Wang et al. 2020): attention_kl()."""

    parts = "values", "values"


class QueryRelations(AttentionRelations):
    """KL of softmax(Q Qᵀ / √d), last layer's: who asks alike (MiniLMv2, Wang et al. 2021): attention_kl()."""

    parts = "queries", "queries"


class KeyRelations(AttentionRelations):
    """KL of softmax(K Kᵀ / √d), last layer's: who is found alike (MiniLMv2, Wang et al. 2021): attention_kl()."""

    parts = "keys", "keys"


class AttentionMaps(AttentionRelations):
    """Attention map against attention map, head by head, of layers with as many heads.

    kind: "kl", KL(A_T ‖ A_S) of each token's distribution, attention_kl(); or "scores", the mean square of what differs
    before the softmax, attention_mse() (TinyBERT, Jiao et al. 2020, arXiv:1909.10351). layers: as in
    AttentionRelations.
    """

    def __init__(self, kind: str = "kl", layers: LayerMap = "last") -> None:
        super().__init__(layers=layers)
        if kind not in _KINDS:
            raise ObjectiveError(f'kind is "kl" or "scores", not {kind!r}')
        self.kind = kind

    def _heads_for(self, student: Any, teacher: Any) -> int:
        heads, teacher_heads = (model.config.num_attention_heads for model in (student, teacher))
        if heads != teacher_heads:
            raise ObjectiveError(
                f"AttentionMaps compares head with head, but the student has {heads} of them and the teacher "
                f"{teacher_heads}: AttentionRelations() cuts both into as many"
            )
        return heads

    def compare(self, student_scores: Tensor, teacher_scores: Tensor, **how: Any) -> Tensor:
        return _KINDS[self.kind](student_scores, teacher_scores, **how)

    def extra_repr(self) -> str:
        return f"kind={self.kind!r}, layers={self.layers!r}"


_KINDS = {"kl": attention_kl, "scores": attention_mse}
