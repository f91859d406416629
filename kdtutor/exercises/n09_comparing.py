"""The exercises of notebook 09 on comparisons that deserve their name."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from kdtutor.exercises.banks import RIGHT
from kdtutor.exercises.definitions import Exercise, Mistake

Scores = Mapping[str, Sequence[float]]  # task → one score per seed


# ------------------------------------------------------------------------- 9.2 equal effort, and an honest report


def honest_report(
    validation: Tensor, test: Tensor, control_validation: Tensor, control_test: Tensor,
    wrong: frozenset[str] = RIGHT,
) -> tuple[int, int, float, float]:  # fmt: skip
    """Report what was chosen for the method and its control, the mean gain on the test set, and its 95 % half-width.

    All: (settings, seeds), the same seeds.
    """

    def choice(scores: Tensor, asked: Tensor, whose: str) -> int:
        scores = asked if {"chosen on the test set", f"{whose} chosen on the test set"} & wrong else scores
        if "chosen on validation and test" in wrong:
            return int((scores + asked).mean(-1).argmax())
        if "the control's first setting" in wrong and whose == "the control":
            return 0
        if "chosen by the best run" in wrong:
            return int(scores.amax(-1).argmax())
        if "chosen at one seed" in wrong:
            return int(scores[:, 0].argmax())
        return int(scores.mean(-1).argmax())

    if "settings and seeds exchanged" in wrong:
        validation, test, control_validation, control_test = (
            scores.mT for scores in (validation, test, control_validation, control_test)
        )
    best = choice(validation, test, "the method")
    other = choice(control_validation, control_test, "the control")
    if "chosen by the lead" in wrong:
        best = other = int((validation - control_validation).mean(-1).argmax())
    if "the control gets the rival's setting" in wrong:
        other = best
    reported = "validation scores reported" in wrong
    ours, theirs = (
        (validation[best], control_validation[other]) if reported else (test[best], control_test[other])
    )
    if "all settings on average" in wrong:
        ours, theirs = test.mean(0), control_test.mean(0)
    if "the control's mean over all settings" in wrong:
        theirs = control_test.mean(0)
    gain = float((ours - theirs).mean())
    if "control minus method" in wrong:
        gain = -gain
    if "a ratio" in wrong:
        gain = float((ours / theirs).mean())
    if "the best run instead of the mean" in wrong:
        gain = float(ours.max() - theirs.max())
    return best, other, gain, _half_width(ours, theirs, wrong)


def _half_width(ours: Tensor, theirs: Tensor, wrong: frozenset[str]) -> float:
    """Compute the 95 % half-width of the mean difference of paired scores, (seeds,) each."""
    from kdtutor.evaluation.statistics import mean_and_interval  # here: it takes seconds to import

    differences = ours - theirs
    half_width = mean_and_interval(differences.tolist()).half_width
    if "the spread in place of the interval" in wrong:
        half_width = float(differences.std())
    if "1.96 in place of Student's t" in wrong:
        half_width = 1.96 * float(differences.std()) / math.sqrt(len(differences))
    if "the whole width" in wrong:
        half_width = 2 * half_width
    if "the standard error alone" in wrong:
        half_width = float(differences.std()) / math.sqrt(len(differences))
    if "seeds not paired" in wrong:
        halves = [mean_and_interval(side.tolist()).half_width for side in (ours, theirs)]
        half_width = math.hypot(*halves)
    if "two half-widths added" in wrong:
        half_width = sum(mean_and_interval(side.tolist()).half_width for side in (ours, theirs))
    if "the spread divided by n" in wrong:
        half_width = half_width * math.sqrt(1 - 1 / len(differences))
    if "divided by n in place of its root" in wrong:
        half_width = half_width / math.sqrt(len(differences))
    if "half of the half-width" in wrong:
        half_width = half_width / 2
    if "the method's interval alone" in wrong:
        half_width = mean_and_interval(ours.tolist()).half_width
    return half_width


def _report_probes(generator: torch.Generator) -> list[tuple]:
    """Draw tables on which every way of choosing chooses something else."""

    def table(settings: int, seeds: int) -> tuple[Tensor, Tensor]:
        while True:
            validation, test = 0.7 + 0.1 * torch.rand(2, settings, seeds, generator=generator)
            ways = (validation.mean(-1), test.mean(-1), validation.amax(-1), validation[:, 0])
            chosen = [int(scores.argmax()) for scores in ways]
            if len(set(chosen)) == len(ways):
                return validation, test, chosen[0]

    probes = []
    for seeds in (3, 5):
        validation, test, best = table(6, seeds)
        other = best
        while other == best:
            control_validation, control_test, other = table(6, seeds)
        probes.append((validation, test, control_validation, control_test))
    return probes


HONEST_REPORT = Exercise(
    name="honest_report",
    number="9.2",
    title="Equal effort, and an honest report",
    reference=honest_report,
    mistakes=(
        Mistake(
            "chosen on the test set",
            "You chose by the test scores. The best of several looks good on whatever chose it, and then there is no "
            "data left on which to say how good it is.",
        ),
        Mistake(
            "the method chosen on the test set",
            "You chose the method's setting by its test scores, and the control's by validation: the luck is the "
            "method's.",
        ),
        Mistake(
            "the control chosen on the test set",
            "You chose the control's setting by its test scores, and the method's by validation: the luck is the "
            "control's.",
        ),
        Mistake(
            "validation scores reported",
            "Your gain comes from the validation scores, which chose the settings: they flatter what they chose.",
        ),
        Mistake(
            "the best run instead of the mean",
            "Your gain compares the best run of one side with the best run of the other. With more seeds both would "
            "rise, and neither would be better.",
        ),
        Mistake(
            "chosen by the best run",
            "Your choice goes by a setting's luckiest seed. A setting whose runs scatter widely has the best run, and "
            "the worst.",
        ),
        Mistake(
            "chosen at one seed",
            "Your choice rests on the first seed alone, though you were given all of them.",
        ),
        Mistake(
            "the control gets the rival's setting",
            "Your control runs with the setting that suits its rival. It had as many tries: let it have its best.",
        ),
        Mistake(
            "1.96 in place of Student's t",
            "Your interval is too narrow for so few seeds: 1.96 belongs to a normal distribution whose spread is "
            "known, and yours is estimated from a handful of numbers.",
        ),
        Mistake(
            "the spread in place of the interval",
            "Your half-width is the standard deviation, which says how far single runs scatter. How far off is their "
            "mean likely to be?",
        ),
        Mistake(
            "seeds not paired",
            "Your interval treats the two sides as unrelated runs. At one seed they share weights and order, so look "
            "at the differences, seed by seed.",
            also=("two half-widths added",),
        ),
Mistake("control minus method",
"Your gain has its sign changed: is the method to be better, or the control?",),
Mistake("chosen on validation and test",
"You choose by validation and test together. The part that judges may not choose.",),
Mistake("the control's first setting",
"Your control runs with its first setting, whatever that is worth. It chooses, too, on its own validation scores.",),
Mistake("settings and seeds exchanged",
"You average over the settings and choose a seed. Settings stand in the rows, and each has a run for every seed.",),
Mistake("chosen by the lead",
"You choose the one setting at which the method is furthest ahead. A control that is poor there makes the gain. Each "
"side is to have its own best setting.",),
Mistake("a ratio",
"You divide by the control. A gain is a difference.",),
Mistake("the whole width",
"Your interval's whole width is returned, and half of it was asked for.",),
Mistake("the standard error alone",
"Your half-width is the standard error of the mean. By what is it multiplied, so that 95 of 100 "
"such intervals hold the truth?",),
        Mistake(
            "the control's mean over all settings",
            "You subtract the mean of all the control's settings. Its best one, chosen on validation, is the rival.",
        ),
        Mistake(
            "the spread divided by n",
            "Your standard deviation divides by n. Estimated from a few seeds, it divides by n − 1, and is larger.",
        ),
        Mistake(
            "divided by n in place of its root",
            "Your half-width is too small by the root of the number of seeds: the error of a mean shrinks with that "
            "root.",
        ),
        Mistake("half of the half-width", "Your half-width is halved once more."),
        Mistake(
            "the method's interval alone",
            "Your interval is that of the method's scores. Of the *gain* one is asked for, and the control scatters, "
            "too.",
        ),
        Mistake(
            "all settings on average",
            "Your gain is one between all settings on average. What was chosen is to be reported.",
        ),

),
    planted=("chosen on the test set", "the control gets the rival's setting",),
    symptom="Where all settings are equally good, it still reports a gain.",
    probes=_report_probes,
)  # fmt: skip


# ------------------------------------------------------------------------------------------------ 9.4 retention


def retention(student: Scores, teacher: Scores, wrong: frozenset[str] = RIGHT) -> float:
    """Average over the seeds the student's macro average as a fraction of the teacher's at the same seed.

    The macro average goes over the tasks that both were measured on.
    """
    both = [task for task in student if task in teacher]
    if "the teacher's tasks" in wrong:
        both = list(teacher)
    if "tasks matched by position" in wrong:
        both = list(student)
        teacher = dict(zip(student, teacher.values(), strict=False))
    theirs = list(teacher) if "macro averages of different tasks" in wrong else both
    seeds = range(len(next(iter(student.values()))))
    macro = [statistics.mean(student[task][seed] for task in both) for seed in seeds]
    reference = [statistics.mean(teacher[task][seed] for task in theirs) for seed in seeds]
    if "sums over different tasks" in wrong:
        macro, reference = ([sum(s[t][seed] for t in s) for seed in seeds] for s in (student, teacher))
    if "one seed's teacher for all" in wrong:
        reference = [reference[0] for _ in seeds]
    if "each task's best runs" in wrong:
        kept = sum(max(student[t]) for t in both) / sum(max(teacher[t]) for t in both)
    elif "the best runs" in wrong:
        kept = max(macro) / max(reference)
    elif "the best seed's ratio" in wrong:
        kept = max(a / b for a, b in zip(macro, reference, strict=True))
    elif "the median over the seeds" in wrong:
        kept = statistics.median(a / b for a, b in zip(macro, reference, strict=True))
    elif "summed over the seeds" in wrong:
        kept = sum(a / b for a, b in zip(macro, reference, strict=True))
    elif "ratio of each task's means" in wrong:
        kept = statistics.mean(statistics.mean(student[t]) / statistics.mean(teacher[t]) for t in both)
    elif "ratio of the seeds' means" in wrong:
        kept = statistics.mean(macro) / statistics.mean(reference)
    elif "mean of the tasks' ratios" in wrong:
        kept = statistics.mean(student[task][seed] / teacher[task][seed] for task in both for seed in seeds)
    elif "a difference" in wrong:
        kept = statistics.mean(a - b for a, b in zip(macro, reference, strict=True))
    elif "the points lost" in wrong:
        kept = statistics.mean(b - a for a, b in zip(macro, reference, strict=True))
    else:
        kept = statistics.mean(a / b for a, b in zip(macro, reference, strict=True))
    if "the teacher divided by the student" in wrong:
        kept = statistics.mean(b / a for a, b in zip(macro, reference, strict=True))
    if "the last seed alone" in wrong:
        kept = macro[-1] / reference[-1]
    if "the worst seed's ratio" in wrong:
        kept = min(a / b for a, b in zip(macro, reference, strict=True))
    if "divided by the number of tasks" in wrong:
        kept = kept * len(macro) / len(both)
    if "as many seeds as tasks" in wrong:
        kept = statistics.mean(a / b for a, b in [*zip(macro, reference, strict=True)][: len(both)])
    if "a geometric mean" in wrong:
        kept = statistics.geometric_mean(a / b for a, b in zip(macro, reference, strict=True))
    if "the first seed alone" in wrong:
        kept = macro[0] / reference[0]
    if "the first task alone" in wrong:
        kept = statistics.mean(student[both[0]][seed] / teacher[both[0]][seed] for seed in seeds)
    kept = 1 - kept if "what is lost" in wrong else kept
    return 100 * kept if "in per cent" in wrong else kept


def _score_probes(generator: torch.Generator) -> list[tuple]:
    def scores(tasks: Sequence[str], seeds: int) -> dict[str, list[float]]:
        return {task: (0.3 + 0.6 * torch.rand(seeds, generator=generator)).tolist() for task in tasks}

    names = ("supersense", "sentiment", "valence")
    return [
        (scores(names[:2], 3), scores(names, 3)),
        (scores(names, 5), scores(("pronunciation", *reversed(names)), 5)),
        (scores(names[:2], 4), scores((names[1], "pronunciation", names[0]), 4)),
    ]


RETENTION = Exercise(
    name="retention",
    number="9.4",
    title="Retention over tasks and seeds",
    reference=retention,
    mistakes=(
        Mistake(
            "macro averages of different tasks",
            "Your teacher's average goes over a task that the student was not measured on. From the paper's own "
            "table, DistilBERT keeps 96.9 % of BERT's score with WNLI in the list, and 96.2 % without.",
            also=("sums over different tasks",),
        ),
        Mistake(
            "the best runs",
            "You divide the best run by the best run. What is to be reported is what a run retains on average.",
            also=("each task's best runs",),
        ),
        Mistake(
            "the best seed's ratio",
            "Your number is the ratio of a single seed, the best or the worst. What is to be reported is their mean.",
            also=("the worst seed's ratio",),
        ),
        Mistake(
            "one seed's teacher for all",
            "You divide all students by the teacher of one seed. Each seed has a teacher of its own.",
        ),
        Mistake(
            "ratio of the seeds' means",
            "You average over the seeds before you divide. Close, but then there is no value for each seed, and so "
            "no interval either.",
        ),
        Mistake(
            "mean of the tasks' ratios",
            "You divide task by task and average afterwards. That is another definition: a task on which the teacher "
            "is poor would weigh more. Here the macro averages are divided.",
            also=("ratio of each task's means",),
        ),
        Mistake(
            "a difference",
            "You subtract one score from the other, where retention is a share of the teacher's.",
            also=("the points lost",),
        ),
        Mistake(
            "what is lost",
            "Your number is the share that is lost, and what is kept was asked for.",
        ),
        Mistake(
            "in per cent",
            "Your number is a hundred times too large: all scores of the course are fractions.",
        ),
        Mistake(
            "tasks matched by position",
            "You match the tasks by their place in the dictionaries. The teacher's may stand in another order.",
        ),
        Mistake(
            "the teacher divided by the student",
            "You divide the teacher's score by the student's.",
        ),
        Mistake(
            "the first seed alone",
            "Your number rests on one seed alone, the first or the last.",
            also=("the last seed alone",),
        ),
        Mistake(
            "divided by the number of tasks",
            "Your sum goes over the seeds and is divided by the number of tasks.",
        ),
        Mistake(
            "as many seeds as tasks",
            "You go through as many seeds as there are tasks. These are two numbers.",
        ),
        Mistake(
            "a geometric mean", "You take a geometric mean over the seeds. The ordinary one was asked for."
        ),
        Mistake(
            "the first task alone",
            "Your number rests on a single task, and an average over all common ones was asked for.",
        ),
        Mistake(
            "the teacher's tasks",
            "You go through the teacher's tasks. The student was not measured on all of them.",
        ),
        Mistake(
            "the median over the seeds",
            "Your number is a median over the seeds; their mean was asked for.",
        ),
        Mistake(
            "summed over the seeds",
            "Your number is a sum over the seeds, and grows with them.",
        ),
    ),
    probes=_score_probes,
)


EXERCISES = [HONEST_REPORT, RETENTION]
