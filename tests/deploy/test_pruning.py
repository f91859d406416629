"""A pruned vocabulary reads its texts as before; pruned heads are gone as if their output were 0."""

from __future__ import annotations

import pytest
import torch
from helpers import make_task, model, refusal, sharp_teacher

from kdtutor.deploy.pruning import head_importance, prune_heads, prune_vocabulary
from kdtutor.models.forward import inputs_of, logits_of
from kdtutor.models.students import small_bert


def four_heads(task, seed: int = 5):
    student = small_bert(task, layers=2, width=32, heads=4, dropout=0.0, seed=seed).eval()
    with torch.no_grad():
        student.classifier.weight *= 20
    return student


def squared_error(outputs, labels):
    return (outputs.flatten() - labels.flatten()).square().sum()


def test_texts_whose_pieces_were_kept_get_the_same_answers(tmp_path):
    task = make_task()
    student = sharp_teacher(task).eval()
    small, pruned = prune_vocabulary(student, task, tmp_path)
    assert small.config.vocab_size == len(pruned.tokenizer) < 0.2 * len(task.tokenizer)
    assert logits_of(small, pruned.encode("train")).equal(logits_of(student, task.encode("train")))
    pieces, fewer = (
        [t.tokenizer.convert_ids_to_tokens(row) for row in t.encode("train").ids.split(1)]
        for t in (task, pruned)
    )
    assert pieces == fewer


def test_a_word_that_no_text_has_is_read_in_smaller_pieces_and_not_lost(tmp_path):
    task = make_task()
    _, pruned = prune_vocabulary(sharp_teacher(task), task, tmp_path)
    word = "government"
    assert len(task.tokenizer.tokenize(word)) < len(pruned.tokenizer.tokenize(word))
    assert "[UNK]" not in pruned.tokenizer.tokenize(word)
    assert pruned.tokenizer.decode(pruned.tokenizer(word)["input_ids"]) == f"[CLS] {word} [SEP]"


def test_what_writes_tokens_keeps_its_vocabulary(tmp_path):
    masked = make_task("masked-lm")
    assert "answers with tokens" in refusal(prune_vocabulary, model(masked), masked, tmp_path)


@pytest.mark.parametrize("kind, texts", [("classification", 12), ("classification", 40), ("regression", 12)])
def test_importance_is_the_gradient_of_a_factor_at_each_head(kind, texts):
    task = make_task(kind)
    student = four_heads(task)
    found = head_importance(student, task, texts)
    encoded = task.subset(texts).encode("train")
    expected = torch.zeros(2, 4)
    for i in range(texts):
        batch = encoded.batch(torch.tensor([i]))
        factors = torch.ones(2, 4, requires_grad=True)
        handles = [
            layer.attention.output.dense.register_forward_pre_hook(
                lambda m, x, f=factors[n]: ((x[0].unflatten(-1, (4, -1)) * f[:, None]).flatten(-2),)
            )
            for n, layer in enumerate(student.bert.encoder.layer)
        ]
        logits, labels = student(**inputs_of(student, batch)).logits, batch["labels"]
        loss = torch.nn.functional.cross_entropy if kind == "classification" else squared_error
        loss = loss(logits, labels)
        expected += torch.autograd.grad(loss, factors)[0].abs() / texts
        for handle in handles:
            handle.remove()
    assert torch.allclose(found, expected, atol=1e-5)
    assert all(p.grad is None for p in student.parameters())


def test_heads_that_go_leave_the_answers_of_those_that_stay():
    task = make_task()
    student = four_heads(task)
    small = prune_heads(student, torch.tensor([[1.0, 4, 2, 3], [9, 0, 8, 7]]), keep=3)
    with torch.no_grad():
        for layer, gone in zip(student.bert.encoder.layer, (0, 1), strict=True):
            layer.attention.output.dense.weight[:, 8 * gone : 8 * gone + 8] = 0
    a, b = (logits_of(m, task.encode("test"), fast=False) for m in (student, small))
    assert torch.allclose(a, b, atol=1e-5)
    # The loop's own way to run it too.
    assert torch.allclose(logits_of(small, task.encode("test")), b, atol=1e-5)
    assert small.num_parameters() < student.num_parameters()


def test_more_heads_than_there_are_can_not_be_kept():
    task = make_task()
    assert "there are 4 heads" in refusal(prune_heads, four_heads(task), torch.zeros(2, 4), 5)
    assert "must be a whole number" in refusal(prune_heads, four_heads(task), torch.zeros(2, 4), 0)
