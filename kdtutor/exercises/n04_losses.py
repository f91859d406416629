"""The exercises of notebook 04 on losses: the limit, the blend, label smoothing, and what is shipped."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kdtutor.exercises.banks import (
    HARD,
    RIGHT,
    SOFT,
    WEIGHTS,
    hard_loss,
    soft_loss,
    weigh,
)
from kdtutor.exercises.definitions import Exercise, Mistake
from kdtutor.exercises.n04_temperature import SIZES, far_apart, logits, pairs
from kdtutor.exercises.toys import labels_with_gaps

# --------------------------------------------------------------------------------------------------- 4.4 limit


def high_temperature_limit(
    student_logits: Tensor, teacher_logits: Tensor, wrong: frozenset = RIGHT
) -> Tensor:
    """Compute where T² · KL goes as T → ∞: ½ · mean over classes of (Δz − its mean)², mean over the texts, 0-d."""
    if "probabilities compared" in wrong:
        student_logits, teacher_logits = student_logits.softmax(-1), teacher_logits.softmax(-1)
    if "log-probabilities compared" in wrong:
        gap = student_logits.log_softmax(-1) - teacher_logits.log_softmax(-1)
        return gap.square().mean() / 2
    gap = student_logits - teacher_logits
    if "the student centred alone" in wrong:
        gap = gap - student_logits.mean(-1, keepdim=True)
    elif "centred over everything" in wrong:
        gap = gap - gap.mean()
    elif "centred over the texts" in wrong:
        gap = gap - gap.mean(0)
    elif "not centred" not in wrong:
        gap = gap - gap.mean(-1, keepdim=True)
    size = gap.abs() if "not squared" in wrong else gap.square()
    classes = gap.shape[-1]
    if "summed over the classes" in wrong:
        classes = 1
    if "divided by C − 1" in wrong:
        classes = classes - 1
    limits = size.sum(-1) / classes
    result = limits.sum() if "summed over the texts" in wrong else limits.mean()
    if "a difference of variances" in wrong:
        return (student_logits.var(-1, correction=0) - teacher_logits.var(-1, correction=0)).mean() / 2
    if "one variance of everything" in wrong:
        return gap.var() / 2
    if "a standard deviation" in wrong:
        return limits.sqrt().mean() / 2
    if "only the student's" in wrong:
        return student_logits.var(-1, correction=0).mean() / 2
    if "the root taken" in wrong:
        return result.sqrt() / 2
    return result if "no ½" in wrong else result / 2


HIGH_TEMPERATURE_LIMIT = Exercise(
    name="high_temperature_limit",
    number="4.4",
    title="Infinitely hot",
    reference=high_temperature_limit,
    mistakes=(
        Mistake(
            "not centred",
            "Your result changes when 1 is added to all of a student's logits; softmax, and so KL at any "
            "temperature, does not. What has to be taken off each row first?",
        ),
        Mistake(
            "no ½",
            "Your result is twice too large: the second-order term of KL comes with a factor of its own.",
        ),
        Mistake(
            "summed over the classes",
            "Your result is too large by the number of classes. At a high temperature every class weighs 1/C.",
        ),
        Mistake(
            "divided by C − 1",
            "Your result is too large by C / (C − 1): that is the variance of a sample, the default of "
            "Tensor.var(). Here all classes are known, and nothing is estimated.",
        ),
        Mistake(
            "centred over the texts",
            "You take off the mean over the texts. Each text has a softmax, and so a mean, of its own.",
        ),
        Mistake(
            "not squared",
            "Your result grows in proportion to Δz. KL is flat at its minimum: it grows faster.",
        ),
        Mistake(
            "summed over the texts", "Your result grows with the number of texts: their mean is asked for."
        ),
        Mistake(
            "only the student's",
            "The teacher plays no part in your result.",
        ),
        Mistake(
            "the root taken",
            "You take a square root, which makes it a distance. The second-order term of KL is a square.",
            also=("a standard deviation",),
        ),
        Mistake(
            "probabilities compared",
            "You compare probabilities, or their logarithms. What is left of KL at a high temperature is a difference "
            "of *logits*.",
            also=("log-probabilities compared",),
        ),
        Mistake(
            "centred over everything",
            "You take off one mean over all texts and classes. Each row has its own.",
            also=("one variance of everything",),
        ),
        Mistake(
            "the student centred alone",
            "You take the mean off the student's logits alone: the teacher's rows have one, too.",
        ),
        Mistake(
            "a difference of variances",
            "You take the variances of student and teacher and subtract. Of the *difference* of the logits one "
            "variance is asked for.",
        ),
    ),
    probes=lambda generator: [(student + 1.5, teacher) for student, teacher in pairs(generator)],
    gradients=(0,),
    growth=lambda n: (torch.randn(n, 5), torch.randn(n, 5)),
)


# --------------------------------------------------------------------------------------------------- 4.5 blend


def blend(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    alpha: float,
    temperature: float,
    wrong: frozenset = RIGHT,
) -> Tensor:
    """Compute α · cross-entropy with the labels + (1 − α) · T² · KL(p_T ‖ p_S), mean over the texts, 0-d."""
    hard = hard_loss(student_logits, labels, temperature, wrong, teacher_logits)
    return weigh(hard, soft_loss(student_logits, teacher_logits, temperature, wrong), alpha, wrong)


def blend_probes(generator: torch.Generator) -> list[tuple]:
    settings = ((0.3, 3.0), (0.1, 1.5), (0.8, 2.0))
    return [
        (*two, labels_with_gaps(generator, *two[0].shape, last=last), *setting)
        for two, setting, last in zip(pairs(generator), settings, (True, False, True), strict=True)
    ]


BLEND = Exercise(
    name="blend",
    number="4.5",
    title="The whole loss",
    reference=blend,
    mistakes=(*WEIGHTS, *HARD, *SOFT),
    probes=blend_probes,
    gradients=(0,),
    stress=lambda generator: [(*far_apart(), torch.tensor([0, 1]), 0.5, 1.0)],
    growth=lambda n: (torch.randn(n, 5), torch.randn(n, 5), torch.arange(n) % 5, 0.5, 2.0),
)


# ----------------------------------------------------------------------------------------- 4.7 label smoothing


def label_smoothing(logits: Tensor, labels: Tensor, epsilon: float, wrong: frozenset = RIGHT) -> Tensor:
    """Compute (1 − ε) · cross-entropy with the labels + ε · cross-entropy with the uniform distribution, mean, 0-d."""
    if "epsilon on the labels" in wrong:
        epsilon = 1 - epsilon
    log_p, classes = logits.log_softmax(-1), logits.shape[-1]
    if "logits where logarithms should be" in wrong:
        log_p = logits
    if "probabilities without a logarithm" in wrong:
        log_p = log_p.exp()
    if "one-hot without the number of classes" in wrong:
        return -(((1 - epsilon) * F.one_hot(labels) + epsilon / classes) * log_p).sum(-1).mean()
    y = F.one_hot(labels, classes).to(log_p.dtype)
    uniform = torch.full_like(log_p, 1 / classes)
    if "uniform over the other classes" in wrong:
        uniform = (1 - y) / (classes - 1)
    if "the label lost its share" in wrong:
        uniform = (1 - y) / classes
    if "not divided by the classes" in wrong:
        uniform = uniform * classes
    share = 1.0 if "labels at full weight" in wrong else 1 - epsilon
    target = share * y + epsilon * uniform
    losses = -(target * log_p).sum(-1)
    if "the student's own entropy" in wrong:
        losses = -share * (y * log_p).sum(-1) - epsilon * (log_p.exp() * log_p).sum(-1)
    if "the uniform part's sign" in wrong:
        losses = -((share * y - epsilon * uniform) * log_p).sum(-1)
    if "KL in place of cross-entropy" in wrong:
        losses = losses + (target * target.log()).sum(-1)
    if "divided by the classes as well" in wrong:
        losses = losses / classes
    return losses.sum() if "summed over the texts" in wrong else losses.mean()


LABEL_SMOOTHING = Exercise(
    name="label_smoothing",
    number="4.7",
    title="A teacher who knows nothing",
    reference=label_smoothing,
    mistakes=(
        Mistake(
            "epsilon on the labels",
            "Your ε weighs the labels, and 1 − ε the teacher who knows nothing. At ε = 0 plain cross-entropy should "
            "be left.",
        ),
        Mistake(
            "uniform over the other classes",
            "Your ε is shared among the other C − 1 classes. The uniform distribution leaves nobody out, the "
            "label's class included.",
        ),
        Mistake(
            "the label lost its share",
            "Your targets sum to less than 1: the label's class, too, gets its part of the ε.",
        ),
        Mistake(
            "not divided by the classes",
            "Your second term is too large by the number of classes. What is each probability of the uniform "
            "distribution?",
        ),
        Mistake(
            "labels at full weight",
            "Your targets sum to 1 + ε. What the uniform distribution gets has to come from somewhere.",
        ),
        Mistake(
            "the uniform part's sign",
            "Your second term has its sign changed: it rewards a student for being sure.",
        ),
        Mistake(
            "the student's own entropy",
            "Your second term is the student's entropy: minimising it would make the student surer, not less sure. "
            "The expectation is over the uniform distribution, not over the student's.",
        ),
        Mistake(
            "summed over the texts", "Your result grows with the number of texts: their mean is asked for."
        ),
        Mistake(
            "one-hot without the number of classes",
            "Your rows of labels are as wide as the largest label in the batch. Where the last class does not "
            "happen to occur, they no longer fit: who says how many classes there are?",
        ),
        Mistake(
            "logits where logarithms should be",
            "The logits stand where the logarithms of the probabilities should be.",
        ),
        Mistake(
            "probabilities without a logarithm",
            "The probabilities stand where their logarithms should be.",
        ),
        Mistake(
            "KL in place of cross-entropy",
            "The gradient is right, the value is not: the entropy of the targets is taken off, as in a KL divergence. "
            "Label smoothing is a cross-entropy.",
        ),
        Mistake(
            "divided by the classes as well",
            "Your result is too small by the number of classes. A cross-entropy is a sum over the classes; only the "
            "texts are averaged.",
        ),
    ),
    probes=lambda generator: [
        (logits(generator, *size), labels_with_gaps(generator, *size, last=last), epsilon)
        for size, epsilon, last in zip(SIZES, (0.1, 0.3, 0.05), (True, False, True), strict=True)
    ],
    gradients=(0,),
    stress=lambda generator: [(far_apart()[0], torch.tensor([0, 1]), 0.1)],
    growth=lambda n: (torch.randn(n, 5), torch.arange(n) % 5, 0.1),
)


# ----------------------------------------------------------------------------------------------- 4.8 inference


def answers_at_inference(
    student_logits: Tensor, temperature: float, wrong: frozenset = RIGHT
) -> tuple[Tensor, Tensor]:
    """Predict classes (N,) with their probabilities (N,): the temperature of the training plays no part."""
    axis = 0 if "softmax over the batch" in wrong else -1
    divisor = temperature if "T left on" in wrong else 1.0
    if "multiplied by T" in wrong:
        divisor = 1 / temperature
    p = (student_logits / divisor).softmax(axis)
    if "not divided by the sum" in wrong:
        p = torch.exp(student_logits / divisor)
    if "logits" in wrong:
        p = student_logits / divisor
    if "log-probabilities" in wrong:
        p = p.log()
    if "the least likely" in wrong:
        return p.argmin(-1), p.amin(-1)
    if "all probabilities" in wrong:
        return p.argmax(-1), p
    return p.argmax(-1), p.amax(-1)


ANSWERS_AT_INFERENCE = Exercise(
    name="answers_at_inference",
    number="4.8",
    title="Shipping the student",
    reference=answers_at_inference,
    mistakes=(
        Mistake(
            "T left on",
            "Your classes are right, but your probabilities are too modest: the training's temperature is still "
            "on. What is the student's temperature once it works for a living?",
        ),
        Mistake(
            "multiplied by T",
            "Your classes are right, but your probabilities are too sure: you undo a temperature that the logits "
            "never had. It was inside the loss, not inside the model.",
        ),
        Mistake(
            "not divided by the sum",
            "Your probabilities do not sum to 1 over the classes: exp is only half of a softmax.",
        ),
        Mistake("logits", "Your second result is the highest logit. A probability is asked for."),
        Mistake(
            "softmax over the batch",
            "Your softmax runs over the texts, so that an answer depends on who else is in the batch.",
        ),
        Mistake(
            "log-probabilities",
            "Your second result is the logarithm of the probability.",
        ),
        Mistake(
            "the least likely",
            "Your answer is the class that the student believes in least.",
        ),
        Mistake(
            "all probabilities",
            "Your second result holds the probabilities of all classes. That of the answer was asked for.",
        ),
    ),
    probes=lambda generator: [
        (logits(generator, *size), t) for size, t in zip(SIZES, (2.0, 4.0, 8.0), strict=True)
    ],
    stress=lambda generator: [(far_apart()[0], 4.0)],
    growth=lambda n: (torch.randn(n, 5), 2.0),
)


EXERCISES = [
    HIGH_TEMPERATURE_LIMIT,
    BLEND,
    LABEL_SMOOTHING,
    ANSWERS_AT_INFERENCE,
]
