"""How several teachers' answers become one: opinion pools, at any temperature, with weights that may differ by text.

    pool = Pool(logits, weights, "probabilities", "single_label_classification")      # logits (M, B, C) of M teachers
    pool.at(temperature=4)              # (B, C): logits whose softmax at 4 is the mean of the teachers' at 4

The mean of probabilities is the linear opinion pool, that of logits the logarithmic one: a geometric mean of the
probabilities, rescaled (Genest & Zidek 1986, Statistical Science 1(1)). The first believes what any teacher believes;
in the second a teacher who is sure that something is wrong has a veto.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from kdtutor.errors import PROBABILITY


@dataclass(frozen=True)
class Pool:
    """What M teachers answer to B texts: logits (M, B, C), and weights (M, 1) or (M, B) that add up to 1 over them.

    combine: "probabilities" or "logits", whose mean is taken. problem: the configuration's problem_type: whether a
    text has one class, several labels, or a number.
    """

    logits: Tensor
    weights: Tensor
    combine: str
    problem: str | None

    def at(self, temperature: float = 1.0) -> Tensor:
        """Compute the logits (B, C) that stand for all teachers in a term of this temperature.

        With combine="probabilities" their softmax at T, softmax(z / T), is Σ w · softmax(z_m / T); where a text may
        have several labels their sigmoid at T is that mean. Numbers have a mean whatever the temperature.
        """
        if self.combine == "logits" or self.problem == "regression":
            return self.mean()
        z, log_w = self.logits / temperature, self.weights[..., None].log()
        if self.problem == "multi_label_classification":
            yes, no = ((log_w + F.logsigmoid(sign * z)).logsumexp(0) for sign in (1, -1))
            return temperature * (yes - no)
        return temperature * (log_w + z.log_softmax(-1)).logsumexp(0)

    def mean(self) -> Tensor:
        """Compute the weighted mean of the logits, (B, C): nothing has a smaller squared distance to all teachers."""
        return (self.weights[..., None] * self.logits).sum(0)


# ------------------------------------------------------------------------------------------ weights by text


def by_agreement(logits: Tensor) -> Tensor:
    """Weigh each teacher, text by text, by what it shares with the others: logits (M, B, C) → (M, B).

    Σ_c min(p_m, mean of the others' p), from 0, nothing, to 1; divided by the sum over teachers. No label is needed. Of
    two teachers neither can tell who is wrong, and what most get wrong it confirms.
    """
    p = logits.softmax(-1)
    others = (p.sum(0) - p) / max(1, len(p) - 1)
    return _shares(torch.minimum(p, others).sum(-1))


def by_confidence(logits: Tensor) -> Tensor:
    """Weigh each teacher, text by text, by how sure it is: 1 − entropy / log C; logits (M, B, C) → (M, B).

    Who is sure and wrong is heard most.
    """
    log_p = logits.log_softmax(-1)
    entropy = -(log_p.exp() * log_p).sum(-1)
    return _shares(1 - entropy / math.log(logits.shape[-1]))


def abstaining(below: float = 0.5) -> Callable[[Tensor], Tensor]:
    """Make weights by which a teacher keeps silent about a text of whose class it is less sure than `below`.

    Those who speak weigh alike; where all would keep silent, all are heard.
    """
    below = PROBABILITY("below", below)

    def speaks(logits: Tensor) -> Tensor:
        return _shares((logits.softmax(-1).amax(-1) >= below).to(logits.dtype))

    speaks.__name__ = f"abstaining below {below:g}"
    return speaks


def _shares(scores: Tensor) -> Tensor:
    """Scale scores (M, B), 0 or more, to a sum of 1 over the teachers; where all are 0, all get the same."""
    scores = scores.clamp(min=0)
    total = scores.sum(0, keepdim=True)
    return torch.where(total > 1e-9, scores / total.clamp(min=1e-9), 1 / len(scores))


#: Weights that a text decides, by name.
WEIGHTINGS = {"agreement": by_agreement, "confidence": by_confidence}
