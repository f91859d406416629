"""The experiments of notebooks 00 to 04: what is measured, what each misconception predicts, and why."""

from __future__ import annotations

from kdtutor.exercises.definitions import Experiment, Misconception, Mistake

# ------------------------------------------------------------------------------------------------ 0.2

ODDS = Experiment(
    name="odds",
    number="0.2",
    title="Odds and temperature",
    settings=("T = 0.5", "T = 2", "T = 4"),
    numbers=(256, 4, 2),
    beliefs=(
        Misconception(
            "odds divided by T",
            "T divides the logits. Odds are an exponential of their difference: what does that make of a division?",
            numbers=(32, 8, 4),
        ),
        Misconception(
            "T leaves the odds alone",
            "The order of the classes stays, and that is all that stays.",
            numbers=(16, 16, 16),
        ),
        Misconception(
            "a higher temperature makes surer",
            "It makes flatter. Think of the logits, which it divides.",
            numbers=(4, 256, 65536),
        ),
    ),
    slips=(
        Misconception(
            "T had no effect",
            "All three numbers are those of T = 1. Where did the temperature enter?",
            numbers=(16, 16, 16),
        ),
        Misconception(
            "multiplied by T",
            "The logits were multiplied by the temperature, and are to be divided.",
            numbers=(4, 256, 65536),
        ),
        Misconception(
            "a neighbouring class",
            "You compared the second class with one of its neighbours: the third over the first was asked for.",
            numbers=(16, 2, 2**0.5),
        ),
        Misconception(
            "the odds turned round",
            "You measured the rarer class over the likelier one.",
            numbers=(1 / 256, 1 / 4, 1 / 2),
        ),
    ),
    reasons={
        "a": Mistake(
            "T divides the probabilities",
            "Then all odds would stay as they are: both sides of a fraction would be divided by the same number.",
        ),
        "b": None,
        "c": Mistake(
            "a temperature mixes with the uniform distribution",
            "A mixture would take the rest from all alike. Compare the odds 16 : 4 and 4 : 1: after a mixture they "
            "would "
            "differ, and here both become 2 : 1 at T = 2.",
        ),
    },
)

# ------------------------------------------------------------------------------------------------ 1.1

OTHER_DIVISOR = Experiment(
    name="other_divisor",
    number="1.1",
    title="Divided by d",
    settings=("d = 4", "d = 64", "d = 1024"),
    numbers=(0.134, 0.0774, 0.0660),  # of 20,000 random queries
    near=0.06,
    beliefs=(
        Misconception(
            "any divisor will do",
            "You expect the same for every width. That is what the root does, and only the root: divided by d, what "
            "is "
            "the standard deviation of a score?",
            numbers=(0.234, 0.246, 0.246),
        ),
        Misconception(
            "a divisor cancels in the softmax",
            "You expect what comes out without any division. What cancels in a softmax is a number that is *added* to "
            "all scores.",
            numbers=(0.425, 0.844, 0.960),
        ),
        Misconception(
            "the weights go to 0",
            "The weights of a query sum to 1, however small the scores are. With 16 keys, how small can the largest "
            "be?",
            numbers=(0.13, 0.02, 0.0),
        ),
    ),
    slips=(
        Misconception(
            "divided by √d",
            "Your numbers are those of the root. Change the divisor to d.",
            numbers=(0.234, 0.246, 0.246),
        ),
        Misconception(
            "not divided", "Your numbers are those without a divisor.", numbers=(0.425, 0.844, 0.960)
        ),
        Misconception(
            "the mean weight",
            "You took the mean of the weights, which is 1/16 whatever they are. Of each query, the largest was asked "
            "for.",
            numbers=(0.0625, 0.0625, 0.0625),
        ),
    ),
    reasons={
        "a": None,
        "b": Mistake(
            "dividing by more makes a softmax sharper",
            "It makes it flatter: the scores come closer together, and so do their exponentials.",
        ),
        "c": Mistake(
            "a softmax does not see how large its scores are",
            "It does not see what is added to all of them. What they are multiplied by it does see.",
        ),
    },
)

# ------------------------------------------------------------------------------------------------ 2.5

HALVES = Experiment(
    name="halves",
    number="2.5",
    title="Half of what?",
    settings=("half of the layers", "half of the width", "half of the text"),
    numbers=(0.500, 0.269, 0.481),
    near=0.02,
    beliefs=(
        Misconception(
            "the width counts once",
            "Layers and tokens count once. A matrix has the width on both its sides.",
            numbers=(0.5, 0.5, 0.5),
        ),
        Misconception(
            "all of attention is quadratic in the length",
            "Only scores and mixtures are, and at 128 tokens they are a small part of the work. What do the matrices "
            "cost?",
            numbers=(0.5, 0.27, 0.25),
        ),
        Misconception(
            "parameters for work",
            "These are about the shares of the *parameters*, with the table of tokens in them. A look-up multiplies "
            "nothing, and a shorter text has the same parameters.",
            numbers=(0.70, 0.35, 1.0),
        ),
    ),
    slips=(
        Misconception(
            "parameters counted",
            "You took the parameters. Of `kd.sizes`, the multiply-adds are asked for.",
            numbers=(0.701, 0.349, 1.0),
        ),
        Misconception(
            "a setting as it was",
            "One of your models does the same work as before: was its setting passed on?",
            numbers=(1.0, 0.269, 0.481),
        ),
    ),
    reasons={
        "a": Mistake(
            "attention dominates", "At 128 tokens and a width of 256 it is some eight per cent of the work."
        ),
        "b": Mistake(
            "fewer heads, less work", "Heads share the width; their number occurs in no term of the work."
        ),
        "c": None,
    },
)

# ------------------------------------------------------------------------------------------------ 3.3

NO_QUESTION = Experiment(
    name="no_question",
    number="3.3",
    title="Texts without a question",
    settings=("5 % chosen", "15 % chosen", "40 % chosen"),
    numbers=(0.5404, 0.1422, 0.0022),
    near=0.15,
    beliefs=(
        Misconception(
            "one draw for a whole text",
            "You expect 1 − p: as if one token were drawn. Twelve are, and all of them have to be missed.",
            numbers=(0.95, 0.85, 0.60),
        ),
        Misconception(
            "the average happens to everyone",
            "You take the mean number of questions for the number that each text gets. 12 · 0.15 is nearly two, and "
            "still some texts get none, and others five.",
            numbers=(0.4, 0.0, 0.0),
        ),
        Misconception(
            "the other texts counted",
            "These are the shares of texts that *have* a question.",
            numbers=(0.46, 0.858, 0.998),
        ),
        Misconception(
            "all tokens chosen at once",
            "You expect p multiplied by itself, or next to nothing: that is the chance that *all* twelve are chosen. "
            "What is the chance that one is missed?",
            numbers=(0.0, 0.0, 0.0),
        ),
    ),
    slips=(
        Misconception(
            "texts with a question counted",
            "You counted the texts that have a question.",
            numbers=(0.4596, 0.8578, 0.9978),
        ),
        Misconception(
            "tokens counted",
            "You measured the share of tokens that were not chosen. Of a text, *all* have to be.",
            numbers=(0.95, 0.85, 0.60),
        ),
    ),
    reasons={
        "a": Mistake(
            "a share of the texts is drawn",
            "No text is drawn as a whole: each token is, for itself.",
        ),
        "b": None,
        "c": Mistake(
            "the mean decides",
            "The mean number of questions is 12 p. It says nothing about how they are spread over the texts.",
        ),
    },
)

# ------------------------------------------------------------------------------------------------ 4.6

ONE_SIDE = Experiment(
    name="one_side",
    number="4.6",
    title="A temperature on one side",
    settings=("T = 1", "T = 2", "T = 4"),
    numbers=(54.60, 7.389, 2.718),
    beliefs=(
        Misconception(
            "the temperature does not move the goal",
            "So section 8 says, and it holds if *both* sides are softened. Here the student has to imitate a softened "
            "answer with a softmax that is not.",
            numbers=(54.60, 54.60, 54.60),
        ),
        Misconception(
            "odds divided by T",
            "T divides the logits, and odds are an exponential of their difference: a root.",
            numbers=(54.60, 27.30, 13.65),
        ),
        Misconception(
            "the student becomes surer",
            "The teacher's softened answer is what the student imitates, and it is flatter, not sharper.",
            numbers=(54.60, 2981.0, 8886111.0),
        ),
    ),
    slips=(
        Misconception(
            "both sides softened",
            "You softened the student, too. Leave its temperature at 1.",
            numbers=(54.60, 54.60, 54.60),
        ),
        Misconception(
            "not settled yet",
            "The student has not taken a step, or hardly one: its odds are still 1.",
            numbers=(1.0, 1.0, 1.0),
        ),
        Misconception(
            "the difference of the logits",
            "These are differences of logits, or logarithms of odds. Odds are one probability over the other.",
            numbers=(4.0, 2.0, 1.0),
        ),
    ),
    reasons={
        "a": Mistake(
            "T² is missing",
            "A factor changes how far a step goes, and not where the loss is lowest.",
        ),
        "b": Mistake(
            "a student cannot reach its teacher",
            "This one can: it chooses its logits freely, and its loss goes to 0.",
        ),
        "c": None,
    },
)

EXERCISES = [ODDS, OTHER_DIVISOR, HALVES, NO_QUESTION, ONE_SIDE]
