"""The experiment of notebook 13: what one large weight does to all that share its scale."""

from __future__ import annotations

from kdtutor.exercises.definitions import Experiment, Misconception, Mistake

# ------------------------------------------------------------------------------------------------ 13.6

# The step is the largest weight over 127, or, with 10 bits, over 511. The mean error is a quarter of a step, a little
# less where weights from −1 to 1 end within one.
OUTLIER = Experiment(
    name="outlier",
    number="13.6",
    title="One weight that is too large",
    settings=("one scale, 8 bits", "one scale, 10 bits", "a scale for each row, 8 bits"),
    numbers=(19.67, 4.979, (63 + 19.67) / 64),
    near=0.08,
    beliefs=(
        Misconception(
            "one weight in thousands is nothing",
            "Its own error is. But it decides how wide the steps are, and all the others are rounded to these.",
            numbers=(1.0, 0.25, 1.0),
        ),
        Misconception(
            "two bits are twice as fine",
            "Two bits more are *four* times as many numbers.",
            numbers=(20.0, 10.0, 1.3),
        ),
        Misconception(
            "more bits keep an outlier out",
            "Four times as many numbers, and still all of them spread over twenty times the width.",
            numbers=(20.0, 1.0, 1.3),
        ),
        Misconception(
            "a row is as bad as the whole",
            "Only the row that has the outlier gets its wide steps: one of 64.",
            numbers=(20.0, 5.0, 20.0),
        ),
    ),
    slips=(
        Misconception(
            "not divided by the error before",
            "These are errors, and asked for is how many times the error without the outlier each is.",
            numbers=(0.03872, 0.009802, 0.002543),
        ),
        Misconception(
            "the row alone",
            "Your third number is that of the row with the outlier. The mean over the whole matrix is asked for.",
            numbers=(19.67, 4.979, 19.67),
        ),
        Misconception(
            "squared errors",
            "You compare mean *squares*: the ratio of the errors themselves is the root, where all errors grow alike.",
            numbers=(387.0, 24.75, 7.03),
        ),
        Misconception(
            "a scale for each column",
            "Your third number is that of a scale for each of the 256 columns, of which one has the outlier.",
            numbers=(19.67, 4.979, (255 + 19.67) / 256),
        ),
    ),
    reasons={
        "a": Mistake(
            "the outlier's own error",
            "It is one weight of 16,384, and lies exactly on the grid: its own error is 0.",
        ),
        "b": None,
        "c": Mistake(
            "8 bits are too few",
            "Without the outlier they are plenty, and with a scale for each row as well.",
        ),
    },
)

EXERCISES = [OUTLIER]
