"""The experiments of notebooks 05 to 09, and of 14: what is measured, what each misconception predicts, and why."""

from __future__ import annotations

from kdtutor.exercises.definitions import Experiment, Misconception, Mistake

# ------------------------------------------------------------------------------------------------ 5.9

SHIFTED = Experiment(
    name="shifted",
    number="5.9",
    title="What a perfect student pays",
    settings=("soft targets", "soft cross-entropy, in units of T² · H", "logit MSE"),
    numbers=(0.0, 1.0, 9.0),
    beliefs=(
        Misconception(
            "a perfect student pays nothing",
            "Its *probabilities* are perfect. One of the losses has a floor above 0, and one looks at other things.",
            numbers=(0.0, 0.0, 0.0),
        ),
        Misconception(
            "cross-entropy ends at 0",
            "With labels it may. Of a teacher who hesitates, its entropy is always left.",
            numbers=(0.0, 0.0, 9.0),
        ),
        Misconception(
            "logits are only seen through a softmax",
            "Two of the three losses see them like that. The third subtracts them as they are.",
            numbers=(0.0, 1.0, 0.0),
        ),
        Misconception(
            "a shift changes the probabilities",
            "The same number on all logits is a common factor of all exponentials, and cancels.",
            numbers=(9.0, 9.0, 9.0),
        ),
        Misconception(
            "a difference, not its square",
            "The third loss is a mean of *squared* differences.",
            numbers=(0.0, 1.0, 3.0),
        ),
    ),
    slips=(
        Misconception(
            "T² left out of the unit",
            "Your second number is in units of the entropy alone: the loss has a factor of T².",
            numbers=(0.0, 4.0, 9.0),
        ),
        Misconception(
            "nothing shifted", "The student is the teacher: where is the 3?", numbers=(0.0, 1.0, 0.0)
        ),
        Misconception(
            "the second one in nats",
            "Your second number is the loss itself. Divide it by T² · H, the entropy of the softened teacher.",
            numbers=(0.0, 3.33, 9.0),
        ),
        Misconception(
            "summed over the classes",
            "Your third number is a sum over the three classes. Logit MSE is their mean.",
            numbers=(0.0, 1.0, 27.0),
        ),
        Misconception(
            "the softened logits subtracted",
            "Your third number is of logits that were divided by T. Logit MSE compares them as they are.",
            numbers=(0.0, 1.0, 2.25),
        ),
    ),
    reasons={
        "a": Mistake(
            "equal gradients, equal losses",
            "Soft targets and soft cross-entropy have the same gradient, and still not the same value.",
        ),
        "b": None,
        "c": Mistake(
            "a temperature makes 3 small",
            "At any temperature the shift cancels; it is not made small.",
        ),
    },
)

# ------------------------------------------------------------------------------------------------ 6.6

BLIND_SPOTS = Experiment(
    name="blind_spots",
    number="6.6",
    title="What CKA does not see",
    settings=("rotated", "moved by 100", "one column times 10"),
    numbers=(1.0, 1.0, 0.3445),
    beliefs=(
        Misconception(
            "CKA undoes any linear map",
            "It undoes a rotation and one scale for all. A probe undoes any linear map; CKA weighs directions by "
            "how much varies along it.",
            numbers=(1.0, 1.0, 1.0),
        ),
        Misconception(
            "a shift drowns everything",
            "It would, if the columns were not centred first. What is the mean vector after centring?",
            numbers=(1.0, 0.0, 0.3445),
        ),
        Misconception(
            "column is compared with column",
            "After a rotation no column is what it was, and still every distance between two texts is. CKA sees these.",
            numbers=(0.1, 1.0, 0.3445),
        ),
    ),
    slips=(
        Misconception(
            "not centred",
            "Your second number is that of columns that were not centred.",
            numbers=(1.0, 0.0, 0.3445),
        ),
        Misconception(
            "the variance times 10",
            "Your third number is that of a column multiplied by the root of 10.",
            numbers=(1.0, 1.0, 0.5755),
        ),
    ),
    reasons={
        "a": Mistake(
            "a similarity sees everything",
            "Two of the three changes it did not see at all.",
        ),
        "b": None,
        "c": Mistake(
            "neurons are compared one by one",
            "Then the rotation, after which no neuron is what it was, would have changed most.",
        ),
    },
)

# --------------------------------------------------------------------------------------------- 7.6 twice of what

TWICE_OF_WHAT = Experiment(
    name="twice_of_what",
    number="7.6",
    title="Twice of what?",
    settings=("twice the layers", "twice the width", "twice the text"),
    numbers=(2.00, 4.00, 2.00),
    near=0.02,
    beliefs=(
        Misconception(
            "the width counts once",
            "You expect every doubling to double. A matrix has the width on both its sides.",
            numbers=(2.0, 2.0, 2.0),
        ),
        Misconception(
            "an LSTM compares all tokens with all",
            "You expect four times the work for a text twice as long. That is attention's scores; an LSTM reads each "
            "token once.",
            numbers=(2.0, 4.0, 4.0),
        ),
        Misconception(
            "the text costs nothing",
            "You expect a longer text to cost no more. The weights are the same; they are used once more for every "
            "token.",
            numbers=(2.0, 4.0, 1.0),
        ),
    ),
    slips=(
        Misconception(
            "parameters counted",
            "You counted parameters, most of which stand in the table of tokens. What a text costs are multiply-adds.",
            numbers=(1.12, 2.23, 1.0),
        ),
        Misconception(
            "a setting as it was",
            "One of your models does the same work as before: was its setting passed on?",
            numbers=(1.0, 4.0, 2.0),
        ),
        Misconception(
            "compared the wrong way round",
            "You divided the small one's by the large one's.",
            numbers=(0.5, 0.25, 0.5),
        ),
    ),
    reasons={
        "a": Mistake(
            "the table of tokens decides",
            "It holds most of the parameters. But of a text of 64 tokens only 64 rows are looked up, and a look-up "
            "multiplies nothing.",
        ),
        "b": None,
        "c": Mistake(
            "gates make an LSTM dear",
            "It has four of them, before and after: a factor that cancels.",
        ),
    },
)

# ------------------------------------------------------------------------------------------------ 8.4

RARE_WORDS = Experiment(
    name="rare_words",
    number="8.4",
    title="Who gets the masks?",
    settings=("exponent 0", "exponent 0.7", "exponent 1"),
    numbers=(100.0, 3.981, 1.0),
    near=0.1,
    beliefs=(
        Misconception(
            "one occurrence for all",
            "These are the odds of *one* occurrence against one. The common word has a hundred of them.",
            numbers=(1.0, 0.04, 0.01),
        ),
        Misconception(
            "nearly 1 is 1",
            "Between 100^0.7 and 100^1 there is a factor of four.",
            numbers=(100.0, 1.0, 1.0),
        ),
        Misconception(
            "a weight for a rare word changes little",
            "It does: at 0.7 an occurrence of the rare word is 25 times as likely to be hidden.",
            numbers=(100.0, 100.0, 100.0),
        ),
        Misconception(
            "in proportion to the exponent",
            "A count is raised to a power; that is far from a straight line.",
            numbers=(100.0, 30.0, 1.0),
        ),
        Misconception(
            "the rare word counted first",
            "These are masks on the rare word for each on the common one. The question is the other way round.",
            numbers=(0.01, 0.25, 1.0),
        ),
    ),
    slips=(
        Misconception(
            "words drawn in place of occurrences",
            "You drew from two words. In the text there are a hundred of the one and one of the other.",
            numbers=(1.0, 0.0398, 0.01),
        ),
        Misconception(
            "the ratio turned round",
            "You measured masks on the rare word for each on the common one.",
            numbers=(0.01, 0.2512, 1.0),
        ),
    ),
    reasons={
        "a": None,
        "b": Mistake(
            "the rare word gets most of the masks",
            "An *occurrence* of it is hidden more often. Of all masks it has the smaller part, as long as the "
            "exponent is "
            "below 1.",
        ),
        "c": Mistake(
            "all words are hidden equally often",
            "That is the exponent 1, and the paper does not go as far.",
        ),
    },
)

# ------------------------------------------------------------------------------------------------ 9.5

BEST_OF_MANY = Experiment(
    name="best_of_many",
    number="9.5",
    title="The best of many",
    settings=("1 setting", "4 settings", "16 settings"),
    numbers=(0.0, 1.029, 1.766),
    near=0.06,
    beliefs=(
        Misconception(
            "no bias",
            "Each score is right on average. The *largest* of several is not: it was chosen because it came out "
            "large.",
            numbers=(0.0, 0.0, 0.0),
        ),
        Misconception(
            "in proportion to the root",
            "Luck grows far more slowly than the root of the number of tries: the more there are, the rarer is a "
            "record.",
            numbers=(1.0, 2.0, 4.0),
        ),
        Misconception(
            "one standard deviation, however many",
            "With more tries the luckiest is luckier. Where would you look for the largest of a thousand?",
            numbers=(0.0, 1.0, 1.0),
        ),
        Misconception(
            "in proportion to the tries",
            "Sixteen tries do not make a record sixteen times as high: a score that far above the truth hardly ever "
            "occurs.",
            numbers=(1.0, 4.0, 16.0),
        ),
        Misconception(
            "a mean of several",
            "A *mean* of several scatters less, by the root of their number. The largest of several is no mean.",
            numbers=(1.0, 0.5, 0.25),
        ),
    ),
    slips=(
        Misconception(
            "the mean in place of the best",
            "You took the mean over the settings, which has no bias.",
            numbers=(0.0, 0.0, 0.0),
        ),
        Misconception(
            "the largest of all repetitions",
            "You took the largest over the repetitions, too. Of each repetition the best, and then the mean.",
            numbers=(4.0, 4.0, 4.0),
        ),
        Misconception(
            "signs taken away",
            "You took the largest distance from the truth, on either side. The report is the largest score.",
            numbers=(0.798, 1.464, 2.055),
        ),
    ),
    reasons={
        "a": Mistake(
            "with more settings there is a better one",
            "Often so, but not here: all of them are equally good, and what is left is luck.",
        ),
        "b": Mistake(
            "more seeds would take it away",
            "They make the spread smaller, and the bias with it: in units of that spread it stays what it is.",
        ),
        "c": None,
    },
)

# ------------------------------------------------------------------------------------------------ 14.2

TOKEN_WEIGHTS = Experiment(
    name="token_weights",
    number="14.2",
    title="What a token weighs",
    settings=("30 and 30 tokens", "50 and 10", "59 and 1"),
    numbers=(1.0, 5.0, 59.0),
    near=0.02,
    beliefs=(
        Misconception(
            "every token counts the same",
            "That is what the mean over all of them does. Here two means are taken, and then the mean of the two.",
            numbers=(1.0, 1.0, 1.0),
        ),
        Misconception(
            "the larger part counts more",
            "The two parts count the same. How many share in each?",
            numbers=(1.0, 0.2, 0.017),
        ),
        Misconception(
            "a part's share of all tokens",
            "These are shares of the 60 tokens. How much counts *one* token of a part, whose weight is that of the "
            "other part?",
            numbers=(0.5, 0.167, 0.0167),
        ),
        Misconception(
            "the ratio squared",
            "Each part weighs the same, and its tokens share it: that makes the ratio of the numbers of tokens, once.",
            numbers=(1.0, 25.0, 3481.0),
        ),
    ),
    slips=(
        Misconception(
            "the ratio turned round",
            "You divided a token of the larger part by one of the smaller.",
            numbers=(1.0, 0.2, 0.01695),
        ),
        Misconception(
            "sums divided by the number of all",
            "Your loss is already the right one. Take the mean of the two means.",
            numbers=(1.0, 1.0, 1.0),
        ),
    ),
    reasons={
        "a": Mistake(
            "rounding",
            "These are exact fractions; a computer with infinitely many digits would find the same.",
        ),
        "b": None,
        "c": Mistake(
            "a larger part has a larger gradient",
            "A mean has not: whether of one token or of fifty-nine, it is divided by their number.",
        ),
    },
)

EXERCISES = [SHIFTED, BLIND_SPOTS, TWICE_OF_WHAT, RARE_WORDS, BEST_OF_MANY, TOKEN_WEIGHTS]
