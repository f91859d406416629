"""The experiment of notebook 11: how many random trials it takes, and what more hyper-parameters change about that."""

from __future__ import annotations

from kdtutor.exercises.definitions import Experiment, Misconception, Mistake

# ------------------------------------------------------------------------------------------------ 11.5

ENOUGH_TRIALS = Experiment(
    name="enough_trials",
    number="11.5",
    title="How many random trials?",
    settings=("20 trials of 2 numbers", "60 trials of 2 numbers", "60 trials of 6 numbers"),
    # 1 − 0.95^k, whatever the space
    numbers=(0.6415, 0.9539, 0.9539),
    near=0.03,
    beliefs=(
        Misconception(
            "twenty times 5 % are 100 %",
            "Chances add up as long as no two trials can succeed at once. Here they can: multiply the chances to miss.",
            numbers=(1.0, 1.0, 1.0),
        ),
        Misconception(
            "more hyper-parameters want more trials",
            "A grid does: its points for one number are multiplied by those for the next. A random trial falls among "
            "the best 5 % in 5 % of all cases, of however many numbers it consists.",
            numbers=(0.6415, 0.9539, 0.4),
        ),
        Misconception(
            "a needle in a haystack",
            "That would be the chance to hit the very best. The best 5 % are one setting in twenty.",
            numbers=(0.2, 0.4, 0.1),
        ),
    ),
    slips=(
        Misconception(
            "the chance to miss",
            "These are the chances that *none* of the trials is among the best 5 %.",
            numbers=(0.3585, 0.0461, 0.0461),
        ),
        Misconception("in percent", "As fractions of 1, not of 100, please.", numbers=(64.15, 95.39, 95.39)),
        Misconception(
            "one trial",
            "That is the share of single trials that are good. Of each search it is asked whether *any* is.",
            numbers=(0.05, 0.05, 0.05),
        ),
        Misconception(
            "how many are good",
            "You count the good trials of a search. It is asked in how many searches there is at least one.",
            numbers=(1.0, 3.0, 3.0),
        ),
    ),
    reasons={
        "a": Mistake(
            "one more hyper-parameter dilutes the trials",
            "Then the third number would be smaller than the second. Six numbers make the space larger, and its best "
            "5 % with it.",
        ),
        "b": None,
        "c": Mistake(
            "the score is smooth",
            "Nothing of the score was used but its order. With a score drawn by lot for each setting it is the same.",
        ),
    },
)

EXERCISES = [ENOUGH_TRIALS]
