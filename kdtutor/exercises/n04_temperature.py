"""Exercises of notebook 04: temperature, entropy, KL divergence, and why the soft targets carry T²."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from kdtutor.exercises.definitions import Exercise, Mistake

SIZES = ((4, 7), (6, 3), (5, 12))  # texts × classes: never equal, or a mistake over the wrong axis could hide
RIGHT = frozenset()


def logits(generator: torch.Generator, *shape: int) -> Tensor:
    return 2 * torch.randn(*shape, generator=generator)


def pairs(generator: torch.Generator) -> list[tuple[Tensor, Tensor]]:
    """Two models' logits (N, C) each, of several sizes."""
    return [(logits(generator, *size), logits(generator, *size)) for size in SIZES]


def far_apart(classes: int = 5) -> tuple[Tensor, Tensor]:
    """Logits so far apart that some probabilities round to 0, and that exp() alone overflows."""
    first = torch.tensor([[300.0] + [0.0] * (classes - 1), [0.0] * (classes - 1) + [-300.0]])
    return first, first.flip(-1)


# ------------------------------------------------------------------------------------------------ 4.1 entropy


def tempered_entropy(logits: Tensor, temperature: float, wrong: frozenset = RIGHT) -> Tensor:
    """Entropy −Σ_c p log p in nats of p = softmax(z / T), mean over the texts: logits (N, C) → 0-d."""
    axis = 0 if "softmax over the batch" in wrong else -1
    if "no temperature" in wrong:
        temperature = 1.0
    divisor = 1 / temperature if "multiplied by T" in wrong else temperature
    log_p = (logits / divisor).log_softmax(axis)
    if "T after the softmax" in wrong:
        log_p = (logits.softmax(axis) / temperature).log()
    summands = -log_p.exp() * log_p
    entropies = summands.mean(-1) if "divided by the classes" in wrong else summands.sum(-1)
    result = entropies.sum() if "summed over the texts" in wrong else entropies.mean()
    if "in bits" in wrong:
        result = result / math.log(2)
    return -result if "no minus" in wrong else result


TEMPERED_ENTROPY = Exercise(
    name="tempered_entropy",
    number="4.1",
    title="How undecided, at which temperature?",
    reference=tempered_entropy,
    mistakes=(
        Mistake(
            "in bits",
            "Your entropies are 1.443 times too large: that is 1 / log 2. Which logarithm do nats ask for?",
        ),
        Mistake(
            "no minus",
            "Your entropy is negative. The logarithm of a probability is at most 0: what turns that round?",
        ),
        Mistake(
            "summed over the texts",
            "Your result grows with the number of texts. An average over them is asked for.",
        ),
        Mistake(
            "divided by the classes",
            "Your result is too small by the number of classes. Over the classes, the definition is a sum: "
            "only over the texts is it a mean.",
        ),
        Mistake(
            "T after the softmax",
            "Your temperature divides the probabilities, so they no longer sum to 1. What does T divide, and when?",
        ),
        Mistake(
            "multiplied by T",
            "Your entropy falls where T rises: a higher temperature makes the distribution sharper. "
            "Is T a factor or a divisor?",
        ),
        Mistake(
            "no temperature", "Your entropy is the same at every temperature: T = 1's. Where should T enter?"
        ),
        Mistake(
            "softmax over the batch",
            "Your softmax sums to 1 over the texts. Each text, a row, should be a distribution over the classes.",
        ),
    ),
    probes=lambda generator: [
        (logits(generator, *size), t) for size, t in zip(SIZES, (2.0, 0.5, 4.0), strict=True)
    ],
    stress=lambda generator: [(far_apart()[0], 0.5)],
    growth=lambda n: (torch.randn(n, 5), 2.0),
)


# ------------------------------------------------------------------------------------------ 4.2 KL divergence


def kl_divergence(p_logits: Tensor, q_logits: Tensor, wrong: frozenset = RIGHT) -> Tensor:
    """KL(p ‖ q) = Σ_c p (log p − log q), mean over all rows: logits (N, C) or (B, L, C) → 0-d."""
    if "swapped" in wrong:
        p_logits, q_logits = q_logits, p_logits
    axis = 0 if "softmax over the batch" in wrong else -1
    log_p, log_q = p_logits.log_softmax(axis), q_logits.log_softmax(axis)
    p = log_p.exp()
    if "no logarithm of q" in wrong:
        log_q = log_q.exp()
    if "neither minus nor mean" in wrong:
        return (p * log_q).sum()
    summands = -p * log_q if "cross-entropy" in wrong else p * (log_p - log_q)
    if "no minus" in wrong:
        summands = -summands
    if "divided by the classes" in wrong:
        return summands.mean()
    if "divided by the first axis only" in wrong:
        return summands.sum() / len(summands)
    rows = summands.sum(-1)
    return rows.sum() if "summed over the rows" in wrong else rows.mean()


KL_DIVERGENCE = Exercise(
    name="kl_divergence",
    number="4.2",
    title="KL divergence, of texts and of tokens",
    reference=kl_divergence,
    mistakes=(
        Mistake(
            "swapped",
            "Your result equals KL(q ‖ p), the arguments swapped. Whose probabilities weigh the difference of the "
            "logarithms? (F.kl_div takes them in the other order than the formula.)",
        ),
        Mistake(
            "cross-entropy",
            "Your result is the cross-entropy of p and q: it is not 0 where they are equal. Something that "
            "belongs to p alone has still to be taken off.",
        ),
        Mistake(
            "no minus",
            "Your result is below 0, and a KL divergence never is. Look at the order in which you subtract.",
        ),
        Mistake(
            "divided by the classes",
            "Your result is too small by the number of classes. A mean over everything is F.kl_div's default, "
            "too: what does it divide by that the definition does not?",
        ),
        Mistake(
            "summed over the rows",
            "Your result grows with the number of rows. Each row has a KL of its own, and their mean is asked for.",
        ),
        Mistake(
            "divided by the first axis only",
            "You are right for (N, C), but for (B, L, C) your result is L times too large: reduction='batchmean' "
            "divides by the first axis alone. How many distributions are there?",
        ),
        Mistake(
            "no logarithm of q",
            "Your formula has q where log q is due: F.kl_div wants log-probabilities as its first argument.",
        ),
        Mistake(
            "neither minus nor mean",
            "Your result is Σ p log q over everything, with neither minus nor mean: who minimises that drives q "
            "away from p.",
        ),
        Mistake(
            "softmax over the batch",
            "Your softmax runs over the first axis. Each row along the last axis is a distribution.",
        ),
    ),
    probes=lambda generator: [*pairs(generator), (logits(generator, 3, 4, 6), logits(generator, 3, 4, 6))],
    gradients=(1,),
    stress=lambda generator: [far_apart()],
    growth=lambda n: (torch.randn(n, 5), torch.randn(n, 5)),
)


# ------------------------------------------------------------------------------------------------ 4.3 gradient


def soft_targets_gradient(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float, wrong: frozenset = RIGHT
) -> Tensor:
    """The gradient of T² · KL(p_T ‖ p_S), mean over texts, by the student's logits: T (p_S − p_T) / N, (N, C)."""
    t_student = 1.0 if "student not softened" in wrong else temperature
    t_teacher = 1.0 if "teacher not softened" in wrong else temperature
    p_s, p_t = (student_logits / t_student).softmax(-1), (teacher_logits / t_teacher).softmax(-1)
    if "the teacher's first guess only" in wrong:
        p_t = F.one_hot(teacher_logits.argmax(-1), teacher_logits.shape[-1]).to(p_s.dtype)
    factor = temperature
    if "no T²" in wrong:
        factor = 1 / temperature
    if "no 1/T from the chain rule" in wrong:
        factor = temperature**2
    gradient = factor * (p_s - p_t)
    if "not divided by the texts" not in wrong:
        gradient = gradient / len(gradient)
    if "divided by the classes" in wrong:
        gradient = gradient / gradient.shape[-1]
    return -gradient if "the sign" in wrong else gradient


SOFT_TARGETS_GRADIENT = Exercise(
    name="soft_targets_gradient",
    number="4.3",
    title="What the student feels",
    reference=soft_targets_gradient,
    mistakes=(
        Mistake(
            "no T²",
            "Your gradient is T² times too small: it is that of KL alone, and fades as the temperature rises.",
        ),
        Mistake(
            "no 1/T from the chain rule",
            "Your gradient is T times too large. The logits are divided by T on their way into the softmax: what "
            "does the chain rule make of that?",
        ),
        Mistake(
            "the sign",
            "Your gradient points the other way: a step against it would lead the student away from the teacher.",
        ),
        Mistake(
            "not divided by the texts",
            "Your gradient is too large by the number of texts. The loss is a mean over them: what does that do "
            "to each text's share?",
        ),
        Mistake(
            "divided by the classes",
            "Your gradient is too small by the number of classes. KL is a sum over the classes, not a mean.",
        ),
        Mistake(
            "teacher not softened",
            "Your teacher speaks at T = 1 and your student at T. Equal logits should give a gradient of 0: "
            "do they?",
        ),
        Mistake(
            "student not softened",
            "Your student speaks at T = 1 and your teacher at T. Equal logits should give a gradient of 0: "
            "do they?",
        ),
        Mistake(
            "the teacher's first guess only",
            "Your teacher gives all its probability to its first guess. That is a hard label, and what is dark "
            "in its knowledge is lost.",
        ),
    ),
    probes=lambda generator: [(*two, t) for two, t in zip(pairs(generator), (3.0, 0.5, 2.0), strict=True)],
    stress=lambda generator: [(*far_apart(), 1.0)],
    growth=lambda n: (torch.randn(n, 5), torch.randn(n, 5), 2.0),
)


# --------------------------------------------------------------------------------------------------- 4.4 limit


def high_temperature_limit(
    student_logits: Tensor, teacher_logits: Tensor, wrong: frozenset = RIGHT
) -> Tensor:
    """Where T² · KL goes as T → ∞: ½ · mean over classes of (Δz − its mean)², mean over the texts, 0-d."""
    gap = student_logits - teacher_logits
    if "centred over the texts" in wrong:
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
    """α · cross-entropy with the labels + (1 − α) · T² · KL(p_T ‖ p_S), mean over the texts, 0-d."""
    hard_logits = student_logits / temperature if "T in the hard loss" in wrong else student_logits
    hard = F.cross_entropy(hard_logits, labels)
    if "binary cross-entropy" in wrong:
        p, y = hard_logits.softmax(-1), F.one_hot(labels, hard_logits.shape[-1])
        hard = F.binary_cross_entropy(p, y.to(p.dtype), reduction="sum") / len(labels)
    if "sigmoids" in wrong:
        y = F.one_hot(labels, hard_logits.shape[-1]).to(hard_logits.dtype)
        hard = F.binary_cross_entropy_with_logits(hard_logits, y)
    axis = 0 if "softmax over the batch" in wrong else -1
    t_teacher = 1.0 if "teacher not softened" in wrong else temperature
    log_s, log_t = (
        (student_logits / temperature).log_softmax(axis),
        (teacher_logits / t_teacher).log_softmax(axis),
    )
    if "swapped" in wrong:
        log_s, log_t = log_t, log_s
    if "no logarithm of the student" in wrong:
        log_s = log_s.exp()
    summands = log_t.exp() * (log_t - log_s)
    soft = summands.mean() if "divided by the classes" in wrong else summands.sum(-1).mean()
    if "neither minus nor mean" in wrong:
        soft = (log_t.exp() * log_s).sum()
    if "no T²" not in wrong:
        soft = temperature**2 * soft
    if "alpha on the soft loss" in wrong:
        alpha = 1 - alpha
    return alpha * hard + (1 - alpha) * soft


def blend_probes(generator: torch.Generator) -> list[tuple]:
    settings = ((0.3, 3.0), (0.1, 1.5), (0.8, 2.0))
    return [
        (*two, torch.randint(two[0].shape[-1], (len(two[0]),), generator=generator), *setting)
        for two, setting in zip(pairs(generator), settings, strict=True)
    ]


BLEND = Exercise(
    name="blend",
    number="4.5",
    title="The whole loss",
    reference=blend,
    mistakes=(
        Mistake(
            "alpha on the soft loss",
            "Your α weighs the soft loss. In this course it weighs the hard labels (elsewhere it may not).",
        ),
        Mistake(
            "T in the hard loss",
            "Your hard loss changes with the temperature. A label has no second guesses that could be brought out.",
        ),
        Mistake(
            "no T²",
            "Your soft loss is T² times too small, so that α means something else at every temperature.",
        ),
        Mistake(
            "divided by the classes",
            "Your soft loss is too small by the number of classes: F.kl_div's default averages over them as well. "
            "Which reduction divides by the texts alone?",
        ),
        Mistake(
            "swapped",
            "Your soft loss equals KL with its arguments swapped: the student's probabilities weigh, where the "
            "teacher's should. (F.kl_div takes the student first, and as logarithms.)",
        ),
        Mistake(
            "softmax over the batch",
            "The softmax of your soft loss runs over the texts: each class sums to 1 over the batch, where each "
            "text should over the classes.",
        ),
        Mistake(
            "no logarithm of the student",
            "Your soft loss has the student's probabilities where their logarithms are due.",
        ),
        Mistake(
            "teacher not softened",
            "Your teacher speaks at T = 1 and your student at T: a student with the teacher's logits would not "
            "have the loss 0.",
        ),
        Mistake(
            "neither minus nor mean",
            "Your soft loss is Σ p_T log p_S, with neither minus nor mean: minimising it drives the student away "
            "from the teacher.",
        ),
        Mistake(
            "binary cross-entropy",
            "Your hard loss adds log(1 − p) for the other classes: that is binary cross-entropy, for questions of "
            "yes or no. Among classes that exclude each other the label's term is all there is.",
        ),
        Mistake(
            "sigmoids",
            "Your hard loss treats each class as a yes-or-no question of its own, with a sigmoid, and averages "
            "over them. The classes exclude each other: one softmax.",
        ),
    ),
    probes=blend_probes,
    gradients=(0,),
    stress=lambda generator: [(*far_apart(), torch.tensor([0, 1]), 0.5, 1.0)],
    growth=lambda n: (torch.randn(n, 5), torch.randn(n, 5), torch.arange(n) % 5, 0.5, 2.0),
)


# ----------------------------------------------------------------------------------------- 4.6 label smoothing


def label_smoothing(logits: Tensor, labels: Tensor, epsilon: float, wrong: frozenset = RIGHT) -> Tensor:
    """(1 − ε) · cross-entropy with the labels + ε · cross-entropy with the uniform distribution, mean, 0-d."""
    if "epsilon on the labels" in wrong:
        epsilon = 1 - epsilon
    log_p, classes = logits.log_softmax(-1), logits.shape[-1]
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
    return losses.sum() if "summed over the texts" in wrong else losses.mean()


LABEL_SMOOTHING = Exercise(
    name="label_smoothing",
    number="4.6",
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
            "the student's own entropy",
            "Your second term is the student's entropy: minimising it would make the student surer, not less sure. "
            "The expectation is over the uniform distribution, not over the student's.",
        ),
        Mistake(
            "summed over the texts", "Your result grows with the number of texts: their mean is asked for."
        ),
    ),
    probes=lambda generator: [
        (logits(generator, *size), torch.randint(size[1], (size[0],), generator=generator), epsilon)
        for size, epsilon in zip(SIZES, (0.1, 0.3, 0.05), strict=True)
    ],
    gradients=(0,),
    stress=lambda generator: [(far_apart()[0], torch.tensor([0, 1]), 0.1)],
    growth=lambda n: (torch.randn(n, 5), torch.arange(n) % 5, 0.1),
)


# ----------------------------------------------------------------------------------------------- 4.7 inference


def answers_at_inference(
    student_logits: Tensor, temperature: float, wrong: frozenset = RIGHT
) -> tuple[Tensor, Tensor]:
    """Predicted classes (N,) and their probabilities (N,): the temperature of the training plays no part."""
    axis = 0 if "softmax over the batch" in wrong else -1
    divisor = temperature if "T left on" in wrong else 1.0
    if "multiplied by T" in wrong:
        divisor = 1 / temperature
    p = (student_logits / divisor).softmax(axis)
    if "not divided by the sum" in wrong:
        p = torch.exp(student_logits / divisor)
    if "logits" in wrong:
        p = student_logits / divisor
    return p.argmax(-1), p.amax(-1)


ANSWERS_AT_INFERENCE = Exercise(
    name="answers_at_inference",
    number="4.7",
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
    ),
    probes=lambda generator: [
        (logits(generator, *size), t) for size, t in zip(SIZES, (2.0, 4.0, 8.0), strict=True)
    ],
    stress=lambda generator: [(far_apart()[0], 4.0)],
    growth=lambda n: (torch.randn(n, 5), 2.0),
)


EXERCISES = [
    TEMPERED_ENTROPY,
    KL_DIVERGENCE,
    SOFT_TARGETS_GRADIENT,
    HIGH_TEMPERATURE_LIMIT,
    BLEND,
    LABEL_SMOOTHING,
    ANSWERS_AT_INFERENCE,
]
