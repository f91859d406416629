"""New texts made of the training texts: unlabelled, by the seed alone, never one that is measured on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import make_run, make_task, refusal, sharp_teacher

import kdtutor as kd
from kdtutor.data.augment import WordClasses, augment
from kdtutor.data.task import Split
from kdtutor.objectives.logits import HardLabels, SoftTargets, blend


@pytest.fixture(scope="module")
def task():
    return make_task()


def added(task, **how) -> list[str]:
    return augment(task, **how).texts("train")[len(task.split("train")) :]


def test_the_training_texts_stay_and_their_variants_are_new_and_unlabelled(task):
    wider = augment(task, copies=3)
    before, after = task.split("train"), wider.split("train")
    old, new = list(after.texts[0][: len(before)]), list(after.texts[0][len(before) :])
    assert old == list(before.texts[0]) and torch.equal(after.targets[: len(old)], before.targets)
    assert (after.targets[len(old) :] == -100).all() and after.targets.dtype == before.targets.dtype
    # Of short texts, many variants are no new text.
    assert len(old) < len(new) <= 3 * len(old)
    assert len({*old, *new}) == len({*old}) + len(new)
    assert wider.name == f"tiny[and {len(new)} variants, seed 0]" and wider.fingerprint != task.fingerprint
    assert wider.labelled_only().texts("train") == task.texts("train")


def test_nothing_that_is_measured_on_is_touched_or_met_in_training():
    task = make_task()
    # What an n-gram of a training text could well be.
    phrase = " ".join(max(task.texts("train"), key=len).split()[:2])
    held = Split(([phrase, "anything"],), torch.tensor([0, 1]))
    task = replace(task, splits=task.splits | {"test": held, "pool": held})
    wider = augment(task, copies=50, mask=0, swap=0, ngram=1)
    assert wider.split("test") is held and wider.split("validation") is task.split("validation")
    assert phrase not in wider.texts("train")
    assert any(len(text.split()) == 2 for text in wider.texts("train")[len(task.split("train")) :])


def test_the_seed_alone_decides(task):
    assert added(task, seed=3) == added(task, seed=3) != added(task, seed=4)


def test_of_each_kind_as_many_as_its_probability_says(task):
    words = sum(len(text.split()) for text in task.texts("train"))
    texts = added(task, copies=100, mask=0.3, swap=0, ngram=0)
    # Texts that came out as they were, or twice, are left out: the more words, the rarer.
    long = [text.split() for text in texts if len(text.split()) > 9]
    share = sum(text.count("[MASK]") for text in long) / sum(map(len, long))
    assert share == pytest.approx(0.3, abs=0.03)
    grams = [len(text.split()) for text in added(task, copies=100, mask=0.2, swap=0, ngram=1)]
    assert set(grams) == {1, 2, 3, 4, 5}
    assert words > 0


def test_an_n_gram_is_a_part_of_its_text(task):
    texts = task.texts("train")
    for gram in added(task, copies=5, mask=0, swap=0, ngram=1):
        assert any(f" {gram} " in f" {text} " for text in texts)


def test_a_mask_is_the_tokenizers_own(task):
    ids = task.encode_texts([text for text in added(task, mask=0.5) if "[MASK]" in text]).ids
    assert (ids == task.tokenizer.mask_token_id).any()


def test_words_of_the_same_company_are_of_a_class_and_exchanged_as_often_as_they_occur():
    nouns, verbs = ("dog", "cat", "bird", "horse"), ("eats", "sees", "chases", "finds")
    rng = np.random.default_rng(0)
    texts = [
        ["the", noun, verb, "a", other]
        for noun, verb, other in zip(
            rng.choice(nouns, 400, p=[0.4, 0.3, 0.2, 0.1]), rng.choice(verbs, 400), rng.choice(nouns, 400),
            strict=True,
        )
    ]  # fmt: skip
    classes = WordClasses.of([list(map(str, text)) for text in texts], count=4)
    number_of = classes.of_word
    assert len({number_of[word] for word in nouns}) == 1 and len({number_of[word] for word in verbs}) == 1
    assert number_of["dog"] != number_of["eats"]
    drawn = [classes.another("bird", rng) for _ in range(4000)]
    assert {*drawn} == {*nouns}
    together = [word for text in texts for word in text if word in nouns]
    for word in nouns:
        assert drawn.count(word) / 4000 == pytest.approx(together.count(word) / len(together), abs=0.04)
    assert classes.another("unheard", rng) == "unheard"


def test_the_teacher_labels_them_in_the_loop_and_hard_labels_skip_them(task):
    wider, teacher = augment(task, copies=2), sharp_teacher(task)
    run = make_run(wider, blend(alpha=0.5, temperature=2), teacher=teacher)
    assert run.answers.logits.shape == (len(wider.split("train")), 3)
    assert all(torch.isfinite(torch.tensor(row["loss"])) for row in run.run())
    # All gradient of unlabelled texts is the teacher's.
    alone = wider.subset(len(wider.split("train")))
    rows = (~alone.split("train").labelled).nonzero()[:, 0]
    alone = replace(alone, splits=alone.splits | {"train": alone.split("train").select(rows)})
    hard = make_run(alone, HardLabels(), steps=2)
    assert [row["loss"] for row in hard.run()] == [0, 0]
    assert make_run(alone, SoftTargets(2), teacher=teacher, steps=1).run()[0]["loss"] > 0


def test_pairs_and_numbers_too():
    values = make_task("regression")
    assert (augment(values, copies=1).targets("train")[44:] == -100).all()
    pairs = make_task()
    part = pairs.split("train")
    both = Split((part.texts[0], part.texts[0][::-1]), part.targets)
    pairs = replace(pairs, splits={"train": both})
    found = augment(pairs, copies=1).split("train").texts
    assert len(found) == 2 and len(found[0]) == len(found[1]) > 44


def test_what_can_not_be_is_named(task):
    assert refusal(augment, task, copies=0) == "copies must be a whole number, 1 or more, not 0"
    assert refusal(augment, task, mask=1.5) == "mask must be a probability from 0 to 1, not 1.5"
    assert "at most 1 together" in refusal(augment, task, mask=0.6, swap=0.6)
    assert refusal(augment, make_task("masked-lm")).startswith("tiny is a masked-lm task")
    assert kd.augment is augment
