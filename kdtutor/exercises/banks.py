"""Mistakes in losses that several exercises share, each with the code that makes it: with a teacher, with labels.

A mistake that is known in one exercise is known in all that compute the same thing. Each function takes `wrong`, a set
of names of mistakes, and each name changes a line.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kdtutor.exercises.definitions import Mistake

Wrong = frozenset[str]
RIGHT: Wrong = frozenset()

# ------------------------------------------------------------------------------------------ a teacher's soft targets


def soft_loss(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float, wrong: Wrong = RIGHT
) -> Tensor:
    """Compute T² · KL(p_T ‖ p_S), mean over the rows, for logits of shape (N, C)."""
    if "squared differences of the logits" in wrong:
        return F.mse_loss(student_logits, teacher_logits)
    if "the soft loss cut off from the student" in wrong:
        student_logits = student_logits.detach()
    axis = 0 if "softmax over the texts" in wrong else -1
    nowhere = {"no temperature", "no temperature, yet T²"} & wrong
    z_s = student_logits / (1 if "student not softened" in wrong or nowhere else temperature)
    z_t = teacher_logits / (1 if "teacher not softened" in wrong or nowhere else temperature)
    if "times T" in wrong:
        z_s, z_t = student_logits * temperature, teacher_logits * temperature
    if "T² in the softmax" in wrong:
        z_s, z_t = student_logits / temperature**2, teacher_logits / temperature**2
    if "student and teacher swapped" in wrong:
        z_s, z_t = z_t, z_s
    log_p_t, log_p_s = z_t.log_softmax(axis), z_s.log_softmax(axis)
    if "squared differences of the probabilities" in wrong:
        return temperature**2 * F.mse_loss(log_p_s.exp(), log_p_t.exp())
    if "T after the softmax" in wrong:
        log_p_t, log_p_s = ((z.softmax(axis) / temperature).log() for z in (teacher_logits, student_logits))
    losses = _kl_rows(z_s, log_p_s, log_p_t, wrong)
    summed = {"summed over the texts", "neither minus nor mean"} & wrong
    loss = losses.sum() if summed else losses.mean()
    if "the root taken" in wrong:
        loss = loss.sqrt()
    none = {"no T²", "no temperature"} & wrong
    factor = 1 if none else temperature if "T instead of T²" in wrong else temperature**2
    factor = 1 / temperature**2 if "divided by T²" in wrong else factor
    factor = 2 * temperature if "2T instead of T²" in wrong else factor
    return factor * (-loss if {"the sign", "neither minus nor mean"} & wrong else loss)


def _kl_rows(z_s: Tensor, log_p_s: Tensor, log_p_t: Tensor, wrong: Wrong) -> Tensor:
    """Compute Σ_c p_T (log p_T − log p_S) of each row."""
    p_t = log_p_t.exp()
    entropy_left_out = {"the teacher's entropy is missing", "neither minus nor mean"} & wrong
    summands = p_t * ((0 if entropy_left_out else log_p_t) - log_p_s)
    if "probabilities where logarithms should be" in wrong:
        summands = p_t * (log_p_t - log_p_s.exp())
    if "logits where logarithms should be" in wrong:
        summands = p_t * (log_p_t - z_s)
    if "log_target forgotten" in wrong:  # the logarithms are taken for probabilities, and have no logarithm
        summands = F.kl_div(log_p_s, log_p_t, reduction="none")
    if "the teacher's first guess only" in wrong:
        best = F.one_hot(log_p_t.argmax(-1), log_p_t.shape[-1])
        summands = -best * log_p_s
    if "each class on its own" in wrong:
        summands = F.binary_cross_entropy(log_p_s.exp().clamp(0, 1), p_t.clamp(0, 1), reduction="none")
    return summands.mean(-1) if "divided by the classes as well" in wrong else summands.sum(-1)


SOFT = (
    Mistake(
        "no T²",
        "The soft loss is KL itself. It shrinks as the temperature grows, and so does the teacher's voice in it; one "
        "factor makes good for that.",
    ),
    Mistake(
        "T instead of T²",
        "The soft loss grows with the temperature, but not enough: two things shrink as 1/T, and this makes good for "
        "one of them.",
    ),
    Mistake(
        "2T instead of T²",
        "The soft loss is multiplied by twice the temperature, where its square should be.",
    ),
    Mistake(
        "divided by T²",
        "The factor of T² stands on the wrong side of the fraction bar: the loss becomes smaller still as T grows.",
    ),
    Mistake(
        "no temperature",
        "Both distributions are those for T = 1, whatever temperature is asked for. What does T divide?",
        also=("no temperature, yet T²",),
    ),
    Mistake(
        "times T",
        "Both distributions become sharper where a higher temperature should make them flatter. Is T a factor or a "
        "divisor?",
    ),
    Mistake(
        "T² in the softmax",
        "The logits are divided by the square of the temperature. The square is a factor of the loss.",
    ),
    Mistake(
        "T after the softmax",
        "The temperature divides the probabilities, which then no longer sum to 1. It belongs before the softmax.",
    ),
    Mistake(
        "divided by the classes as well",
        "The soft loss is too small by the number of classes. A KL divergence is a sum over the classes; only the "
        "texts are averaged. In PyTorch it is the default reduction that does this.",
    ),
    Mistake(
        "summed over the texts",
        "The soft loss is too large by the number of texts: it would grow with the size of the batch.",
    ),
    Mistake(
        "student and teacher swapped",
        "The soft loss is KL with its arguments swapped: it averages over what the student believes. Whose "
        "probabilities weigh the logarithms in the formula?",
    ),
    Mistake(
        "the teacher's entropy is missing",
        "The gradient is right, the value is not: this is cross-entropy with the teacher's distribution. It lacks "
        "the part that makes a perfect student's loss 0.",
    ),
    Mistake(
        "teacher not softened",
        "The teacher's distribution in the loss is the one for T = 1. One temperature belongs to both sides.",
    ),
    Mistake(
        "student not softened",
        "The student's distribution in the soft loss is the one for T = 1. One temperature belongs to both sides.",
    ),
    Mistake(
        "softmax over the texts",
        "The probabilities sum to 1 over the texts of the batch. Each text has a distribution of its own: along "
        "which axis are the classes?",
    ),
    Mistake(
        "the sign",
        "The soft loss has its sign changed. Minimising it drives the student away from the teacher.",
    ),
    Mistake(
        "neither minus nor mean",
        "The soft loss is the sum of p log p as some texts print it: no minus sign, no mean. It is lowest where the "
        "student gives the teacher's favourite no chance at all.",
    ),
    Mistake(
        "each class on its own",
        "The soft loss is binary cross-entropy, which asks of each class on its own whether it is true. Here the "
        "classes exclude each other, and their probabilities make one distribution.",
    ),
    Mistake(
        "probabilities where logarithms should be",
        "The student comes into the loss with its probabilities, where the formula has their logarithms. F.kl_div "
        "does not notice.",
    ),
    Mistake(
        "logits where logarithms should be",
        "The student's logits stand where the logarithms of its probabilities should be. F.kl_div does not notice.",
    ),
    Mistake(
        "log_target forgotten",
        "The teacher comes with logarithms, and the loss takes them for probabilities: it takes the logarithm of "
        "negative numbers, which gives nan. F.kl_div has an argument that says which of the two it gets.",
    ),
    Mistake(
        "the teacher's first guess only",
        "The teacher gives all its probability to its first guess. That is a hard label, and what is dark in its "
        "knowledge is lost.",
    ),
    Mistake(
        "squared differences of the logits",
        "This is the mean squared difference of the logits: a loss with a teacher too, and another one. The "
        "temperature plays no part in it.",
    ),
    Mistake(
        "squared differences of the probabilities",
        "This is the mean squared difference of the probabilities: a loss with a teacher too, and another one. Its "
        "gradient fades where the student is sure, and wrong.",
    ),
    Mistake(
        "the soft loss cut off from the student",
        "The value is right, but no gradient comes from the teacher's part: the student's logits are detached in it, "
        "or under no_grad, or the loss was made a plain number. Only the teacher's should be without gradients.",
    ),
    Mistake("the root taken", "The loss is the square root of the right one: no root belongs there."),
)


def soft_gradient(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float, wrong: Wrong = RIGHT
) -> Tensor:
    """Compute the gradient of soft_loss with respect to the student's logits: T (p_S − p_T) / N, (N, C)."""
    if _OF_ANOTHER_LOSS & wrong:
        z_s = student_logits.detach().requires_grad_()
        return torch.autograd.grad(soft_loss(z_s, teacher_logits, temperature, wrong), z_s)[0]
    axis = 0 if "softmax over the texts" in wrong else -1
    nowhere = "no temperature" in wrong
    p_s = (student_logits / (1 if nowhere or "student not softened" in wrong else temperature)).softmax(axis)
    p_t = (teacher_logits / (1 if nowhere or "teacher not softened" in wrong else temperature)).softmax(axis)
    if "the teacher's first guess only" in wrong:
        p_t = F.one_hot(teacher_logits.argmax(-1), teacher_logits.shape[-1]).to(p_s.dtype)
    powers = {
        "no T²": -1,
        "no 1/T from the chain rule": 2,
        "T instead of T²": 0,
        "1/T twice": -2,
        "no temperature": 0,
    }
    if "logarithms for probabilities" in wrong:
        p_s, p_t = p_s.log(), p_t.log()
    gradient = temperature ** next((powers[name] for name in powers if name in wrong), 1) * (p_s - p_t)
    if "summed over the texts" not in wrong:
        gradient = gradient / len(gradient)
    if "divided by the classes as well" in wrong:
        gradient = gradient / gradient.shape[-1]
    if "averaged over the texts" in wrong:
        gradient = gradient.sum(0)
    if "divided by the classes in place of the texts" in wrong:
        gradient = gradient * len(gradient) / gradient.shape[-1]
    return -gradient if "the sign" in wrong else gradient


_OF_ANOTHER_LOSS = {
    "student and teacher swapped", "each class on its own", "T after the softmax", "times T", "no temperature, yet T²",
    "T² in the softmax", "squared differences of the logits", "squared differences of the probabilities",
}  # fmt: skip
_IN_THE_GRADIENT = _OF_ANOTHER_LOSS | {
    "no T²", "T instead of T²", "no temperature", "divided by the classes as well", "summed over the texts",
    "teacher not softened", "student not softened", "softmax over the texts", "the sign",
    "the teacher's first guess only",
}  # fmt: skip
GRADIENT = (
    Mistake(
        "no 1/T from the chain rule",
        "The gradient is T times too large. The logits are divided by T on their way into the softmax: what does the "
        "chain rule make of that?",
    ),
    Mistake(
        "averaged over the texts",
        "Your gradient has one row, the mean over the texts. Each text has a row of its own, by which its logits are "
        "moved; what does the mean do to a single one?",
    ),
    Mistake(
        "logarithms for probabilities",
        "Your gradient is a difference of logarithms. It is that of the probabilities themselves.",
    ),
    Mistake(
        "divided by the classes in place of the texts",
        "Your gradient is divided by the number of classes. The mean is over the texts.",
    ),
    Mistake("1/T twice", "The gradient is T³ times too small: T² is missing, and 1/T has come in once more."),
    *(mistake for mistake in SOFT if mistake.name in _IN_THE_GRADIENT),
)

# ------------------------------------------------------------------------------------------ labels


def hard_loss(
    logits: Tensor,
    labels: Tensor,
    temperature: float,
    wrong: Wrong = RIGHT,
    teacher_logits: Tensor | None = None,
) -> Tensor:
    """Cross-entropy with the labels, mean over the texts. teacher_logits: what the mistakes with a teacher need."""
    if "the teacher's guess for the label" in wrong:
        labels = teacher_logits.argmax(-1)
    if "the teacher judged by the labels" in wrong:
        logits = teacher_logits
    z = logits / temperature if "temperature in the hard loss" in wrong else logits
    if "softmax twice in the hard loss" in wrong:
        z = z.softmax(-1)
    if "logits for log-probabilities in the hard loss" in wrong:
        return F.nll_loss(z, labels)
    if "one-hot without the number of classes" in wrong:
        return -(F.one_hot(labels) * z.log_softmax(-1)).sum(-1).mean()
    y = F.one_hot(labels, z.shape[-1]).to(z.dtype)
    if "binary cross-entropy" in wrong:
        return F.binary_cross_entropy(z.softmax(-1), y, reduction="sum") / len(labels)
    if "sigmoids" in wrong:
        return F.binary_cross_entropy_with_logits(z, y)
    loss = F.cross_entropy(z, labels, reduction="sum" if "hard loss summed" in wrong else "mean")
    return temperature**2 * loss if "T² on the hard loss too" in wrong else loss


HARD = (
    Mistake(
        "temperature in the hard loss",
        "The temperature acts on the loss with the labels, too. It belongs to the comparison with the teacher.",
    ),
    Mistake(
        "T² on the hard loss too",
        "The factor of T² multiplies the loss with the labels, too. It makes good for a temperature that this has not.",
    ),
    Mistake(
        "softmax twice in the hard loss",
        "The hard loss gets probabilities where it expects logits, and softens them once more.",
    ),
    Mistake(
        "one-hot without the number of classes",
        "Your rows of labels are as wide as the largest label in the batch. Where the last class does not happen to "
        "occur, they no longer fit: who says how many classes there are?",
    ),
    Mistake(
        "binary cross-entropy",
        "The hard loss adds log(1 − p) for the other classes: that is binary cross-entropy, for questions of "
        "yes or no. Among classes that exclude each other the label's term is all there is.",
    ),
    Mistake(
        "sigmoids",
        "The hard loss treats each class as a yes-or-no question of its own, with a sigmoid, and averages "
        "over them. The classes exclude each other: one softmax.",
    ),
    Mistake(
        "logits for log-probabilities in the hard loss",
        "The hard loss picks the logits of the labels, where their log-probabilities should be: a softmax is missing.",
    ),
    Mistake(
        "the teacher's guess for the label",
        "The hard loss asks for the teacher's first guess. It is there for the true label, which the teacher may miss.",
    ),
    Mistake(
        "the teacher judged by the labels",
        "The hard loss compares the *teacher* with the labels. Who is to learn from them?",
    ),
    Mistake(
        "hard loss summed",
        "The hard loss is a sum over the texts, and grows with the batch; a mean is asked for.",
    ),
)


def weigh(hard: Tensor, soft: Tensor, alpha: float, wrong: Wrong = RIGHT) -> Tensor:
    """Compute α · hard + (1 − α) · soft."""
    if "alpha on the teacher" in wrong:
        alpha = 1 - alpha
    share = 1 if "the teacher at full weight" in wrong else 1 - alpha
    share = alpha if "alpha on both" in wrong else share
    if "the teacher never reaches the loss" in wrong:
        return alpha * hard
    return hard + share * soft if "the labels at full weight" in wrong else alpha * hard + share * soft


WEIGHTS = (
    Mistake(
        "alpha on the teacher",
        "The weights are exchanged: in this course α weighs the labels and 1 − α the teacher (elsewhere it may not).",
    ),
    Mistake(
        "the teacher at full weight",
        "The teacher's part has no weight of its own, so the two weights do not sum to 1.",
    ),
    Mistake("the labels at full weight", "The labels' part has no weight of its own: what became of its α?"),
    Mistake("alpha on both", "Both parts are multiplied by α. The two weights should sum to 1."),
    Mistake(
        "the teacher never reaches the loss",
        "Whatever the teacher says, the loss is the same: its answers are computed, and then left out.",
    ),
)
