"""Where no mistake is known: the first value of a learner's that the solution lacks, and what is said of it is so."""

from __future__ import annotations

import ast
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from notebook_exercises import EXERCISES, judged

from kdtutor.exercises import repairing, running, sandbox
from kdtutor.exercises.tracing import Comparison, Table, Traced, _inside_a_chain, solution


@pytest.fixture(autouse=True)
def as_long_as_it_takes(monkeypatch):
    """On a busy machine a child waits for its turn longer than it works."""
    monkeypatch.setattr(repairing, "WAIT", 600.0)
    monkeypatch.setattr(sandbox, "TIME_LIMIT", 600.0)


def said(exercise, answer):
    return " ".join(str(judged(exercise, answer, seed=1)).split())


def the_mean_deviation(x, gain, bias, eps):
    centred = x - x.mean(-1, keepdim=True)
    spread = centred.abs().mean(-1, keepdim=True)
    return gain * centred / (spread + eps) + bias


def test_the_first_value_that_the_solution_lacks_is_shown_with_what_it_is_made_of():
    text = said("layer_norm", the_mean_deviation)
    assert "`centred.abs()`, in line" in text
    assert "of `centred` it has them" in text


def the_model_smoothed(logits, labels, epsilon):
    p = logits.softmax(-1)
    p = (1 - epsilon) * p + epsilon / p.shape[-1]
    return F.nll_loss(p.log(), labels)


def test_what_leads_to_a_right_value_is_not_suspected():
    text = said("label_smoothing", the_model_smoothed)
    assert "`(1 - epsilon) * p`" in text
    assert "logits.softmax(-1)`, in" not in text


def only_the_gradients_right(model, shares):
    batches = [batch for share in shares for batch in share]
    model.zero_grad()
    n = sum((batch["labels"] != -100).sum().item() for batch in batches)
    total = 0.0
    for batch in batches:
        logits = model(batch["features"])
        loss = F.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten(), reduction="sum")
        (loss / n).backward()
        total += loss.item()
    return total


def test_a_known_mistake_that_would_break_what_is_right_is_not_said_to_be_behind_it():
    text = said("step_gradient", only_the_gradients_right)
    assert "Your gradient is that of a sum" not in text
    assert "a divisor left out" in text


def the_logarithm_of_a_mean(logits, labels):
    p = logits.softmax(-1)
    asked = labels != -100
    return -p[asked].gather(-1, labels[asked][:, None]).mean().log()


def test_two_steps_in_the_wrong_order_are_named():
    assert judged("masked_lm_loss", the_logarithm_of_a_mean, 1).mistakes == ("two steps in the wrong order",)


def rising(scores):
    return scores.sort().indices


def sorted_by_a_helper(scores, k):
    n = len(scores)
    i = torch.arange(1, n + 1)
    return (rising(scores) * ((i / n) ** k - ((i - 1) / n) ** k)).sum()


def test_a_slip_in_a_helper_of_the_learners_own_is_found_there():
    text = said("expected_best", sorted_by_a_helper)
    assert "Not yet: values and places confused, in line" in text
    assert "`return scores.sort().indices`" in text


@pytest.mark.parametrize(
    ("mine", "found"),
    [
        (torch.tensor([0.3, 0.1, 0.25]), True),  # another order
        (torch.tensor([[0.1, 0.25], [0.3, 0.1]]), True),  # another shape
        (torch.tensor([0.1, 0.25, 0.3]).log(), True),  # one step away
        (torch.tensor([0.1, 0.25, 0.31]), False),
        (7.125, True),
        (7.25, False),
        (3, False),  # a small whole number tells nothing
    ],
)
def test_a_value_is_found_again_by_its_numbers(mine, found):
    table = Table({ast.Pass(): [torch.tensor([0.1, 0.25, 0.3])], ast.Pass(): [7.125], ast.Pass(): [3]})
    assert table.has(mine) is found


@pytest.mark.parametrize("exercise", ["layer_norm", "blend", "expected_best", "lstm_step", "attention_loss"])
def test_beside_itself_nothing_of_a_solution_is_suspected(exercise):
    exercise = EXERCISES[exercise]
    probes = exercise.probes(torch.Generator().manual_seed(1))[:2]
    traced = solution(exercise)
    assert isinstance(traced, Traced)
    traces = [traced.values(exercise, probe) for probe in probes]
    tree = ast.Module([node for node in traced.noting.nodes if isinstance(node, ast.FunctionDef)], [])
    assert Comparison(tree, traces, traces).suspects == []


def test_what_an_answer_imports_is_there_before_its_time_runs(monkeypatch):
    def with_an_import(low, high, points):
        from statistics import mean  # noqa: F401

        from scipy.special import logsumexp  # noqa: F401

    asked = []
    monkeypatch.setattr(running, "importlib", SimpleNamespace(import_module=asked.append))
    running.preload(with_an_import)
    assert asked == ["scipy.special"]


def trains_wrongly_and_asks_rightly(model, train, validation, optimizer, batch_size):
    peak = optimizer.param_groups[0]["lr"]
    model.train()
    for k, start in enumerate(range(0, len(train["labels"]), batch_size)):
        optimizer.param_groups[0]["lr"] = peak / (1 + k * k)
        optimizer.zero_grad()
        model(**{name: value[start : start + batch_size] for name, value in train.items()}).loss.backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        return (model(**validation).logits.argmax(-1) == validation["labels"]).float().mean().item()


def test_what_a_model_says_after_a_wrong_step_is_no_wrong_line():
    assert "validation" not in said("fine_tune", trains_wrongly_and_asks_rightly)


def test_a_product_is_looked_at_as_a_whole():
    tree = ast.parse("def f(a, b):\n    return a * b / 3 + 1 - b")
    [whole] = [
        node for node in ast.walk(tree) if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Sub)
    ]
    beside = _inside_a_chain(tree)
    assert {ast.unparse(node) for node in beside} == {"a * b", "a * b / 3 + 1"}
    assert whole not in beside
