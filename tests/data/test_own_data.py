"""Files and labels as people have them: what is read, what is said about it, and what is refused, where."""

from __future__ import annotations

import csv
import gzip
import io
import json

import numpy as np
import pyarrow as pa
import pytest
from helpers import refusal
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import feather, parquet

from kdtutor.data.files import _lines
from kdtutor.data.load import load_task
from kdtutor.data.parts import cut, stratified, text_keys

TEXTS = [f"the soup number {n} was {word}" for n in range(40) for word in ("warm", "cold")]
WORDS = ["good", "bad"] * 40
CSV = "text,label\n" + "".join(f"{t},{y}\n" for t, y in zip(TEXTS, WORDS, strict=True))
OBJECTS = [{"text": t, "label": y} for t, y in zip(TEXTS, WORDS, strict=True)]
LINES = "\n".join(map(json.dumps, OBJECTS))


def write(path, content: str | bytes, encoding: str = "utf-8"):
    path.write_bytes(content if isinstance(content, bytes) else content.encode(encoding))
    return path


def csv_with(path, labels, texts=TEXTS):
    lines = [f"{t},{y}" for t, y in zip(texts, labels, strict=True)]
    return write(path, "\n".join(["text,label", *lines]) + "\n")


def load(path, **options):
    return load_task(path, **{"text": "text", "label": "label"} | options)


def rows_of(task) -> dict[str, str]:
    """Each text's label, over all parts."""
    return {
        text: task.labels[target]
        for split in task.split_names
        for text, target in zip(task.texts(split), task.targets(split).tolist(), strict=True)
    }


# ----------------------------------------------------------------------- ways to write the same rows

SAME = {
    "plain.csv": CSV,
    "bom.csv": b"\xef\xbb\xbf" + CSV.encode(),
    "utf16.csv": CSV.encode("utf-16"),
    "utf16le.csv": CSV.encode("utf-16-le"),
    "windows.csv": CSV.replace("\n", "\r\n"),
    "semicolon.csv": CSV.replace(",", ";"),
    "tabs.csv": CSV.replace(",", "\t"),
    "tabs.tsv": CSV.replace(",", "\t"),
    "bars.csv": CSV.replace(",", "|"),
    "plain.csv.gz": gzip.compress(CSV.encode()),
    "lines.jsonl": LINES,
    "lines.ndjson": LINES,
    "lines.jsonl.gz": gzip.compress(LINES.encode()),
    "array.json": json.dumps(OBJECTS),
    "indented.json": json.dumps(OBJECTS, indent=2),
    "columns.json": json.dumps({"text": TEXTS, "label": WORDS}, indent=1),
    "nested.json": json.dumps({"version": 1, "data": OBJECTS}),
}


@pytest.mark.parametrize("name", SAME)
def test_the_same_rows_are_read_however_they_are_written(tmp_path, name):
    task = load(write(tmp_path / name, SAME[name]))
    assert (task.kind, task.labels) == ("classification", ("bad", "good"))
    assert rows_of(task) == dict(zip(TEXTS, WORDS, strict=True))


@pytest.mark.parametrize(
    "kind",
    ["parquet", "arrow", "categories", "large", "bytes", "Dataset", "DatasetDict", "DataFrame", "table", "dict",
     "dicts", "pairs", "save_to_disk"],
)  # fmt: skip
def test_typed_tables_and_python_objects_are_read_too(tmp_path, kind, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    table = pa.table({"text": TEXTS, "label": WORDS})
    if kind == "parquet":
        parquet.write_table(table, source := tmp_path / "mine.parquet")
    elif kind == "arrow":
        feather.write_feather(table, source := tmp_path / "mine.arrow")
    elif kind == "categories":
        parquet.write_table(
            table.set_column(1, "label", table["label"].dictionary_encode()), source := tmp_path / "m.parquet"
        )
    elif kind == "large":
        source = table.cast(pa.schema({"text": pa.large_string(), "label": pa.large_string()}))
    elif kind == "bytes":
        source = table.cast(pa.schema({"text": pa.binary(), "label": pa.string()}))
    elif kind == "save_to_disk":
        source = tmp_path / "saved"
        datasets.Dataset(table).save_to_disk(source)
    else:
        source = {
            "Dataset": lambda: datasets.Dataset(table),
            "DatasetDict": lambda: datasets.DatasetDict(train=datasets.Dataset(table)),
            "DataFrame": table.to_pandas,
            "table": lambda: table,
            "dict": lambda: {"text": TEXTS, "label": WORDS},
            "dicts": lambda: OBJECTS,
            "pairs": lambda: list(zip(TEXTS, WORDS, strict=True)),
        }[kind]()
    options = {"text": None, "label": None} if kind == "pairs" else {}
    assert rows_of(load(source, **options)) == dict(zip(TEXTS, WORDS, strict=True))


def test_a_list_of_texts_is_raw_text():
    assert load_task(TEXTS).kind == "masked-lm"


def test_letters_of_windows_are_read_and_it_is_said(tmp_path, capsys):
    task = load(write(tmp_path / "old.csv", CSV.replace("soup", "„café“"), "cp1252"))
    assert "„café“" in task.texts("train")[0]
    said = capsys.readouterr().out
    assert "read as Windows-1252, since line 2 isn't UTF-8: “the „café“ number 0" in said
    assert 'encoding="…" (--encoding …)' in said
    assert "read as" not in (load(tmp_path / "old.csv", encoding="cp1252"), capsys.readouterr().out)[1]
    assert 'no encoding "cp9"' in refusal(load, tmp_path / "old.csv", encoding="cp9")
    assert "isn't written in utf-8" in refusal(load, tmp_path / "old.csv", encoding="utf-8")


def test_a_text_of_megabytes_is_read(tmp_path):
    long = "word " * 4_000_000
    task = load(csv_with(tmp_path / "long.csv", ["good", *WORDS], [long, *TEXTS]), stratify=True)
    assert max(len(text) for split in task.split_names for text in task.texts(split)) == len(long)


def test_a_missing_part_is_cut_from_train_and_a_test_without_labels_measures_nothing(tmp_path, capsys):
    write(tmp_path / "train.csv", CSV)
    write(tmp_path / "dev.csv", "text,label\nanother one,good\nand a bad one,bad\n")
    write(tmp_path / "test.csv", "text\nwhat is this\n")
    task = load(tmp_path)
    assert task.texts("validation") == ["another one", "and a bad one"]
    assert 0 < len(task.texts("test")) < 20
    assert len(task.texts("train")) + len(task.texts("test")) == 80
    said = capsys.readouterr().out
    assert "test.csv has no labels: it measures nothing, and is left out" in said
    assert "(test cut from it by a hash of each text" in said


# ----------------------------------------------------------------------- labels as they are written

#: labels of 80 rows → the task's kind, its classes (None: many), what must be said
LABELS = {
    "leading zeros": (
        ["007", "7", "8", "9"] * 20,
        "classification",
        ("007", "7", "8", "9"),
        "only by notation",
    ),
    "exponents": (["1e5", "100000"] * 40, "classification", ("100000", "1e5"), "only by notation"),
    "long ids": (
        ["9007199254740993", "9007199254740992"] * 40,
        "classification",
        ("9007199254740992", "9007199254740993"),
        "",
    ),
    "codes": (
        ["401.9", "250.0", "272.4", "V10"] * 20,
        "classification",
        ("250.0", "272.4", "401.9", "V10"),
        "",
    ),
    "codes of numbers": (
        ["401.9", "250.0"] * 40,
        "classification",
        ("250.0", "401.9"),
        '2 different numbers in 80 rows (kind="regression", --kind regression, takes them as numbers)',
    ),
    "versions": (["1.1", "1.10"] * 40, "classification", ("1.1", "1.10"), "'1.1' and '1.10'"),
    "stars": (["10", "9", "1"] * 26 + ["1", "9"], "classification", ("1", "9", "10"), "1 27, 9 27, 10 26"),
    "case": (
        ["Bad", "bad", "good", "good"] * 20,
        "classification",
        ("Bad", "bad", "good"),
        "only by case or blanks",
    ),
    "blanks": (
        ["good ", "good", "bad", "bad"] * 20,
        "classification",
        ("bad", "good", "good "),
        "'good ' and 'good'",
    ),
    "words for nothing": (["NA", "null"] * 40, "classification", ("NA", "null"), "NA 40, null 40"),
    "scores": (
        [f"{n / 7:.4f}" for n in range(80)],
        "regression",
        ("value",),
        "80 different numbers in 80 rows",
    ),
}


@pytest.mark.parametrize("case", LABELS)
@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_a_label_is_read_as_it_is_written_and_the_guess_is_said(tmp_path, capsys, case, form):
    labels, kind, names, said = LABELS[case]
    if form == "csv":
        path = csv_with(tmp_path / "mine.csv", labels)
    else:
        rows = (json.dumps({"text": t, "label": y}) for t, y in zip(TEXTS, labels, strict=True))
        path = write(tmp_path / "mine.jsonl", "\n".join(rows))
    task = load(path)
    assert (task.kind, task.labels) == (kind, names)
    printed = capsys.readouterr().out
    assert said in printed
    assert f'label column "label": {kind}' in printed
    assert case != "long ids" or "WARNING" not in printed
    assert task.notes == tuple(printed.rstrip("\n").split("\n  "))


def test_numbers_of_json_are_kept_as_they_are_written(tmp_path):
    rows = "\n".join(
        f'{{"text": "{t}", "label": {y}}}' for t, y in zip(TEXTS, ["1.10", "1e5"] * 40, strict=True)
    )
    assert load(write(tmp_path / "mine.jsonl", rows)).labels == ("1.10", "1e5")


def test_the_kind_may_be_said(tmp_path):
    whole = csv_with(tmp_path / "whole.csv", [n % 10 for n in range(80)])
    task = load(whole, kind="regression")
    assert (task.kind, len(set(task.targets("train").tolist()))) == ("regression", 10)
    halves = csv_with(tmp_path / "halves.csv", [f"{n % 4}.5" for n in range(80)])
    assert load(halves, kind="classification").labels == ("0.5", "1.5", "2.5", "3.5")
    words = csv_with(tmp_path / "words.csv", [1] * 30 + ["one"] + [2] * 49)
    assert "column \"label\", row 31: the label is no finite number ('one')" in refusal(
        load, words, kind="regression"
    )
    assert 'unknown kind of labelled task "classes"' in refusal(load, words, kind="classes")
    assert "masked-lm and causal-lm have none" in refusal(load, words, kind="masked-lm")


def test_names_of_a_class_label_come_along(tmp_path, monkeypatch):
    from datasets import ClassLabel, Dataset, Features, Value, config

    monkeypatch.setattr(config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    features = Features(text=Value("string"), label=ClassLabel(names=["refund", "delay", "praise"]))
    dataset = Dataset.from_dict({"text": TEXTS, "label": [0, 2] * 40}, features=features)
    dataset.to_parquet(tmp_path / "mine.parquet")
    for source in (tmp_path / "mine.parquet", dataset):
        task = load(source)
        assert task.labels == ("refund", "delay", "praise")
        assert set(rows_of(task).values()) == {"refund", "praise"}


# ----------------------------------------------------------------------- what is refused, and where

ROWS = list(zip(TEXTS, WORDS, strict=True))


def changed(row: int, line: str) -> str:
    """The file with its row (1 below the header) written otherwise."""
    lines = CSV.split("\n")
    lines[row] = line
    return "\n".join(lines)


#: a file's name and content, options → what must be said
REFUSED = {
    "a list as a label": (
        "m.csv",
        changed(5, "a text,\"['food', 'staff']\""),
        {},
        'column "label", row 5: the label is a list',
    ),
    "a list in JSON": (
        "m.jsonl",
        LINES + '\n{"text": "t", "label": ["a", "b"]}',
        {},
        'column "label", row 1 holds no list, as others do',
    ),
    "a cell too many": ("m.csv", changed(7, "one, two,good"), {}, "row 7: 3 cells, but the header has 2"),
    "a cell too few": ("m.csv", changed(7, "only this"), {}, "row 7: 1 cells, but the header has 2"),
    "an open quotation mark": ("m.csv", changed(9, 'a text,"good'), {}, "row 9"),
    "quotation marks that never close": (
        "m.csv",
        changed(9, '"a text,good').replace(CSV.split("\n")[30], '"another text,bad'),
        {},
        "line 10: the cell",
    ),
    "backslashes before quotation marks": (
        "m.csv",
        changed(9, r'"the \"soup\" was warm",good'),
        {},
        "goes on behind its closing quotation mark",
    ),
    "no text": ("m.csv", changed(3, ",good"), {}, 'column "text", row 3: the text is empty'),
    "no text in JSON": (
        "m.jsonl",
        LINES + '\n{"label": "good"}',
        {},
        'column "text", row 81: the text is empty',
    ),
    "broken JSON": ("m.jsonl", LINES + '\n{"text": "t",}', {}, "line 81 is no JSON"),
    "Python's dicts": ("m.jsonl", LINES + "\n{'text': 't'}", {}, "line 81 is no JSON"),
    "a number a line": ("m.jsonl", LINES + "\n7", {}, "row 81 is a str, not an object"),
    "nested JSON": ("m.jsonl", "[" * 100_000, {}, "is nested too deeply"),
    "half a character": (
        "m.jsonl",
        LINES + '\n{"text": "\\ud800", "label": "good"}',
        {},
        "row 81 holds half of a character",
    ),
    "another encoding": (
        "m.csv",
        CSV.replace("soup", "日本、").encode("shift-jis"),
        {},
        "m.csv, line 2 is neither UTF-8 nor",
    ),
    "a pair that is the label": (
        "m.csv",
        CSV,
        {"pair": "label"},
        'pair and label are the same column, "label"',
    ),
    "a pair that is the text": ("m.csv", CSV, {"pair": "text"}, 'text and pair are the same column, "text"'),
    "a text that is the label": (
        "m.csv",
        CSV,
        {"text": "label"},
        'text and label are the same column, "label"',
    ),
    "an odd delimiter": ("m.csv", CSV, {"delimiter": "::"}, "delimiter must be one character"),
    "another delimiter": ("m.csv", CSV, {"delimiter": "tab"}, "unknown column"),
    "nothing": ("m.csv", "", {}, "the file is empty"),
    "blanks": ("m.csv", "\n\n", {}, "the file is empty"),
    "no gzip": ("m.csv.gz", b"\x1f\x8bnothing", {}, "m.csv.gz can't be read as csv"),
    "only empty labels": ("m.csv", "text,label\n" + "a,\nb,\n" * 10, {}, 'column "label" has no labels'),
    "numbers as texts": (
        "m.csv",
        "text,label\n" + "".join(f"{n},a\n" for n in range(40)),
        {},
        "it holds numbers or dates only",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_can_not_be_read_is_refused_naming_its_place(tmp_path, case):
    name, content, options, said = REFUSED[case]
    path = write(tmp_path / name, content)
    message = refusal(load, path, **options)
    assert said in message and str(path) in message.replace("delimiter must", f"{path}")
    assert "\n" not in message and len(message) < 600


TYPED = {
    "dates as texts": (pa.array([None] * 80, pa.date32()), pa.array(WORDS), "it holds date32[day], not text"),
    "bytes that are no text": (
        pa.array([b"ok", b"caf\xe9"] * 40),
        pa.array(WORDS),
        'column "text", row 2: it is no text',
    ),
    "structs as labels": (pa.array(TEXTS), pa.array([{"a": 1}] * 80), "the label is a struct<"),
}


@pytest.mark.parametrize("case", TYPED)
def test_a_column_of_another_type_is_refused_by_its_name(tmp_path, case):
    texts, labels, said = TYPED[case]
    parquet.write_table(pa.table({"text": texts, "label": labels}), tmp_path / "mine.parquet")
    assert said in refusal(load, tmp_path / "mine.parquet")


def test_what_holds_no_rows_is_no_task():
    assert "a task is a name, a file or rows, not a float" in refusal(load_task, 3.5)
    assert "row 2 is 'alone'; expected is (text, label)" in refusal(load_task, [("a", "b"), "alone"])
    assert "is an address: download it" in refusal(load_task, "https://example.org/x.csv", text="t")


# ----------------------------------------------------------------------- which rows are measured on


def test_a_row_keeps_its_part_when_the_file_grows(tmp_path):
    small = load(csv_with(tmp_path / "mine.csv", WORDS))
    texts = [*TEXTS[40:], *(f"a new text, {n}" for n in range(200)), *TEXTS[:40]]
    large = load_task({"text": texts, "label": ["good", "bad"] * 140}, text="text", label="label")
    for split in small.split_names:
        assert set(small.texts(split)) <= set(large.texts(split))
    shares = [len(large.texts(split)) / 280 for split in large.split_names]
    assert shares == pytest.approx([0.8, 0.1, 0.1], abs=0.06)


def test_the_cut_is_near_eighty_ten_ten():
    keys = text_keys(([f"text {n}" for n in range(50_000)],))
    sizes = np.bincount(cut(keys)) / 50_000
    assert sizes == pytest.approx([0.8, 0.1, 0.1], abs=0.006)
    assert (cut(keys) != cut(text_keys(([f"text {n}" for n in range(50_000)],), seed=1))).mean() > 0.2


def test_equal_texts_stay_in_one_part_and_are_counted(tmp_path, capsys):
    texts = [f"text {n % 40}" if n % 3 else f"Text  {n % 40}" for n in range(120)]
    labels = ["good" if n % 2 or n == 44 else "bad" for n in range(120)]
    task = load(csv_with(tmp_path / "mine.csv", labels, texts))
    parts = [{" ".join(text.lower().split()) for text in task.texts(split)} for split in task.split_names]
    assert len(set.union(*parts)) == sum(map(len, parts)) == 40
    said = capsys.readouterr().out
    assert "80 rows repeat the text of another one; equal texts stay in one part" in said
    assert "WARNING: 1 texts have several labels, such as" in said
    assert "row 5 and row 45" in said


def test_texts_that_given_files_share_are_counted(tmp_path, capsys):
    for split in ("train", "validation", "test"):
        write(tmp_path / f"{split}.csv", CSV)
    load(tmp_path)
    assert "WARNING: 80 of 80 test texts are in train too" in capsys.readouterr().out


def test_a_class_that_a_part_lacks_is_named_and_a_stratified_cut_has_it(tmp_path, capsys):
    labels = ["rare" if n < 4 else WORDS[n] for n in range(80)]
    path = csv_with(tmp_path / "mine.csv", labels)
    load(path)
    assert "part has no example of rare; stratify=True (--stratify)" in capsys.readouterr().out
    task = load(path, stratify=True)
    for split in task.split_names:
        assert set(task.targets(split).tolist()) == {0, 1, 2}
    assert "WARNING" not in capsys.readouterr().out


def test_what_no_cut_can_give_is_not_advised(tmp_path, capsys):
    few = csv_with(tmp_path / "mine.csv", ["rare" if n < 2 else WORDS[n] for n in range(80)])
    load(few, stratify=True)
    said = capsys.readouterr().out
    assert "part has no example of rare; add examples of them" in said and "--stratify" not in said
    folder = tmp_path / "given"
    folder.mkdir()
    for name in ("train", "validation", "test"):
        csv_with(
            folder / f"{name}.csv", ["rare" if name == "test" and n < 2 else WORDS[n] for n in range(80)]
        )
    assert "--stratify" not in refusal(load, folder)


def test_cells_that_are_quoted_as_they_should_be_pass(tmp_path):
    cells = [
        '"a ""word"" and, more"',
        '"ends so """',
        'five" wide',
        '"two\nlines"',
        '"blank behind" ',
        '""""',
    ]
    rows = [f"{cell},{WORDS[n]}" for n, cell in enumerate(cells * 10)]
    task = load(write(tmp_path / "mine.csv", "text,label\n" + "\r\n".join(rows)), stratify=True)
    found = {text for split in task.split_names for text in task.texts(split)}
    assert found == {'a "word" and, more', 'ends so "', 'five" wide', "two\nlines", "blank behind ", '"'}


def test_a_stratified_cut_keeps_equal_texts_together_and_its_proportions():
    keys = text_keys(([f"text {n % 500}" for n in range(1000)],))
    classes = np.arange(1000) % 500 % 5
    part = stratified(keys, classes)
    for kind in range(5):
        assert np.bincount(part[:500][classes[:500] == kind]).tolist() == [80, 10, 10]
    assert (part[:500] == part[500:]).all()


def test_a_file_too_small_for_chance_says_what_cuts_it(tmp_path):
    path = csv_with(tmp_path / "mine.csv", [n / 10 for n in range(10)], TEXTS[:10])
    assert "too few to be cut by chance" in refusal(load, path)
    assert "stratify=True (--stratify)" in refusal(load, path)
    path = csv_with(tmp_path / "mine.csv", WORDS[:12], TEXTS[:12])
    assert [len(load(path, stratify=True).texts(s)) for s in ("train", "validation", "test")] == [8, 2, 2]


def test_an_exact_cut_gives_a_regression_two_rows_to_rank(tmp_path):
    path = csv_with(tmp_path / "mine.csv", [n / 7 for n in range(10)], TEXTS[:10])
    assert [len(load(path, stratify=True).texts(s)) for s in ("train", "validation", "test")] == [6, 2, 2]


def test_names_that_no_file_can_have_and_folders_that_are_no_data_set_are_refused(tmp_path, monkeypatch):
    assert "can't be the name of a file" in refusal(load, "x" * 300 + ".csv")
    assert "can't be the name of a file" in refusal(load, "a\0b.csv")
    monkeypatch.setattr("kdtutor.data.load.MANY", 5)
    for n in range(7):
        write(tmp_path / f"{n}.csv", CSV)
    assert "holds more than 5 files" in refusal(load, tmp_path)


def test_rows_without_a_label_are_trained_on_and_never_measured_on(tmp_path, capsys):
    labels = ["" if n % 4 < 2 else WORDS[n] for n in range(80)]
    task = load(csv_with(tmp_path / "mine.csv", labels))
    assert task.labels == ("bad", "good")
    assert int((task.targets("train") < 0).sum()) == 40
    assert all((task.targets(split) >= 0).all() for split in ("validation", "test"))
    assert "40 rows have no label: trained on by what needs none" in capsys.readouterr().out


@pytest.mark.parametrize("stratify", [False, True])
def test_labels_of_a_teacher_are_trained_on_and_never_measured_on(tmp_path, capsys, stratify):
    by = ["teacher" if n % 3 else "given" for n in range(80)]
    lines = [",".join(row) for row in zip(TEXTS, WORDS, by, strict=True)]
    write(tmp_path / "mine.csv", "\n".join(["text,label,label_by", *lines]))
    rows = [{"text": t, "label": y, "label_by": who} for t, y, who in zip(TEXTS, WORDS, by, strict=True)]
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "mine.parquet")
    for source in (tmp_path / "mine.csv", tmp_path / "mine.parquet", rows):
        task = load(source, stratify=stratify)
        assert rows_of(task) == dict(zip(TEXTS, WORDS, strict=True))
        held_out = {*task.texts("validation"), *task.texts("test")}
        assert held_out and held_out <= {text for text, who in zip(TEXTS, by, strict=True) if who == "given"}
        assert "53 training labels are a teacher's, as label_by says" in capsys.readouterr().out


def test_labels_of_a_teacher_in_a_part_that_was_given_are_counted(tmp_path, capsys):
    write(tmp_path / "train.csv", CSV)
    write(tmp_path / "test.csv", "text,label,label_by\na text,good,given\nb text,bad,teacher\n")
    load(tmp_path)
    assert (
        "WARNING: 1 of 2 test labels are a teacher's: scores there say how alike" in capsys.readouterr().out
    )


def test_a_part_to_measure_on_needs_all_its_labels(tmp_path):
    write(tmp_path / "train.csv", CSV)
    write(tmp_path / "validation.csv", "text,label\na,good\nb,\n")
    write(tmp_path / "test.csv", CSV)
    assert "validation.csv, row 2" in refusal(load, tmp_path)


@given(st.text(alphabet='a,"\r\n', max_size=30))
def test_lines_are_those_of_the_whole_text(text):
    whole = csv.reader(io.StringIO(text.lstrip("\r\n"), newline=""))
    assert [*csv.reader(_lines(text))] == [*whole]


def test_a_fault_in_a_later_chunk_of_a_column_has_the_row_of_the_file():
    table = pa.table({"text": pa.chunked_array([["a b", "c d"], ["e f", "  "], [None]]), "label": [*"xyxyx"]})
    said = refusal(load_task, table, text="text", label="label")
    assert 'column "text", row 4: the text is empty' in said


def test_cells_may_stand_in_other_quotation_marks_or_in_none(tmp_path):
    rows = [(f'a "fine, film{n}', WORDS[n]) for n in range(40)]
    single = "text,label\n" + "".join(f"'{text}',{label}\n" for text, label in rows)
    none = "text\tlabel\n" + "".join(f'"{text}\t{label}\n' for text, label in rows)
    for quote, content, before in (("'", single, ""), ("none", none, '"')):
        write(tmp_path / "mine.csv", content)
        task = load(tmp_path / "mine.csv", quote=quote, stratify=True)
        found = {text for split in task.split_names for text in task.texts(split)}
        assert found == {before + text for text, _ in rows}
    assert "quote must be one character, or none" in refusal(load, tmp_path / "mine.csv", quote="''")
