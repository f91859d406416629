"""Answers as a class writes them: what was once accepted, refused or answered with numbers alone gets its sentence."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from notebook_exercises import judged

# ------------------------------------------------------------------------------------------ once accepted


def masked_with_minus_100(query, key, value, mask):
    scores = query @ key.mT / math.sqrt(query.shape[-1])
    return (scores - 100.0 * ~mask).softmax(-1) @ value


def masked_with_minus_50(query, key, value, mask):
    scores = query @ key.mT / math.sqrt(query.shape[-1])
    return (scores - 50.0 * ~mask).softmax(-1) @ value


def filled_with_minus_50(query, key, value, mask):
    scores = query @ key.mT / math.sqrt(query.shape[-1])
    return scores.masked_fill(~mask, -50.0).softmax(-1) @ value


@pytest.mark.parametrize("answer", [masked_with_minus_100, masked_with_minus_50, filled_with_minus_50])
def test_at_no_seed_a_mask_that_is_not_low_enough_is_accepted(answer):
    named = {judged("scaled_dot_product_attention", answer, seed).mistakes for seed in range(20)}
    assert named == {("a mask that is not low enough",)}


def a_frozen_control(new_student, teacher):
    student = new_student()
    return student, copy.deepcopy(student).requires_grad_(False)


def the_best_median(validation, test, control):
    best = int(validation.median(-1).values.argmax())
    return best, (test[best] - control).mean()


def levenshtein(a, b):
    row = [*range(len(b) + 1)]
    for i, x in enumerate(a, 1):
        before, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (x != y))
    return row[-1]


def at_most_100_percent(written, references):
    errors = sum(levenshtein(w.split(), r.split()) for w, r in zip(written, references, strict=True))
    return min(1.0, errors / sum(len(r.split()) for r in references))


def a_teacher_without_the_prompt(student, teacher, prompts, tokens):
    ids, first = prompts, prompts.shape[1] - 1
    with torch.no_grad():
        for _ in range(tokens):
            ids = torch.cat([ids, student(ids)[:, -1:].argmax(-1)], 1)
        target = teacher(ids[:, first:-1]).softmax(-1)
    mine = student(ids)[:, first:-1].log_softmax(-1)
    return F.kl_div(mine.flatten(0, 1), target.flatten(0, 1), reduction="batchmean")


def answered(model, rows):
    ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True)
    model.eval()
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=(ids != 0).long()).logits.argmax(-1).tolist()


def small_letters(model, tokenizer, texts):
    return answered(model, [tokenizer(text.lower()) for text in texts])


def tokenized_word_by_word(model, tokenizer, texts):
    return answered(model, [[i for word in text.lower().split() for i in tokenizer(word)] for text in texts])


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize(
    ("exercise", "answer", "mistake"),
    [
        ("error_rate", at_most_100_percent, "never above 1"),
        (
            "on_policy_loss",
            a_teacher_without_the_prompt,
            "the teacher reads what was written without the prompt",
        ),
        ("answer_texts", small_letters, "all in small letters"),
        ("answer_texts", tokenized_word_by_word, "word by word"),
        ("scaled_dot_product_attention", masked_with_minus_100, "a mask that is not low enough"),
        ("scaled_dot_product_attention", masked_with_minus_50, "a mask that is not low enough"),
        ("fair_pair", a_frozen_control, "one of the two frozen"),
        ("honest_choice", the_best_median, "chosen by the median"),
    ],
)
def test_what_was_once_accepted_is_named(exercise, answer, mistake, seed):
    assert judged(exercise, answer, seed).mistakes == (mistake,)


@pytest.mark.parametrize("seed", [0, 6, 7])
def test_who_is_right_only_for_numbers_of_ordinary_size_is_told_so(seed):
    def cut_off(logits, temperature):
        return (logits / temperature).clamp(-50, 50).softmax(-1)

    verdict = judged("softmax_with_temperature", cut_off, seed)
    assert not verdict.solved
    assert "With numbers of ordinary size it is right; with numbers as large as" in " ".join(
        str(verdict).split()
    )


# ------------------------------------------------------------------------------------------ once refused


def logits_cut_off_behind_the_last_token(model, optimizer, source, target):
    logits = model(source, target)[:, :-1]
    loss = F.cross_entropy(logits.flatten(0, 1), target[:, 1:].flatten(), ignore_index=0)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.detach()


def fused_attention(x, w_query, w_key, w_value, w_output, heads):
    parts = ((x @ w).unflatten(-1, (heads, -1)).transpose(1, 2) for w in (w_query, w_key, w_value))
    return F.scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2) @ w_output


@pytest.mark.parametrize("seed", range(1, 11))
@pytest.mark.parametrize(
    ("exercise", "answer"),
    [("training_step", logits_cut_off_behind_the_last_token), ("multi_head_attention", fused_attention)],
)
def test_what_was_once_refused_or_remarked_on_is_right(exercise, answer, seed):
    assert judged(exercise, answer, seed).kind == "right"


# ------------------------------------------------------------------------------------------ several at once


def the_textbooks_accumulation(student, batches, accumulate, learning_rate):
    """Divided by `accumulate`, leftovers dropped and the schedule with them, the divided losses averaged."""
    steps = len(batches) // accumulate
    optimizer = torch.optim.SGD(student.parameters(), lr=learning_rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: 1 - k / steps)
    total = 0.0
    for i, (inputs, teacher_logits) in enumerate(batches):
        loss = F.mse_loss(student(inputs), teacher_logits) / accumulate
        loss.backward()
        total += loss.item()
        if (i + 1) % accumulate == 0:
            optimizer.step(), optimizer.zero_grad(), schedule.step()
    return total / len(batches)


def three_of_four_rows(student, teacher, accumulate, processes):
    return {
        "student": 2 * student,
        "teacher": 2 * teacher,
        "gradients": 4 * student * accumulate,
        "optimiser": 1 * student,
    }


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize(
    ("exercise", "answer", "mistakes"),
    [
        (
            "train_epoch",
            the_textbooks_accumulation,
            {"every batch counts the same", "the last step is left out"},
        ),
        ("training_memory", three_of_four_rows, {"weights in bf16"}),
    ],
)
def test_of_more_mistakes_than_two_those_behind_the_first_thing_seen_are_named(
    exercise, answer, mistakes, seed
):
    verdict = judged(exercise, answer, seed)
    assert set(verdict.mistakes) == mistakes, verdict
    assert "This much is known of it." in str(verdict)


def test_a_part_that_no_known_mistake_explains_gets_no_name():
    def another_optimiser(student, teacher, texts, steps):
        optimizer = torch.optim.Adam(student.parameters(), lr=0.5)
        losses = []
        for _ in range(steps):
            loss = F.cross_entropy(student(texts), teacher(texts).softmax(-1).detach())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return losses

    assert judged("train_student", another_optimiser).mistakes == ()


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_whole_words_alone_are_not_told_as_two_other_mistakes(seed):
    def whole_words(word, vocabulary):
        return [word] if word in vocabulary else ["[UNK]"]

    assert judged("wordpiece", whole_words, seed).mistakes == ("the whole word or nothing",)


# ------------------------------------------------------------------------------------------ once another name


def the_largest_gap(validation, test):
    best = int(validation.argmax())
    return best, test[best], (validation - test).max()


def steps_from_above(seen, bits):
    x = seen["train"]
    low, high = min(x.min().item(), 0.0), max(x.max().item(), 0.0)
    scale = (high - low) / (2**bits - 1)
    return scale, round(high / scale)


def the_first_text_again_and_again(device, texts):
    device.start(texts[0]).wait()
    times = []
    for _ in texts:
        begin = device.clock()
        device.start(texts[0]).wait()
        times.append(device.clock() - begin)
    return 1000 * sorted(times)[len(times) // 2]


@pytest.mark.parametrize(
    ("exercise", "answer", "mistake"),
    [
        ("report", the_largest_gap, "the largest gap"),
        ("activation_grid", steps_from_above, "counted from above"),
        ("median_latency", the_first_text_again_and_again, "always the first text"),
    ],
)
def test_what_was_once_given_another_name_has_its_own(exercise, answer, mistake):
    assert judged(exercise, answer, seed=1).mistakes == (mistake,)


def test_a_list_where_a_tensor_is_expected_is_told_its_type_and_no_slip():
    def as_a_list(low, high, points):
        return [low * (high / low) ** (i / (points - 1)) for i in range(points)]

    verdict = judged("rate_grid", as_a_list, seed=1)
    assert (verdict.kind, verdict.mistakes) == ("wrong type", ())
    assert "is a list of 7, and a torch tensor is expected" in " ".join(str(verdict).split())
