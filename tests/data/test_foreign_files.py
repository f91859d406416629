"""Files that aren't what their names say, or are written as few are: read, or refused with what would be right."""

from __future__ import annotations

import bz2
import io
import json
import lzma
import zipfile
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch
from helpers import refusal
from pyarrow import parquet
from test_own_data import CSV, LINES, OBJECTS, TEXTS, WORDS, csv_with, load, rows_of, write

import kdtutor as kd
from kdtutor.cli.arguments import DataArguments
from kdtutor.cli.commands import task_of
from kdtutor.data.load import load_task

NESTED = "\n".join(json.dumps({"review": {"body": t}, "label": y}) for t, y in zip(TEXTS, WORDS, strict=True))


def zipped() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        file.writestr("mine.csv", CSV)
    return out.getvalue()


def zstd() -> bytes:
    out = pa.BufferOutputStream()
    with pa.CompressedOutputStream(out, "zstd") as file:
        file.write(CSV.encode())
    return out.getvalue().to_pybytes()


# ----------------------------------------------------------------------- what is read

SAME = {
    "mine.csv.bz2": (bz2.compress(CSV.encode()), {}),
    "mine.csv.xz": (lzma.compress(CSV.encode()), {}),
    "mine.csv.zst": (zstd(), {}),
    "excel.csv": ("sep=;\r\n" + CSV.replace(",", ";"), {}),
    "two_marks.csv": ("\ufeff\ufeff" + CSV, {}),
    "utf32.csv": (CSV.encode("utf-32"), {}),
    "utf16be.csv": (CSV.encode("utf-16-be"), {}),
    "nested.jsonl": (NESTED, {"text": "review.body"}),
}


@pytest.mark.parametrize("name", SAME)
def test_the_same_rows_are_read_however_they_are_packed(tmp_path, name):
    content, options = SAME[name]
    task = load(write(tmp_path / name, content), **options)
    assert rows_of(task) == dict(zip(TEXTS, WORDS, strict=True))


def test_a_nul_in_a_text_makes_no_other_encoding_of_the_file(tmp_path):
    task = load(write(tmp_path / "mine.csv", CSV.replace("number 3 was warm", "number\0 3 was warm")))
    assert "the soup number\0 3 was warm" in rows_of(task)


def test_values_within_values_are_named_with_a_dot(tmp_path):
    table = pa.table({"review": [{"body": t, "by": "x"} for t in TEXTS], "label": WORDS})
    parquet.write_table(table, tmp_path / "mine.parquet")
    assert rows_of(load(tmp_path / "mine.parquet", text="review.body")) == dict(
        zip(TEXTS, WORDS, strict=True)
    )
    said = refusal(load, write(tmp_path / "mine.jsonl", NESTED), text="review")
    assert '"review.body" names one of its values' in said


def test_values_of_numpy_and_torch_are_labels_as_pythons_are(tmp_path):
    for labels in (
        [np.bool_(n % 2) for n in range(80)],
        [torch.tensor(n % 2 == 1) for n in range(80)],
        [n % 2 == 1 for n in range(80)],
    ):
        assert load_task([*zip(TEXTS, labels, strict=True)]).labels == ("false", "true")


def test_a_column_of_a_frame_may_mix_words_and_numbers():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"text": TEXTS, "label": [1, "one"] * 40, "other": [object()] * 80})
    assert load(frame).labels == ("1", "one")


# ----------------------------------------------------------------------- what is no table

#: a file's name and content → what must be said
REFUSED = {
    "a workbook": ("m.xlsx", b"PK\x03\x04x", "Excel"),
    "a workbook named CSV": ("m.csv", zipped(), "an Excel workbook or a zip archive"),
    "an old workbook named CSV": ("m.csv", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 99, "Excel workbook"),
    "an archive": ("m.csv.zip", zipped(), "unpack it"),
    "lines of text": ("m.txt", "a text\nanother text\n", "named .csv"),
    "Parquet named CSV": ("m.csv", b"PAR1\x15\x04\x15\x80", "is Parquet"),
    "JSON lines named CSV": ("m.csv", LINES, "name it .jsonl"),
    "a web page": ("m.csv", "<!DOCTYPE html>\n<html>Not found, sorry</html>", "a web page"),
    "a pointer": ("m.csv", "version https://git-lfs.github.com/spec/v1\noid sha256:a\n", "git lfs pull"),
    "no header": ("m.csv", CSV.split("\n", 1)[1], "the first line is the header"),
    "a comment": ("m.csv", "# made by hand\n" + CSV, "the first line is the header"),
    "an odd delimiter": ("m.csv", CSV.replace(",", "^"), "delimiter"),
    "blanks in the header": ("m.csv", CSV.replace(",", ", "), "it is written ' label' there"),
    "a header in capitals": ("m.csv", CSV.replace("label", "Label"), "it is written 'Label' there"),
    "a key twice": ("m.jsonl", LINES + '\n{"text": "a", "label": "x", "label": "y"}', "line 81 gives label twice"),
    "an array a line": ("m.jsonl", '["a b", "x"]\n["c d", "y"]\n', "row 1 is a list, not an object"),
    "an object of objects": ("m.json", json.dumps({"a": OBJECTS[0], "b": OBJECTS[1]}), 'orient="records"'),
    "a pattern": (None, "*.csv", "one file or a folder"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_table_is_refused_with_what_would_be_right(tmp_path, case):
    name, content, said = REFUSED[case]
    message = refusal(load, write(tmp_path / name, content) if name else tmp_path / content)
    assert said in message and "\n" not in message and len(message) < 700


def test_a_name_of_many_letters_is_cut_in_the_list_of_columns(tmp_path):
    message = refusal(load, write(tmp_path / "m.csv", "x" * 5000 + ",label\na b,c\n"))
    assert "unknown column" in message and len(message) < 500


def test_python_objects_that_are_no_rows_are_refused_with_what_is(tmp_path):
    from datasets import Dataset, DatasetDict

    dataset = Dataset.from_list(OBJECTS)
    assert "take(" in refusal(load, dataset.to_iterable_dataset())
    assert "list(zip(texts, labels))" in refusal(load, np.array(OBJECTS))
    assert 'unknown part of your rows "train"; there are: ' in refusal(
        load, DatasetDict(a=dataset, b=dataset)
    )


# ----------------------------------------------------------------------- labels that look wrong


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (["good", "good\u200b", "bad", "bad"], "'good' and 'good\\u200b'"),
        (["café", "cafe\u0301", "tea", "tea"], "can't be told apart by eye"),
        (["NaN", "good", "bad", "bad"], "NaN may stand for a missing label: leave such cells empty"),
        (["?", "good", "bad", "bad"], "? may stand for a missing label"),
    ],
)
def test_labels_that_look_alike_or_like_none_are_named(tmp_path, capsys, labels, said):
    load(csv_with(tmp_path / "mine.csv", labels * 20))
    assert f"WARNING: {''}" in (printed := capsys.readouterr().out) and said in printed


def test_decimal_commas_are_named(tmp_path):
    table = "text;label\n" + "".join(f"{t};{n},5\n" for n, t in enumerate(TEXTS))
    said = refusal(load, write(tmp_path / "mine.csv", table), kind="regression")
    assert "row 1: the label is no finite number, 0.5 with a decimal point, ('0,5')" in said


def test_letters_that_were_read_in_another_encoding_before_are_said(tmp_path, capsys):
    load(csv_with(tmp_path / "mine.csv", WORDS, [f"cafÃ© number {n}" for n in range(80)]))
    assert "WARNING: 80 of 80 texts hold letters such as “cafÃ©" in capsys.readouterr().out
    load(
        csv_with(
            tmp_path / "mine.csv",
            WORDS,
            [f"Über São Paulo, â bientôt {n}".replace(",", "") for n in range(80)],
        )
    )
    assert "letters such as" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("labels", "separator"),
    [(["food|staff", "food", "staff", "price|food"], "|"), (["food, staff", "staff", "food", "food"], ",")],
)
def test_a_class_that_looks_like_several_labels_is_named(tmp_path, capsys, labels, separator):
    cells = [f'"{label}"' for label in labels * 20]
    task = load(csv_with(tmp_path / "mine.csv", cells))
    said = f"WARNING: '{labels[0]}' is taken as one class: does it stand for several? separator='{separator}'"
    assert said in capsys.readouterr().out and task.kind == "classification"
    assert load(tmp_path / "mine.csv", separator=separator).labels[0] == "food"
    assert "is taken as one" not in capsys.readouterr().out
    for sound in (["Paris, France", "Lyon, France"], ["1,5", "1", "5", "2"]):
        load(csv_with(tmp_path / "mine.csv", [f'"{label}"' for label in sound * (80 // len(sound))]))
        assert "is taken as one" not in capsys.readouterr().out


def test_lists_of_one_label_are_multi_label_and_may_be_read_as_classes(capsys):
    rows = [(text, [label]) for text, label in zip(TEXTS, WORDS, strict=True)]
    assert load_task(rows).kind == "multi-label"
    assert '(each text has one: kind="classification", --kind classification' in capsys.readouterr().out
    assert rows_of(load_task(rows, kind="classification")) == dict(zip(TEXTS, WORDS, strict=True))
    rows[7] = (TEXTS[7], ["good", "bad"])
    assert "has several labels per text" in refusal(load_task, rows, kind="classification")


@pytest.mark.parametrize("yes, no", [(1, 0), (1.0, 0.0), (True, False), ("1", "0")])
def test_lists_of_0_and_1_are_marks_of_labels_by_their_place(tmp_path, yes, no):
    marks = [(yes, no, yes), (no, no, no), (no, yes, no), (no, no, no)] * 20
    expected = {text: [float(mark is yes) for mark in row] for text, row in zip(TEXTS, marks, strict=True)}
    parquet.write_table(pa.table({"text": TEXTS, "label": marks}), tmp_path / "mine.parquet")
    for task in (load_task([*zip(TEXTS, map(list, marks), strict=True)]), load(tmp_path / "mine.parquet")):
        assert (task.kind, task.labels) == ("multi-label", ("0", "1", "2"))
        assert (
            "for each label by its place" in "\n".join(task.notes)
            and "each text has one" not in task.notes[1]
        )
        for split in task.split_names:
            for text, target in zip(task.texts(split), task.targets(split).tolist(), strict=True):
                assert target == expected[text]


def test_a_header_in_the_middle_is_no_row(tmp_path):
    lines = CSV.split("\n")
    twice = "\n".join([*lines[:41], lines[0], *lines[41:]])
    said = refusal(load, write(tmp_path / "mine.csv", twice))
    assert "mine.csv, row 41 repeats the header" in said


# ----------------------------------------------------------------------- parts


def test_numbers_that_stand_for_other_names_in_each_file_are_matched_by_name(tmp_path):
    from datasets import ClassLabel, Dataset, Features, Value

    def named(names: list[str], words: list[str]) -> dict:
        return {"names": names, "numbers": [names.index(word) for word in words]}

    def put(file, texts, names, numbers):
        features = Features(text=Value("string"), label=ClassLabel(names=names))
        Dataset.from_dict({"text": texts, "label": numbers}, features=features).to_parquet(file)

    test = TEXTS[60:], WORDS[60:]
    put(tmp_path / "train.parquet", TEXTS[:60], **named(["bad", "good"], WORDS[:60]))
    put(tmp_path / "test.parquet", test[0], **named(["good", "bad"], test[1]))
    assert rows_of(load(tmp_path)) == dict(zip(TEXTS, WORDS, strict=True))
    (tmp_path / "test.parquet").unlink()
    csv_with(tmp_path / "test.csv", test[1], test[0])
    assert rows_of(load(tmp_path)) == dict(zip(TEXTS, WORDS, strict=True))
    csv_with(tmp_path / "test.csv", ["1", "0"] * 10, test[0])
    assert 'labels never seen in training ("0", "1")' in refusal(load, tmp_path)


def test_lists_of_labels_in_one_file_and_none_in_another_are_refused(tmp_path):
    write(tmp_path / "train.jsonl", LINES.replace('"good"', '["good"]').replace('"bad"', '["good", "bad"]'))
    write(tmp_path / "test.csv", "text,label\na text,good;bad\nanother,bad\n")
    for options in ({}, {"separator": ";"}):
        said = refusal(load, tmp_path, **options)
        assert "train.jsonl has lists of labels, and " in said and "test.csv has none" in said


@pytest.mark.parametrize(
    ("theirs", "ours", "said"),
    [
        ("good", "Good", '"Good" is "good" there'),
        ("1", "1.0", '"1.0" is "1" there'),
        ("good", "great", "in training"),
    ],
)
def test_a_label_that_training_writes_otherwise_is_named_with_its_file(tmp_path, theirs, ours, said):
    csv_with(tmp_path / "train.csv", [theirs, "bad"] * 40)
    write(tmp_path / "test.csv", f"text,label\na text,bad\nanother,{ours}\n")
    message = refusal(load, tmp_path)
    assert "test.csv, row 2: column " in message and said in message
    assert ("there" in message) == ("there" in said) and "they are numbers" not in message


def test_words_that_a_part_lacks_are_not_advised_to_be_numbers_and_decimal_commas_are_named(tmp_path):
    csv_with(tmp_path / "mine.csv", [f'"{n},5"' for n in range(80)])
    said = refusal(load, tmp_path / "mine.csv")
    assert 'or they are numbers, to be written with a decimal point: kind="regression"' in said
    csv_with(tmp_path / "mine.csv", [f"word {n}" for n in range(80)])
    assert "they are numbers" not in refusal(load, tmp_path / "mine.csv")


def test_a_header_in_another_encoding_is_said_to_be_a_guess(tmp_path):
    content = CSV.replace("text,label", "текст,метка")
    said = refusal(load, write(tmp_path / "mine.csv", content, "cp1251"), text="текст", label="метка")
    assert "read as Windows-1252, since line 1 isn't UTF-8" in said and "--encoding" in said
    task = load(tmp_path / "mine.csv", text="текст", label="метка", encoding="cp1251")
    assert rows_of(task) == dict(zip(TEXTS, WORDS, strict=True))


def test_parts_have_the_names_that_people_give_them_and_what_is_none_is_said(tmp_path, capsys):
    from datasets import Dataset, DatasetDict

    one, two = Dataset.from_list(OBJECTS[:60]), Dataset.from_list(OBJECTS[60:])
    for name in ("dev", "eval", "valid"):
        task = load(DatasetDict({"train": one, name: two, "unsupervised": one}))
        assert sorted(task.texts("validation")) == sorted(TEXTS[60:])
        assert "left out, since they are no parts: unsupervised" in capsys.readouterr().out
    lines = CSV.split("\n")
    write(tmp_path / "Train.csv", "\n".join(lines[:61]))
    write(tmp_path / "eval.csv", "\n".join([lines[0], *lines[61:]]))
    write(tmp_path / "train.jsonl", LINES)
    task = load(tmp_path)
    assert sorted(task.texts("validation")) == sorted(TEXTS[60:])
    assert "left out, since they are no parts: train.jsonl" in capsys.readouterr().out


def test_a_folder_of_files_without_names_of_parts_is_cut_as_one_file_is(tmp_path, monkeypatch):
    from datasets import config

    monkeypatch.setattr(config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    lines = CSV.split("\n")
    (tmp_path / "mine").mkdir()
    write(tmp_path / "mine" / "a.csv", "\n".join(lines[:41]))
    write(tmp_path / "mine" / "b.csv", "\n".join([lines[0], *lines[41:]]))
    task, whole = load(tmp_path / "mine"), load(write(tmp_path / "mine.csv", CSV))
    for split in ("train", "validation", "test"):
        assert sorted(task.texts(split)) == sorted(whole.texts(split))


def test_a_flag_that_cuts_is_not_advised_for_a_part_that_was_given(tmp_path):
    write(tmp_path / "train.csv", CSV)
    write(tmp_path / "test.csv", "text,label\na text,pos\nanother one,neg\n")
    message = refusal(load, tmp_path)
    assert 'the test part has labels never seen in training ("neg", "pos")' in message
    assert "stratify" not in message


def test_a_flag_that_was_given_is_not_advised(tmp_path):
    path = csv_with(tmp_path / "mine.csv", [f"class {n}" for n in range(80)])
    message = refusal(load, path, stratify=True)
    assert "a class needs 3 texts" in message and "cuts exactly" not in message


# ------------------------------------------------------------------------------- a column for each label, 0 or 1


def marked(cells: dict, **options):
    rows = {"text": [f"a review of the place, number {i}" for i in range(40)]}
    return kd.load_task(rows | cells, text="text", label=[*cells], **options)


def test_columns_of_0_and_1_are_labels_of_one_text():
    cells = {"food": [1, 0] * 20, "staff": [0, 0, 1, 1] * 10, "parking": [0] * 40}
    task = marked(cells)
    assert task.kind == "multi-label" and task.labels == ("food", "staff", "parking")
    assert "since there is a column for each label" in " ".join(task.notes)
    for split in ("train", "validation", "test"):
        for text, target in zip(task.texts(split), task.targets(split).tolist(), strict=True):
            row = int(text.rpartition(" ")[2])
            assert target == [float(column[row]) for column in cells.values()]


@pytest.mark.parametrize("pair", [("1", "0"), (1.0, 0.0), (True, False), ("TRUE", "False")])
def test_marks_may_be_written_as_tables_write_them(pair):
    yes, no = pair
    task = marked({"food": [yes, no] * 20, "staff": [no] * 39 + [yes]})
    assert sum(task.targets(split).sum() for split in ("train", "validation", "test")) == 21


def test_a_row_without_any_mark_is_unlabelled_and_half_a_row_is_refused():
    task = marked({"food": [1, 0, None, 1] * 10, "staff": [0, 1, None, 1] * 10}, stratify=True)
    assert "10 rows have no label" in " ".join(task.notes)
    with pytest.raises(
        kd.KDTutorError, match=r'column "staff", row 3 is empty, and others of its row are not'
    ):
        marked({"food": [1, 0, 1, 1] * 10, "staff": [0, 1, None, 1] * 10})
    with pytest.raises(
        kd.KDTutorError, match=r"column \"food\", row 2: .* says 0 or 1 of its label, and no '2'"
    ):
        marked({"food": [1, 2, 1, 1] * 10, "staff": [0, 1, 0, 1] * 10})


def test_on_the_command_line_they_stand_with_commas_between(tmp_path):
    (tmp_path / "rows.csv").write_text(
        "text,food,staff\n" + "".join(f"a review of the place {i},{i % 2},{i % 3 % 2}\n" for i in range(60))
    )
    arguments = DataArguments(task=str(tmp_path / "rows.csv"), text="text", label="food, staff")
    assert task_of(arguments).labels == ("food", "staff")
    with pytest.raises(kd.KDTutorError, match='"stuff"; there are: staff'):
        task_of(replace(arguments, label="food,stuff"))


def test_a_column_with_a_comma_in_its_name_stands_in_quotation_marks(tmp_path):
    rows = "".join(f"a review of the place {i},{i % 2},{i % 3 % 2}\n" for i in range(60))
    (tmp_path / "rows.csv").write_text(f'text,"food, drinks",staff\n{rows}')
    arguments = DataArguments(task=str(tmp_path / "rows.csv"), text="text", label='"food, drinks",staff')
    assert task_of(arguments).labels == ("food, drinks", "staff")
    alone = task_of(replace(arguments, label='"food, drinks"'))
    assert (alone.kind, alone.labels) == ("classification", ("0", "1"))
    with pytest.raises(
        kd.KDTutorError, match="one column with a comma in its name is --label '\"food, drinks\"'"
    ):
        task_of(replace(arguments, label="food, drinks"))


def test_a_damaged_letter_makes_no_other_encoding_of_a_file(tmp_path):
    data = CSV.replace("soup", "café").encode()
    said = refusal(load, write(tmp_path / "mine.csv", data.replace("é".encode(), b"\xe9", 1)))
    assert "mine.csv is UTF-8 but for byte 0xe9 of line 2: fix it there, or name its encoding" in said
    # Of letters that are all read otherwise none is damaged.
    assert "café" in load(write(tmp_path / "mine.csv", data.replace("é".encode(), b"\xe9"))).texts("train")[0]


def test_labels_that_are_texts_are_cut_in_what_is_said(tmp_path, capsys):
    long = "the soup that we had was as warm as it should be, and so was the bread " * 9
    load(csv_with(tmp_path / "mine.csv", [f'"{long}{n % 2}"' for n in range(80)], TEXTS))
    assert len(capsys.readouterr().out) < 1200
    csv_with(tmp_path / "mine.csv", [f'"{n} {long}"' for n in range(80)], TEXTS)
    assert len(refusal(load, tmp_path / "mine.csv")) < 1000
