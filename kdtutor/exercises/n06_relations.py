"""The exercises of notebook 06 on attention maps and on relations between examples."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kdtutor.exercises.banks import RIGHT, Wrong
from kdtutor.exercises.definitions import Exercise, Mistake

# ------------------------------------------------------------------------------------------------ 6.4 attention


def attention_loss(
    student_weights: Tensor, teacher_weights: Tensor, mask: Tensor, wrong: Wrong = RIGHT
) -> Tensor:
    """KL(teacher ‖ student) of each row of weights (B, H, L, L), mean over heads and over queries that are real."""
    s, t = student_weights, teacher_weights
    if "student and teacher swapped" in wrong:
        s, t = t, s
    if "heads averaged first" in wrong:
        s, t = s.mean(1, keepdim=True), t.mean(1, keepdim=True)
    if "softmax once more" in wrong:
        s, t = s.softmax(-1), t.softmax(-1)
    tiny = 0 if "the logarithm of 0" in wrong else torch.finfo(t.dtype).tiny
    log_s, log_t = (z.clamp(min=tiny).log() for z in (s, t))
    summands = t * ((0 if "the teacher's entropy is missing" in wrong else log_t) - log_s)
    if "squared differences of the weights" in wrong:
        summands = (s - t).square()
    axis = -2 if "summed over the queries" in wrong else -1
    rows = summands.mean(axis) if "mean over the keys" in wrong else summands.sum(axis)  # (B, H, L)
    real = torch.ones_like(mask) if "rows of the padding counted" in wrong else mask
    rows = rows * real[:, None]
    if "divided by the texts" in wrong:
        return rows.sum() / len(rows)
    if "padding divides too" in wrong:
        return rows.mean()
    if "summed over the heads" in wrong:
        return rows.sum() / real.sum()
    if "each text the same" in wrong:
        return (rows.sum(-1) / real.sum(-1, keepdim=True)).mean()
    return rows.sum() / (real.sum() * rows.shape[1])


def _weights(generator: torch.Generator, texts: int = 4) -> tuple:
    """Both models' weights: none on the padding, and rows of the padding as a model has them, too."""
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
            "Your divergence goes the other way round: the student's weights stand where the teacher's are due.",
        ),
        Mistake(
            "mean over the keys",
            "You average over the keys. A divergence is a sum over them: a row is one distribution.",
        ),
        Mistake(
            "summed over the queries",
            "You sum down the columns. A row, of one query over all keys, is what sums to 1.",
        ),
        Mistake("summed over the heads", "Your heads are added up, and their mean is asked for."),
        Mistake(
            "divided by the texts",
            "You divide by the number of texts. Then a long text, and a model of many heads, has a louder voice.",
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
    ),
    probes=lambda generator: [_weights(generator), _weights(generator, texts=3)],
    gradients=(0,),
)


# ------------------------------------------------------------------------------------------------ 6.5 relations


def relational_distance(student_vectors: Tensor, teacher_vectors: Tensor, wrong: Wrong = RIGHT) -> Tensor:
    """Huber loss of pairwise distances, each over its model's mean, over all pairs of different texts (RKD)."""
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
        if "the largest distance for the mean" in wrong:
            scale_s, scale_t = s.max(), t.max()
        s, t = s / (scale_t if "both by the teacher's mean" in wrong else scale_s), t / scale_t
    reduction = "sum" if "summed over the pairs" in wrong else "mean"
    loss = F.mse_loss if "squared error" in wrong else F.smooth_l1_loss
    if "divided by the texts" in wrong:
        return loss(s[counted], t[counted], reduction="sum") / len(s)
    return (F.l1_loss if "absolute differences" in wrong else loss)(
        s[counted], t[counted], reduction=reduction
    )


def _distances(vectors: Tensor, wrong: Wrong) -> Tensor:
    """Euclidean distances of every two rows: (N, D) → (N, N)."""
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
    return (
        torch.randn(texts, 4, generator=generator),
        3 * torch.randn(texts, 7, generator=generator) + 1,
    )


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
    ),
    probes=lambda generator: [_vectors(generator, 6), _vectors(generator, 4)],
    gradients=(0,),
)


EXERCISES = [ATTENTION_LOSS, RELATIONAL_DISTANCE]
