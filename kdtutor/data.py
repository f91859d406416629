"""Tasks and text: embedded, from your own file, or from the Hub, behind one interface.

    task  = load_task("supersense")                       # ships with the package, no network
    task  = load_task("sst2")                             # the same path, from the Hub
    task  = load_task("mine.csv", text="review", label="stars")
    batch = task.encode("train").batch(torch.tensor([3, 1, 4]))

A `Task` is texts and targets in fixed splits; `Encoded` is the same as token ids, kept *ragged* (one flat array and
offsets) so that a batch is padded only to its own longest text.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import ssl
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from kdtutor.assets import asset_path, verified
from kdtutor.errors import KDTutorError, nearest

SPLITS = ("train", "validation", "test")
EMBEDDED = ("supersense", "sentiment", "valence", "glosses")
IGNORED = -100  # the label of an unlabelled example: hard-label losses skip it

#: Hub names a learner meets in the course: dataset path, configuration, text column(s), label column
#: and, where the Hub keeps the test labels secret, the split that plays the part of `test`.
HUB = {
    "sst2": ("nyu-mll/glue", "sst2", ("sentence",), "label", "validation"),
    "mrpc": ("nyu-mll/glue", "mrpc", ("sentence1", "sentence2"), "label", "test"),
    "cola": ("nyu-mll/glue", "cola", ("sentence",), "label", "validation"),
    "qnli": ("nyu-mll/glue", "qnli", ("question", "sentence"), "label", "validation"),
    "mnli": ("nyu-mll/glue", "mnli", ("premise", "hypothesis"), "label", "validation_matched"),
    "wikitext": ("Salesforce/wikitext", "wikitext-2-raw-v1", ("text",), None, "test"),
}


@dataclass(frozen=True)
class Split:
    """One part of a task. `texts` holds one tuple of columns (usually one text each), `targets` is (N,) or None."""

    texts: tuple[Sequence[str], ...]
    targets: Tensor | None
    domains: Sequence[str] | None = None
    encodings: dict = field(default_factory=dict, repr=False, compare=False)  # (tokenizer, length) → Encoded

    def __len__(self) -> int:
        return len(self.texts[0])


@dataclass(frozen=True)
class Encoded:
    """Token ids of N texts without padding: text i is `ids[offsets[i]:offsets[i + 1]]`.

    ids: int32 (total,). offsets: int64 (N + 1,). labels: (N,), or None for raw text. types: int8 (total,), 1 in the
    second text of a pair, or None.
    """

    ids: Tensor
    offsets: Tensor
    labels: Tensor | None
    types: Tensor | None = None
    pad: int = 0

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @cached_property
    def lengths(self) -> Tensor:
        return self.offsets.diff()

    def batch(self, index: Tensor) -> dict[str, Tensor]:
        """The texts `index` (B,), padded on the right to the longest of them (L).

        Returns input_ids, attention_mask (and token_type_ids, of pairs): int64 (B, L); labels and index: (B,).
        """
        lengths = self.lengths[index]
        column = torch.arange(int(lengths.max()))  # (L,)
        mask = column < lengths[:, None]  # (B, L)
        where = (self.offsets[index][:, None] + column)[mask]
        batch = {"input_ids": torch.full(mask.shape, self.pad), "attention_mask": mask.long(), "index": index}
        batch["input_ids"][mask] = self.ids[where].long()
        if self.types is not None:
            batch["token_type_ids"] = torch.zeros_like(batch["input_ids"])
            batch["token_type_ids"][mask] = self.types[where].long()
        if self.labels is not None:
            batch["labels"] = self.labels[index]
        return batch


def length_bucketed_batches(
    lengths: Tensor, batch_size: int, generator: torch.Generator | None = None
) -> list[Tensor]:
    """Random batches of texts of similar length, so that little of a batch is padding. Every text occurs once.

    Shuffles, sorts within equal pools of about 50 batches by length, cuts, and shuffles the batches: near-random order,
    near-zero padding. Without a generator: the longest first, for evaluation. Returns index tensors of `batch_size`
    each, but for one that may be short.
    """
    if generator is None:
        return list(lengths.argsort(descending=True, stable=True).split(batch_size))
    order = torch.randperm(len(lengths), generator=generator)
    batches = math.ceil(len(order) / batch_size)
    in_a_pool = math.ceil(batches / max(1, round(batches / 50)))
    pools = [pool[lengths[pool].argsort(stable=True)] for pool in order.split(in_a_pool * batch_size)]
    batches = [batch for pool in pools for batch in pool.split(batch_size)]
    return [batches[i] for i in torch.randperm(len(batches), generator=generator)]


def rarity(encoded: Encoded, vocabulary: int, exponent: float = 0.7) -> Tensor:
    """count^−exponent of every token of the vocabulary in these texts, for `mask_tokens`: float32 (V,).

    DistilBERT's training code (Sanh et al. 2019) takes 0.7. A token that never occurs counts as one that did once.
    """
    return torch.bincount(encoded.ids, minlength=vocabulary).clamp(min=1).float() ** -exponent


def mask_tokens(
    batch: dict[str, Tensor],
    tokenizer,
    probability: float,
    generator: torch.Generator,
    weights: Tensor | None = None,
) -> dict[str, Tensor]:
    """BERT's masked-LM corruption (Devlin et al. 2019), drawn anew for every batch.

    Of the real tokens ([CLS], [SEP], padding never), `probability` are to be predicted: 80 % of them become
    [MASK], 10 % a random token, 10 % stay. Returns a new batch; labels (B, L) hold the true ids there and -100
    everywhere else.

    Each token is drawn by itself, all alike; or, with `weights` (V,), that fraction of the batch (rounded up) in
    proportion to them, without replacement: see `rarity`.
    """
    if tokenizer.mask_token_id is None:
        raise KDTutorError(
            f"the tokenizer {tokenizer.name_or_path} has no mask token, as masked LM needs one"
        )
    ids = batch["input_ids"]
    special = torch.tensor(tokenizer.all_special_ids)
    chance, action = torch.rand(ids.shape, generator=generator), torch.rand(ids.shape, generator=generator)
    real = batch["attention_mask"].bool() & ~torch.isin(ids, special)
    if weights is None:
        chosen = (chance < probability) & real
    else:  # those whose exponential clocks, each of its own rate, ring first (Efraimidis & Spirakis 2006)
        rings = (-torch.log1p(-chance) / weights[ids]).masked_fill(~real, math.inf).flatten()
        chosen = torch.zeros(ids.numel(), dtype=torch.bool)
        chosen[rings.topk(math.ceil(probability * int(real.sum())), largest=False).indices] = True
        chosen = chosen.view_as(ids)
    anything = torch.randint(len(tokenizer), ids.shape, generator=generator)
    corrupted = torch.where(chosen & (action < 0.8), tokenizer.mask_token_id, ids)
    corrupted = torch.where(chosen & (action >= 0.9), anything, corrupted)
    return {**batch, "input_ids": corrupted, "labels": torch.where(chosen, ids, IGNORED)}


@dataclass(frozen=True)
class Task:
    """Texts, targets and what they mean. Make one with `load_task`.

    kind: "classification" (targets: class indices), "regression" (floats) or "masked-lm" (no targets).
    """

    name: str
    kind: str
    labels: tuple[str, ...]
    splits: dict[str, Split] = field(repr=False)
    tokenizer_name: str | None = None  # None: the course's own WordPiece vocabulary
    max_length: int = 128
    splits_long: bool = False  # long texts give several rows; otherwise their end is cut off
    description: str = field(default="", repr=False)

    @property
    def num_labels(self) -> int:
        return len(self.labels) if self.kind == "classification" else 1

    @property
    def split_names(self) -> tuple[str, ...]:
        return tuple(self.splits)

    @cached_property
    def tokenizer(self):
        return load_tokenizer(self.tokenizer_name)

    def split(self, name: str) -> Split:
        if name not in self.splits:
            raise KDTutorError(nearest(f"split of {self.name}", name, self.splits))
        return self.splits[name]

    def texts(self, split: str) -> list[str]:
        """The (first) text of every example."""
        return list(self.split(split).texts[0])

    def targets(self, split: str) -> Tensor:
        """Class indices int64 (N,), or float32 (N,) for regression."""
        return self.split(split).targets

    def encode(self, split: str) -> Encoded:
        """The split as token ids; tokenized once per process for the same texts and tokenizer.

        Where `splits_long`, a long text gives several rows, each with its own [CLS] and [SEP].
        """
        part, key = self.split(split), (self.tokenizer_name, self.max_length, self.splits_long)
        if key not in part.encodings:
            part.encodings[key] = _tokenize(self.tokenizer, part.texts, self.max_length, self.splits_long)
        return replace(part.encodings[key], labels=part.targets)

    def encode_texts(self, texts: Sequence[str]) -> Encoded:
        """Any texts (or one), as the model of this task reads them; no labels."""
        return _tokenize(self.tokenizer, ([texts] if isinstance(texts, str) else texts,), self.max_length)

    def dataset(self, split: str):
        """The split as a `datasets.Dataset` for `transformers.Trainer` and friends: text, text_pair, label, domain."""
        from datasets import ClassLabel, Dataset

        part = self.split(split)
        columns = dict(zip(("text", "text_pair"), map(list, part.texts), strict=False))
        if part.targets is not None:
            columns["label"] = part.targets.numpy()
        if part.domains is not None:
            columns["domain"] = list(part.domains)
        dataset = Dataset.from_dict(columns)
        if self.kind != "classification":
            return dataset
        return dataset.cast_column("label", ClassLabel(names=list(self.labels)))

    def subset(self, n: int, seed: int = 0, split: str = "train") -> Task:
        """The same task with only `n` random examples of one split, the training split if none is named."""
        part, kind = self.split(split), "training" if split == "train" else split
        if not 0 < n <= len(part):
            raise KDTutorError(f"{self.name} has {len(part)} {kind} examples: no subset of {n} can be drawn")
        keep = _random_indices(len(part), n, seed)
        which = f"{n}" if split == "train" else f"{n} of {split}"
        return self._with(f"{self.name}[{which}, seed {seed}]", **{split: _select(part, keep)})

    def transfer(self, labelled: int = 2000, seed: int = 0) -> Task:
        """All training texts, but only `labelled` random ones keep their label; the others get -100 ("unlabelled").

        `HardLabels` skips unlabelled examples; a teacher's soft targets need no label, so distillation uses them all:
        the *transfer set* of Hinton et al. 2015.
        """
        train = self.split("train")
        if self.kind != "classification" or not 0 < labelled <= len(train):
            raise KDTutorError(
                f"{labelled} labelled examples of {self.name}, a {self.kind} task: "
                f"a transfer set needs a classification task, and 1 to {len(train)} of them"
            )
        keep = _random_indices(len(train), labelled, seed)
        targets = torch.full_like(train.targets, IGNORED)
        targets[keep] = train.targets[keep]
        name = f"{self.name}[{labelled} labelled, seed {seed}]"
        return self._with(name, train=replace(train, targets=targets))

    def labelled_only(self) -> Task:
        """Without the unlabelled training texts: what a student without a teacher can learn from."""
        train = self.split("train")
        if train.targets is None:
            raise KDTutorError(f"{self.name} is a {self.kind} task: none of its texts is labelled")
        keep = (train.targets != IGNORED).nonzero()[:, 0]
        return self._with(f"{self.name}[labelled only]", train=_select(train, keep))

    def _with(self, name: str, **splits: Split) -> Task:
        return replace(self, name=name, splits=self.splits | splits)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over texts, targets, label names and tokenizer: what a teacher cache or a checkpoint belongs to."""
        tokenizer = json.loads(self.tokenizer.backend_tokenizer.to_str())
        tokenizer |= {"truncation": None, "padding": None}  # these tell only what it was last used for
        digest = hashlib.sha256(json.dumps([self.kind, self.labels, self.max_length, tokenizer]).encode())
        for name, part in self.splits.items():
            digest.update(json.dumps([name, *map(list, part.texts)]).encode())
            if part.targets is not None:
                digest.update(part.targets.numpy().tobytes())
        return digest.hexdigest()[:16]


def load_task(
    name: str | os.PathLike,
    *,
    text: str | None = None,
    pair: str | None = None,
    label: str | None = None,
    tokenizer: str | None = None,
    max_length: int = 128,
    seed: int = 0,
) -> Task:
    """A task by name (embedded or Hub), by file (CSV, JSON lines, Parquet), or by folder of such files.

    text, pair, label: column names of your own file. A file is cut 80/10/10 into train, validation and test at
    `seed`; a folder holds train.*, validation.* and test.*, or what `datasets.load_dataset` reads. No label column:
    a masked-LM task. Numbers with a fraction: regression; any other labels are classes.
    tokenizer: a name or folder for `AutoTokenizer`; by default the course's own vocabulary. Texts are cut to
    `max_length` tokens; those of your own masked-LM task (WikiText's paragraphs, say) are split there, so none is lost.

    Raises KDTutorError, naming the culprit: unknown name, missing column, empty text, one class, a label only in the
    test part, a corrupted asset, no network.
    """
    if max_length < 4:
        raise KDTutorError(
            f"max_length = {max_length}: [CLS] and [SEP] leave no room for a text; take 4 at least"
        )
    path = Path(name).expanduser()
    if str(name) in EMBEDDED:
        task = _load_embedded(str(name))
    elif str(name) in HUB:
        task = _load_hub(str(name), text, pair, label)
    elif path.suffix.lower() in _READERS or any((path / f"train{suffix}").is_file() for suffix in _READERS):
        task = _load_files(path, text, pair, label, seed)
    elif path.is_file():
        raise KDTutorError(f"{path}: files are read as {', '.join(_READERS)}, not as {path.suffix or 'this'}")
    elif not path.is_dir() and str(name).startswith((".", "~", os.sep)):
        raise KDTutorError(f"there is no file or folder {path.absolute()}")
    else:
        task = _load_hub(str(path), text, pair, label)
    return replace(task, tokenizer_name=tokenizer, max_length=max_length)


def load_tokenizer(name: str | os.PathLike | None = None):
    """The course's WordPiece tokenizer (vocabulary 8,192), or any fast tokenizer by name or folder."""
    if name is None:
        return _course_tokenizer()
    from transformers import AutoTokenizer

    try:
        with hub_access(name):
            return AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except Exception as error:  # no network, unknown name, damaged file: a different type for each
        raise KDTutorError(unavailable("tokenizer", name, error)) from error


@cache
def _course_tokenizer():
    from transformers import AutoTokenizer

    for file in ("tokenizer.json", "tokenizer_config.json"):
        verified(f"tokenizer/{file}")
    return AutoTokenizer.from_pretrained(asset_path("tokenizer"))


# ------------------------------------------------------------------------------------------------ the network


@contextmanager
def hub_access(name: str | os.PathLike) -> Iterator[None]:
    """Around a look-up of `name`: if the Hub does not answer, only the cache is asked.

    The Hub's own libraries would try again and again, for half a minute.
    """
    from huggingface_hub import constants

    offline = constants.HF_HUB_OFFLINE or not (Path(name).is_dir() or _answers(constants.ENDPOINT))
    places = [constants, *([sys.modules["datasets"].config] if "datasets" in sys.modules else [])]
    before = [place.HF_HUB_OFFLINE for place in places]
    try:
        for place in places:
            place.HF_HUB_OFFLINE = offline
        yield
    finally:
        for place, value in zip(places, before, strict=True):
            place.HF_HUB_OFFLINE = value


def _answers(address: str, seconds: float = 4) -> bool:
    """Whether a web server answers in time, be it with an error. In a thread: name look-up knows no time limit."""
    answer = []

    def ask() -> None:
        try:
            urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=seconds).close()
        except urllib.error.HTTPError:
            pass
        except (OSError, ValueError) as error:
            if not isinstance(
                getattr(error, "reason", None), ssl.SSLError
            ):  # the Hub's libraries may know better
                return
        answer.append(True)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    return bool(answer)


def unavailable(what: str, name: str | os.PathLike, error: Exception) -> str:
    """One sentence on what could not be loaded, neither from a folder nor the Hub: what was tried, how to go on."""
    from huggingface_hub import constants

    reason = f"{type(error).__name__}: {' '.join(str(error).split()).split('. ')[0][:160]}"
    if Path(name).is_dir():
        return f"can't load the {what} in the folder {name} ({reason})"
    return (
        f'can\'t load the {what} "{name}" (tried: a folder of that name, the local cache, {constants.ENDPOINT}; '
        f'{reason}); to go on offline, take what ships, such as load_task("{EMBEDDED[0]}") and load_teacher(task), '
        "or give a folder of your own"
    )


# ------------------------------------------------------------------------------------------------ embedded


@cache
def _load_embedded(name: str) -> Task:
    import pyarrow.parquet as parquet

    about = json.loads(verified(f"data/{name}/task.json").read_text(encoding="utf-8"))
    splits = {}
    for split in SPLITS:
        table = parquet.read_table(verified(f"data/{name}/{split}.parquet"))
        targets = None
        if "label" in table.column_names:
            dtype = np.int64 if about["kind"] == "classification" else np.float32
            targets = torch.from_numpy(table["label"].to_numpy().astype(dtype))
        domains = table["domain"].to_pylist() if "domain" in table.column_names else None
        splits[split] = Split((table["text"].to_pylist(),), targets, domains)
    labels = ("value",) if about["kind"] == "regression" else tuple(about["labels"])
    return Task(name, about["kind"], labels, splits, description=about["description"])


# ----------------------------------------------------------------------------------------- a learner's own files


def _read_csv(path: Path):
    from pyarrow import csv

    return csv.read_csv(path, parse_options=csv.ParseOptions(newlines_in_values=True))


def _read_json(path: Path):
    from pyarrow import json as arrow_json

    return arrow_json.read_json(path, parse_options=arrow_json.ParseOptions(newlines_in_values=True))


def _read_parquet(path: Path):
    from pyarrow import parquet

    return parquet.read_table(path)


_READERS = {".csv": _read_csv, ".jsonl": _read_json, ".json": _read_json, ".parquet": _read_parquet}


def _load_files(path: Path, text, pair, label, seed: int) -> Task:
    if path.is_dir():
        files = {s: next((f for e in _READERS if (f := path / f"{s}{e}").is_file()), None) for s in SPLITS}
        if missing := [split for split, file in files.items() if file is None]:
            raise KDTutorError(
                f"folder {path} lacks {', '.join(missing)} (each as one of {', '.join(_READERS)})"
            )
        return _assemble(
            path.resolve().name, {s: _read(f, text, pair, label) for s, f in files.items()}, label, where=path
        )
    columns = _read(path, text, pair, label)
    n = len(columns[text])
    train, validation, test = _shuffled(n, seed).tensor_split([int(0.8 * n), int(0.9 * n)])
    rows = {"train": train.tolist(), "validation": validation.tolist(), "test": test.tolist()}
    if not all(rows.values()):
        raise KDTutorError(
            f"{path} has {n} rows, too few to be cut into train, validation and test; 10 will do"
        )
    parts = {s: {c: [values[i] for i in sorted(rows[s])] for c, values in columns.items()} for s in SPLITS}
    return _assemble(path.stem, parts, label, where=path)


def _read(path: Path, text, pair, label) -> dict[str, list]:
    """The named columns of one file, every row checked."""
    if not path.is_file():
        raise KDTutorError(f"there is no file {path} (looked in {path.absolute().parent})")
    try:
        table = _READERS[path.suffix.lower()](path)
    except Exception as error:  # pyarrow raises several types; all mean the same to the reader
        reason = str(error).splitlines()[0]
        raise KDTutorError(f"{path} can't be read as {path.suffix[1:]} (UTF-8): {reason}") from error
    _check_columns(table.column_names, path, text, pair, label)
    columns = {c: table[c].to_pylist() for c in (text, pair, label) if c}
    if not columns[text]:
        raise KDTutorError(f"{path} has no rows")
    _check_rows(columns, path, label)
    return columns


def _check_columns(names: Sequence[str], where, text, pair, label) -> None:
    if text is None:
        listing = ", ".join(f'"{name}"' for name in names)
        raise KDTutorError(f'{where}: which column holds the text? Say text="…"; its columns are {listing}')
    for column in (text, pair, label):
        if column is not None and column not in names:
            raise KDTutorError(nearest(f"column of {where}", column, names))
        if names.count(column) > 1:
            raise KDTutorError(f'{where} has {names.count(column)} columns named "{column}"')


def _check_rows(columns: dict[str, list], where, label, blank: bool = False) -> None:
    """Refuse the first row without a text (unless it may be `blank`) or label. Row 1 stands below the header."""
    for column, values in columns.items():
        what = (
            "label is missing, or neither text nor a number"
            if column == label
            else "text is empty, or not a text"
        )
        for row, value in enumerate(values, 1):
            if isinstance(value, str):
                good = value.strip() or (blank and column != label)
            else:
                good = column == label and isinstance(value, (int, float)) and math.isfinite(value)
            if not good:
                raise KDTutorError(f'{where}: column "{column}", row {row}: the {what} ({str(value)[:40]!r})')


def _assemble(name: str, columns: dict[str, dict[str, list]], label, where, names=None) -> Task:
    """Columns of each split → Task; the labels decide its kind. `names`: the classes that integer labels count."""
    texts = {s: tuple(values for c, values in part.items() if c != label) for s, part in columns.items()}
    if label is None:
        splits = {s: Split(t, None) for s, t in texts.items()}
        return Task(name, "masked-lm", (), splits, splits_long=True)
    values = {s: part[label] for s, part in columns.items()}
    kinds = {type(value) for part in values.values() for value in part}
    if kinds <= {int, float} and not all(float(v).is_integer() for part in values.values() for v in part):
        targets = {s: torch.tensor(part, dtype=torch.float32) for s, part in values.items()}
        return Task(name, "regression", ("value",), {s: Split(texts[s], targets[s]) for s in texts})
    if float in kinds:  # pandas writes a column of integers as 1.0, 2.0 when a row was missing once
        values = {s: [int(v) if isinstance(v, float) else v for v in part] for s, part in values.items()}
    seen = set(values["train"])
    if len(seen) < 2:
        only = f'"{next(iter(seen))}"'
        raise KDTutorError(
            f'{where}: column "{label}" has one class only ({only}); there is nothing to learn'
        )
    for split, part in values.items():
        if unseen := set(part) - seen:
            listing = ", ".join(f'"{value}"' for value in sorted(map(str, unseen)))
            raise KDTutorError(
                f'{where}: column "{label}": the {split} part has labels never seen in training ({listing}); '
                "add examples of them or leave them out"
            )
    classes = range(len(names)) if names else sorted(seen)
    number = {value: i for i, value in enumerate(classes)}
    targets = {s: torch.tensor([number[v] for v in part]) for s, part in values.items()}
    return Task(
        name,
        "classification",
        tuple(names or map(str, classes)),
        {s: Split(texts[s], targets[s]) for s in texts},
    )


# ------------------------------------------------------------------------------------------------ the Hub


def _load_hub(name: str, text, pair, label) -> Task:
    """`name`: a short name of HUB; "owner/dataset" or "owner/dataset:configuration"; a folder that datasets reads.

    Examples whose class is hidden (-1, as in GLUE's test parts) are left out. Without a validation part, or if that
    plays the test, 5 % of train (2,000 at most) become the validation part.
    """
    folder = Path(name).is_dir()
    if name in HUB:
        path, configuration, texts, label, test = HUB[name]
        text, pair = texts[0], texts[1] if len(texts) > 1 else None
    elif folder or "/" in name or text is not None:
        path, _, configuration = (os.path.abspath(name), "", "") if folder else name.partition(":")
        test = "test"
    else:
        raise KDTutorError(
            nearest("task", name, [*EMBEDDED, *HUB]) + ' (or a file, or "owner/dataset" with text="…")'
        )
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise KDTutorError("tasks from the Hub need the datasets package: pip install datasets") from error
    try:
        with hub_access(path):
            raw = load_dataset(path, configuration or None)
    except Exception as error:  # no network, unknown name, gated: datasets raises a different type for each
        raise KDTutorError(unavailable("task", name, error)) from error
    for split in ("train", test):
        if split not in raw:
            raise KDTutorError(nearest(f"split of {name}", split, raw))
    _check_columns(raw["train"].column_names, name, text, pair, label)
    parts = {"train": raw["train"], "validation": raw.get("validation"), "test": raw[test]}
    if parts["validation"] is None or test != "test":
        share = min(0.05, 2000 / len(raw["train"]))
        held = raw["train"].train_test_split(test_size=share, seed=0)
        parts |= {"train": held["train"], "validation": held["test"]}
    names = getattr(raw["train"].features.get(label), "names", None) if label else None
    columns = {}
    for split, part in parts.items():
        columns[split] = {c: part[c][:] for c in (text, pair, label) if c}
        if label is None:  # raw text, such as WikiText: blank lines and headings carry nothing to mask
            columns[split] = {text: [t for t in columns[split][text] if len(t.split()) > 3]}
        elif names:
            keep = [i for i, value in enumerate(columns[split][label]) if value not in (None, -1)]
            columns[split] = {c: [values[i] for i in keep] for c, values in columns[split].items()}
        if not columns[split][text]:
            why = "every label is hidden (-1)" if names and len(part) else "it is empty"
            raise KDTutorError(f"the {split} part of {name} can't be used: {why}")
        _check_rows(columns[split], f"{name}, {split} part", label, blank=True)
    return _assemble(Path(name).name if folder else name, columns, label, name, names)


# ------------------------------------------------------------------------------------------------ tokens


def _tokenize(tokenizer, texts: tuple[Sequence[str], ...], max_length: int, split: bool = False) -> Encoded:
    if not len(texts[0]):
        return Encoded(torch.empty(0, dtype=torch.int32), torch.zeros(1, dtype=torch.int64), None)
    encoding = tokenizer(
        *map(list, texts),
        truncation=True,
        max_length=max_length,
        return_overflowing_tokens=split,
        return_attention_mask=False,
    )
    offsets = torch.tensor([0, *map(len, encoding["input_ids"])]).cumsum(0)

    def flat(name, dtype):
        ids = np.fromiter(chain.from_iterable(encoding[name]), dtype, count=int(offsets[-1]))
        return torch.from_numpy(ids)

    types = flat("token_type_ids", np.int8) if len(texts) > 1 and "token_type_ids" in encoding else None
    return Encoded(flat("input_ids", np.int32), offsets, None, types, tokenizer.pad_token_id or 0)


def _select(split: Split, keep: Tensor) -> Split:
    rows = keep.tolist()
    texts = tuple([column[i] for i in rows] for column in split.texts)
    domains = None if split.domains is None else [split.domains[i] for i in rows]
    return Split(texts, None if split.targets is None else split.targets[keep], domains)


def _random_indices(total: int, n: int, seed: int) -> Tensor:
    return _shuffled(total, seed)[:n].sort().values


def _shuffled(total: int, seed: int) -> Tensor:
    return torch.randperm(total, generator=torch.Generator().manual_seed(seed))
