"""The exercises of notebook 05: the loss, the step and the loop of distillation, and an honest comparison.

Most of the mistakes were seen in published teaching code. Steps and loops are tried on models with a handful of words
and looked at from outside: who changes, who stays, in which mode who answers.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdtutor.exercises.banks import (
    GRADIENT,
    HARD,
    RIGHT,
    SOFT,
    WEIGHTS,
    hard_loss,
    keeps_graph,
    labels_with_gaps,
    soft_gradient,
    soft_loss,
    weigh,
)
from kdtutor.exercises.definitions import Exercise, Mistake
from kdtutor.exercises.toys import CLASSES, Inputs, TinyClassifier, padded_texts, steps_watched, weights_of

# ----------------------------------------------------------------------------------------- 5.1 soft targets


def _two_logits(generator: torch.Generator, texts: int, classes: int) -> tuple[Tensor, Tensor]:
    first, second = 2 * torch.randn(2, texts, classes, generator=generator)
    return first, second


SOFT_TARGETS = Exercise(
    name="soft_targets",
    number="5.1",
    title="Soft targets from memory",
    reference=soft_loss,
    mistakes=(*SOFT,),
    probes=lambda generator: [
        (*_two_logits(generator, n, c), t) for n, c, t in ((6, 5, 3.0), (4, 3, 1.5), (2, 7, 4.0))
    ],
    gradients=(0,),
    stress=lambda generator: [(*(500 * z for z in _two_logits(generator, 4, 5)), 2.0)],
    growth=lambda n: (torch.linspace(-1, 1, 3 * n).view(n, 3), torch.linspace(1, 2, 3 * n).view(n, 3), 2.0),
)


# ------------------------------------------------------------------------------- 5.2 the gradient of a blend


def blend_gradient(
    student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, alpha: float, temperature: float,
    wrong: frozenset[str] = RIGHT,
) -> Tensor:  # fmt: skip
    """The gradient of α · L_hard + (1 − α) · T² KL, each a mean over N texts, with respect to z_S: (N, C)."""
    z_hard = student_logits / temperature if "temperature in the hard loss" in wrong else student_logits
    hard = z_hard.softmax(-1)
    if "one-hot without the number of classes" in wrong:
        hard = hard - F.one_hot(labels)
    elif "the label is missing" not in wrong:
        hard = hard - F.one_hot(labels, student_logits.shape[-1])
    if "label minus student" in wrong:
        hard = -hard
    hard = hard / (1 if {"the gradient of a sum", "the labels' gradient of a sum"} & wrong else len(labels))
    soft = soft_gradient(student_logits, teacher_logits, temperature, wrong)
    soft = soft * (len(labels) if "the gradient of a sum" in wrong else 1)
    return weigh(hard, soft, alpha, wrong)


BLEND_GRADIENT = Exercise(
    name="blend_gradient",
    number="5.2",
    title="The gradient of a blend",
    reference=blend_gradient,
    mistakes=(
        *WEIGHTS,
        *GRADIENT,
        Mistake(
            "the label is missing",
            "Nothing in the hard part depends on the label in yours: all entries of it are positive, and every "
            "class is pushed down.",
        ),
        Mistake(
            "label minus student",
            "The labels' part points the wrong way. Gradient descent subtracts it: the label's own class needs "
            "a negative entry.",
        ),
        Mistake(
            "the gradient of a sum",
            "Your numbers are too large by the number of texts: the loss is a mean, so what does one text "
            "contribute?",
        ),
        Mistake(
            "the labels' gradient of a sum",
            "The labels' part is too large by the number of texts: that loss, too, is a mean.",
        ),
        *(
            m
            for m in HARD
            if m.name in ("temperature in the hard loss", "one-hot without the number of classes")
        ),
    ),
    probes=lambda generator: [
        (*_two_logits(generator, n, 4), labels_with_gaps(generator, n, 4, last), alpha, t)
        for n, alpha, t, last in ((3, 0.3, 2.0, True), (5, 0.8, 4.0, False), (6, 0.4, 3.0, True))
    ],
    stress=lambda generator: [
        (*(500 * z for z in _two_logits(generator, 2, 4)), torch.tensor([0, 3]), 0.3, 2.0)
    ],
    growth=lambda n: (
        torch.linspace(-1, 1, 3 * n).view(n, 3),
        torch.ones(n, 3),
        torch.arange(n) % 3,
        0.5,
        2.0,
    ),
)


# ----------------------------------------------------------------------------------- 5.3 the step to repair


def distillation_step(
    student: nn.Module, teacher: nn.Module, inputs: Inputs, labels: Tensor, alpha: float, temperature: float,
    wrong: frozenset[str] = RIGHT,
) -> Tensor:  # fmt: skip
    """One step of SGD with learning rate 0.1 on α · L_hard + (1 − α) · T² KL; returns the loss, detached."""
    trained = teacher if "the optimiser holds the teacher" in wrong else student
    optimizer = torch.optim.SGD(trained.parameters(), lr=0.1)
    student.train("student in eval mode" not in wrong)
    teacher.train("teacher in train mode" in wrong)
    if "dropout taken out of the teacher" in wrong:
        teacher.dropout.p = 0.0
    with torch.set_grad_enabled("teacher inside the graph" in wrong):
        given = {"labels": labels} if "labels given to the teacher" in wrong else {}
        z_t = teacher(**inputs, **given)[0]
    z_s = student(**inputs).logits
    loss = _step_loss(z_s, z_t, labels, alpha, temperature, wrong)
    if "gradients not cleared" not in wrong:
        student.zero_grad()
    if "the step before the backward pass" in wrong:
        optimizer.step()
    loss.backward()
    if "the step finds no gradients" in wrong:
        trained.zero_grad()
    if not {"no step", "the step before the backward pass"} & wrong:
        optimizer.step()
    if "the loss after the step" in wrong:
        loss = _step_loss(student(**inputs).logits, z_t, labels, alpha, temperature, wrong)
    return loss if "the returned loss keeps its graph" in wrong else loss.detach()


def _step_loss(
    z_s: Tensor, z_t: Tensor, labels: Tensor, alpha: float, temperature: float, wrong: frozenset[str]
) -> Tensor:
    hard = hard_loss(z_s, labels, temperature, wrong)
    return weigh(hard, soft_loss(z_s, z_t, temperature, wrong), alpha, wrong)


def _observe_step(
    step: Callable, student: TinyClassifier, teacher: TinyClassifier, batches: Sequence[tuple[Inputs, Tensor]],
    alpha: float, temperature: float,
) -> dict:  # fmt: skip
    """Two steps, by a student that comes from an evaluation and a teacher that comes from its own training."""
    student.eval(), teacher.train()
    before, teacher_before = weights_of(student), weights_of(teacher)
    parts, steps = repr(teacher), []
    with steps_watched(steps):
        losses = [step(student, teacher, inputs, labels, alpha, temperature) for inputs, labels in batches]
    return {
        "whether the student learns": not torch.equal(before, weights_of(student)),
        "whether the teacher stays as it was": torch.equal(teacher_before, weights_of(teacher)),
        "whether the teacher is made of the same parts as before": repr(teacher) == parts,
        "whether the optimiser steps": bool(steps),
        "whether the optimiser holds the student's weights": all(
            {id(w) for w in student.parameters()} <= held for held, _ in steps
        ),
        "whether the teacher answers in eval mode": not any(teacher.in_train_mode),
        "whether the student learns in train mode": all(student.in_train_mode),
        "whether gradients reach the teacher": any(w.grad is not None for w in teacher.parameters()),
        "whether the returned loss keeps its graph": keeps_graph(*losses),
        "the loss of the first step": losses[0],
        "the loss of the second step": losses[1],
        "the student's weights after two steps": weights_of(student),
    }


def _step_probes(generator: torch.Generator) -> list[tuple]:
    probes = []
    for alpha, temperature in ((0.3, 2.0), (0.8, 4.0)):
        student = TinyClassifier(width=3, generator=generator)
        teacher = TinyClassifier(width=6, dropout=0.5, generator=generator)
        batches = [
            (padded_texts(generator, n), labels_with_gaps(generator, n, CLASSES, last))
            for n, last in ((4, True), (3, False))
        ]
        probes.append((student, teacher, batches, alpha, temperature))
    return probes


DISTILLATION_STEP = Exercise(
    name="distillation_step",
    number="5.3",
    title="Repair the step",
    reference=distillation_step,
    mistakes=(
        Mistake(
            "the optimiser holds the teacher",
            "The student's weights are the same after the step as before, and all ran without an error. Whose weights "
            "does the optimiser move?",
        ),
        Mistake(
            "teacher in train mode",
            "The teacher answers with dropout on: asked twice, it says two things, and its targets are noise.",
        ),
        Mistake(
            "teacher inside the graph",
            "The backward pass runs through the teacher too. That takes twice the memory, and the next optimiser that "
            "sees the teacher will change it.",
        ),
        Mistake(
            "labels given to the teacher",
            "A model of the Hugging Face kind that is given labels puts its loss in front of its logits. Your "
            "teacher's answer is a single number, which was silently spread over all classes.",
        ),
        Mistake(
            "gradients not cleared",
            "The first step is right and the second is not: the gradients of the first are still in it.",
        ),
        Mistake(
            "student in eval mode",
            "The student arrives in eval mode, from an evaluation, and is trained like that: its dropout stays off.",
        ),
        Mistake(
            "the returned loss keeps its graph",
            "The loss that you return still holds everything needed for another backward pass. Whoever keeps a list of "
            "losses keeps all of that in memory.",
        ),
        *WEIGHTS,
        *HARD,
        *SOFT,
        Mistake(
            "no step",
            "The loss is right, but the student has not moved: who takes the step?",
        ),
        Mistake(
            "the step finds no gradients",
            "The optimiser steps when there are no gradients: before the backward pass, or after they were "
            "cleared.",
            also=("the step before the backward pass",),
        ),
        Mistake(
            "the loss after the step",
            "You return the loss of the student *after* its step, at the price of a second forward pass.",
        ),
        Mistake(
            "dropout taken out of the teacher",
            "The teacher has lost its dropout for good, instead of being in eval mode while it answers.",
        ),
    ),
    probes=_step_probes,
    observe=_observe_step,
)


# ---------------------------------------------------------------------------------- 5.4 ask the teacher once


def teacher_answers(
    teacher: nn.Module, batches: Sequence[tuple[Tensor, Inputs]], wrong: frozenset[str] = RIGHT
) -> Tensor:
    """The teacher's logits for all texts, (N, C): row i is text i, in whatever order the batches come."""
    teacher.train("teacher in train mode" in wrong)
    with torch.set_grad_enabled("a graph for every batch" in wrong):
        answers = [teacher(**inputs).logits for _, inputs in batches]
    if "only the last batch survives" in wrong:
        answers, batches = answers[-1:], [(torch.arange(len(answers[-1])), {})]
    z, order = torch.cat(answers), torch.cat([index for index, _ in batches])
    result = z if "in the order of the batches" in wrong else torch.empty_like(z).index_copy(0, order, z)
    if "picked instead of put" in wrong:
        result = z[order]
    if "only the first batch" in wrong:
        result = z[: len(batches[0][0])]
    if "only the best class" in wrong:
        return result.argmax(-1)
    return result.softmax(-1) if "probabilities in place of logits" in wrong else result


def _observe_answers(function: Callable, teacher: TinyClassifier, batches: Sequence) -> dict:
    teacher.train()
    answers = function(teacher, batches)
    return {
        "whether the teacher answers in eval mode": not any(teacher.in_train_mode),
        "whether the answers keep the teacher's graph": bool(getattr(answers, "requires_grad", False)),
        "the result": answers,
    }


def _answers_probes(generator: torch.Generator) -> list[tuple]:
    probes = []
    for sizes in ((3, 4, 2), (2, 3), (4, 5, 3)):
        order = torch.randperm(sum(sizes), generator=generator).split(sizes)
        teacher = TinyClassifier(width=6, dropout=0.5, generator=generator)
        probes.append((teacher, [(index, padded_texts(generator, len(index))) for index in order]))
    return probes


TEACHER_ANSWERS = Exercise(
    name="teacher_answers",
    number="5.4",
    title="Ask the teacher once",
    reference=teacher_answers,
    mistakes=(
        Mistake(
            "only the last batch survives",
            "What you return are the answers to the last batch. Those to the others were overwritten, one by the next.",
        ),
        Mistake(
            "in the order of the batches",
            "All answers are there, one after the other as the batches came. But a batch says which texts it holds: "
            "text 0 need not be in the first.",
        ),
        Mistake(
            "teacher in train mode",
            "The teacher answers with dropout on: its answers are noise, and would be kept for the whole training.",
        ),
        Mistake(
            "a graph for every batch",
            "Your answers hold on to the graph of the teacher's forward passes, all batches of it, for as long as they "
            "are kept.",
        ),
        Mistake(
            "probabilities in place of logits",
            "Your rows sum to 1. Once the softmax is taken, no other temperature can be tried without care: keep what "
            "the teacher computed before it.",
        ),
        Mistake(
            "only the best class",
            "You keep the teacher's first guess. Its second guesses are what the student was to learn from.",
        ),
        Mistake(
            "picked instead of put",
            "You pick the rows by the numbers of the texts; they are to be *put* there. Row k of your answers "
            "belongs to the text whose number is the k-th.",
        ),
        Mistake(
            "only the first batch",
            "What you return are the answers to the first batch.",
        ),
    ),
    probes=_answers_probes,
    observe=_observe_answers,
)


# ----------------------------------------------------------------------------- 5.5 an epoch with accumulation


def train_epoch(
    student: nn.Module, batches: Sequence[tuple[Tensor, Tensor]], accumulate: int, learning_rate: float,
    wrong: frozenset[str] = RIGHT,
) -> float:  # fmt: skip
    """One epoch of SGD on logit MSE, a step every `accumulate` batches, learning rate falling linearly to 0.

    batches: (inputs, teacher's logits), of unequal size. Each text counts the same within its step. Returns the mean
    loss per text, as met on the way.
    """
    groups = [batches[i : i + accumulate] for i in range(0, len(batches), accumulate)]
    steps = len(batches) if "steps counted in batches" in wrong else len(groups)
    if {"the last step is left out", "left out, and the schedule shortened"} & wrong and len(
        groups[-1]
    ) < accumulate:
        groups = groups[:-1]
    if "left out, and the schedule shortened" in wrong:
        steps = len(groups)
    if "all texts of a step in one batch" in wrong:
        groups = [[tuple(map(torch.cat, zip(*group, strict=True)))] for group in groups]
    optimizer = torch.optim.SGD(student.parameters(), lr=learning_rate)
    losses, sizes = [], []
    for done, group in enumerate(groups):
        texts = sum(len(inputs) for inputs, _ in group)
        for inputs, teacher_logits in group:
            if "cleared at every batch" in wrong:
                optimizer.zero_grad()
            loss = F.mse_loss(student(inputs), teacher_logits)
            share = 1 / len(group) if "every batch counts the same" in wrong else len(inputs) / texts
            share = 1 / accumulate if "divided by accumulate" in wrong else share
            (loss * (1 if "divided after backward" in wrong else share)).backward()
            losses.append(loss.detach())
            sizes.append(len(inputs))
        falling = 1.0 if "the learning rate never falls" in wrong else 1 - done / steps
        falling = 1 - (done + 1) / steps if "schedule one step ahead" in wrong else falling
        optimizer.param_groups[0]["lr"] = 0.0 if "-1 training steps" in wrong else learning_rate * falling
        optimizer.step()
        if "never cleared" not in wrong:
            optimizer.zero_grad()
    if "the last batch's loss" in wrong:
        return losses[-1].item()
    if "the mean of the batches' means" in wrong:
        return (sum(losses) / len(losses)).item()
    total = sum(map(math.prod, zip(losses, sizes, strict=True)))
    if "the returned loss keeps its graph" in wrong:
        return (total / sum(sizes)).requires_grad_()
    return (total if "the sum is returned" in wrong else total / sum(sizes)).item()


def _observe_epoch(function: Callable, student: nn.Module, *rest) -> dict:
    before, sizes = weights_of(student), []
    student.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    loss = function(student, *rest)
    return {
        "the list of batch sizes": sizes,
        "whether the returned loss keeps its graph": keeps_graph(loss),
        "whether the student learns": not torch.equal(before, weights_of(student)),
        "the change of the student's weights": weights_of(student) - before,
        "the loss that is returned": loss,
    }


def _epoch_probes(generator: torch.Generator) -> list[tuple]:
    probes = []
    for sizes, accumulate in (((4, 2, 4, 1, 3), 2), ((2, 4, 3, 3, 1, 4, 2), 3)):
        student = nn.Linear(3, CLASSES)
        for weights in student.parameters():
            nn.init.normal_(weights, generator=generator)
        batches = [
            (torch.randn(n, 3, generator=generator), torch.randn(n, CLASSES, generator=generator))
            for n in sizes
        ]
        probes.append((student, batches, accumulate, 0.5))
    return probes


TRAIN_EPOCH = Exercise(
    name="train_epoch",
    number="5.5",
    title="An epoch in which every text counts",
    reference=train_epoch,
    mistakes=(
        Mistake(
            "divided after backward",
            "Your steps are too long: gradients add up over the batches of a step as if each were a step of its own. "
            "What is done to a loss after backward() no longer reaches the gradient.",
        ),
        Mistake(
            "-1 training steps",
            "Your student does not move at all: its learning rate is 0 from the start. That is what a linear schedule "
            "makes of a number of steps that nobody filled in.",
        ),
        Mistake(
            "steps counted in batches",
            "Your learning rate falls too slowly: the schedule expects as many steps as there are batches. How often "
            "does the optimiser move?",
        ),
        Mistake(
            "the learning rate never falls",
            "All your steps have the same learning rate; it was to fall linearly.",
        ),
        Mistake(
            "cleared at every batch",
            "Each of your steps knows its last batch alone: what the earlier ones left in the gradients was cleared.",
        ),
        Mistake(
            "never cleared",
            "Your first step is right. In the later ones there are still the gradients of those before.",
        ),
        Mistake(
            "the mean of the batches' means",
            "The student is trained rightly. But the loss you return averages over batches, so that a text in a small "
            "one counts for more.",
        ),
        Mistake(
            "every batch counts the same",
            "In your steps, a text in a small batch weighs more than one in a large batch. What is a batch's "
            "share of the texts of its step?",
            also=("divided by accumulate",),
        ),
        Mistake(
            "the last step is left out",
            "The batches that are left over at the end do not reach the student. How many make the last step?",
            also=("left out, and the schedule shortened",),
        ),
        Mistake(
            "all texts of a step in one batch",
            "You put the batches of a step together into one. The memory holds small batches only: that is why "
            "gradients are accumulated.",
        ),
        Mistake(
            "schedule one step ahead",
            "Your learning rate is one step ahead: the first step should have all of it, and the last one more "
            "than 0.",
        ),
        Mistake(
            "the last batch's loss",
            "The student is trained rightly, but you return the loss of the last batch alone.",
        ),
        Mistake(
            "the sum is returned",
            "The student is trained rightly, but you return a sum over the texts. Their mean was asked for.",
        ),
        Mistake(
            "the returned loss keeps its graph",
            "What you return still holds its graph. A plain number was asked for.",
        ),
    ),
    probes=_epoch_probes,
    observe=_observe_epoch,
)


# -------------------------------------------------------------------------------------------- 5.6 evaluating


def evaluate_student(
    student: nn.Module, batches: Sequence[tuple[Inputs, Tensor]], wrong: frozenset[str] = RIGHT
) -> float:
    """The share of labelled texts (label not −100) that the student gets right; it stays in the mode it was in."""
    mode = student.training
    student.train("dropout left on" in wrong)
    with torch.set_grad_enabled("a graph that nobody needs" in wrong):
        guesses = [student(**inputs).logits.argmax(-1) for inputs, _ in batches]
    student.train(mode and "left in eval mode" not in wrong)
    right = [(guess == labels).sum().item() for guess, (_, labels) in zip(guesses, batches, strict=True)]
    all_count = "unlabelled texts count as wrong" in wrong
    counts = [len(labels) if all_count else (labels != -100).sum().item() for _, labels in batches]
    if "the mean of the batches' accuracies" in wrong:
        return sum(r / n for r, n in zip(right, counts, strict=True)) / len(counts)
    if "the last batch alone" in wrong:
        return right[-1] / counts[-1]
    if "the share of the wrong ones" in wrong:
        return 1 - sum(right) / sum(counts)
    if "in per cent" in wrong:
        return 100 * sum(right) / sum(counts)
    return float(sum(right)) if "a number, not a share" in wrong else sum(right) / sum(counts)


def _observe_evaluation(function: Callable, student: TinyClassifier, batches: Sequence) -> dict:
    student.train()
    accuracy = function(student, batches)
    return {
        "whether the student answers in eval mode": not any(student.in_train_mode),
        "whether the student is in train mode again afterwards": student.training,
        "whether a graph is built": any(student.with_graph),
        "the result": accuracy,
    }


def _evaluation_probes(generator: torch.Generator) -> list[tuple]:
    """Labels are the student's own guesses but for some, so that each batch has another accuracy; some are hidden."""
    probes = []
    for wrongs in ((1, 4, 0), (5, 2)):
        student, batches = TinyClassifier(width=6, dropout=0.5, generator=generator), []
        for texts, wrong in zip((13, 9, 4), wrongs, strict=False):
            inputs = padded_texts(generator, texts)
            with torch.no_grad():
                labels = copy.deepcopy(student).eval()(**inputs).logits.argmax(-1)
            labels[:wrong] = (labels[:wrong] + 1) % CLASSES
            labels[-2:] = -100
            batches.append((inputs, labels))
        probes.append((student, batches))
    return probes


EVALUATE_STUDENT = Exercise(
    name="evaluate_student",
    number="5.6",
    title="Is it any good?",
    reference=evaluate_student,
    mistakes=(
        Mistake(
            "the mean of the batches' accuracies",
            "Your result is the mean of the accuracies of the batches. The last batch is smaller: do its texts count "
            "for as much as the others?",
        ),
        Mistake(
            "dropout left on",
            "The student answers in train mode, with dropout: measured twice, it would be two different numbers.",
        ),
        Mistake(
            "left in eval mode",
            "The number is right. But the student was in train mode when it came, and whoever goes on training it now "
            "does so without dropout.",
        ),
        Mistake(
            "unlabelled texts count as wrong",
            "Your result is too low: some texts have the label −100, which means that nobody has labelled them.",
        ),
        Mistake(
            "a graph that nobody needs",
            "The number is right. But your forward passes build graphs for a backward pass that never comes.",
        ),
        Mistake("a number, not a share", "You return how many texts are right. Of how many?"),
        Mistake(
            "the last batch alone",
            "Your result is the accuracy of the last batch.",
        ),
        Mistake(
            "the share of the wrong ones",
            "Your result is the share of texts that the student gets *wrong*.",
        ),
        Mistake(
            "in per cent",
            "Your result is a hundred times too large: it is a fraction in this course.",
        ),
    ),
    probes=_evaluation_probes,
    observe=_observe_evaluation,
)


# ---------------------------------------------------------------------------------- 5.7 and 5.8 comparing


def fair_pair(
    new_student: Callable[[], nn.Module], teacher: nn.Module, wrong: frozenset[str] = RIGHT
) -> tuple[nn.Module, nn.Module]:
    """Two students for a comparison with and without a teacher: equal at the start, independent afterwards."""
    student = copy.deepcopy(teacher) if "as large as the teacher" in wrong else new_student()
    if "the teacher as the control" in wrong:
        return student, teacher
    if "one model under two names" in wrong:
        return student, student
    if "two different starts" in wrong:
        return student, new_student()
    return student, (copy.copy if "shared weights" in wrong else copy.deepcopy)(student)


def _observe_pair(function: Callable, width: int) -> dict:
    teacher = TinyClassifier(width=12)
    before = repr(teacher), weights_of(teacher)
    first, second = function(lambda: TinyClassifier(width), teacher)
    as_it_was = before[0] == repr(teacher) and torch.equal(before[1], weights_of(teacher))
    at_start = torch.equal(weights_of(first), weights_of(second)) if len(weights_of(first)) else False
    shared = {w.data_ptr() for w in first.parameters()} & {w.data_ptr() for w in second.parameters()}
    return {
        "whether both start from equal weights": at_start,
        "whether they are two models": first is not second,
        "whether training one leaves the other alone": not shared,
        "whether they are smaller than the teacher": len(weights_of(first)) < len(before[1]),
        "whether they are of one size": len(weights_of(first)) == len(weights_of(second)),
        "whether the teacher stays as it was": as_it_was,
    }


FAIR_PAIR = Exercise(
    name="fair_pair",
    number="5.7",
    title="Two students for a fair comparison",
    reference=fair_pair,
    mistakes=(
        Mistake(
            "one model under two names",
            "Both names mean the same model. What you train first, with the teacher, is also what you compare it with.",
        ),
        Mistake(
            "shared weights",
            "Two models, but they share their weights: a shallow copy. Training one of them trains the other.",
        ),
        Mistake(
            "two different starts",
            "The two begin with different random weights. Which part of the difference in the end came from that?",
        ),
        Mistake(
            "as large as the teacher",
            "Your students have the teacher's size and weights. They will do well, and nothing is compressed.",
        ),
        Mistake(
            "the teacher as the control",
            "Your control is the teacher itself. The control is a student like the other, which learns without "
            "a teacher.",
        ),
    ),
    probes=lambda generator: [(3,), (5,)],
    observe=_observe_pair,
)


def honest_choice(
    validation: Tensor, test: Tensor, control: Tensor, wrong: frozenset[str] = RIGHT
) -> tuple[int, Tensor]:
    """Which configuration to report, and its mean gain over the control on the test set, paired by seed.

    validation, test: accuracies (configurations, seeds). control: the control's test accuracies (seeds,).
    """
    chosen_by = test if "chosen on the test set" in wrong else validation
    if "one seed" in wrong:
        chosen_by, test, control = chosen_by[:, :1], test[:, :1], control[:1]
    score = chosen_by.amax(-1) if "chosen by its luckiest seed" in wrong else chosen_by.mean(-1)
    best = int(score.argmin() if "the worst chosen" in wrong else score.argmax())
    reported = validation[best, : test.shape[-1]] if "the validation score reported" in wrong else test[best]
    gains = reported if "no control" in wrong else reported - control
    if "control minus method" in wrong:
        gains = -gains
    if "the best control subtracted" in wrong:
        gains = reported - control.max()
    if "a ratio" in wrong:
        gains = reported / control
    return best, gains.amax() if "the luckiest seed reported" in wrong else gains.mean()


def _choice_probes(generator: torch.Generator) -> list[tuple]:
    """Four configurations, of which each way to choose prefers another one."""
    probes = []
    for _ in range(3):
        order = torch.randperm(4, generator=generator)
        validation = 0.6 + 0.02 * torch.rand(4, 5, generator=generator)
        test = 0.6 + 0.02 * torch.rand(4, 5, generator=generator)
        validation[order[0]] += 0.05  # best on average on validation
        test[order[1]] += 0.05  # best on the test set
        validation[order[2], 1:2] += 0.15  # one lucky seed
        validation[order[3], 0] += 0.09  # the best first seed, though not the best of all
        validation[order[3], 1:] -= 0.05
        probes.append((validation, test, 0.6 + 0.02 * torch.rand(5, generator=generator)))
    return probes


HONEST_CHOICE = Exercise(
    name="honest_choice",
    number="5.8",
    title="An honest sentence",
    reference=honest_choice,
    mistakes=(
        Mistake(
            "chosen on the test set",
            "Your choice is the best on the test set. The best of several is best by luck, too, and that luck is then "
            "in the number you report. Which split is there for choosing?",
        ),
        Mistake(
            "chosen by its luckiest seed",
            "Your choice has the single best run, and is not the best on average: one lucky seed has decided.",
        ),
        Mistake(
            "one seed",
            "Everything in your answer hangs on the first seed. The others are there to tell skill from luck.",
        ),
        Mistake(
            "the validation score reported",
            "The choice is right. But the gain that you report is measured on the split that chose it.",
        ),
        Mistake(
            "the luckiest seed reported",
            "The choice is right. But the gain that you report is the one of the luckiest seed.",
        ),
        Mistake(
            "no control",
            "The choice is right. But you report an accuracy; the question is what it gains over the same student "
            "without a teacher.",
        ),
        Mistake(
            "control minus method",
            "Your gain has its sign changed: is the method to be better, or the control?",
        ),
        Mistake(
            "the best control subtracted",
            "You subtract the control's best run. Method and control share their seeds: subtract seed by seed.",
        ),
        Mistake(
            "a ratio",
            "You divide by the control. A gain is a difference.",
        ),
        Mistake(
            "the worst chosen",
            "Your choice is the configuration with the lowest score.",
        ),
    ),
    probes=_choice_probes,
)

EXERCISES = [
    SOFT_TARGETS,
    BLEND_GRADIENT,
    DISTILLATION_STEP,
    TEACHER_ANSWERS,
    TRAIN_EPOCH,
    EVALUATE_STUDENT,
    FAIR_PAIR,
    HONEST_CHOICE,
]
