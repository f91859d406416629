"""Wrong answers that an earlier checker accepted, most of them found by edits of the solutions that it let pass."""

from __future__ import annotations

import math
from statistics import median

import pytest
import torch
import torch.nn.functional as F
from notebook_exercises import judged

ACCEPTED = []


def accepted(exercise: str, name: str):
    """Registers an answer with the name that its check has to give."""
    return lambda answer: ACCEPTED.append(pytest.param(exercise, answer, name, id=answer.__name__)) or answer


@accepted("median_latency", "the warm-up is not waited for")
def warms_up_without_waiting(device, texts):
    device.start(texts[0])
    times = []
    for text in texts:
        begin = device.clock()
        device.start(text).wait()
        times.append(device.clock() - begin)
    return 1000 * median(times)


@accepted("distil_epoch", "teacher inside the graph")
def asks_the_teacher_with_its_graph(student, teacher, batches, temperature):
    teacher.eval()
    answers = [(teacher(**inputs).logits / temperature).softmax(-1) for inputs in batches]
    optimizer, losses = torch.optim.SGD(student.parameters(), lr=0.1), []
    for inputs, p_t in zip(batches, answers, strict=True):
        log_p_s = (student(**inputs).logits / temperature).log_softmax(-1)
        loss = temperature**2 * F.kl_div(log_p_s, p_t, reduction="batchmean")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@accepted("distillation_step", "the two sides exchanged")
def raises_two_to_the_temperature(student, teacher, inputs, labels, alpha, temperature):
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
    student.train(), teacher.eval()
    with torch.no_grad():
        z_t = teacher(**inputs).logits
    z_s = student(**inputs).logits
    p_t, log_p_s = (z_t / temperature).softmax(-1), (z_s / temperature).log_softmax(-1)
    soft = F.kl_div(log_p_s, p_t, reduction="batchmean")
    loss = alpha * F.cross_entropy(z_s, labels) + (1 - alpha) * 2**temperature * soft
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.detach()


@accepted("scaled_loss", "by the mean confidence")
def makes_the_mean_confidence_right(
    validation_logits, validation_labels, test_logits, test_labels, temperatures
):
    right = (validation_logits.argmax(-1) == validation_labels).float().mean()
    gaps = [abs((validation_logits / t).softmax(-1).amax(-1).mean() - right) for t in temperatures]
    best = temperatures[gaps.index(min(gaps))]
    return best, F.cross_entropy(test_logits / best, test_labels).item()


def epoch(student, batches, accumulate, learning_rate, steps):
    optimizer = torch.optim.SGD(student.parameters(), lr=learning_rate)
    groups, total = [batches[i : i + accumulate] for i in range(0, len(batches), accumulate)], 0.0
    for done, group in enumerate(groups):
        texts = sum(len(x) for x, _ in group)
        optimizer.param_groups[0]["lr"] = learning_rate * (1 - done / steps)
        optimizer.zero_grad()
        for x, z in group:
            loss = F.mse_loss(student(x), z) * len(x)
            (loss / texts).backward()
            total += loss.item()
        optimizer.step()
    return total / sum(len(x) for x, _ in batches)


@accepted("train_epoch", "always one step more")
def counts_a_step_for_nothing_left(student, batches, accumulate, learning_rate):
    return epoch(student, batches, accumulate, learning_rate, len(batches) // accumulate + 1)


def test_an_epoch_with_its_steps_counted_rightly_is_right():
    def counts_them(student, batches, accumulate, learning_rate):
        return epoch(student, batches, accumulate, learning_rate, math.ceil(len(batches) / accumulate))

    assert judged("train_epoch", counts_them, seed=1).kind == "right"


def fine_tuned(model, train, validation, optimizer, batch_size, starts, steps):
    peak = optimizer.param_groups[0]["lr"]
    model.train()
    for k, start in enumerate(starts):
        optimizer.param_groups[0]["lr"] = peak * (1 - k / steps)
        optimizer.zero_grad()
        model(**{name: value[start : start + batch_size] for name, value in train.items()}).loss.backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        right = model(**validation).logits.argmax(-1) == validation["labels"]
    return right.float().mean().item()


@accepted("fine_tune", "one step too many in the schedule")
def expects_a_batch_of_nothing(model, train, validation, optimizer, batch_size):
    n = len(train["labels"])
    starts = range(0, n, batch_size)
    return fine_tuned(model, train, validation, optimizer, batch_size, starts, n // batch_size + 1)


@accepted("fine_tune", "last batch dropped")
def drops_a_last_text_that_is_alone(model, train, validation, optimizer, batch_size):
    starts = range(0, len(train["labels"]) - 1, batch_size)
    return fine_tuned(model, train, validation, optimizer, batch_size, starts, len(starts))


@accepted("pareto_front", "one too many or too few")
def looks_at_all_but_the_last(cost, score):
    front = []
    for i in range(len(cost) - 1):
        as_good = (cost <= cost[i]) & (score >= score[i])
        better = (cost < cost[i]) | (score > score[i])
        if not (as_good & better).any():
            front.append(i)
    return sorted(front, key=lambda i: (float(cost[i]), i))


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize(("exercise", "answer", "name"), ACCEPTED)
def test_it_is_refused_and_named(exercise, answer, name, seed):
    verdict = judged(exercise, answer, seed, [name])
    assert not verdict.solved
    assert verdict.mistakes == (name,), verdict


@pytest.mark.parametrize("huge", [10**400, -(10**400)])
def test_a_whole_number_too_large_for_a_float_is_compared_all_the_same(huge):
    verdict = judged("masked_lm_parameters", lambda *sizes: huge, seed=1)
    assert not verdict.solved
    assert "cannot be compared" not in verdict.text
