"""The experiments of notebooks 11 to 13: random trials, perplexity, and what one large weight does to the others."""

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

# ------------------------------------------------------------------------------------------------ 12.6

PERPLEXITY = Experiment(
    name="perplexity",
    number="12.6",
    title="Three models, one text",
    settings=("each of 4 tokens has 1/4", "two have 1, two have 1/16", "the same 1/256, in 8 tokens"),
    numbers=(4.0, 4.0, 2.0),
    beliefs=(
        Misconception(
            "the surer model is less perplexed",
            "Sure at two tokens, and badly off at two others: it is the mean of the *logarithms* that counts.",
            numbers=(4.0, 2.0, 2.0),
        ),
        Misconception(
            "the text decides",
            "All three give the text the same probability. But perplexity is per *token*, and there are twice"
            " as many.",
            numbers=(4.0, 4.0, 4.0),
        ),
        Misconception(
            "the mean of 1/p",
            "You average 1/p over the tokens. Perplexity is exp of the mean of −log p: a geometric mean.",
            numbers=(4.0, 8.5, 2.0),
        ),
    ),
    slips=(
        Misconception(
            "in nats",
            "These are the losses, −log p per token in nats: exp of them is the perplexity.",
            numbers=(1.3863, 1.3863, 0.6931),
        ),
        Misconception(
            "in bits",
            "These are bits per token: two to the power of them is the perplexity.",
            numbers=(2.0, 2.0, 1.0),
        ),
        Misconception(
            "the whole text",
            "That is one over the probability of the whole text, not per token.",
            numbers=(256.0, 256.0, 256.0),
        ),
    ),
    reasons={
        "a": Mistake(
            "a smaller perplexity means fewer errors",
            "The first two have the same perplexity: one is never sure, the other is sure and wrong. "
            "Their errors differ.",
        ),
        "b": None,
        "c": Mistake(
            "perplexities can be compared across tokenizers",
            "The first and the third give the same text the same probability, and differ in perplexity all the same.",
        ),
    },
)

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

EXERCISES = [ENOUGH_TRIALS, PERPLEXITY, OUTLIER]
