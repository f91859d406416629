"""The exercises of notebook 06 on attention maps and on relations between examples."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from kdtutor.exercises.banks import RIGHT, SOFT, Wrong
from kdtutor.exercises.comparing import GRADIENT, GRADIENT_FLOWS, RESULT
from kdtutor.exercises.definitions import Exercise, Mistake

# ------------------------------------------------------------------------------------------------ 6.4 attention


# what may be added to the weights before their logarithm is taken, and is not small beside them
NOT_SMALL = {"too much added to each weight": 1e-2}
NOT_SMALL |= {f"{number:g} added to each weight": number for number in (1e-1, 1e-3, 1e-4, 1e-5)}


def attention_loss(
    student_weights: Tensor, teacher_weights: Tensor, mask: Tensor, wrong: Wrong = RIGHT
) -> Tensor:
    """Average KL(teacher ‖ student) of each row of weights (B, H, L, L) over heads and over queries that are real."""
    s, t = student_weights, teacher_weights
    if "student and teacher swapped" in wrong:
        s, t = t, s
    if "heads averaged first" in wrong:
        s, t = s.mean(1, keepdim=True), t.mean(1, keepdim=True)
    if "softmax once more" in wrong:
        s, t = s.softmax(-1), t.softmax(-1)
    tiny = 0 if "the logarithm of 0" in wrong else torch.finfo(t.dtype).tiny
    tiny = next((number for name, number in NOT_SMALL.items() if name in wrong), tiny)
    log_s, log_t = ((z + tiny if tiny > 1e-9 else z.clamp(min=tiny)).log() for z in (s, t))
    if "weights cut off at 0.01" in wrong:
        log_s, log_t = (z.clamp(min=0.01).log() for z in (s, t))
    summands = t * ((0 if "the teacher's entropy is missing" in wrong else log_t) - log_s)
    if "squared differences of the weights" in wrong:
        summands = (s - t).square()
    if "probabilities where logarithms should be" in wrong:
        summands = F.kl_div(s, t, reduction="none")
    if "log_target forgotten" in wrong:
        summands = F.kl_div(s.clamp(min=1e-12).log(), t.clamp(min=1e-12).log(), reduction="none")
    if "mean of both directions" in wrong:
        summands = (t - s) * (log_t - log_s) / 2
    if "absolute summands" in wrong:
        summands = summands.abs()
    axis = -2 if "summed over the queries" in wrong else -1
    rows = summands.mean(axis) if "mean over the keys" in wrong else summands.sum(axis)  # (B, H, L)
    real = torch.ones_like(mask) if "rows of the padding counted" in wrong else mask
    real = 1 - mask if "rows of the padding alone" in wrong else real
    rows = rows * real[:, None]
    if "the first row alone" in wrong:
        return rows[:, :, 0].mean()
    if "divided by the texts" in wrong:
        return rows.sum() / len(rows)
    if "divided by the texts and the heads" in wrong:
        return rows.sum() / rows[..., 0].numel()
    if "padding divides too" in wrong:
        return rows.mean()
    if "each text the same" in wrong:
        heads = (rows.sum(-1) / real.sum(-1, keepdim=True)).mean(0)
        return heads.sum() if "summed over the heads" in wrong else heads.mean()
    if "summed over the heads" in wrong:
        return rows.sum() / real.sum()
    return rows.sum() / (real.sum() * rows.shape[1])


def _observe_attention(function: Callable, *arguments: Tensor) -> dict:
    """Compute the loss, and its gradient with respect to the scores before the student's softmax.

    A softmax passes no gradient on to a weight of 0: what a logarithm's small summand does there harms nobody.
    """
    weights = arguments[0].clone().requires_grad_()
    loss = function(weights.clone(), *arguments[1:])
    seen = {RESULT: loss, GRADIENT_FLOWS: torch.is_tensor(loss) and loss.requires_grad}
    slope = torch.zeros_like(weights)
    if seen[GRADIENT_FLOWS]:
        (g,) = torch.autograd.grad(loss.sum(), weights)
        slope = weights.detach() * (g - (g * weights.detach()).sum(-1, keepdim=True))
    return seen | {f"{GRADIENT} the student's scores": slope}


def _weights(generator: torch.Generator, texts: int = 4) -> tuple:
    """Draw both models' weights: none on the padding, and rows of the padding as a model has them, too."""
    heads, longest = 3, 6
    lengths = torch.randint(2, longest, (texts, 1), generator=generator)
    mask = (torch.arange(longest) < lengths).long()
    scores = 2 * torch.randn(2, texts, heads, longest, longest, generator=generator)
    s, t = scores.masked_fill(mask[:, None, None] == 0, -torch.inf).softmax(-1)
    return s, t, mask


ATTENTION_LOSS = Exercise(
    name="attention_loss",
    number="6.4",
    title="Attention, row by row",
    reference=attention_loss,
    mistakes=(
        Mistake(
            "rows of the padding counted",
            "Rows whose query is padding count in your loss. Their weights are those of a token that is not there.",
        ),
        Mistake(
            "the logarithm of 0",
            "The columns of the padding have the weight 0, and 0 · log 0 is NaN in floating point. What must stand "
            "there before the logarithm is taken?",
        ),
        Mistake(
            "softmax once more",
            "You take a softmax of weights that have had theirs: rows become flat, and padding gets a share.",
        ),
        Mistake(
            "padding divides too",
            "Rows of the padding are left out of your sum, but they still divide it.",
        ),
        Mistake(
            "student and teacher swapped",
            "Your divergence goes the other way round: the student's weights stand where the teacher's should be.",
        ),
        Mistake(
            "mean over the keys",
            "You average over the keys. A divergence is a sum over them: a row is one distribution.",
        ),
        Mistake(
            "summed over the queries",
            "You sum down the columns, or your mask falls on the keys. A row, of one query over all keys, is what sums "
            "to 1, and what is left out where its query is padding.",
        ),
        Mistake("summed over the heads", "Your heads are added up, and their mean is asked for."),
        Mistake(
            "divided by the texts",
            "You divide by the number of texts. Then a long text, and a model of many heads, has a louder voice.",
            also=("divided by the texts and the heads",),
        ),
        Mistake(
            "each text the same",
            "You average within each text first. Here all rows count the same, whichever text they belong to.",
        ),
        Mistake(
            "heads averaged first",
            "You average the heads' weights and then compare. Heads that look at different things would be allowed to "
            "exchange them for any other mixture.",
        ),
        Mistake(
            "the teacher's entropy is missing",
            "This is a cross-entropy: a student that agrees in every weight would not get 0.",
        ),
        Mistake("squared differences of the weights", "You compare by squares. KL by rows was asked for."),
        Mistake(
            "too much added to each weight",
            "What keeps your logarithm from 0 is not small beside the weights, and changes all of them. A number such "
            "as 1e-12 changes none.",
            also=(*tuple(NOT_SMALL)[1:], "weights cut off at 0.01"),
        ),
        Mistake(
            "mean of both directions",
            "You take both directions of the divergence. The teacher's side alone is asked for.",
        ),
        Mistake(
            "absolute summands",
            "You add up sizes. Summands of a divergence may be negative, and only their sum is a distance.",
        ),
        *(
            each
            for each in SOFT
            if each.name in ("probabilities where logarithms should be", "log_target forgotten")
        ),
        Mistake("rows of the padding alone", "You keep the rows of the padding and drop the others."),
        Mistake(
            "the first row alone", "You compare the first row alone, that of [CLS]. All real ones count."
        ),
    ),
    probes=lambda generator: [_weights(generator), _weights(generator, texts=3)],
    observe=_observe_attention,
    gradients=(0,),
)


# ------------------------------------------------------------------------------------------------ 6.5 relations


def relational_distance(student_vectors: Tensor, teacher_vectors: Tensor, wrong: Wrong = RIGHT) -> Tensor:
    """Compute Huber loss of pairwise distances, each over its model's mean, over all pairs of different texts (RKD)."""
    if "cosines in place of distances" in wrong:
        cosines = (
            F.normalize(z, dim=-1) @ F.normalize(z, dim=-1).T for z in (student_vectors, teacher_vectors)
        )
        return F.smooth_l1_loss(*cosines)
    if "only the next text" in wrong:
        s, t = ((z[1:] - z[:-1]).norm(dim=-1) for z in (student_vectors, teacher_vectors))
        return F.smooth_l1_loss(s / s.mean(), t / t.mean())
    s, t = (_distances(z, wrong) for z in (student_vectors, teacher_vectors))
    apart = ~torch.eye(len(s), dtype=torch.bool)
    counted = torch.ones_like(apart) if "each text beside itself" in wrong else apart
    mean_of = torch.ones_like(apart) if "itself in the mean distance" in wrong else counted
    if "each text by its own mean distance" in wrong:
        s, t = (z / z.sum(1, keepdim=True) * (len(z) - 1) for z in (s, t))
    elif "not divided by the mean distance" not in wrong:
        scale_s, scale_t = s[mean_of].mean(), t[mean_of].mean()
        for name, scale in SCALES.items():
            if name in wrong:
                scale_s, scale_t = scale(s[counted]), scale(t[counted])
        if "the student's mean detached" in wrong:
            scale_s = scale_s.detach()
        if "smallest and largest for the scale" in wrong:
            scale_s, scale_t = (z[counted].max() - z[counted].min() for z in (s, t))
            s, t = s - s[counted].min(), t - t[counted].min()
        if "z-scores" in wrong:
            s, t = s - s[counted].mean(), t - t[counted].mean()
        s, t = s / (scale_t if "both by the teacher's mean" in wrong else scale_s), t / scale_t
    if "itself among the pairs alone" in wrong:
        counted = torch.ones_like(apart)
    reduction = "sum" if "summed over the pairs" in wrong else "mean"
    loss = F.mse_loss if "squared error" in wrong else F.smooth_l1_loss
    if "divided by the texts" in wrong:
        return loss(s[counted], t[counted], reduction="sum") / len(s)
    return (F.l1_loss if "absolute differences" in wrong else loss)(
        s[counted], t[counted], reduction=reduction
    )


# what may be taken for the mean distance
SCALES: dict[str, Callable[[Tensor], Tensor]] = {
    "the largest distance for the mean": torch.amax,
    "another number for the mean": torch.median,
    "the spread for the mean": torch.std,
    "z-scores": torch.std,
    "the sum for the mean": torch.sum,
    "the norm for the mean": torch.norm,
}


def _distances(vectors: Tensor, wrong: Wrong) -> Tensor:
    """Compute the Euclidean distances of every two rows: (N, D) → (N, N)."""
    if "dot products" in wrong:
        return vectors @ vectors.T
    if "one minus the cosine" in wrong:
        return 1 - F.normalize(vectors, dim=-1) @ F.normalize(vectors, dim=-1).T
    if "vectors normalised" in wrong:
        vectors = F.normalize(vectors, dim=-1)
    between = vectors[:, None] - vectors[None]
    if "city blocks" in wrong:
        return between.abs().sum(-1)
    squares = between.square().sum(-1)
    if "distances squared" in wrong:
        return squares
    same = torch.eye(len(vectors), dtype=torch.bool)
    return squares.masked_fill(same, 1).sqrt().masked_fill(same, 0)  # the root's slope at 0 is infinite


def _vectors(generator: torch.Generator, texts: int) -> tuple:
    """Draw texts of which one of the student's is far away, so that Huber's loss is not everywhere a square."""
    student = torch.randn(texts, 4, generator=generator)
    student[0] = 20 * F.normalize(student[0], dim=-1)
    return student, 3 * torch.randn(texts, 7, generator=generator) + 1


RELATIONAL_DISTANCE = Exercise(
    name="relational_distance",
    number="6.5",
    title="Who is near whom?",
    reference=relational_distance,
    mistakes=(
        Mistake(
            "cosines in place of distances",
            "You compare the angles between vectors. That is a relation too, and another one: how *far* are two apart?",
            also=("one minus the cosine", "vectors normalised"),
        ),
        Mistake(
            "city blocks", "You add up absolute differences of the coordinates. Distances are Euclidean here."
        ),
        Mistake(
            "only the next text",
            "You compare each text with the next one alone. All pairs of different texts are asked for.",
        ),
        Mistake(
            "each text by its own mean distance",
            "You divide each text's distances by their own mean. One mean, over all pairs, is μ.",
        ),
        Mistake(
            "divided by the texts",
            "You divide by the number of texts. There are N · (N − 1) pairs, and their mean is asked for.",
        ),
        Mistake(
            "not divided by the mean distance",
            "Your distances are as large as the models' vectors are. A student whose space is smaller all over has the "
            "same relations.",
        ),
        Mistake(
            "each text beside itself",
            "Each text's distance from itself is 0 in both models: these pairs teach nothing and make mean and loss "
            "smaller.",
            also=("itself among the pairs alone",),
        ),
        Mistake(
            "itself in the mean distance",
            "Your pairs are right, but the distances of texts from themselves are in the mean by which you divide.",
        ),
        Mistake(
            "both by the teacher's mean",
            "You divide both by the teacher's mean distance. Each model has one of its own.",
        ),
        Mistake("distances squared", "Your distances are squared: there is a root left to take."),
        Mistake("dot products", "You compare dot products. Distances are asked for."),
        Mistake(
            "squared error",
            "You square the differences. Huber's loss does that to small ones, and with a factor of a half.",
        ),
        Mistake("absolute differences", "You take absolute differences. Huber's loss is rounded off near 0."),
        Mistake(
            "summed over the pairs", "You add up over the pairs, of which there are more in a larger batch."
        ),
        Mistake(
            "the largest distance for the mean", "You divide by the largest distance. The mean is asked for."
        ),
        Mistake(
            "another number for the mean",
            "You divide by another number than the mean distance, such as a median, a spread, a sum or a norm.",
            also=("the spread for the mean", "the sum for the mean", "the norm for the mean"),
        ),
        Mistake(
            "z-scores",
            "You take the mean off the distances before you divide, so that near and far are lost. μ only divides.",
        ),
        Mistake(
            "smallest and largest for the scale",
            "You stretch the distances so that they go from 0 to 1. μ only divides: nothing is taken off.",
        ),
        Mistake(
            "the student's mean detached",
            "The values are right, but your student's mean distance is cut off from its graph: blowing up the whole "
            "space would seem to help.",
        ),
    ),
    probes=lambda generator: [_vectors(generator, 6), _vectors(generator, 4)],
    gradients=(0,),
)


EXERCISES = [ATTENTION_LOSS, RELATIONAL_DISTANCE]
