"""The exercises of notebook 12 on students that write: who writes, who judges, and how errors are counted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdtutor.exercises.banks import RIGHT, Wrong
from kdtutor.exercises.definitions import Exercise, Experiment, Misconception, Mistake

VOCABULARY = 7


class Bigram(nn.Module):
    """A language model of one table: what follows a token depends on that token. ids (B, L) → logits (B, L, V)."""

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.table = nn.Parameter(table)

    def forward(self, ids: Tensor) -> Tensor:
        return self.table[ids]


# ------------------------------------------------------------------------------------------------ 12.4 on-policy


def on_policy_loss(
    student: nn.Module, teacher: nn.Module, prompts: Tensor, tokens: int, wrong: Wrong = RIGHT
) -> Tensor:
    """The student writes so many tokens, the likeliest each time; KL(teacher ‖ student), mean over what it wrote."""
    writer = teacher if "the teacher writes" in wrong else student
    ids = prompts
    with torch.no_grad():
        for _ in range(tokens):
            ids = torch.cat([ids, writer(ids)[:, -1:].argmax(-1)], 1)
    first = prompts.shape[1] - 1
    rows = slice(first, -1)
    if "the prompt in the loss" in wrong:
        rows = slice(0, -1)
    elif "one place late" in wrong:
        rows = slice(first + 1, None)
    s, t = student(ids)[:, rows], teacher(ids)[:, rows]
    if "its own samples as the truth" in wrong:
        return F.cross_entropy(s.flatten(0, 1), ids[:, 1:][:, rows.start :].flatten())
    if "the teacher's likeliest as the truth" in wrong:
        return F.cross_entropy(s.flatten(0, 1), t.argmax(-1).flatten())
    t = t if "the teacher learns too" in wrong else t.detach()
    if "student and teacher swapped" in wrong:
        s, t = t, s
    kl = F.kl_div(s.log_softmax(-1), t.log_softmax(-1), reduction="none", log_target=True).sum(-1)
    return kl.sum() / len(kl) if "divided by the texts" in wrong else kl.mean()


def _observe_writing(
    function: Callable, student: nn.Module, teacher: nn.Module, *rest: Any
) -> dict[str, Any]:
    for model in (student, teacher):
        model.zero_grad()
    loss = function(student, teacher, *rest)
    loss.backward()
    found = {"the loss": loss.detach(), "the teacher gets a gradient": teacher.table.grad is not None}
    gradient = student.table.grad
    return found | {"the student's gradient": torch.zeros(()) if gradient is None else gradient.clone()}


def _writing_probes(generator: torch.Generator) -> list[tuple]:
    def model() -> Bigram:
        return Bigram(2 * torch.randn(VOCABULARY, VOCABULARY, generator=generator))

    prompts = [torch.randint(VOCABULARY, (4, 3), generator=generator) for _ in range(3)]
    return [(model(), model(), given, tokens) for given, tokens in zip(prompts, (3, 4, 2), strict=True)]


ON_POLICY_LOSS = Exercise(
    name="on_policy_loss",
    number="12.4",
    title="The student writes, the teacher judges",
    reference=on_policy_loss,
    mistakes=(
        Mistake(
            "its own samples as the truth",
            "Your student learns to write what it has just written: it only becomes surer, and the teacher is asked "
            "for nothing that counts. Who says what should have come?",
        ),
        Mistake(
            "the teacher's likeliest as the truth",
            "You take the teacher's likeliest token at each place for a label. It has a whole distribution to give.",
        ),
        Mistake(
            "the teacher writes",
            "In your loop the teacher writes: then these are prefixes that the student may never come to by itself.",
        ),
        Mistake("the prompt in the loss", "Rows that predict the prompt's own tokens count in your loss."),
        Mistake(
            "one place late",
            "Your rows begin one place late: the row at the prompt's last place predicts the first token that was "
            "written, and the last row predicts one that nobody wrote.",
        ),
        Mistake("the teacher learns too", "A gradient flows into the teacher: it is a constant here."),
        Mistake(
            "student and teacher swapped",
            "Your divergence goes the other way round: KL(student ‖ teacher). A fine objective, but not "
            "the one asked for.",
        ),
        Mistake("divided by the texts", "You divide by the number of texts, not of written tokens."),
    ),
    planted=("its own samples as the truth",),
    symptom="The loss falls, and the student comes no nearer: another teacher gives it the same gradient.",
    probes=_writing_probes,
    observe=_observe_writing,
)


# ------------------------------------------------------------------------------------------------ 12.5 errors


def error_rate(written: Sequence[str], references: Sequence[str], wrong: Wrong = RIGHT) -> float:
    """The edit distance, summed over all texts, per token of the references; tokens stand between spaces."""

    def distance(a: list[str], b: list[str]) -> int:
        if "place by place" in wrong:
            return sum(x != y for x, y in zip(a, b, strict=False)) + abs(len(a) - len(b))
        cost = 2 if "a substitution counts twice" in wrong else 1
        row = [*range(len(b) + 1)]
        for i, x in enumerate(a, 1):
            before, row[0] = row[0], i
            for j, y in enumerate(b, 1):
                ways = [before + cost * (x != y)]
                ways += [row[j] + 1] if "nothing is too much" not in wrong else []
                ways += [row[j - 1] + 1] if "nothing is missing" not in wrong else []
                before, row[j] = row[j], min(ways)
        return row[-1]

    split = (lambda text: list(text)) if "letters instead of tokens" in wrong else str.split
    pairs = [(split(w), split(r)) for w, r in zip(written, references, strict=True)]
    errors = [distance(w, r) for w, r in pairs]
    if "the share of wrong texts" in wrong:
        return sum(e > 0 for e in errors) / len(pairs)
    if "the mean of the rates" in wrong:
        return sum(e / len(r) for e, (_, r) in zip(errors, pairs, strict=True)) / len(pairs)
    if "per text" in wrong:
        return sum(errors) / len(pairs)
    if "divided by what was written" in wrong:
        return sum(errors) / sum(len(w) for w, _ in pairs)
    return sum(errors) / sum(len(r) for _, r in pairs)


def _spoken(generator: torch.Generator) -> list[tuple]:
    sounds = ["AH", "EH", "K", "S", "T", "IY", "NG", "ER"]

    def draw(count: int) -> list[str]:
        return [sounds[i] for i in torch.randint(len(sounds), (count,), generator=generator).tolist()]

    probes = []
    for _ in range(3):
        references = [draw(n) for n in (3, 8, 5, 4, 9, 5)]
        # A token too few at the beginning, one too many, another one, none at all, one too few in the middle,
        # one too many at the beginning.
        written = [
            references[0][1:],
            [*references[1][:4], "ZH", *references[1][4:]],
            [*references[2]],
            ["OY"],
            [*references[4][:4], *references[4][5:]],
            ["ZH", *references[5]],
        ]
        written[2][1] = "OY"
        probes.append(tuple([" ".join(text) for text in texts] for texts in (written, references)))
    return probes


ERROR_RATE = Exercise(
    name="error_rate",
    number="12.5",
    title="Errors per phoneme",
    reference=error_rate,
    mistakes=(
        Mistake(
            "place by place",
            "You compare place by place. One sound left out at the beginning, and all that follow count as wrong.",
        ),
        Mistake(
            "the mean of the rates", "You average each word's rate: a short word's error then weighs more."
        ),
        Mistake(
            "the share of wrong texts",
            "That is the share of words with an error, and not the rate of errors.",
        ),
        Mistake("per text", "You divide by the number of words, not by their phonemes."),
        Mistake(
            "divided by what was written",
            "You divide by the length of what was written: who writes more makes fewer errors. The "
            "reference is the measure.",
        ),
        Mistake(
            "nothing is missing",
            "A token that is missing in the middle of a text costs more than one error: three kinds of step lead to a "
            "field of your table.",
        ),
        Mistake(
            "nothing is too much",
            "A token too many in the middle of a text costs more than one error: three kinds of step lead to a field "
            "of your table.",
        ),
        Mistake(
            "a substitution counts twice", "Your substitution costs as much as a deletion and an insertion."
        ),
        Mistake("letters instead of tokens", "You compare letters. A phoneme such as NG is one token."),
    ),
    probes=_spoken,
)


# ------------------------------------------------------------------------------------------------ 12.6 perplexity

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

EXERCISES = [ON_POLICY_LOSS, ERROR_RATE, PERPLEXITY]
