"""The words and phonemes that ship, their splits by family, their tokenizer, and texts to be written of one's own."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from helpers import refusal

import kdtutor as kd
from kdtutor.data.load import load_task

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))
import pronunciation


@pytest.fixture(scope="module")
def task():
    return load_task("pronunciation")


def test_words_and_their_phonemes_are_in_fixed_splits(task):
    assert {name: len(task.split(name)) for name in task.splits} == {
        "train": 99865,
        "validation": 12457,
        "test": 12602,
    }
    words = [word for name in task.splits for word in task.texts(name)]
    assert len({*words}) == len(words)
    spoken = {word: said for name in task.splits for word, said in zip(*task.split(name).texts, strict=True)}
    assert spoken["hello"] == "HH AH L OW"
    assert spoken["running"] == "R AH N IH NG"
    assert len({phoneme for said in spoken.values() for phoneme in said.split()}) == 39


def test_no_family_of_words_is_in_two_splits(task):
    families = {name: {pronunciation.family(word) for word in task.texts(name)} for name in task.splits}
    assert not families["train"] & families["test"]
    assert not families["train"] & families["validation"]
    assert not families["validation"] & families["test"]


@pytest.mark.parametrize(
    "words",
    ["run runs running runner runner's", "make makes making maker", "happy happier happily happiness", "agree agreed",
     "nation nations national nationality", "stop stopped stopping", "city cities", "box boxes"],
)  # fmt: skip
def test_the_forms_of_a_word_are_one_family(words):
    assert len({pronunciation.family(word) for word in words.split()}) == 1


def test_letters_and_phonemes_are_tokens_and_each_text_has_its_end(task):
    tokenizer = task.tokenizer
    assert len(tokenizer) == 4 + 27 + 39
    ids = tokenizer("can't")["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == ["c", "a", "n", "'", "t", "[EOS]"]
    few = task.subset(500)
    encoded = few.encode("train")
    batch = encoded.batch(torch.tensor([0]))
    word, said = (column[0] for column in few.split("train").texts)
    assert tokenizer.decode(batch["target_ids"][0], skip_special_tokens=True) == said
    assert tokenizer.convert_ids_to_tokens(batch["input_ids"][0].tolist()) == [*word, "[EOS]"]
    # Nothing is cut off: a phoneme is a token, and there is one more for the end.
    phonemes = [len(said.split()) for name in task.splits for said in task.split(name).texts[1]]
    assert max(phonemes) + 1 < task.max_length
    assert (encoded.written.lengths - 1).tolist() == [
        len(text.split()) for text in few.split("train").texts[1]
    ]


def test_a_subset_keeps_words_and_phonemes_together(task):
    some = task.subset(50, seed=3)
    spoken = dict(zip(*task.split("train").texts, strict=True))
    assert all(spoken[word] == said for word, said in zip(*some.split("train").texts, strict=True))


def test_a_file_of_texts_and_answers_is_a_task_and_each_text_is_in_one_part(tmp_path, capsys):
    rows = [{"en": f"word {n % 150} here", "fr": f"mot {n}"} for n in range(300)]
    file = tmp_path / "mine.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    task = load_task(file, text="en", label="fr", kind="seq2seq")
    assert task.kind == "seq2seq"
    assert "300 rows" in capsys.readouterr().out
    sources = {name: {*task.texts(name)} for name in task.splits}
    assert not sources["train"] & (sources["validation"] | sources["test"])
    assert sum(len(task.split(name)) for name in task.splits) == 300
    assert (
        load_task([("a b", "c"), *((f"d {n}", f"e {n}") for n in range(60))], kind="seq2seq").kind
        == "seq2seq"
    )
    assert "reads one column and writes another" in refusal(load_task, file, text="en", kind="seq2seq")


def test_translations_in_a_folder_as_the_hub_has_them(tmp_path, monkeypatch):
    from datasets import Dataset, DatasetDict, config

    monkeypatch.setattr(config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    rows = [{"id": str(n), "translation": {"en": f"one {n}", "fr": f"un {n}"}} for n in range(40)]
    parts = {
        name: Dataset.from_list(rows[first::3]) for first, name in enumerate(("train", "validation", "test"))
    }
    DatasetDict(parts).save_to_disk(tmp_path / "books")
    task = load_task(str(tmp_path / "books"), text="translation.en", label="translation.fr", kind="seq2seq")
    assert [column[0] for column in task.split("train").texts] == ["one 0", "un 0"]


def test_translations_that_come_in_one_part_are_cut(monkeypatch):
    from datasets import Dataset, DatasetDict

    rows = [{"id": str(n), "translation": {"en": f"one {n}", "fr": f"un {n}"}} for n in range(200)]
    raw = DatasetDict({"train": Dataset.from_list(rows)})
    monkeypatch.setattr("kdtutor.data.load._fetch", lambda name, path, configuration: raw)
    columns = {"text": "translation.en", "label": "translation.fr"}
    task = load_task("owner/opus_books:en-fr", kind="seq2seq", **columns)
    sizes = {name: len(task.split(name)) for name in task.splits}
    assert sum(sizes.values()) == 200
    assert min(sizes.values()) > 5
    spoken = dict(zip(*task.split("test").texts, strict=True))
    assert all(answer == text.replace("one", "un") for text, answer in spoken.items())


def test_translations_have_a_short_name_and_are_to_be_written(monkeypatch):
    from datasets import Dataset, DatasetDict

    rows = [{"id": str(n), "translation": {"en": f"one {n}", "fr": f"un {n}"}} for n in range(100)]
    asked = []

    def fetch(*names):
        asked.append(names)
        return DatasetDict({"train": Dataset.from_list(rows)})

    monkeypatch.setattr("kdtutor.data.load._fetch", fetch)
    task = load_task("opus_books")
    assert asked == [("opus_books", "Helsinki-NLP/opus_books", "en-fr")]
    assert task.kind == "seq2seq" and task.texts("test")
    assert dict(zip(*task.split("test").texts, strict=True))[task.texts("test")[0]].startswith("un ")


def test_a_folder_with_configurations_wants_one_and_lists_them(tmp_path, monkeypatch):
    import pyarrow
    import pyarrow.parquet
    from datasets import config

    monkeypatch.setattr(config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    folder = Path("opus_books")
    lines = ["---", "configs:"]
    for name in ("de-en", "en-fr"):
        (folder / name).mkdir(parents=True)
        first, second = name.split("-")
        rows = [{first: f"{first} {n}", second: f"{second} {n}"} for n in range(60)]
        table = pyarrow.table({"id": [str(n) for n in range(60)], "translation": rows})
        pyarrow.parquet.write_table(table, folder / name / "train-00000-of-00001.parquet")
        lines += [f"- config_name: {name}", "  data_files:", "  - split: train", f"    path: {name}/train-*"]
    (folder / "README.md").write_text("\n".join([*lines, "---", ""]), encoding="utf-8")

    columns = {"text": "translation.en", "label": "translation.fr", "kind": "seq2seq"}
    for place in ("./opus_books", str(folder.resolve())):
        task = load_task(f"{place}:en-fr", **columns)
        assert task.texts("test")[0].startswith("en ") and task.name == "opus_books:en-fr"
        assert refusal(load_task, place, **columns) == (
            f'unknown configuration of {place} ""; there are: de-en, en-fr; name one, as in "{place}:de-en"'
        )
    assert 'unknown configuration of ./opus_books "fr-en"; there are: de-en, en-fr;' in refusal(
        load_task, "./opus_books:fr-en", **columns
    )
    assert "there is no file or folder" in refusal(load_task, "./books:en-fr", **columns)


def test_capitals_in_what_is_read_are_small_letters_and_in_what_is_written_phonemes(tmp_path):
    task = kd.load_task("pronunciation")
    words = ("vision", "Vision", "VISION", "AH", "ah")
    ids = [task.encode_texts([word]).ids.tolist() for word in words]
    assert ids[0] == ids[1] == ids[2] and ids[3] == ids[4]
    assert task.tokenizer.unk_token_id not in ids[2]
    both = task.rules.tokenize(task.tokenizer, (["AH"], ["AH"]), 32)
    assert both.written.ids.tolist()[:1] == task.tokenizer.convert_tokens_to_ids(["AH"])
    assert both.ids.tolist() == ids[4]
    # Also where the task was saved and loaded, and by the teacher that ships.
    kd.save_task(task.subset(4), tmp_path / "words")
    assert kd.load_task(str(tmp_path / "words")).encode_texts(["VISION"]).ids.tolist() == ids[0]
    teacher = kd.load_teacher(task)
    assert len({*kd.generate(teacher, task, ["vision", "Vision", "VISION"])}) == 1
