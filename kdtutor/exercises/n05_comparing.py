"""The exercises of notebook 05 on measuring: a student's accuracy, and an honest comparison."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from kdtutor.exercises.banks import (
    RIGHT,
)
from kdtutor.exercises.definitions import Exercise, Mistake
from kdtutor.exercises.toys import (
    CLASSES,
    Inputs,
    TinyClassifier,
    padded_texts,
    weights_of,
)

# -------------------------------------------------------------------------------------------- 5.6 evaluating


def evaluate_student(
    student: nn.Module, batches: Sequence[tuple[Inputs, Tensor]], wrong: frozenset[str] = RIGHT
) -> float:
    """Tell which share of labelled texts (not −100) the student gets right; it stays in the mode it was in."""
    mode = student.training
    student.train("dropout left on" in wrong)
    with torch.set_grad_enabled("a graph that nobody needs" in wrong):
        axis = None if "one guess for the whole batch" in wrong else -1
        guesses = [student(**inputs).logits.argmax(axis) for inputs, _ in batches]
    student.train(mode and "left in eval mode" not in wrong)
    right = [(guess == labels).sum().item() for guess, (_, labels) in zip(guesses, batches, strict=True)]
    all_count = "unlabelled texts count as wrong" in wrong
    counts = [len(labels) if all_count else (labels != -100).sum().item() for _, labels in batches]
    if "the mean of the batches' accuracies" in wrong:
        return sum(r / n for r, n in zip(right, counts, strict=True)) / len(counts)
    if "the last batch alone" in wrong:
        return right[-1] / counts[-1]
    if "divided by the batches" in wrong:
        return sum(right) / len(batches)
    if "all batches as large as the first" in wrong:
        return sum(right) / (len(batches) * len(batches[0][1]))
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
    """Draw the student's own guesses as labels but for some: each batch has another accuracy; some are hidden."""
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
        Mistake(
            "divided by the batches",
            "You divide the number of right answers by the number of batches. A share is of texts.",
        ),
        Mistake(
            "all batches as large as the first",
            "You count texts as if every batch were as large as the first, and all of them labelled.",
        ),
        Mistake(
            "one guess for the whole batch",
            "Your argmax has no axis: it is one number for the whole batch. Each text has a guess of its own.",
        ),
    ),
    probes=_evaluation_probes,
    observe=_observe_evaluation,
)


# ---------------------------------------------------------------------------------- 5.7 and 5.8 comparing


def fair_pair(
    new_student: Callable[[], nn.Module], teacher: nn.Module, wrong: frozenset[str] = RIGHT
) -> tuple[nn.Module, nn.Module]:
    """Make two students for a comparison with and without a teacher: equal at first, independent afterwards."""
    student = copy.deepcopy(teacher) if "as large as the teacher" in wrong else new_student()
    if "the teacher as the control" in wrong:
        return student, teacher
    if "one model under two names" in wrong:
        return student, student
    if "two different starts" in wrong:
        return student, new_student()
    if "one of the two frozen" in wrong:
        return student, copy.deepcopy(student).requires_grad_(False)
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
        "whether both can be trained": all(
            weight.requires_grad for model in (first, second) for weight in model.parameters()
        ),
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
        Mistake(
            "one of the two frozen",
            "One of your students cannot learn: its weights are frozen. A control is trained, too, without a teacher.",
        ),
    ),
    probes=lambda generator: [(3,), (5,)],
    observe=_observe_pair,
)


def honest_choice(
    validation: Tensor, test: Tensor, control: Tensor, wrong: frozenset[str] = RIGHT
) -> tuple[int, Tensor]:
    """Tell which configuration to report, and its mean gain over the control on the test set, paired by seed.

    validation, test: accuracies (configurations, seeds). control: the control's test accuracies (seeds,).
    """
    chosen_by = test if "chosen on the test set" in wrong else validation
    if "one seed" in wrong:
        chosen_by, test, control = chosen_by[:, :1], test[:, :1], control[:1]
    score = chosen_by.amax(-1) if "chosen by its luckiest seed" in wrong else chosen_by.mean(-1)
    if "chosen by the median" in wrong:
        score = chosen_by.median(-1).values
    if "averaged over the configurations" in wrong:
        score = chosen_by.mean(0)[: len(test)]
    best = int(score.argmin() if "the worst chosen" in wrong else score.argmax())
    reported = validation[best, : test.shape[-1]] if "the validation score reported" in wrong else test[best]
    gains = reported if "no control" in wrong else reported - control
    if "control minus method" in wrong:
        gains = -gains
    if "the best control subtracted" in wrong:
        gains = reported - control.max()
    if "a ratio" in wrong:
        gains = reported / control
    if "a relative gain" in wrong:
        gains = (reported - control) / control
    if "the mean of all configurations reported" in wrong:
        gains = test.mean(0) - control
    best += "counted from 1" in wrong
    return best, gains.amax() if "the luckiest seed reported" in wrong else gains.mean()


def _choice_probes(generator: torch.Generator) -> list[tuple]:
    """Draw five configurations, of which each way to choose prefers another one."""
    probes = []
    for _ in range(3):
        order = torch.randperm(5, generator=generator)
        validation = 0.6 + 0.02 * torch.rand(5, 5, generator=generator)
        test = 0.6 + 0.02 * torch.rand(5, 5, generator=generator)
        validation[order[0]] += 0.05  # best on average on validation
        test[order[1]] += 0.05  # best on the test set
        validation[order[2], 1:2] += 0.15  # one lucky seed
        validation[order[3], 0] += 0.09  # the best first seed, though not the best of all
        validation[order[3], 1:] -= 0.05
        validation[order[4], 1:4] += 0.07  # the best median, with two poor seeds
        validation[order[4], [0, 4]] -= 0.06
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
            also=("a relative gain",),
        ),
        Mistake(
            "chosen by the median",
            "Your choice has the best median. That may be sound, but the number you report is a mean: choose by the "
            "same.",
        ),
        Mistake(
            "averaged over the configurations",
            "Your means go over the configurations, and tell which *seed* is the best. Which axis holds the seeds?",
        ),
        Mistake(
            "counted from 1",
            "Your configuration's number is too large by one. From which number does an index count?",
        ),
        Mistake(
            "the mean of all configurations reported",
            "Your gain is that of all configurations on average. The one that was chosen is to be reported.",
        ),
        Mistake(
            "the worst chosen",
            "Your choice is the configuration with the lowest score.",
        ),
    ),
    probes=_choice_probes,
)


EXERCISES = [
    EVALUATE_STUDENT,
    FAIR_PAIR,
    HONEST_CHOICE,
]
