"""A sample of a class's answers to the exercises of 06 to 10: named by what they do, and by nothing else."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from notebook_exercises import judged


def relations(between):
    """The distances between different texts of both models, in a row, handed to a function."""

    def answer(student_vectors, teacher_vectors):
        apart = ~torch.eye(len(student_vectors), dtype=torch.bool)
        return between(*(torch.cdist(v, v)[apart] for v in (student_vectors, teacher_vectors)))

    return answer


@relations
def z_scores(d_s, d_t):
    return F.smooth_l1_loss((d_s - d_s.mean()) / d_s.std(), (d_t - d_t.mean()) / d_t.std())


def mean_detached(student_vectors, teacher_vectors):
    apart = ~torch.eye(len(student_vectors), dtype=torch.bool)
    d_s, d_t = (torch.cdist(v, v)[apart] for v in (student_vectors, teacher_vectors))
    return F.smooth_l1_loss(d_s / d_s.mean().detach(), d_t / d_t.mean())


def hint(loss_of, both=True):
    """Train by a hint with another loss, or in turns."""

    def answer(student, projection, inputs, teacher_hidden, steps, learning_rate):
        optimizers = [torch.optim.SGD(m.parameters(), lr=learning_rate) for m in (student, projection)]
        for step in range(steps):
            loss = loss_of(projection(student(inputs)), teacher_hidden)
            for optimizer in optimizers:
                optimizer.zero_grad()
            loss.backward()
            for optimizer in optimizers if both else [optimizers[step % 2]]:
                optimizer.step()
        return loss.item()

    return answer


def cosine(a, b):
    return 1 - F.cosine_similarity(a, b, dim=-1).mean()


def attention_with_a_large_summand(student_weights, teacher_weights, mask):
    log_s, log_t = ((w + 1e-2).log() for w in (student_weights, teacher_weights))
    rows = (teacher_weights * (log_t - log_s)).sum(-1)
    return (rows * mask[:, None]).sum() / (mask.sum() * rows.shape[1])


def over_the_texts(logits, weights, temperature):
    return (weights[:, None, None] * (logits / temperature).softmax(1)).sum(0)


def by_entropy(logits, labels, coverage):
    p = logits.softmax(-1)
    count = int(-(-coverage * len(labels) // 1))
    answered = (p * p.log()).sum(-1).argsort(descending=True)[:count]
    return (logits[answered].argmax(-1) != labels[answered]).float().mean().item()


def no_third_condition(cost, score):
    front = [i for i in range(len(cost)) if not ((cost <= cost[i]) & (score >= score[i])).any()]
    return sorted(front, key=lambda i: cost[i])


def largest_over_time(lstm, embedded, attention_mask):
    return lstm(embedded)[0].masked_fill(attention_mask[..., None] == 0, -torch.inf).amax(1)


def all_real_tokens(lstm, embedded, attention_mask):
    return lstm(embedded)[0][attention_mask.bool()]


def empty_texts_dropped(states, attention_mask):
    kept = attention_mask.any(1)
    return states[kept].masked_fill(attention_mask[kept][..., None] == 0, -torch.inf).amax(1)


def matrices_alone(student, teacher, layers):
    student.embeddings.load_state_dict(teacher.embeddings.state_dict())
    student.head.load_state_dict(teacher.head.state_dict())
    for mine, number in zip(student.layers, layers, strict=True):
        mine.weight.data = teacher.layers[number].weight.data.clone()
    return student


def without_the_first_temperature(
    validation_logits, validation_labels, test_logits, test_labels, temperatures
):
    def loss(t):
        return F.cross_entropy(validation_logits / t, validation_labels).item()

    best = min(temperatures[1:], key=loss)
    return best, F.cross_entropy(test_logits / best, test_labels).item()


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize(
    ("exercise", "answer", "mistake"),
    [
        ("train_with_hints", hint(F.mse_loss, both=False), "in turns, the student first"),
        ("train_with_hints", hint(cosine), "another loss"),
        ("attention_loss", attention_with_a_large_summand, "too much added to each weight"),
        ("relational_distance", z_scores, "z-scores"),
        ("relational_distance", mean_detached, "the student's mean detached"),
        ("last_state", largest_over_time, "the largest over the text"),
        ("last_state", all_real_tokens, "all real tokens"),
        ("max_pool", empty_texts_dropped, "empty texts dropped"),
        ("pareto_front", no_third_condition, "each dominates itself"),
        ("copy_layers", matrices_alone, "biases left random"),
        ("ensemble_targets", over_the_texts, "softmax over the texts"),
        ("risk_at", by_entropy, "by the entropy"),
    ],
)
def test_a_mistake_of_these_kinds_has_its_own_name(exercise, answer, mistake, seed):
    assert judged(exercise, answer, seed).mistakes == (mistake,)


@pytest.mark.parametrize("seed", range(1, 5))
def test_a_temperature_that_is_never_tried_is_missed(seed):
    assert not judged("scaled_loss", without_the_first_temperature, seed).solved


@pytest.mark.parametrize("seed", range(1, 5))
def test_a_small_number_in_the_logarithm_of_attention_is_right(seed):
    def small_number_added(student_weights, teacher_weights, mask):
        log_s, log_t = ((w + 1e-20).log() for w in (student_weights, teacher_weights))
        rows = F.kl_div(log_s, log_t, reduction="none", log_target=True).sum(-1)
        return rows[mask[:, None].expand(rows.shape).bool()].mean()

    assert judged("attention_loss", small_number_added, seed).kind == "right"


def test_where_only_the_gradient_is_wrong_no_exchange_of_student_and_teacher_is_named():
    def root_at_zero(student_vectors, teacher_vectors):
        d_s, d_t = (
            (v[:, None] - v[None]).square().sum(-1).sqrt() for v in (student_vectors, teacher_vectors)
        )
        apart = ~torch.eye(len(student_vectors), dtype=torch.bool)
        d_s, d_t = d_s[apart], d_t[apart]
        return F.smooth_l1_loss(d_s / d_s.mean(), d_t / d_t.mean())

    verdict = judged("relational_distance", root_at_zero, seed=1)
    assert (verdict.kind, verdict.mistakes) == ("NaN", ())
    assert "infinite slope at 0" in " ".join(str(verdict).split())


@pytest.mark.parametrize("seed", range(1, 5))
def test_the_longest_rival_is_not_taken_for_the_first(seed):
    def steps_of_the_longest(epochs, rivals):
        each = [-(-n // (b * a * p)) for n, b, a, p in rivals]
        return epochs * max(each), [epochs * max(each) / steps for steps in each]

    verdict = judged("equal_steps", steps_of_the_longest, seed)
    assert verdict.mistakes == ("the longest rival for the first",)
