"""Tasks from the package, from files and from the Hub's format; tokens, batches and masks; what is refused, and how."""

from __future__ import annotations

import io
import json
import os
import pickle
import subprocess
import sys
import time
import warnings
from dataclasses import replace

import pyarrow as pa
import pytest
import torch
from helpers import refusal
from pyarrow import parquet

from kdtutor import data
from kdtutor.data import hub
from kdtutor.data.load import load_task
from kdtutor.data.masking import mask_tokens
from kdtutor.data.task import Task
from kdtutor.data.tokens import IGNORED, Encoded, length_bucketed_batches, load_tokenizer
from kdtutor.errors import KDTutorError

TEXTS = [f"a film of {n} {word} scenes" for n in range(20) for word in ("dull", "fine")]
LABELS = ["bad", "good"] * 20


@pytest.fixture(scope="module")
def sentiment() -> Task:
    return load_task("sentiment").subset(200)


def rows(**columns) -> pa.Table:
    return pa.table(columns or {"review": TEXTS, "verdict": LABELS})


def csv_file(folder, *lines: str, name: str = "mine.csv"):
    path = folder / name
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def refused(*arguments, **columns) -> str:
    """The one sentence with which load_task refuses."""
    with pytest.raises(KDTutorError) as caught:
        load_task(*arguments, **columns)
    message = str(caught.value)
    assert "\n" not in message
    return message


# ----------------------------------------------------------------------- embedded tasks


def test_an_embedded_task_has_three_splits_of_texts_and_class_indices():
    task = load_task("sentiment")
    assert task.split_names == ("train", "validation", "test")
    assert (task.kind, task.labels, task.num_labels) == ("classification", ("negative", "positive"), 2)
    for split in task.split_names:
        assert len(task.texts(split)) == len(task.targets(split)) > 1000
        assert task.targets(split).dtype == torch.int64
        assert set(task.targets(split).tolist()) == {0, 1}


def test_valence_is_a_regression_with_one_named_output():
    task = load_task("valence")
    assert (task.kind, task.labels, task.num_labels) == ("regression", ("value",), 1)
    assert task.targets("train").dtype == torch.float32
    assert task.targets("train").abs().max() <= 4
    assert set(task.split("test").domains) == {"movies", "products"}


def test_loading_a_task_again_costs_neither_reading_nor_tokenizing(sentiment):
    assert load_task("sentiment").split("test").texts is load_task("sentiment").split("test").texts
    first = load_task("sentiment").encode("validation")
    assert load_task("sentiment").encode("validation").ids is first.ids


def test_an_unknown_task_is_answered_with_those_there_are_nearest_first():
    assert refused("supersens").startswith('unknown task "supersens"; there are: supersense, ')
    assert "sst2" in refused("sst3")


def test_an_unknown_split_is_answered_with_those_there_are(sentiment):
    with pytest.raises(KDTutorError, match=r'unknown split of sentiment.* "tests"; there are: test, '):
        sentiment.texts("tests")


def test_a_length_that_leaves_no_room_for_a_text_is_refused():
    assert "max_length = 2" in refused("sentiment", max_length=2)


# ----------------------------------------------------------------------- tokens and batches


def test_ragged_ids_are_the_tokenizers_own_output(sentiment):
    encoded = sentiment.encode("train")
    texts = sentiment.texts("train")
    assert len(encoded) == 200
    assert encoded.ids.dtype == torch.int32
    for i in (0, 1, 99, 199):
        own = sentiment.tokenizer(texts[i])["input_ids"]
        assert encoded.ids[encoded.offsets[i] : encoded.offsets[i + 1]].tolist() == own
        assert encoded.lengths[i] == len(own)


def test_a_batch_is_padded_on_the_right_to_its_own_longest_text(sentiment):
    encoded = sentiment.encode("train")
    index = torch.tensor([7, 3, 150])
    batch = encoded.batch(index)
    own = sentiment.tokenizer(
        [sentiment.texts("train")[i] for i in index], padding=True, padding_side="right", return_tensors="pt"
    )
    assert torch.equal(batch["input_ids"], own["input_ids"])
    assert torch.equal(batch["attention_mask"], own["attention_mask"])
    assert torch.equal(batch["labels"], sentiment.targets("train")[index])
    assert torch.equal(batch["index"], index)
    assert "token_type_ids" not in batch


def test_texts_are_cut_to_max_length_and_a_lone_text_is_one_text():
    task = load_task("sentiment", max_length=8)
    encoded = task.encode_texts(["word " * 50, "short"])
    assert encoded.lengths.tolist()[0] == 8
    assert len(task.encode_texts("a single text")) == 1
    assert encoded.labels is None
    assert "labels" not in encoded.batch(torch.tensor([0]))


@pytest.mark.parametrize("seed", [0, 1])
def test_length_bucketed_batches_hold_every_text_once_with_little_padding(seed):
    lengths = torch.randint(4, 60, (5003,), generator=torch.Generator().manual_seed(seed))
    batches = length_bucketed_batches(lengths, 32, torch.Generator().manual_seed(seed))
    assert torch.cat(batches).sort().values.tolist() == list(range(5003))
    assert sorted({len(b) for b in batches}) == [5003 % 32, 32]
    padded = sum(len(b) * int(lengths[b].max()) for b in batches)
    assert 1 - int(lengths.sum()) / padded < 0.05
    at_random = sum(len(b) * int(lengths[b].max()) for b in torch.arange(5003).split(32))
    assert 1 - int(lengths.sum()) / at_random > 0.4  # what bucketing saves


def test_length_bucketed_batches_depend_on_the_seed_alone_and_are_not_in_order_of_length():
    lengths = torch.arange(4000) % 50 + 3

    def batches(seed):
        return length_bucketed_batches(lengths, 8, torch.Generator().manual_seed(seed))

    assert all(torch.equal(a, b) for a, b in zip(batches(5), batches(5), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(batches(5), batches(6), strict=True))
    means = torch.stack([lengths[b].float().mean() for b in batches(5)])
    position = torch.arange(len(means)).float()
    assert torch.corrcoef(torch.stack([means, position]))[0, 1].abs() < 0.15


def test_without_a_generator_batches_run_from_the_longest_text_to_the_shortest():
    lengths = torch.tensor([3, 9, 5, 9, 4])
    assert [b.tolist() for b in length_bucketed_batches(lengths, 2)] == [[1, 3], [2, 4], [0]]


def test_masking_follows_berts_80_10_10_and_spares_special_tokens_and_padding(sentiment):
    tokenizer, encoded = sentiment.tokenizer, sentiment.encode("train")
    batch = encoded.batch(torch.arange(200).repeat(20))
    before = batch["input_ids"].clone()
    masked = mask_tokens(batch, tokenizer, 0.15, torch.Generator().manual_seed(0))
    assert torch.equal(batch["input_ids"], before)  # the batch itself is left alone
    chosen = masked["labels"] != IGNORED
    special = torch.isin(before, torch.tensor(tokenizer.all_special_ids))
    assert not (chosen & special).any()
    assert torch.equal(masked["labels"][chosen], before[chosen])
    assert torch.equal(masked["input_ids"][~chosen], before[~chosen])

    def within(found, total, p):  # five standard deviations of a binomial
        return abs(found - total * p) < 5 * (total * p * (1 - p)) ** 0.5

    n, candidates = int(chosen.sum()), int((~special).sum())
    assert n > 5000
    assert within(n, candidates, 0.15)
    becomes_mask = masked["input_ids"][chosen] == tokenizer.mask_token_id
    stays = masked["input_ids"][chosen] == before[chosen]
    assert within(int(becomes_mask.sum()), n, 0.8 + 0.1 / len(tokenizer))
    assert within(int(stays.sum()), n, 0.1 + 0.1 / len(tokenizer))
    others = masked["input_ids"][chosen][~becomes_mask & ~stays]
    assert within(len(others), n, 0.1)
    assert others.unique().numel() > 0.9 * len(others)  # spread over the vocabulary
    assert others.max() < len(tokenizer)


def test_masks_are_drawn_by_the_generator_alone(sentiment):
    batch = sentiment.encode("train").batch(torch.arange(16))
    a, b, c = (
        mask_tokens(batch, sentiment.tokenizer, 0.3, torch.Generator().manual_seed(s))["labels"]
        for s in (1, 1, 2)
    )
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


# ----------------------------------------------------------------------- parts of a task


def test_rows_of_a_split_are_picked_by_number_and_keep_what_belongs_to_them():
    part = load_task("valence").split("validation")
    few = part.select(torch.tensor([7, 0, 3]))
    assert list(few.texts[0]) == [part.texts[0][i] for i in (7, 0, 3)]
    assert torch.equal(few.targets, part.targets[[7, 0, 3]])
    assert list(few.domains) == [part.domains[i] for i in (7, 0, 3)]
    assert len(part) == 1453


def test_a_sample_is_the_same_at_the_same_seed_and_all_rows_if_there_are_fewer(sentiment):
    part = sentiment.split("train")
    assert part.sample(20, seed=3).texts == part.sample(20, seed=3).texts != part.sample(20, seed=4).texts
    assert part.sample(999).texts[0] == list(part.texts[0])


def test_a_subset_draws_training_examples_and_keeps_their_targets(sentiment):
    full = load_task("sentiment")
    label_of = dict(zip(full.texts("train"), full.targets("train").tolist(), strict=True))
    small = full.subset(50, seed=3)
    assert len(small.texts("train")) == 50
    assert [label_of[t] for t in small.texts("train")] == small.targets("train").tolist()
    assert small.texts("train") == full.subset(50, seed=3).texts("train")
    assert small.texts("train") != full.subset(50, seed=4).texts("train")
    assert small.texts("test") == full.texts("test")
    assert small.encode("train").lengths.tolist() == full.encode_texts(small.texts("train")).lengths.tolist()


def test_a_subset_of_another_split_leaves_the_training_split_whole(sentiment):
    small = sentiment.subset(30, seed=3, split="test")
    assert len(small.split("test")) == 30 and small.name == f"{sentiment.name}[30 of test, seed 3]"
    assert small.texts("train") == sentiment.texts("train")
    whole = dict(zip(sentiment.texts("test"), sentiment.targets("test").tolist(), strict=True))
    assert [whole[text] for text in small.texts("test")] == small.targets("test").tolist()
    with pytest.raises(KDTutorError, match="test examples: no subset of 5000 can be drawn"):
        sentiment.subset(5000, split="test")


@pytest.mark.parametrize("n", [0, -1, 201])
def test_a_subset_that_can_not_be_drawn_is_refused(sentiment, n):
    with pytest.raises(KDTutorError, match=f"200 training examples.*{n}"):
        sentiment.subset(n)


def test_a_transfer_set_keeps_all_texts_and_hides_all_but_some_labels(sentiment):
    transfer = sentiment.transfer(labelled=30, seed=1)
    hidden = transfer.targets("train") == IGNORED
    assert transfer.texts("train") == sentiment.texts("train")
    assert int((~hidden).sum()) == 30
    assert torch.equal(transfer.targets("train")[~hidden], sentiment.targets("train")[~hidden])
    assert torch.equal(transfer.targets("test"), sentiment.targets("test"))
    assert (sentiment.targets("train") != IGNORED).all()  # the original is untouched

    labelled = transfer.labelled_only()
    kept = (~hidden).nonzero()[:, 0].tolist()
    assert labelled.texts("train") == [sentiment.texts("train")[i] for i in kept]
    assert labelled.targets("train").tolist() == sentiment.targets("train")[kept].tolist()
    assert (labelled.encode("train").labels != IGNORED).all()


def test_a_transfer_set_needs_labels_to_hide(sentiment):
    with pytest.raises(KDTutorError, match="201 labelled"):
        sentiment.transfer(labelled=201)
    with pytest.raises(KDTutorError, match=r"valence.*regression"):
        load_task("valence").transfer(10)


@pytest.fixture
def pooled(sentiment):
    """A task with a pool: 50 of its training texts, kept apart."""
    train = sentiment.split("train")
    parts = {"train": train.select(torch.arange(150)), "pool": train.select(torch.arange(150, 200))}
    return replace(sentiment, splits=sentiment.splits | parts)


def test_the_pool_joins_the_training_texts_without_its_labels(pooled, sentiment):
    task = pooled.with_pool()
    assert task.texts("train") == sentiment.texts("train")
    assert torch.equal(task.targets("train")[:150], sentiment.targets("train")[:150])
    assert (task.targets("train")[150:] == IGNORED).all()
    assert torch.equal(pooled.with_pool(labels=True).targets("train"), sentiment.targets("train"))
    assert task.labelled_only().texts("train") == pooled.texts("train")
    assert (pooled.targets("pool") != IGNORED).all()  # the original is untouched


def test_a_folder_with_a_card_is_the_task_that_ships():
    from kdtutor.assets import verified

    task = load_task(verified("data/valence"))
    assert task.fingerprint == load_task("valence").fingerprint and task.name == "valence"


def test_few_labels_and_the_whole_pool(pooled):
    task = pooled.subset(20, seed=1).with_pool()
    assert (task.targets("train") != IGNORED).sum() == 20 and len(task.split("train")) == 70


def test_a_student_may_learn_from_the_pool_alone(pooled):
    task = pooled.train_on("pool")
    assert task.texts("train") == pooled.texts("pool") and task.texts("test") == pooled.texts("test")
    assert task.name != pooled.name


def test_a_task_without_a_pool_says_which_splits_there_are(sentiment):
    with pytest.raises(KDTutorError, match=r'unknown split of .* "pool"; there are: '):
        sentiment.with_pool()


def test_a_split_is_a_dataset_for_the_trainer(sentiment):
    from datasets import ClassLabel

    dataset = sentiment.dataset("train")
    assert dataset.column_names == ["text", "label"]
    assert dataset.features["label"] == ClassLabel(names=["negative", "positive"])
    assert dataset["text"][:] == sentiment.texts("train")
    assert dataset["label"][:] == sentiment.targets("train").tolist()
    hidden = sentiment.transfer(20).dataset("train")
    assert hidden["label"][:].count(IGNORED) == 180

    valence = load_task("valence").dataset("test")
    assert valence.column_names == ["text", "label", "domain"]
    assert valence.features["label"].dtype == "float32"


# ----------------------------------------------------------------------- fingerprints


def test_a_fingerprint_changes_with_any_text_label_or_name_and_with_nothing_else(sentiment):
    train = sentiment.split("train")

    def with_train(**changes) -> str:
        return replace(sentiment, splits={**sentiment.splits, "train": replace(train, **changes)}).fingerprint

    texts, targets = list(train.texts[0]), train.targets.clone()
    targets[17] = 1 - targets[17]
    moved = [texts[0] + "\x00" + texts[1], *texts[2:]]  # the same characters, cut elsewhere
    different = [
        with_train(texts=([*texts[:-1], texts[-1] + "."],)),
        with_train(texts=(moved,), targets=train.targets),
        with_train(targets=targets),
        replace(sentiment, labels=("neg", "pos")).fingerprint,
        replace(sentiment, max_length=64).fingerprint,
    ]
    assert len({sentiment.fingerprint, *different}) == 6
    assert with_train(texts=(list(texts),), encodings={}) == sentiment.fingerprint


def test_a_fingerprint_does_not_depend_on_what_the_tokenizer_did_before(sentiment):
    before = replace(sentiment).fingerprint
    sentiment.tokenizer(["a", "b c"], truncation=True, max_length=5, padding="max_length")
    assert replace(sentiment).fingerprint == before


def test_a_fingerprint_is_the_same_in_another_process(sentiment):
    code = "from kdtutor.data import load_task; print(load_task('sentiment').subset(200).fingerprint)"
    environment = {**os.environ, "PYTHONHASHSEED": "12345"}
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300
    )
    assert result.stdout.strip() == sentiment.fingerprint, result.stderr


# ----------------------------------------------------------------------- a learner's own files


def write_csv(table, path):
    from pyarrow import csv

    csv.write_csv(table, path)


def write_jsonl(table, path):
    path.write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()), encoding="utf-8")


WRITERS = {"csv": write_csv, "jsonl": write_jsonl, "json": write_jsonl, "parquet": parquet.write_table}


@pytest.mark.parametrize("kind", WRITERS)
def test_a_file_becomes_a_task_cut_into_three_parts(tmp_path, kind):
    path = tmp_path / f"films.{kind}"
    WRITERS[kind](rows(), path)
    task = load_task(path, text="review", label="verdict", seed=1)
    assert (task.name, task.kind, task.labels) == ("films", "classification", ("bad", "good"))
    assert [len(task.texts(s)) for s in task.split_names] == [32, 4, 4]
    assert sorted(t for s in task.split_names for t in task.texts(s)) == sorted(TEXTS)
    truth = dict(zip(TEXTS, LABELS, strict=True))
    for split in task.split_names:
        assert [task.labels[i] for i in task.targets(split)] == [truth[t] for t in task.texts(split)]
    again = load_task(str(path), text="review", label="verdict", seed=1)
    assert again.fingerprint == task.fingerprint


def test_a_folder_of_files_named_by_split_keeps_its_own_cut(tmp_path):
    for n, (split, kind) in enumerate([("train", "csv"), ("validation", "jsonl"), ("test", "parquet")]):
        WRITERS[kind](rows(t=TEXTS[n : n + 4], y=LABELS[n : n + 4]), tmp_path / f"{split}.{kind}")
    task = load_task(tmp_path, text="t", label="y")
    assert task.texts("validation") == TEXTS[1:5]
    assert task.targets("test").tolist() == [0, 1, 0, 1]
    (tmp_path / "train.csv").unlink()
    assert "can't load the task in the folder" in refused(tmp_path, text="t", label="y")


def test_pairs_of_texts_are_told_apart_by_token_types(tmp_path):
    path = tmp_path / "pairs.parquet"
    parquet.write_table(rows(a=TEXTS, b=TEXTS[::-1], same=[0, 1] * 20), path)
    task = load_task(path, text="a", pair="b", label="same")
    encoded, texts = task.encode("train"), task.split("train").texts
    own = task.tokenizer(texts[0][:3], texts[1][:3], padding=True, return_tensors="pt")
    batch = encoded.batch(torch.arange(3))
    for name in ("input_ids", "token_type_ids", "attention_mask"):
        assert torch.equal(batch[name], own[name])
    assert batch["token_type_ids"].any()
    assert task.dataset("test").column_names == ["text", "text_pair", "label"]


def test_a_file_without_labels_is_raw_text(tmp_path):
    task = load_task(csv_file(tmp_path, "line", *TEXTS), text="line")
    assert (task.kind, task.labels, task.targets("train")) == ("masked-lm", (), None)
    assert "labels" not in task.encode("train").batch(torch.tensor([0]))


def test_a_long_text_for_masked_lm_is_split_and_nothing_of_it_is_lost(tmp_path):
    words = " ".join(f"word{i} the cat" for i in range(40))
    (tmp_path / "mine.csv").write_text(
        "text\n"
        + "".join(f"a short text of {i}\n" for i in range(20))
        + "".join(f"{i} {words}\n" for i in range(10))
    )
    task = load_task(tmp_path / "mine.csv", text="text", max_length=16, stratify=True)
    encoded, tokenizer = task.encode("train"), task.tokenizer
    rows = [encoded.batch(torch.tensor([i]))["input_ids"][0].tolist() for i in range(len(encoded))]
    assert all(len(row) <= 16 for row in rows) and len(rows) > len(task.texts("train"))
    assert all(row[0] == tokenizer.cls_token_id and row[-1] == tokenizer.sep_token_id for row in rows)
    inside = [token for row in rows for token in row[1:-1]]
    whole = tokenizer(task.texts("train"), add_special_tokens=False)["input_ids"]
    assert inside == [token for text in whole for token in text]


def test_a_long_text_of_a_labelled_task_is_cut_to_one_row_each(tmp_path):
    rows = "".join(f"{'long ' * 50}{i},{'ab'[i % 2]}\n" for i in range(20))
    (tmp_path / "mine.csv").write_text(f"text,label\n{rows}")
    task = load_task(tmp_path / "mine.csv", text="text", label="label", max_length=16, stratify=True)
    assert task.encode("train").lengths.tolist() == [16] * len(task.texts("train"))


def test_labels_with_a_fraction_are_a_regression(tmp_path):
    path = csv_file(tmp_path, "t,y", *(f"{t},{n / 4}" for n, t in enumerate(TEXTS)))
    task = load_task(path, text="t", label="y")
    assert (task.kind, task.num_labels) == ("regression", 1)
    assert task.targets("train").dtype == torch.float32


def test_whole_numbers_that_pandas_wrote_with_a_point_are_classes(tmp_path):
    path = tmp_path / "mine.parquet"
    parquet.write_table(rows(t=TEXTS, y=[float(n % 3) for n in range(40)]), path)
    task = load_task(path, text="t", label="y")
    assert (task.kind, task.labels) == ("classification", ("0", "1", "2"))


def test_a_text_may_hold_commas_quotes_and_line_breaks(tmp_path):
    odd = [text for i in range(10) for text in (f'one, "two"\nthree {i}', f"plain {i}")]
    path = tmp_path / "odd.csv"
    write_csv(rows(t=odd, y=[0, 1] * 10), path)
    task = load_task(path, text="t", label="y", stratify=True)
    assert {text for split in task.split_names for text in task.texts(split)} == set(odd)


# ----------------------------------------------------------------------- bad files


def test_a_missing_column_is_answered_with_those_there_are_nearest_first(tmp_path):
    path = csv_file(tmp_path, "verdict,review", *(f"x,{t}" for t in TEXTS))
    assert f'unknown column of {path} "reviews"; there are: review, verdict' in refused(path, text="reviews")
    assert '"verdikt"; there are: verdict, review' in refused(path, text="review", label="verdikt")
    assert '"verdict", "review"' in refused(path)  # no column named at all


def test_two_columns_of_one_name_are_refused(tmp_path):
    assert '2 columns named "t"' in refused(csv_file(tmp_path, "t,t", "a,b"), text="t")


@pytest.mark.parametrize("empty", ['""', '"   "', ""])
def test_an_empty_text_is_refused_naming_the_row_of_the_file(tmp_path, empty):
    lines = [f"{t},{y}" for t, y in zip(TEXTS, LABELS, strict=True)]
    lines[27] = f"{empty},good"
    message = refused(csv_file(tmp_path, "t,y", *lines), text="t", label="y")
    assert 'column "t", row 28: the text is empty' in message


def test_a_column_of_numbers_is_no_text(tmp_path):
    assert 'column "y", row 1' in refused(csv_file(tmp_path, "y", *"12345"), text="y")


def test_a_missing_number_is_refused_naming_the_row_of_the_file(tmp_path):
    lines = [f"{t},{n / 7}" for n, t in enumerate(TEXTS)]
    lines[33] = lines[33].split(",")[0] + ","
    path = csv_file(tmp_path, "t,y", *lines)
    assert 'column "y", row 34: the label is missing' in refused(path, text="t", label="y")


def test_a_label_that_is_neither_text_nor_number_is_refused(tmp_path):
    path = tmp_path / "lists.parquet"
    parquet.write_table(rows(t=TEXTS, y=[{"a": 1}] * 40), path)
    assert 'column "y", row 1: the label' in refused(path, text="t", label="y")
    parquet.write_table(rows(t=TEXTS, y=[0.5, float("inf")] * 20), path)
    assert 'column "y", row 2: the label' in refused(path, text="t", label="y")


def test_one_class_only_is_refused(tmp_path):
    message = refused(csv_file(tmp_path, "t,y", *(f"{t},same" for t in TEXTS)), text="t", label="y")
    assert 'column "y" has one class only ("same")' in message


def test_a_label_seen_only_in_the_test_part_is_refused_by_name(tmp_path):
    for split in ("train", "validation", "test"):
        write_csv(rows(t=TEXTS, y=LABELS), tmp_path / f"{split}.csv")
    write_csv(rows(t=TEXTS, y=[*LABELS[:-1], "superb"]), tmp_path / "test.csv")
    message = refused(tmp_path, text="t", label="y")
    assert 'column "y": the test part has labels never seen in training ("superb")' in message


def test_a_file_too_short_to_be_cut_is_refused(tmp_path):
    assert "has 2 rows with 2 different texts, too few" in refused(
        csv_file(tmp_path, "t,y", "a,0", "b,1"), text="t", label="y"
    )
    assert "has no rows" in refused(csv_file(tmp_path, "t,y"), text="t", label="y")


def test_an_unreadable_file_is_named(tmp_path):
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(b"PAR1 this is no table")
    assert f"{broken} can't be read as parquet" in refused(broken, text="t")
    array = csv_file(tmp_path, '[{"t": "a"}, {"t": "b"]', name="array.json")
    assert f"{array}, the array is no JSON" in refused(array, text="t")
    empty = csv_file(tmp_path, name="empty.csv")
    empty.write_text("")
    assert f"{empty} can't be read as csv" in refused(empty, text="t")


def test_a_missing_file_or_folder_is_named_and_not_looked_for_on_the_hub(tmp_path):
    assert f"there is no file {tmp_path / 'no.csv'}" in refused(tmp_path / "no.csv", text="t")
    assert f"there is no file or folder {tmp_path / 'no'}" in refused(tmp_path / "no", text="t")
    notes = csv_file(tmp_path, "hello", name="notes.txt")
    assert f"{notes}: files are read as .csv, .tsv, .jsonl" in refused(notes, text="t")


# ----------------------------------------------------------------------- the Hub, and its format in a local folder


def hub_folder(folder, labels=(0, 1), hidden=("test",), splits=("train", "validation", "test")):
    """A small folder in the format of a Hub dataset: Parquet files below data/, and the classes in README.md."""
    (folder / "data").mkdir(parents=True)
    for split in splits:
        y = [-1] * 40 if split in hidden else list(labels) * (40 // len(labels))
        parquet.write_table(
            rows(sentence=TEXTS, other=TEXTS[::-1], label=pa.array(y, pa.int64())),
            folder / "data" / f"{split}-00000-of-00001.parquet",
        )
    names = "\n".join(
        f"          '{i}': {name}" for i, name in enumerate(("negative", "neutral", "positive")[:3])
    )
    (folder / "README.md").write_text(
        "---\ndataset_info:\n  features:\n  - name: sentence\n    dtype: string\n  - name: other\n    dtype: string\n"
        f"  - name: label\n    dtype:\n      class_label:\n        names:\n{names}\n---\n# Small\n"
    )
    return folder


@pytest.fixture(autouse=True)
def datasets_cache(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


def test_a_hub_task_whose_test_labels_are_secret_is_tested_on_its_validation_part(tmp_path, monkeypatch):
    folder = hub_folder(tmp_path / "glue", labels=(0, 2, 1, 0))
    monkeypatch.setitem(data.HUB, "sst2", (str(folder), "", ("sentence",), "label", "validation"))
    task = load_task("sst2")
    assert (task.name, task.labels) == ("sst2", ("negative", "neutral", "positive"))
    assert task.texts("test") == TEXTS
    assert task.targets("test").tolist()[:4] == [0, 2, 1, 0]
    assert len(task.texts("train")) + len(task.texts("validation")) == 40
    assert len(task.texts("validation")) == 2
    assert all(int(task.targets(s).min()) >= 0 for s in task.split_names)


def test_hidden_labels_never_become_a_class(tmp_path):
    folder = hub_folder(tmp_path / "hidden", labels=(-1, 0, 1, 1))  # as SNLI has them in every part
    assert "the test part of" in refused(folder, text="sentence", label="label")
    assert "every label is hidden (-1)" in refused(folder, text="sentence", label="label")
    folder = hub_folder(tmp_path / "some", labels=(-1, 0, 2, 2), hidden=())
    task = load_task(folder, text="sentence", label="label")
    # An index keeps its name, even if one is never used.
    assert task.labels == ("negative", "neutral", "positive")
    assert task.targets("train").tolist() == [0, 2, 2] * 10
    assert task.texts("train")[:3] == TEXTS[1:4]


def test_a_folder_in_the_hubs_format_is_a_task_pairs_too(tmp_path):
    folder = hub_folder(tmp_path / "pairs", hidden=(), splits=("train", "test"))
    task = load_task(str(folder), text="sentence", pair="other", label="label")
    assert task.name == "pairs"
    assert task.split("test").texts == (TEXTS, TEXTS[::-1])
    assert [len(task.texts(s)) for s in task.split_names] == [38, 2, 40]
    assert "unknown column of" in refused(folder, text="sentense", label="label")
    assert 'which column holds the text? Say text="…" (--text …); its columns are "sentence"' in refused(
        folder
    )


def test_a_hub_folder_without_a_train_part_is_refused(tmp_path):
    folder = hub_folder(tmp_path / "half", splits=("test",))
    assert '"train"; there are: test' in refused(folder, text="sentence", label="label")


def test_raw_text_from_the_hub_comes_without_blank_lines_and_headings(tmp_path, monkeypatch):
    folder = tmp_path / "wiki"
    folder.mkdir()
    lines = ["", " = Heading = ", *TEXTS]
    for split in ("train", "validation", "test"):
        parquet.write_table(rows(text=lines), folder / f"{split}-00000-of-00001.parquet")
    monkeypatch.setitem(data.HUB, "wikitext", (str(folder), "", ("text",), None, "test"))
    task = load_task("wikitext")
    assert (task.kind, task.texts("train")) == ("masked-lm", TEXTS)


def test_a_folder_that_is_no_data_set_is_named(tmp_path):
    (tmp_path / "empty").mkdir()
    assert f"can't load the task in the folder {tmp_path / 'empty'}" in refused(tmp_path / "empty", text="t")


@pytest.mark.parametrize("offline", [True, False], ids=["HF_HUB_OFFLINE=1", "no network"])
def test_without_a_network_a_hub_name_gets_one_sentence_soon(monkeypatch, offline):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # where nobody answers
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", offline)
    start = time.monotonic()
    message = refused("sst2")
    assert time.monotonic() - start < 15
    assert (
        'can\'t load the task "sst2" (tried: a folder of that name, the local cache, http://127.0.0.1:9; '
        in message
    )
    assert 'to go on offline, take what ships, such as the task "supersense"' in message
    with pytest.raises(KDTutorError, match=r'the tokenizer "bert-base-uncased" \(tried'):
        load_tokenizer("bert-base-uncased")
    assert constants.HF_HUB_OFFLINE is offline  # what was set stays set


def test_a_name_that_is_slow_to_look_up_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(hub.urllib.request, "urlopen", lambda *_, **__: time.sleep(60) or io.BytesIO())
    start = time.monotonic()
    assert hub.ask("https://example.invalid", seconds=0.2) == (False, "no answer in 0.2 s")
    assert time.monotonic() - start < 10


# ----------------------------------------------------------------------- tokenizers


def test_another_tokenizer_may_be_given_by_its_folder(tmp_path, sentiment):
    from transformers import BertTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "film"]
    BertTokenizerFast(vocab={w: i for i, w in enumerate(words)}).save_pretrained(tmp_path / "small")
    task = load_task("sentiment", tokenizer=str(tmp_path / "small"))
    assert task.encode_texts(["A film"]).ids.tolist() == [2, 5, 6, 3]
    assert task.fingerprint != load_task("sentiment").fingerprint
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    with pytest.raises(KDTutorError, match=r"bare.* has no vocabulary.*tokenizer\.json"):
        load_tokenizer(tmp_path / "bare")
    (tmp_path / "small" / "tokenizer.json").write_text("{ not json")
    with pytest.raises(KDTutorError, match="can't load the tokenizer in the folder"):
        load_tokenizer(tmp_path / "small")


class Hostile:
    """Unpickling this writes a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (open, (self.path, "w"))


def test_no_code_that_lies_beside_data_or_tokenizer_is_run(tmp_path):
    trace = tmp_path / "trace"
    folder = hub_folder(tmp_path / "evil", hidden=())
    script = f"open({str(trace)!r}, 'w')\n"
    (folder / "evil.py").write_text(script)
    assert "evil.py" in refused(folder, text="sentence", label="label")
    bare = tmp_path / "script"
    bare.mkdir()
    (bare / "script.py").write_text(script)
    (bare / "data.pkl").write_bytes(pickle.dumps(Hostile(trace)))
    refused(bare, text="sentence")

    tokenizer = tmp_path / "tokenizer"
    tokenizer.mkdir()
    (tokenizer / "code.py").write_text(script + "class Evil:\n    pass\n")
    settings = {"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": ["code.Evil", "code.Evil"]}}
    (tokenizer / "tokenizer_config.json").write_text(json.dumps(settings))
    (tokenizer / "config.json").write_text(
        json.dumps({"model_type": "evil", "auto_map": {"AutoConfig": "code.Evil"}})
    )
    with pytest.raises(KDTutorError, match="can't load the tokenizer in the folder"):
        load_tokenizer(tokenizer)
    assert not trace.exists()
    pickle.loads(pickle.dumps(Hostile(trace)))
    assert trace.exists()  # the trap itself works


def test_encoded_texts_without_pairs_need_no_types():
    encoded = Encoded(
        torch.tensor([5, 6, 7], dtype=torch.int32), torch.tensor([0, 1, 3]), torch.tensor([1, 0]), pad=9
    )
    batch = encoded.batch(torch.tensor([0, 1]))
    assert batch["input_ids"].tolist() == [[5, 9], [6, 7]]
    assert batch["attention_mask"].tolist() == [[1, 0], [1, 1]]
    assert batch["input_ids"].dtype == batch["attention_mask"].dtype == torch.int64


def test_it_is_said_where_a_tokenizer_can_not_read_the_texts():
    texts = [f"这家餐厅的汤很好喝 {n}" for n in range(60)]
    task = load_task(texts)
    with pytest.warns(
        UserWarning, match=r"8\d% of the tokens of own, train split, are \[UNK\]: .* --tokenizer"
    ):
        task.encode("train")
    with warnings.catch_warnings(action="error"):
        task.encode("train")  # once
        load_task([f"a dish of fish, number {n}" for n in range(60)]).encode("train")


@pytest.mark.parametrize(
    ("option", "value"),
    [("text", 3), ("label", []), ("label", 1), ("label", ["a", 3]), ("pair", ""), ("separator", ""), ("encoding", 8),
     ("quote", 3), ("seed", "x"), ("stratify", "no"), ("max_length", "24"), ("max_length", 24.5), ("kind", 3)],
)  # fmt: skip
def test_what_an_option_may_not_be_is_one_sentence(option, value):
    said = refused([(f"a text {n}", "ab"[n % 2]) for n in range(90)], **{option: value})
    assert said.startswith(option) and "\n" not in said


def test_a_tokenizer_is_named_not_handed_over(sentiment):
    said = refused([("a text", "b")], tokenizer=sentiment.tokenizer)
    assert said.startswith(
        "tokenizer must be a name or a folder, as tokenizer.save_pretrained(folder) makes one"
    )


def test_what_is_no_text_and_no_number_of_texts_is_one_sentence(sentiment):
    for texts in (None, [1, 2], 7, ["a", None]):
        assert "texts are one str or a list of them" in refusal(sentiment.encode_texts, texts)
    for n in (0.5, "5", None):
        assert "no subset of" in refusal(sentiment.subset, n)
