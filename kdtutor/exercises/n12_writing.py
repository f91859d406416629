"""The exercises of notebook 12 on students that write: who writes, who judges, and how errors are counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from difflib import SequenceMatcher
from itertools import chain
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdtutor.exercises.banks import RIGHT, Wrong
from kdtutor.exercises.definitions import Exercise, Mistake
from kdtutor.exercises.toys import keeps_graph

VOCABULARY = 7


class TableModel(nn.Module):
    """A language model of one table: a token follows the last one, and a little all before. ids (B, L) → (B, L, V)."""

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.table = nn.Parameter(table)

    def forward(self, ids: Tensor) -> Tensor:
        rows = self.table[ids]
        read = torch.arange(1, ids.shape[1] + 1)[:, None]
        return rows + 0.5 * rows.cumsum(1) / read


# ------------------------------------------------------------------------------------------------ 12.4 on-policy


def on_policy_loss(
    student: nn.Module, teacher: nn.Module, prompts: Tensor, tokens: int, wrong: Wrong = RIGHT
) -> Tensor:
    """Let the student write so many tokens, the likeliest each time; KL(teacher ‖ student), mean over what it wrote."""
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
    elif "one row too many" in wrong:
        rows = slice(first, None)
    elif "the last token alone" in wrong:
        rows = slice(-2, -1)
    elif "the last token left out" in wrong:
        rows = slice(first, -2)
    read = ids
    if "the teacher reads its own text" in wrong:
        read = prompts
        for _ in range(tokens):
            read = torch.cat([read, teacher(read)[:, -1:].argmax(-1)], 1)
    s, t = student(ids)[:, rows], teacher(read)[:, rows]
    if "its own samples as the truth" in wrong:
        return F.cross_entropy(s.flatten(0, 1), ids[:, 1:][:, rows.start :].flatten())
    if "its own tokens alone" in wrong or "its own tokens alone, teacher first" in wrong:
        own = ids[:, 1:][:, rows.start :, None]
        gap = (s.log_softmax(-1) - t.detach().log_softmax(-1)).gather(-1, own).mean()
        return gap if "its own tokens alone" in wrong else -gap
    if "the teacher reads what was written without the prompt" in wrong:
        t = teacher(ids[:, rows])
    if "the teacher's likeliest as the truth" in wrong:
        return F.cross_entropy(s.flatten(0, 1), t.argmax(-1).flatten())
    t = t if "the teacher learns too" in wrong else t.detach()
    if "student and teacher swapped" in wrong:
        s, t = t, s
    if "the distance of the logits" in wrong:
        return F.mse_loss(s, t)
    if "cross-entropy with the teacher" in wrong:
        return F.cross_entropy(s.flatten(0, 1), t.flatten(0, 1).softmax(-1))
    kl = F.kl_div(s.log_softmax(-1), t.log_softmax(-1), reduction="none", log_target=True)
    kl = kl.mean(-1) if "mean over the vocabulary" in wrong else kl.sum(-1)
    if "nothing flows back" in wrong:
        kl = kl.detach()
    return kl.sum() / len(kl) if "divided by the texts" in wrong else kl.mean()


def _observe_writing(
    function: Callable, student: nn.Module, teacher: nn.Module, *rest: Any
) -> dict[str, Any]:
    for model in (student, teacher):
        model.zero_grad()
    loss = function(student, teacher, *rest)
    if keeps_graph(loss):
        loss.backward()
    found = {
        "the loss": loss.detach(),
        "whether the loss can be learned from": keeps_graph(loss),
        "the teacher gets a gradient": teacher.table.grad is not None,
    }
    gradient = student.table.grad
    return found | {
        "the student's gradient": torch.zeros_like(student.table) if gradient is None else gradient.clone()
    }


def _writing_probes(generator: torch.Generator) -> list[tuple]:
    def model() -> TableModel:
        return TableModel(2 * torch.randn(VOCABULARY, VOCABULARY, generator=generator))

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
            "its own tokens alone",
            "You compare the two models at the token that was written, and only there. A divergence is a sum over all "
            "tokens that might have been.",
            also=("its own tokens alone, teacher first",),
        ),
        Mistake(
            "the teacher reads what was written without the prompt",
            "Your teacher does not see the prompt. What it would write next depends on all that stands before.",
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
        Mistake("one row too many", "Your last row predicts a token that nobody wrote."),
        Mistake(
            "the last token alone", "Only the last token that was written is judged. Each of them should be."
        ),
        Mistake("the last token left out", "The last token that the student wrote is judged by nobody."),
        Mistake(
            "the teacher reads its own text",
            "Student and teacher each go on from the prompt by themselves, and are compared at different texts. Which "
            "one is the teacher to judge?",
        ),
        Mistake("the teacher learns too", "A gradient flows into the teacher: it is a constant here."),
        Mistake(
            "student and teacher swapped",
            "Your divergence goes the other way round: KL(student ‖ teacher). A fine objective, but not "
            "the one asked for.",
        ),
        Mistake("divided by the texts", "You divide by the number of texts, not of written tokens."),
        Mistake(
            "nothing flows back",
            "The value is right, and no gradient flows back to the student. Which part of it may do without a graph: "
            "the writing, the teacher's answer, the student's?",
        ),
        Mistake("mean over the vocabulary", "A divergence is a sum over the vocabulary; you take its mean."),
        Mistake(
            "cross-entropy with the teacher",
            "The gradient is right, and the value is too large by an entropy: whose?",
        ),
        Mistake(
            "the distance of the logits",
            "You compare logits by their squared distance, and a divergence of probabilities was asked for.",
        ),
    ),
    planted=("its own samples as the truth",),
    symptom="The loss falls, and the student comes no nearer: another teacher gives it the same gradient.",
    probes=_writing_probes,
    observe=_observe_writing,
)


# ------------------------------------------------------------------------------------------------ 12.5 errors


def _distance(a: list[str], b: list[str], wrong: Wrong) -> int:
    """Count the fewest insertions, deletions and substitutions that make `b` of `a`."""
    there = sum(x != y for x, y in zip(a, b, strict=False))
    if "place by place" in wrong:
        return there + abs(len(a) - len(b))
    if "place by place, to the end of the shorter one" in wrong:
        return there
    if "the order does not count" in wrong:
        mine, expected = Counter(a), Counter(b)
        return max((mine - expected).total(), (expected - mine).total())
    if "the lengths alone" in wrong:
        return abs(len(a) - len(b))
    if "which tokens, not how often" in wrong:
        return len({*a} ^ {*b})
    if "the last token of each left out" in wrong:
        a, b = a[:-1], b[:-1]
    if "the longest common block first" in wrong:
        steps = SequenceMatcher(None, a, b, autojunk=False).get_opcodes()
        return sum(max(j - i, m - k) for step, i, j, k, m in steps if step != "equal")
    cost = 2 if {"a substitution counts twice", "what the reference has and the text has not"} & wrong else 1
    row = [*range(len(b) + 1)]
    if "the table's edges are 0" in wrong:
        row = [0] * len(row)
    for i, x in enumerate(a, 1):
        before, row[0] = row[0], 0 if {"each row begins with 0", "the table's edges are 0"} & wrong else i
        for j, y in enumerate(b, 1):
            ways = [before + cost * (x != y)]
            ways += [row[j] + 1] if "nothing is too much" not in wrong else []
            ways += [row[j - 1] + 1] if "nothing is missing" not in wrong else []
            before, row[j] = row[j], min(ways)
            if "above left is the field just filled" in wrong:
                before = row[j]
    # Its length less the longest common subsequence.
    if "what the reference has and the text has not" in wrong:
        return (row[-1] + len(b) - len(a)) // 2
    return row[-1]


def error_rate(written: Sequence[str], references: Sequence[str], wrong: Wrong = RIGHT) -> float:
    """Compute the edit distance, summed over all texts, per token of the references; tokens stand between spaces."""
    split = (lambda text: list(text)) if "letters instead of tokens" in wrong else str.split
    pairs = [(split(w), split(r)) for w, r in zip(written, references, strict=True)]
    if "all texts in one" in wrong:
        pairs = [tuple([*chain.from_iterable(texts)] for texts in zip(*pairs, strict=True))]
    errors = [_distance(w, r, wrong) for w, r in pairs]
    if "letters per token" in wrong:
        letters = [_distance(list(w), list(r), wrong) for w, r in zip(written, references, strict=True)]
        return sum(letters) / sum(len(r.split()) for r in references)
    if "divided by the longer of the two" in wrong:
        return sum(errors) / sum(max(len(w), len(r)) for w, r in pairs)
    if "the share of wrong texts" in wrong:
        return sum(e > 0 for e in errors) / len(pairs)
    rates = [e / len(r) for e, (_, r) in zip(errors, pairs, strict=True)]
    if "the mean of the rates" in wrong:
        return sum(rates) / len(pairs)
    if "the sum of the rates" in wrong:
        return sum(rates)
    if "the worst text" in wrong:
        return max(rates)
    if "per text" in wrong:
        return sum(errors) / len(pairs)
    if "divided by what was written" in wrong:
        return sum(errors) / sum(len(w) for w, _ in pairs)
    rate = sum(errors) / sum(len(r) for _, r in pairs)
    if "never above 1" in wrong:
        return min(1.0, rate)
    if "never above 1 for any text" in wrong:
        capped = [min(e, len(r)) for e, (_, r) in zip(errors, pairs, strict=True)]
        return sum(capped) / sum(len(r) for _, r in pairs)
    if "a count" in wrong:
        return sum(errors)
    return 1 - rate if "the share that is right" in wrong else rate * (100 if "percent" in wrong else 1)


def _spoken(generator: torch.Generator) -> list[tuple]:
    sounds = ["AH", "EH", "K", "S", "T", "IY", "NG", "ER"]

    def draw(count: int) -> list[str]:
        return [sounds[i] for i in torch.randint(len(sounds), (count,), generator=generator).tolist()]

    probes = []
    for times in (1, 2, 3):
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
        # Two tokens in each other's place, and texts whose parting by the longest common block costs more errors.
        a, b, c, d = (sounds[i] for i in torch.randperm(len(sounds), generator=generator)[:4].tolist())
        references += [[a, b, c], [a, b, c, d, a, b]]
        written += [[a, c, b], [d, a, b, c, "OY", d]]
        # What a text has too many at its end, the next one lacks at its beginning.
        references += [[a, b], [c, d, a]]
        written += [[a, b, c], [d, a]]
        # Not as often in each probe: else two mistakes whose sums are equal once are equal in all of them.
        references += times * [[a, b, c, d]]
        written += times * [[a, "OY", c, "ZH"]]
        probes.append(tuple([" ".join(text) for text in texts] for texts in (written, references)))
    # a model that does not stop writing: more errors than there are tokens
    references = [draw(2), draw(3)]
    return [*probes, ([" ".join(draw(9)), " ".join(references[1])], [" ".join(text) for text in references])]


ERROR_RATE = Exercise(
    name="error_rate",
    number="12.5",
    title="Errors per phoneme",
    reference=error_rate,
    mistakes=(
        Mistake(
            "place by place",
            "You compare place by place. One sound left out at the beginning, and all that follow count as wrong.",
            also=("place by place, to the end of the shorter one",),
        ),
        Mistake(
            "never above 1",
            "Your rate ends at 1. Whoever writes on and on makes more errors than there are tokens, and a rate above "
            "100 % says so.",
            also=("never above 1 for any text",),
        ),
        Mistake("a count", "That is the number of errors. By how many tokens is it to be divided?"),
        Mistake(
            "what the reference has and the text has not",
            "You count the reference's tokens that are not found in the text, in order. One too many is an error, too.",
        ),
        Mistake(
            "the last token of each left out",
            "Your table ends a row and a column too early: the last token of either text is compared with nothing.",
        ),
        Mistake(
            "the mean of the rates",
            "You average each word's rate, or add them up: a short word's error then weighs more.",
            also=("the sum of the rates",),
        ),
        Mistake("the worst text", "That is the worst word's rate. All of them count."),
        Mistake(
            "the lengths alone",
            "You compare the lengths alone: another sound in a sound's place is an error, too.",
        ),
        Mistake(
            "the share of wrong texts", "That is the share of words with an error, not the rate of errors."
        ),
        Mistake("per text", "You divide by the number of words, not by their phonemes."),
        Mistake(
            "divided by what was written",
            "You divide by the length of what was written: who writes more makes fewer errors. The reference counts.",
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
        Mistake(
            "letters instead of tokens",
            "You compare letters. A phoneme such as NG is one token.",
            also=("letters per token",),
        ),
        Mistake(
            "the order does not count",
            "You compare which tokens occur. K AE T and T AE K would be the same.",
            also=("which tokens, not how often",),
        ),
        Mistake(
            "the longest common block first",
            "Your two texts are laid beside each other by their longest common block. Another way may need fewer "
            "errors, and the fewest are asked for.",
        ),
        Mistake(
            "all texts in one",
            "You join all texts into one. What one text has too many may then stand for what the next one lacks.",
        ),
        Mistake(
            "divided by the longer of the two",
            "You divide by the longer text of each pair. The references alone are the measure.",
        ),
        Mistake("percent", "Your rate is in percent; a fraction was asked for."),
        Mistake("the share that is right", "That is 1 minus the rate of errors."),
        Mistake(
            "above left is the field just filled",
            "Where two tokens are equal, you go on from the field that you have just filled. *Above left* is in the "
            "row before: is it kept long enough?",
        ),
        Mistake(
            "each row begins with 0",
            "A text against nothing at all costs nothing in your table: what are the fields at its edge?",
            also=("the table's edges are 0",),
        ),
    ),
    probes=_spoken,
)

EXERCISES = [ON_POLICY_LOSS, ERROR_RATE]
