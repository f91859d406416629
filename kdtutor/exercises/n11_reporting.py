"""The exercises of notebook 11 on what is said afterwards: a comparison tuned on both sides, and one report."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from kdtutor.exercises.banks import RIGHT, Wrong
from kdtutor.exercises.definitions import Exercise, Mistake

# ------------------------------------------------------------------------------------------- 11.3 tuned on both sides


def tuned_difference(
    student_validation: Tensor, student_test: Tensor, control_validation: Tensor, control_test: Tensor,
    wrong: Wrong = RIGHT,
) -> Tensor:  # fmt: skip
    """Compare student and control on test, each at the rate of its best mean on validation. All (rates, seeds)."""

    def best(scores: Tensor) -> int:
        return int((scores.amax(1) if "the luckiest seed chooses" in wrong else scores.mean(1)).argmax())

    chosen, other = best(student_validation), best(control_validation)
    if "one rate for both" in wrong:
        chosen = other = best(student_validation + control_validation)
    if "the rate of the largest gain" in wrong:
        chosen = other = best(student_validation - control_validation)
    if "the control chosen on test" in wrong:
        other = best(control_test)
    if "each at the other's rate" in wrong:
        chosen, other = other, chosen
    if "the worst rate" in wrong:
        chosen, other = best(-student_validation), best(-control_validation)
    if "a best seed for a best rate" in wrong:
        chosen, other = (int(scores.mean(0).argmax()) for scores in (student_validation, control_validation))
    if "all rates" in wrong:
        return student_test.mean() - control_test.mean()
    if "each seed has its own rate" in wrong:
        own = [scores.argmax(0, keepdim=True) for scores in (student_validation, control_validation)]
        return (student_test.gather(0, own[0]) - control_test.gather(0, own[1])).mean()
    if "the best run of each on test" in wrong:
        return student_test.max() - control_test.max()
    if "the luckiest run" in wrong:
        runs = [int(scores.argmax()) for scores in (student_validation, control_validation)]
        return student_test.flatten()[runs[0]] - control_test.flatten()[runs[1]]
    if "validation of the control" in wrong:
        return student_test[chosen].mean() - control_validation[other].mean()
    if "the control has the student's rate" in wrong:
        other = chosen
    if "the control has the first rate" in wrong:
        other = 0
    if "the student has the control's rate" in wrong:
        chosen = other
    if "both chosen on test" in wrong:
        chosen, other = best(student_test), best(control_test)
    if "the student chosen on test" in wrong:
        chosen = best(student_test)
    if "the difference on validation" in wrong:
        return student_validation[chosen].mean() - control_validation[other].mean()
    mine, theirs = student_test[chosen], control_test[other]
    if "the best seed of each" in wrong:
        return mine.max() - theirs.max()
    if "control minus student" in wrong:
        return theirs.mean() - mine.mean()
    return mine.mean() - theirs.mean()


def _tuning_probes(generator: torch.Generator) -> list[tuple]:
    """Draw two arms whose best rates differ, with seeds that differ as much as rates do.

    Many, for a wrong choice of one rate among few is right now and then.
    """
    probes = []
    for rates, seeds in ((4, 3), (5, 5), (6, 2)) * 4:
        made = []
        for _ in range(2):
            height = torch.rand(rates, 1, generator=generator, dtype=torch.double)
            made += [
                height + torch.rand(rates, seeds, generator=generator, dtype=torch.double) for _ in range(2)
            ]
        probes.append(tuple(made))
    # a rate whose mean is the best although one seed has failed: best by no product, nor by its worst seed
    one_failed = torch.tensor([[0.9, 0.8, 0.9], [1.9, 0.01, 1.8]], dtype=torch.double)
    test = torch.rand(2, 2, 3, generator=generator, dtype=torch.double)
    return [*probes, (one_failed, test[0], one_failed.flip(0), test[1])]


TUNED_DIFFERENCE = Exercise(
    name="tuned_difference",
    number="11.3",
    title="How much tuning did the control get?",
    reference=tuned_difference,
    mistakes=(
        Mistake(
            "the control has the student's rate",
            "Your control was trained at the rate that is best for the student. Who chose one for the control?",
        ),
        Mistake(
            "the control has the first rate",
            "Your control has the first rate, which nobody chose for it.",
        ),
        Mistake(
            "the student has the control's rate",
            "Your student was trained at the rate that is best for the control. Who chose one for the student?",
        ),
        Mistake(
            "both chosen on test",
            "Your rates were chosen by the test split: what is reported is then the luckiest, and no split is left "
            "to say so.",
        ),
        Mistake(
            "the student chosen on test",
            "Your student's rate was chosen by the test split, the control's was not: the luck is the student's.",
        ),
        Mistake(
            "the control chosen on test",
            "Your control's rate was chosen by the test split, the student's was not: the luck is the control's.",
        ),
        Mistake(
            "the luckiest seed chooses",
            "Your rate is the one with the best single seed. The best of many seeds is luck: which rate is best on "
            "average?",
        ),
        Mistake(
            "the luckiest run",
            "You report the one run, of one seed, that was best on validation. Choose a rate by its mean, and report "
            "the mean of all its seeds.",
        ),
        Mistake(
            "each seed has its own rate",
            "You choose a rate for each seed. A rate is chosen once, by the mean over all seeds.",
        ),
        Mistake(
            "one rate for both",
            "You choose one rate, by both arms together. Each of the two was to have its own.",
        ),
        Mistake(
            "the rate of the largest gain",
            "You take the rate at which the gain is largest: one where the control does badly. What rate would the "
            "control have chosen?",
        ),
        Mistake("all rates", "You average over all rates, also those that nobody would use."),
        Mistake(
            "each at the other's rate", "The student has the control's rate, and the control the student's."
        ),
        Mistake("the worst rate", "You choose the rate with the lowest mean on validation."),
        Mistake(
            "validation of the control",
            "The student's score is from test, and the control's from validation.",
        ),
        Mistake(
            "the best seed of each",
            "You compare the best seed of each arm. Compare their means.",
            also=("the best run of each on test",),
        ),
        Mistake(
            "the difference on validation",
            "Your difference is that on validation, by which both were chosen. Test is what is reported.",
        ),
        Mistake("control minus student", "The sign is the other way round: yours is control minus student."),
    ),
    planted=("the control has the student's rate",),
    symptom="The gain over the control is large at every temperature, and gone as soon as somebody else repeats it.",
    probes=_tuning_probes,
)


# ------------------------------------------------------------------------------------------- 11.4 the report


def report(validation: Tensor, test: Tensor, wrong: Wrong = RIGHT) -> tuple[int, float, float]:
    """Number of the chosen trial, its score to report, and its optimism; validation and test: (trials,)."""
    by = {"by test": test, "by both": (validation + test) / 2}.get(next(iter(wrong), ""), validation)
    winner = int(by.argmin() if "the lowest" in wrong else by.argmax())
    if "the smallest gap" in wrong:
        winner = int((validation - test).abs().argmin())
    score = test[winner]
    if "validation reported" in wrong:
        score = validation[winner]
    if "the best test score reported" in wrong:
        score = test.max()
    if "the mean of all trials" in wrong:
        score = test.mean()
    gap = (
        test[winner] - validation[winner]
        if "test minus validation" in wrong
        else validation[winner] - test[winner]
    )
    if "the gap of all trials" in wrong:
        gap = (validation - test).mean()
    if "the lead over an average trial" in wrong:
        gap = validation[winner] - validation.mean()
    if "the largest gap" in wrong:
        gap = (validation - test).max()
    if "the gap to the best test score" in wrong:
        gap = validation[winner] - test.max()
    if "the gap to the mean test score" in wrong:
        gap = validation[winner] - test.mean()
    if "as a share of the score" in wrong:
        gap = gap / test[winner]
    if "what a choice by test would have brought" in wrong:
        gap = test.max() - test[winner]
    if "the gap to the score reported" in wrong or "the gap to the mean of all" in wrong:
        score = test.max() if "the gap to the score reported" in wrong else test.mean()
        gap = validation[winner] - score
    if "without its sign" in wrong:
        gap = abs(gap)
    if "percent" in wrong:
        score, gap = 100 * score, 100 * gap
    if "counted from 1" in wrong:
        winner += 1
    return winner, float(score), float(gap)


def _observe_report(function: Callable, *arguments: Tensor) -> dict:
    winner, score, gap = function(*arguments)
    return {
        "which trial is chosen": torch.tensor(float(winner), dtype=torch.double),
        "the score that is reported": torch.tensor(float(score), dtype=torch.double),
        "its optimism": torch.tensor(float(gap), dtype=torch.double),
    }


def _report_probes(generator: torch.Generator) -> list[tuple]:
    probes = []
    for trials, kinder in ((8, 0.0), (15, 0.0), (30, 0.0), (8, 0.4), (15, 0.0), (30, 0.4)):
        # Where the test split is the kinder one, the optimism is negative.
        worth = 0.1 * torch.rand(trials, generator=generator, dtype=torch.double)
        luck = [0.3 * torch.rand(trials, generator=generator, dtype=torch.double) for _ in range(2)]
        probes.append((0.5 + worth + luck[0], 0.5 + worth + luck[1] + kinder))
    return probes


REPORT = Exercise(
    name="report",
    number="11.4",
    title="One number from the test split",
    reference=report,
    mistakes=(
        Mistake(
            "by test",
            "You chose by the test split, alone or beside validation. Of so many trials the best on test was lucky on "
            "test, and nothing unseen is left to show it.",
            also=("by both",),
        ),
        Mistake(
            "validation reported",
            "You report the score by which the winner was chosen: the best of k is too good to be true.",
        ),
        Mistake(
            "the best test score reported",
            "Your score is the best on test of all trials; the chosen trial's is asked for.",
            also=("the gap to the score reported",),
        ),
        Mistake(
            "the mean of all trials",
            "One student goes into use: report that one's score.",
            also=("the gap to the mean of all",),
        ),
        Mistake(
            "the smallest gap",
            "You chose the trial whose two scores lie nearest. It may be a bad one, and test took part in the choice.",
        ),
        Mistake(
            "the lead over an average trial",
            "Your optimism compares two validation scores. By how much did validation say more than *test* does?",
        ),
        Mistake(
            "the largest gap",
            "Your optimism is the largest gap of all trials. By how much was *the chosen one* overrated?",
        ),
        Mistake(
            "the gap to the best test score",
            "Your optimism sets the winner's validation score against another trial's test score. The winner has one "
            "of its own.",
            also=("the gap to the mean test score",),
        ),
        Mistake(
            "as a share of the score",
            "Your optimism is a share of the test score. A difference was asked for, in the unit of both.",
        ),
        Mistake(
            "what a choice by test would have brought",
            "Your optimism compares two test scores. By how much did *validation* say too much?",
        ),
        Mistake(
            "without its sign",
            "Where validation said too little, your optimism is positive all the same.",
        ),
        Mistake("percent", "Your scores are in percent; they were to stay what they are."),
        Mistake("counted from 1", "Trials are numbered from 0 here, as tensors are."),
        Mistake(
            "the gap of all trials",
            "Your optimism is the mean gap of all trials. The winner's is larger, since it was chosen for it.",
        ),
        Mistake("test minus validation", "Optimism is by how much validation said too much."),
        Mistake("the lowest", "You chose the trial with the lowest score."),
    ),
    probes=_report_probes,
    observe=_observe_report,
)

EXERCISES = [TUNED_DIFFERENCE, REPORT]
