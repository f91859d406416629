"""The embedded data and tokenizer: intact, free of leakage, and made again with the same bytes."""

from __future__ import annotations

import json
import re
import shutil
import string
import unicodedata
from collections import defaultdict
from functools import cache
from itertools import combinations
from pathlib import Path

import build_assets as build
import minilm
import pyarrow.parquet as pq
import pytest

import kdtutor.assets as assets
from kdtutor.errors import KDTutorError, nearest

TASKS = ("supersense", "sentiment", "valence", "glosses")
LABELLED = ("supersense", "sentiment", "valence")


@cache
def columns(task: str, split: str) -> dict[str, list]:
    return pq.read_table(assets.verified(f"data/{task}/{split}.parquet")).to_pydict()


def texts(task: str, split: str) -> list[str]:
    return columns(task, split)["text"]


def splits(task: str) -> dict[str, int]:
    """Split → number of texts; supersense alone has a pool."""
    return card(task)["splits"]


def card(task: str) -> dict:
    return json.loads(assets.verified(f"data/{task}/task.json").read_text(encoding="utf-8"))


# The forms of sameness that are checked, written here independently of build_assets.py.
def exact(text: str) -> str:
    return text


def spaced(text: str) -> str:
    """Lower case, each punctuation mark a space, spaces collapsed: "co-writer" is "co writer"."""
    return " ".join("".join(c if c.isalnum() else " " for c in text.lower()).split())


def stripped(text: str) -> str:
    """Lower case, ASCII punctuation removed, spaces collapsed: "co-writer" is "cowriter"."""
    return " ".join(text.lower().translate(str.maketrans("", "", string.punctuation)).split())


def letters(text: str) -> str:
    """Unaccented letters and digits only: coarser than the two others."""
    return "".join(c for c in unicodedata.normalize("NFKD", text.casefold()) if c.isalnum())


FORMS = (exact, spaced, stripped, letters)


# --- the manifest


def test_every_file_is_what_was_shipped():
    assert set(assets.verify_all().values()) == {"ok"}


def test_every_file_is_listed():
    on_disk = {
        path.relative_to(assets.ROOT).as_posix()
        for part in ("data", "tokenizer", "models", "answers")
        for path in (assets.ROOT / part).rglob("*")
        if path.is_file()
    }
    assert on_disk == set(assets.manifest())


def test_all_assets_together_are_at_most_140_megabytes_and_none_is_over_45():
    sizes = [
        path.stat().st_size
        for path in assets.ROOT.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    ]
    assert sum(sizes) <= 140e6 and max(sizes) <= 45e6


def test_a_folder_is_verified_with_everything_in_it():
    assert assets.verified("tokenizer") == assets.ROOT / "tokenizer"


def test_an_unknown_asset_is_answered_with_the_nearest_ones():
    with pytest.raises(KDTutorError, match=r"there are: data/sentiment/train\.parquet"):
        assets.verified("data/sentimet/train.parquet")


def test_licences_lie_beside_the_data():
    for task in TASKS:
        for name in card(task)["licence_file"].split(", "):
            assert (assets.ROOT / "licences" / name).is_file()
    assert "WordNet 3.1 Copyright 2011" in (assets.ROOT / "licences/WordNet-LICENSE.txt").read_text("utf-8")


# --- damaged files are refused


DAMAGED = "data/sentiment/test.parquet"


@pytest.fixture
def copy(tmp_path, monkeypatch) -> Path:
    """The package's assets, in a folder where one file may be damaged."""
    path = tmp_path / DAMAGED
    path.parent.mkdir(parents=True)
    shutil.copy(assets.ROOT / DAMAGED, path)
    assets.manifest()  # read from the true folder before the root moves
    monkeypatch.setattr(assets, "ROOT", tmp_path)
    assets.verified.cache_clear()
    yield path
    assets.verified.cache_clear()


def refused(path: Path) -> None:
    with pytest.raises(assets.AssetError) as raised:
        assets.verified(DAMAGED)
    message = str(raised.value)
    assert DAMAGED in message
    assert assets.manifest()[DAMAGED]["sha256"] in message
    assert assets.sha256(path) in message
    assert f"git checkout -- kdtutor/assets/{DAMAGED}" in message
    assert "pip install --force-reinstall kdtutor" in message


def test_an_intact_copy_is_accepted(copy):
    assert assets.verified(DAMAGED) == copy


def test_one_flipped_bit_is_refused_with_both_hashes(copy):
    content = bytearray(copy.read_bytes())
    content[len(content) // 2] ^= 1
    copy.write_bytes(content)
    refused(copy)


def test_a_truncated_file_is_refused_with_both_hashes(copy):
    copy.write_bytes(copy.read_bytes()[:-1])
    refused(copy)


def test_a_missing_file_is_named(copy):
    copy.unlink()
    with pytest.raises(assets.AssetError, match=f"{DAMAGED} is missing"):
        assets.verified(DAMAGED)
    assert assets.verify_all()[DAMAGED].startswith(f"asset {DAMAGED} is missing")


# --- splits


@pytest.mark.parametrize("task", TASKS)
def test_sizes_are_those_of_the_task_card(task):
    assert {split: len(texts(task, split)) for split in splits(task)} == splits(task)


@pytest.mark.parametrize(
    ("task", "rows"),
    [("supersense", 81_000), ("sentiment", 10_600), ("valence", 14_300), ("glosses", 131_000)],
)
def test_the_tasks_are_as_large_as_announced(task, rows):
    assert sum(splits(task).values()) == pytest.approx(rows, rel=0.01)


@pytest.mark.parametrize("task", LABELLED)
def test_splits_are_about_80_10_10(task):
    total = sum(splits(task).values())
    held_out = [splits(task)[split] / total for split in ("validation", "test")]
    assert held_out == pytest.approx([0.1, 0.1], abs=0.015)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("form", FORMS)
def test_no_text_is_in_two_splits(task, form):
    seen = [{form(text) for text in texts(task, split)} for split in splits(task)]
    assert [a & b for a, b in combinations(seen, 2) if a & b] == []


@pytest.mark.parametrize("task", TASKS)
def test_no_text_occurs_twice(task):
    every = [letters(text) for split in splits(task) for text in texts(task, split)]
    assert len(every) == len(set(every))


def test_a_text_shared_by_two_tasks_is_in_the_same_split_of_both():
    where = defaultdict(set)
    for task in LABELLED:
        for split in splits(task):
            for text in texts(task, split):
                where[letters(text)].add(split)
    assert [key for key, splits in where.items() if len(splits) > 1] == []


@pytest.mark.parametrize("task", TASKS)
def test_no_text_is_empty_or_carries_stray_markup(task):
    for split in splits(task):
        for text in texts(task, split):
            assert letters(text) and text == " ".join(text.split())
            assert not re.search(r"&#?\w+;|\ufffd|Ã|â€|[\x00-\x1f\x7f-\x9f]", text)


# --- labels


@pytest.mark.parametrize("task", ["supersense", "sentiment"])
def test_every_class_occurs_and_nothing_else(task):
    for split in splits(task):
        assert set(columns(task, split)["label"]) == set(range(len(card(task)["labels"])))


def test_a_definition_has_the_class_of_its_lexicographer_file():
    test = columns("supersense", "test")
    label = dict(zip(test["text"], test["label"], strict=True))
    labels = card("supersense")["labels"]
    assert labels[label["the act of making less strict"]] == "act"
    assert labels[label["sound of something in rapid motion"]] == "event"
    assert labels[label["squash resembling zucchini"]] == "food"
    assert (
        labels[
            label[
                "an expert who studies financial data (on credit or securities or sales or financial "
                "patterns etc.) and recommends appropriate business actions"
            ]
        ]
        == "person"
    )
    assert (
        labels[label["a mountain peak in the Karakoram Range in northern Kashmir (25,560 feet high)"]]
        == "object"
    )


def test_valence_is_a_mean_rating_and_agrees_with_sentiment_in_sign():
    for split in splits("valence"):
        valence = columns("valence", split)
        assert all(-4 <= rating <= 4 for rating in valence["label"])
        assert set(valence["domain"]) == {"movies", "products"}
        rating = dict(zip(map(letters, valence["text"]), valence["label"], strict=True))
        sentiment = columns("sentiment", split)
        common = [
            (rating[letters(text)], label)
            for text, label in zip(sentiment["text"], sentiment["label"], strict=True)
            if letters(text) in rating
        ]
        assert len(common) >= len(sentiment["text"]) - 3
        assert all((value > 0) == bool(label) for value, label in common)


# --- pre-training text against the validation and test texts of every task


@pytest.fixture(scope="module")
def held_out() -> list[str]:
    return [text for task in LABELLED for split in ("validation", "test") for text in texts(task, split)]


@pytest.mark.parametrize("form", FORMS)
def test_no_held_out_text_is_a_line_or_a_part_of_a_line(held_out, form):
    seen = set()
    for line in texts("glosses", "train"):
        pieces = [piece.strip(' ";') for piece in re.split(r'; |"', line)]
        seen.update(form(piece) for piece in [line, line.split('; "')[0], *pieces])
    # A part such as "(" has no normal form at all, and no held-out text is like that.
    assert {form(text) for text in held_out} & (seen - {""}) == set()


def test_no_held_out_text_of_four_words_is_inside_a_line(held_out):
    """Texts below 20 letters ("the flow of air") are ordinary language and may turn up inside others."""
    first_words = defaultdict(list)
    for text in held_out:
        words = spaced(text).split()
        if len(words) >= 4 and len(letters(text)) >= 20:
            first_words[tuple(words[:4])].append(words)
    for line in texts("glosses", "train"):
        words = spaced(line).split()
        for i in range(len(words) - 3):
            for wanted in first_words.get(tuple(words[i : i + 4]), ()):
                assert words[i : i + len(wanted)] != wanted, line


def test_held_out_lines_belong_to_the_split_of_the_text_in_them():
    for split, other in (("validation", "test"), ("test", "validation")):
        lines = {letters(line.split('; "')[0]) for line in texts("glosses", split)}
        assert lines.isdisjoint(letters(text) for task in LABELLED for text in texts(task, other))


def test_nearly_every_held_out_text_is_in_the_same_split_of_glosses():
    for split in ("validation", "test"):
        lines = {letters(line) for line in texts("glosses", split)}
        starts = lines | {letters(build.definition(line)) for line in texts("glosses", split)}
        for task in LABELLED:
            found = [letters(text) in starts for text in texts(task, split)]
            assert sum(found) >= 0.99 * len(found)


# --- the pool


def test_a_fixed_part_of_the_definitions_is_kept_apart_as_a_pool():
    glosses = [(4 + i % 25, f"definition number {i}") for i in range(2000)]
    rows = build.supersense_rows(glosses)
    shares = [sum(row.split == split for row in rows) / len(rows) for split in build.SPLITS]
    assert shares == pytest.approx([0.615, 0.185, 0.1, 0.1], abs=0.03)
    # A text's own hash decides, whatever else there is.
    assert build.supersense_rows(glosses[::-1]) == rows[::-1]


def test_a_text_of_the_pool_may_be_read_by_the_masked_lm():
    glosses = [(4, f"definition number {i}") for i in range(200)]
    pool = {row.text for row in build.supersense_rows(glosses) if row.split == "pool"}
    lines = build.glosses_rows([text for _, text in glosses], [], [build.supersense_rows(glosses)])
    assert pool and pool <= {row.text for row in lines if row.split == "train"}


# --- how a definition is cut out of a gloss


@pytest.mark.parametrize(
    ("gloss", "definition"),
    [
        ("a feline", "a feline"),
        (
            'a state of extreme dishonor; "a date which will live in infamy"- F.D.Roosevelt',
            "a state of extreme dishonor",
        ),
        ('a lever; a tool; "give me a lever; I shall move"; "pull it"', "a lever; a tool"),
        ('a complete extent or range: "a gamut of emotions"', "a complete extent or range"),
        (
            'promise of reward as in "carrot and stick"; "the carrot of cheap housing"',
            'promise of reward as in "carrot and stick"',
        ),
        (
            "(botany) a bar (of iron; or steel) that bends;",
            "(botany) a bar (of iron; or steel) that bends",
        ),
        ('pad for notes; "scribbling block" is a British term', "pad for notes"),
    ],
)
def test_examples_go_and_the_rest_stays(gloss, definition):
    assert build.definition(gloss) == definition


def test_shipped_definitions_have_balanced_parentheses_and_hardly_any_quotation():
    every = [text for split in splits("supersense") for text in texts("supersense", split)]
    assert all(text.count("(") == text.count(")") for text in every)
    assert sum('"' in text for text in every) < 10


# --- tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    transformers = pytest.importorskip("transformers")
    return transformers.AutoTokenizer.from_pretrained(assets.verified("tokenizer"), local_files_only=True)


def test_it_is_a_fast_uncased_bert_tokenizer(tokenizer):
    assert tokenizer.is_fast and len(tokenizer) == 12_000 and tokenizer.model_max_length == 128
    assert tokenizer.convert_tokens_to_ids(list(minilm.SPECIAL_TOKENS)) == [0, 1, 2, 3, 4]
    assert (tokenizer.pad_token_id, tokenizer.unk_token_id, tokenizer.mask_token_id) == (0, 1, 4)
    assert tokenizer("An Élan").input_ids == tokenizer("an elan").input_ids


def test_a_pair_is_framed_as_in_bert(tokenizer):
    encoded = tokenizer("a", "b")
    assert encoded.tokens() == ["[CLS]", "a", "[SEP]", "b", "[SEP]"]
    assert encoded.token_type_ids == [0, 0, 0, 1, 1]


def test_words_come_back(tokenizer):
    text = "a tall african ruminant with a long neck"
    assert tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True) == text


def test_embedded_texts_have_next_to_no_unknown_token(tokenizer):
    ids = tokenizer(texts("supersense", "test") + texts("valence", "test"), truncation=True).input_ids
    assert sum(row.count(1) for row in ids) <= 3


# --- made again from the sources


@pytest.fixture(scope="module")
def rebuilt(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("assets")
    try:
        build.build_data(build.default_sources(), out)
        minilm.build_tokenizer(build.default_sources(), build.read_texts(out, "glosses"), out / "tokenizer")
    except minilm.SourceUnavailable as error:
        pytest.skip(f"the sources cannot be had here: {error}")
    return out


@pytest.mark.slow
def test_the_sources_give_the_shipped_files_again(rebuilt):
    """The same bytes; from another version of pyarrow than wrote them, the same rows in the same order."""
    for path in (path for path in rebuilt.rglob("*") if path.is_file()):
        shipped = assets.ROOT / path.relative_to(rebuilt)
        if path.suffix == ".parquet" and created_by(path) != created_by(shipped):
            assert pq.read_table(path).equals(pq.read_table(shipped)), path
        else:
            assert path.read_bytes() == shipped.read_bytes(), path


def created_by(path: Path) -> str:
    return pq.read_metadata(path).created_by


@pytest.mark.slow
def test_all_files_but_models_and_their_answers_are_made_again(rebuilt):
    made = {path.relative_to(rebuilt).as_posix() for path in rebuilt.rglob("*") if path.is_file()}
    assert {name for name in assets.manifest() if not name.startswith(("models/", "answers/"))} <= made


def test_a_tarball_that_is_not_the_pinned_one_is_refused(tmp_path):
    (tmp_path / build.WORDNET.file).write_bytes(b"not a tarball")
    with pytest.raises(KDTutorError, match=f"expected {build.WORDNET.sha256}"):
        build.fetch(build.WORDNET, tmp_path)


# --- errors


def test_the_nearest_option_comes_first():
    assert nearest("task", "sentimant", ["glosses", "supersense", "sentiment"]) == (
        'unknown task "sentimant"; there are: sentiment, supersense, glosses'
    )


def test_it_says_so_when_there_is_nothing():
    assert nearest("model", "x", []) == 'unknown model "x"; there are none'
