"""Where no bank knows a mistake: what the numbers have to do with the right ones, and what an exception means."""

from __future__ import annotations

import pytest
import torch
from notebook_exercises import EXERCISES, judged
from torch import nn

from kdtutor.exercises.comparing import RESULT, compare
from kdtutor.exercises.raising import meaning
from kdtutor.exercises.relating import argument_in_words, relation_in_words, shape_in_words
from kdtutor.exercises.words import factor_in_words, quantities, where_right

SEEDS = pytest.mark.parametrize("seed", [1, 2, 3])


def some(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)) + 0.5


@pytest.mark.parametrize(
    ("makes", "words"),
    [
        (lambda x: x[[2, 0, 1]], "rows are the right ones in another order"),
        (lambda x: x.mT, "axes exchanged"),
        (lambda x: x.flatten().flip(0).reshape(3, 3), "numbers are the right ones in another order"),
        (lambda x: 1 - x, "1 minus yours"),
        (torch.log, "the exponentials of yours"),
        (torch.exp, "the logarithms of yours"),
        (torch.sqrt, "the squares of yours"),
        (lambda x: x - 2, "off by -2"),
        (lambda x: x * x + 3 * x, ""),
    ],
)
def test_a_relation_is_said_where_it_holds_in_every_probe(makes, words):
    right = [some(3, 3), some(3, 3) + 1]
    said = relation_in_words([(makes(x), x) for x in right])
    assert (words in said) if words else not said
    assert not relation_in_words([(makes(right[0]), right[0]), (right[1].tanh() * 3, right[1])])


@pytest.mark.parametrize(
    ("mine", "words"),
    [
        (some(4, 3)[None], "with an axis of size 1 too many"),
        (some(4, 3).flatten(), "in another shape"),
        (torch.stack([some(4, 3), some(4, 3) * 3], 1), "the first of them along axis 1"),
        (torch.stack([some(4, 3) * 3, some(4, 3)]), "the last of them along axis 0"),
        (torch.ones(5, 4, 3), ""),
    ],
)
def test_a_shape_is_told_by_what_would_make_it_right(mine, words):
    said = shape_in_words(mine, some(4, 3))
    assert (words in said) if words else not said


def test_a_list_is_told_by_what_is_too_much_or_missing():
    right = torch.tensor([4.0, 1.0, 7.0])
    assert shape_in_words(torch.tensor([4.0, 1.0, 2.0, 7.0]), right) == "too much is 2"
    assert shape_in_words(torch.tensor([4.0, 7.0]), right) == "missing is 1"
    assert not shape_in_words(torch.tensor([4.0, 3.0]), right)


def test_a_right_value_among_several_is_found():
    best, places = some(4, 3), torch.arange(12).reshape(4, 3)
    assert "one part of it, number 0" in next(compare({RESULT: (best, places)}, {RESULT: best})).text
    assert "one part of it, number 1" in next(compare({RESULT: [2.0, 0.5]}, {RESULT: 0.5})).text
    assert "one part" not in next(compare({RESULT: (places, places)}, {RESULT: best})).text
    assert "are these places" in next(compare({RESULT: places}, {RESULT: best})).text


@pytest.mark.parametrize(
    ("raises", "words"),
    [
        (lambda: torch.ones(2, 3) @ torch.ones(2, 3), "transposed"),
        (lambda: torch.ones(2).sum().backward(), "no graph"),
        (lambda: bool(torch.ones(3) > 0), "brackets"),
        (lambda: torch.tensor([True]).mean(), ".float()"),
        (lambda: nn.Linear(1, 1).parameters() + nn.Linear(1, 1).parameters(), "[*a, *b]"),
        (lambda: torch.ones(3)[torch.tensor([3])], "n − 1"),
        (lambda: torch.ones(3) + torch.ones(4), "Print both"),
        (lambda: torch.ones(3)[torch.ones(2)], "values taken for places"),
        (lambda: float(torch.ones(3)), "Only one number"),
        (lambda: {[]: 1}, "plain number"),
    ],
)
def test_what_torch_and_python_say_is_explained(raises, words):
    with pytest.raises(Exception) as caught:
        raises()
    assert words in meaning(f"{caught.type.__name__}: {caught.value}")
    assert not meaning("ValueError: my own words")


def only_the_state(x, h, c, W, U, b):
    i, f, g, o = (x @ W.T + h @ U.T + b).chunk(4, dim=-1)
    return o.sigmoid() * (f.sigmoid() * c + i.sigmoid() * g.tanh()).tanh()


def the_mean_loss(student, teacher, batches, temperature):
    return sum(EXERCISES["distil_epoch"].reference(student, teacher, batches, temperature)) / len(batches)


def in_the_order_of_their_lengths(lstm, embedded, attention_mask):
    lengths, order = attention_mask.sum(1).sort(descending=True)
    packed = nn.utils.rnn.pack_padded_sequence(embedded[order], lengths, batch_first=True)
    return lstm(packed)[1][0][-1]


def a_root_of_zero(student_vectors, teacher_vectors):
    apart = ~torch.eye(len(student_vectors), dtype=torch.bool)
    s, t = ((v[:, None] - v).square().sum(-1).sqrt()[apart] for v in (student_vectors, teacher_vectors))
    return nn.functional.smooth_l1_loss(s / s.mean(), t / t.mean())


@SEEDS
@pytest.mark.parametrize(
    ("exercise", "answer", "words"),
    [
        ("lstm_step", only_the_state, "2 values are expected"),
        ("distil_epoch", the_mean_loss, "a list of 3 is expected"),
        ("last_state", in_the_order_of_their_lengths, "in another order"),
        ("relational_distance", a_root_of_zero, "infinite slope at 0"),
    ],
)
def test_answers_of_a_class_get_the_sentence(exercise, answer, words, seed):
    verdict = judged(exercise, answer, seed)
    assert not verdict.solved
    assert words in " ".join(str(verdict).split()), verdict


def test_what_is_simply_something_of_an_argument_is_said_where_it_is_in_every_probe():
    probes = [(some(5), {"train": some(4) * size}, 3) for size in (1, 2)]
    names = ["scores", "seen", "k"]

    def said(form):
        return argument_in_words([form(*probe) for probe in probes], names, probes)

    assert "the median of `scores`" in said(lambda scores, seen, k: scores.median())
    assert "the largest of `seen['train']`" in said(lambda scores, seen, k: seen["train"].max())
    assert "there is `scores`" in said(lambda scores, seen, k: scores)
    assert not said(lambda scores, seen, k: scores.median() + 1)
    assert not argument_in_words([probes[0][0].max(), probes[1][0].min()], names, probes)


def test_a_factor_may_be_a_quotient_of_two_things_that_are_counted():
    texts = [["a bc d", "efg"], ["abc", "d e"], ["a b c d e", "fghijk", "j"]]
    sizes = [quantities(["references"], (some_texts,)) for some_texts in texts]
    assert sizes[0]["the number of words in references"] == 4
    rights = [torch.tensor([2.0]), torch.tensor([3.0]), torch.tensor([5.0])]
    pairs = [
        (
            right * each["the number of words in references"] / each["the number of letters in references"],
            right,
        )
        for right, each in zip(rights, sizes, strict=True)
    ]
    assert (
        "the number of words in references / the number of letters in references, always"
        in factor_in_words(pairs, sizes)
    )
    assert not factor_in_words([*pairs[:2], (rights[2] * 0.123, rights[2])], sizes)


def test_with_which_arguments_the_numbers_are_right_is_said():
    probes = [{"the size of x's first axis": 3.0, "beta": beta} for beta in (0.0, 1.0, 0.5)]
    assert where_right([2], probes) == "With beta = 0 and 1 your numbers are right, with 0.5 they are not. "
    assert not where_right([0, 1, 2], probes), "nowhere right"
    assert not where_right([2], [{"k": 3.0}, {"k": 3.0}, {"k": 4.0}]), "not told by the argument"


def one_weight_forgotten(student_logits, teacher_logits, beta):
    p, q = teacher_logits.softmax(-1), student_logits.softmax(-1)
    if beta == 0:
        return (p * (p / q).log()).sum(-1).mean()
    if beta == 1:
        return (q * (q / p).log()).sum(-1).mean()
    m = beta * p + (1 - beta) * q
    return beta * (p * (p / m).log()).sum(-1).mean() + (q * (q / m).log()).sum(-1).mean()


def test_an_answer_that_is_right_at_both_ends_is_told_so():
    verdict = judged("generalised_jsd", one_weight_forgotten, seed=1)
    assert "With beta = 0 and 1 your numbers are right" in " ".join(str(verdict).split())
