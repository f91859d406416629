"""Slips that no bank knows are found in the learner's own code: their kind and their place are said, no other."""

from __future__ import annotations

import ast
import math
import random

import pytest
import torch
import torch.nn.functional as F
from notebook_exercises import EXERCISES, SECTIONS, judged, solution

from kdtutor.exercises import naming, sandbox
from kdtutor.exercises.checker import judge
from kdtutor.exercises.definitions import Exercise
from kdtutor.exercises.edits import edits


def a_wrong_operation(validation, test):
    best = int(validation.argmax())
    return best, test[best], validation[best] / test[best]


def one_too_few(student_depth, teacher_depth):
    return {i: math.ceil(i * teacher_depth / student_depth) for i in range(1, student_depth)}


def the_same_slip_twice(low, high, points):
    return torch.logspace(math.log(low), math.log(high), points)


def a_function_too_many(logits, weights, temperature):
    p = F.softmax(logits / temperature, dim=-1)
    return (weights.softmax(0)[:, None, None] * p).sum(0)


def lines_in_the_wrong_order(student, projection, inputs, teacher_hidden, steps, learning_rate):
    optimizer = torch.optim.SGD([*student.parameters(), *projection.parameters()], lr=learning_rate)
    for _ in range(steps):
        loss = F.mse_loss(projection(student(inputs)), teacher_hidden)
        loss.backward()
        optimizer.zero_grad()
        optimizer.step()
    return loss.item()


@pytest.mark.parametrize(
    ("exercise", "answer", "name", "line"),
    [
        ("report", a_wrong_operation, "the wrong operation", "validation[best] / test[best]"),
        ("even_map", one_too_few, "one too many or too few", "range(1, student_depth)"),
        ("rate_grid", the_same_slip_twice, "the wrong function", "math.log(low)"),
        ("ensemble_targets", a_function_too_many, "a function too many", "weights.softmax(0)"),
        ("train_with_hints", lines_in_the_wrong_order, "two lines in the wrong order", "loss.backward()"),
    ],
)
def test_a_slip_is_named_with_its_line(exercise, answer, name, line):
    verdict = judged(exercise, answer, seed=1)
    assert verdict.kind == "one slip"
    assert verdict.mistakes == (name,)
    assert line in " ".join(str(verdict).split())


def by_another_formula(scores, k):
    n = len(scores)
    s = scores.sort().values
    i = torch.arange(1, n + 1)
    p = k * ((i - 0.5) / n) ** (k - 1) / n
    return (p * s).sum()


def test_where_one_line_alone_is_wrong_it_is_shown():
    verdict = judged("expected_best", by_another_formula, seed=1)
    assert verdict.mistakes == ("the wrong line",)
    assert "p = k * ((i - 0.5) / n)" in " ".join(str(verdict).split())


def drawn(scores, k):
    return scores[torch.randint(len(scores), (50, k))].max(1).values.mean()


def test_an_answer_that_depends_on_chance_is_told_so():
    text = " ".join(str(judged("expected_best", drawn, seed=1)).split())
    assert "gives other numbers each time" in text


def test_a_known_mistake_goes_before_a_slip():
    def on_test(validation, test):
        best = int(test.argmax())
        return best, test[best], validation[best] - test[best]

    assert judged("report", on_test, seed=1).mistakes == ("by test",)


def test_every_edit_leaves_the_code_as_it_was():
    source = """
def f(x, y, n):
    z = x.softmax(0) @ y[:, :-1] if n > 1 else -x
    for i in range(n):
        z = z + (x - y) / 2
        z = z.sum(dim=1, keepdim=True)
    return z, F.kl_div(x, y, reduction="mean")
"""
    tree = ast.parse(source)
    before, changed = ast.dump(tree), 0
    for edit in edits(tree):
        with edit.made():
            changed += ast.dump(tree) != before
        assert ast.dump(tree) == before
    assert changed > 200


def edited_solutions(exercise, count):
    """Some of the small edits of the notebook's solution, as functions."""
    _, _, folded, imports = SECTIONS[exercise.number]
    tree = ast.parse(solution(folded))
    every = edits(tree)
    random.Random(exercise.name).shuffle(every)
    found = []
    while every and len(found) < count:
        scope = {}
        try:
            with every.pop().made():
                exec(imports + ast.unparse(ast.fix_missing_locations(tree)), scope)
        except Exception:
            continue
        found.append(scope[exercise.name])
    return found


@pytest.mark.parametrize("count", [1, pytest.param(20, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "exercise", [e for e in EXERCISES.values() if isinstance(e, Exercise)], ids=lambda e: e.name
)
def test_whatever_a_slip_does_the_checker_itself_does_not_stumble(exercise, count, monkeypatch):
    monkeypatch.setattr(sandbox, "can_fork", lambda: False)
    monkeypatch.setattr(naming, "SEARCH", 0.05)
    for answer in edited_solutions(exercise, count):
        assert "cannot be compared" not in str(judge(exercise, answer, seed=1))
