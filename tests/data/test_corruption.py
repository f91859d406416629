"""Texts broken on purpose: repeatably, gradually, and in the way that is named."""

from __future__ import annotations

import pytest
from helpers import make_task, refusal

from kdtutor.data.corruption import CORRUPTIONS, NEIGHBOURS, broken_copies, corrupt, corrupted, split_words
from kdtutor.data.synonyms import synonyms

TEXTS = [
    "A warm and funny film, but it's dull in the end.",
    "naïve 3D films",
    "word",
    "",
    "   ...   ",
    "the film\nthe film",
]


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_the_seed_decides_and_no_other_text_does(kind):
    broken = corrupt(TEXTS, kind, 0.6, seed=3)
    assert broken == corrupt(TEXTS, kind, 0.6, seed=3)
    assert broken[0] == corrupt(TEXTS[:1], kind, 0.6, seed=3)[0]
    assert any(corrupt(TEXTS, kind, 0.5, seed=seed) != broken for seed in range(5))
    assert corrupt(TEXTS, kind, 0) == TEXTS


@pytest.mark.parametrize("kind", ["typo", "case", "synonym"])
def test_what_was_broken_stays_broken_as_strength_rises(kind):
    text = TEXTS[0]
    hit: set[int] = set()
    for strength in (0.1, 0.3, 0.6, 1.0):
        [broken] = corrupt([text], kind, strength)
        before, after = split_words(text)[0], split_words(broken)[0]
        now = {i for i, (a, b) in enumerate(zip(before, after, strict=True)) if a != b}
        assert hit <= now
        hit = now
    assert hit


def test_the_share_of_broken_words_is_the_strength():
    texts = [f"alpha beta gamma delta epsilon {i}a" for i in range(400)]
    broken = corrupt(texts, "case", 0.3)
    words = [word for text in broken for word in text.split()]
    assert sum(word.isupper() for word in words) / len(words) == pytest.approx(0.3, abs=0.03)


def test_a_typo_is_one_neighbouring_key():
    for text, broken in zip(TEXTS, corrupt(TEXTS, "typo", 1), strict=True):
        assert len(text) == len(broken)
        for old, new in zip(split_words(text)[0], split_words(broken)[0], strict=True):
            changed = [(a.lower(), b.lower()) for a, b in zip(old, new, strict=True) if a != b]
            assert len(changed) <= 1
            assert all(b in NEIGHBOURS[a] for a, b in changed)
    assert set(NEIGHBOURS["g"]) == set("ftyhbv")
    assert set(NEIGHBOURS["q"]) == set("12wa")


def test_a_dropped_word_takes_its_space_along_and_one_word_stays():
    assert corrupt(["one two three"], "drop", 1) == ["three"]
    assert corrupt(["word"], "drop", 1) == ["word"]
    for text in corrupt(["one two three four five six"] * 3 + ["seven, eight nine"], "drop", 0.5):
        assert "  " not in text and text == text.strip()


def test_swapped_words_are_the_same_words():
    [broken] = corrupt([TEXTS[0]], "swap", 0.5)
    assert broken != TEXTS[0]
    assert sorted(split_words(broken)[0]) == sorted(split_words(TEXTS[0])[0])


def test_a_synonym_is_wordnets_and_is_written_as_the_word_was():
    assert corrupt(["Boring EXCUSE boring"], "synonym", 1)[0] != "Boring EXCUSE boring"
    for seed in range(8):
        first, second, third = corrupt(["Boring EXCUSE boring"], "synonym", 1, seed)[0].split()
        assert first[0].isupper() and first.lower() in synonyms()["boring"]
        assert second.isupper() and second.lower() in synonyms()["excuse"]
        assert third in synonyms()["boring"]
    assert "alibi" in synonyms()["excuse"]
    assert "will" not in synonyms()


def test_a_task_is_broken_in_one_part_and_keeps_its_labels():
    task = make_task()
    broken = corrupted(task, "typo", 0.5)
    assert broken.texts("train") == task.texts("train")
    assert broken.texts("test") == corrupt(task.texts("test"), "typo", 0.5)
    assert broken.targets("test").equal(task.targets("test"))
    assert broken.fingerprint != task.fingerprint
    task.encode("test")
    assert not corrupted(task, "typo", 0.5).encode("test").ids.equal(task.encode("test").ids)


def test_what_is_no_corruption_is_refused():
    assert 'unknown kind of corruption "typos"; there are: typo' in refusal(corrupt, TEXTS, "typos", 0.5)
    assert "strength must be a share of the words from 0 to 1, not 50" in refusal(corrupt, TEXTS, "typo", 50)


def test_copies_stand_beside_their_texts_broken_and_without_a_label_unless_they_keep_it():
    task = make_task()
    texts, targets = task.texts("train"), task.targets("train")
    broken = broken_copies(task, "drop", 0.5, seed=3)
    assert broken.texts("train") == [*texts, *corrupt(texts, "drop", 0.5, seed=3)]
    assert broken.targets("train").tolist() == targets.tolist() + [-100] * len(texts)
    assert broken.texts("test") == task.texts("test") and broken.name != task.name
    kept = broken_copies(task, "drop", 0.5, seed=3, labels=True)
    assert kept.targets("train").tolist() == 2 * targets.tolist()
    assert broken_copies(task, "drop", 0).texts("train") == 2 * texts
    assert "is a causal-lm task" in refusal(broken_copies, make_task("causal-lm"), "drop", 0.5)
