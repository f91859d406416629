"""Notebook 08's exercises: right answers in other styles pass, and what learners commonly write is recognised."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from kdtutor import objectives
from kdtutor.exercises import load_exercises
from kdtutor.exercises.checker import judge

BY_NAME = load_exercises()


def verdict(name: str, answer):
    return judge(BY_NAME[name], answer, seed=1)


# ------------------------------------------------------------------------------------------------ right


def with_numpy(n, m):
    return [int(place) for place in np.linspace(0, n - 1, m).round()]


def with_torch(n, m):
    return torch.linspace(0, n - 1, m).round().int()


def cut_from_a_deep_copy(student, teacher, layers):
    student = copy.deepcopy(teacher)
    student.layers = nn.ModuleList(student.layers[i] for i in layers)
    return student.train().requires_grad_(True)


def parameter_by_parameter(student, teacher, layers):
    pairs = [(student.embeddings, teacher.embeddings), (student.head, teacher.head)]
    pairs += [(mine, teacher.layers[i]) for mine, i in zip(student.layers, layers, strict=True)]
    with torch.no_grad():
        for mine, theirs in pairs:
            for a, b in zip(mine.parameters(), theirs.parameters(), strict=True):
                a.copy_(b)
    return student


def by_a_threshold(input_ids, special_ids, counts, chance, action, random_ids):
    times = -torch.log(1 - chance) * counts[input_ids].double() ** 0.7
    times[torch.isin(input_ids, special_ids)] = math.inf
    how_many = math.ceil(0.15 * times.isfinite().sum())
    chosen = times <= times.flatten().sort().values[how_many - 1]
    read, labels = input_ids.clone(), torch.full_like(input_ids, -100)
    read[chosen & (action < 0.8)] = 4
    swapped = chosen & (action >= 0.9)
    read[swapped] = random_ids[swapped]
    labels[chosen] = input_ids[chosen]
    return read, labels


def from_the_courses_terms(z_s, z_t, h_s, h_t, labels, mask):
    soft, hard = objectives.soft_targets(z_s, z_t, 2, mask=mask), objectives.masked_lm(z_s, labels)
    return 5 * soft + 2 * hard + objectives.cosine_hidden(h_s, h_t, mask=mask)


def with_torchs_losses(z_s, z_t, h_s, h_t, labels, mask):
    real = mask.bool()
    log_p, p = (z_s[real] / 2).log_softmax(-1), (z_t[real] / 2).softmax(-1)
    cosine = F.cosine_embedding_loss(h_s[real], h_t[real], torch.ones(int(real.sum())))
    hard = F.cross_entropy(z_s.transpose(1, 2), labels)
    return 20 * F.kl_div(log_p, p, reduction="batchmean") + 2 * hard + cosine


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("kept_layers", with_numpy),
        ("kept_layers", with_torch),
        ("copy_layers", cut_from_a_deep_copy),
        ("copy_layers", parameter_by_parameter),
        ("mask_rare_words", by_a_threshold),
        ("triple_loss", from_the_courses_terms),
    ],
)
def test_right_answers_in_other_styles_are_right(name, answer):
    assert verdict(name, answer).kind == "right", verdict(name, answer)


def test_probabilities_that_round_to_zero_are_right_but_unstable():
    assert verdict("triple_loss", with_torchs_losses).solved

    def logarithm_of_a_softmax(z_s, z_t, h_s, h_t, labels, mask):
        real = mask.bool()
        p, q = (z_t[real] / 2).softmax(-1), (z_s[real] / 2).softmax(-1)
        soft = (p * (p / q).log()).sum(-1).mean()
        cosine = 1 - F.cosine_similarity(h_s[real], h_t[real], dim=-1).mean()
        return 20 * soft + 2 * F.cross_entropy(z_s.transpose(1, 2), labels) + cosine

    assert verdict("triple_loss", logarithm_of_a_softmax).kind == "right, but unstable"


# ------------------------------------------------------------------------------------------------ wrong


def every_second(n, m):
    return list(range(0, n, n // m))


def assigned(student, teacher, layers):
    student.embeddings, student.head = teacher.embeddings, teacher.head
    student.layers = nn.ModuleList(teacher.layers[i] for i in layers)
    return student


def layers_assigned(student, teacher, layers):
    student.embeddings.load_state_dict(teacher.embeddings.state_dict())
    student.head.load_state_dict(teacher.head.state_dict())
    student.layers = nn.ModuleList(teacher.layers[i] for i in layers)
    return student


def by_names(student, teacher, layers):
    student.load_state_dict(teacher.state_dict(), strict=False)
    return student


def a_deep_copy_as_it_is(student, teacher, layers):
    student = copy.deepcopy(teacher)
    student.layers = nn.ModuleList(student.layers[i] for i in layers)
    return student


def cut_out_of_a_shallow_copy(student, teacher, layers):
    student = copy.copy(teacher)
    student.layers = nn.ModuleList(copy.deepcopy(teacher.layers[i]) for i in layers)
    return student


def teacher_cut_first(student, teacher, layers):
    teacher.layers = nn.ModuleList(teacher.layers[i] for i in layers)
    student.load_state_dict(teacher.state_dict())
    return student


def plain_masking(input_ids, special_ids, counts, chance, action, random_ids):
    chosen = (chance < 0.15) & ~torch.isin(input_ids, special_ids)
    read = torch.where(chosen & (action < 0.8), 4, input_ids)
    return torch.where(chosen & (action >= 0.9), random_ids, read), torch.where(chosen, input_ids, -100)


def nobody_spared(input_ids, special_ids, counts, chance, action, random_ids):
    nobody = torch.tensor([], dtype=torch.long)
    return by_a_threshold(input_ids, nobody, counts, chance, action, random_ids)


@pytest.mark.parametrize(
    ("name", "answer", "mistakes"),
    [
        ("kept_layers", every_second, {"without the last"}),
        ("copy_layers", assigned, {"nothing copied"}),
        ("copy_layers", layers_assigned, set()),  # the planted bug, which is told by its symptom
        ("copy_layers", by_names, {"the first layers"}),
        ("copy_layers", a_deep_copy_as_it_is, {"frozen along with the teacher", "left in eval mode"}),
        ("copy_layers", cut_out_of_a_shallow_copy, {"a shallow copy"}),
        ("copy_layers", teacher_cut_first, {"the teacher cut down"}),
        ("mask_rare_words", plain_masking, {"all words alike"}),
        ("mask_rare_words", nobody_spared, {"nothing spared"}),
    ],
)
def test_what_learners_commonly_write_is_recognised(name, answer, mistakes):
    assert set(verdict(name, answer).mistakes) == mistakes, verdict(name, answer)
