"""A task: texts and targets in fixed splits, and what they mean. `load_task` makes one."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from kdtutor.data.kinds import KINDS, Kind
from kdtutor.data.tokens import IGNORED, Encoded, load_tokenizer, unread
from kdtutor.errors import KDTutorError, nearest


@dataclass(frozen=True)
class Split:
    """One part of a task. `texts` holds one tuple of columns (usually one text each), `targets` is (N, …) or None."""

    texts: tuple[Sequence[str], ...]
    targets: Tensor | None
    domains: Sequence[str] | None = None
    encodings: dict = field(default_factory=dict, repr=False, compare=False)  # (tokenizer, length) → Encoded

    def __len__(self) -> int:
        return len(self.texts[0])

    @property
    def labelled(self) -> Tensor:
        """Tell which rows have a label: bool (N,)."""
        if self.targets is None:
            return torch.zeros(len(self), dtype=torch.bool)
        return (self.targets != IGNORED).reshape(len(self), -1).all(1)

    def select(self, index: Tensor) -> Split:
        """Make a split of the rows `index`, int64 (n,), in that order."""
        rows = index.tolist()
        texts = tuple([column[i] for i in rows] for column in self.texts)
        domains = None if self.domains is None else [self.domains[i] for i in rows]
        return Split(texts, None if self.targets is None else self.targets[index], domains)

    def labelled_only(self) -> Split:
        """Keep the rows that have a label."""
        return self.select(self.labelled.nonzero()[:, 0])

    def and_more(self, texts: Sequence[Sequence[str]], targets: Tensor | None = None) -> Split:
        """Put more rows behind these, columns of texts; without targets they are unlabelled (-100)."""
        columns = tuple([*own, *more] for own, more in zip(self.texts, texts, strict=True))
        if targets is None:
            shape = len(columns[0]) - len(self), *self.targets.shape[1:]
            targets = torch.full(shape, IGNORED, dtype=self.targets.dtype)
        return Split(columns, torch.cat([self.targets, targets]))

    def sample(self, n: int, seed: int = 0) -> Split:
        """Draw `n` random rows, in the split's own order; all of them if there are fewer."""
        return self.select(random_rows(len(self), n, seed))


#: the share of a split's tokens from which on it is said that its tokenizer can't read them
MUCH = 0.2


@dataclass(frozen=True)
class Task:
    """Texts, targets and what they mean. Make one with `load_task`.

    kind: "classification" (targets: class indices), "regression" (floats), "masked-lm" and "causal-lm" (no targets),
    "seq2seq" (no targets; the second column of texts is to be written), or another name in `kdtutor.data.kinds.KINDS`.
    """

    name: str
    kind: str
    labels: tuple[str, ...]
    splits: dict[str, Split] = field(repr=False)
    tokenizer_name: str | None = None  # None: the course's own WordPiece vocabulary
    max_length: int = 128
    splits_long: bool = False  # long texts give several rows; otherwise their end is cut off
    description: str = field(default="", repr=False)
    # Of your own data: what was guessed, what looks wrong.
    notes: tuple[str, ...] = field(default=(), repr=False)

    def __post_init__(self):
        if self.kind not in KINDS:
            raise KDTutorError(nearest("kind of task", self.kind, KINDS))

    @property
    def rules(self) -> Kind:
        """Tell what the kind of this task decides."""
        return KINDS[self.kind]

    @property
    def num_labels(self) -> int:
        return max(1, len(self.labels))

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
        """List the (first) text of every example."""
        return list(self.split(split).texts[0])

    def targets(self, split: str) -> Tensor | None:
        """Return class indices int64 (N,), or float32 (N,) for regression; None where there are no labels."""
        return self.split(split).targets

    def encode(self, split: str) -> Encoded:
        """Tokenize the split, once per process for the same texts and tokenizer.

        Where `splits_long`, a long text gives several rows, each with its own [CLS] and [SEP].
        """
        part, key = self.split(split), self._reading
        if key not in part.encodings:
            part.encodings[key] = self.rules.tokenize(
                self.tokenizer, part.texts, self.max_length, self.splits_long
            )
            if (share := unread(part.encodings[key], self.tokenizer)) > MUCH:
                warnings.warn(
                    f"{share:.0%} of the tokens of {self.name}, {split} split, are {self.tokenizer.unk_token}: its "
                    "tokenizer can't read them, and nothing is learned from them; a multilingual model's can "
                    "(tokenizer=…, --tokenizer …)",
                    stacklevel=2,
                )
        return replace(part.encodings[key], labels=part.targets)

    def encode_texts(self, texts: Sequence[str]) -> Encoded:
        """Tokenize any texts (or one), as the model of this task reads them; no labels."""
        rows = [texts] if isinstance(texts, str) else texts
        if not isinstance(rows, Iterable) or not all(isinstance(text, str) for text in rows):
            raise KDTutorError(f"texts are one str or a list of them, not {str(texts)[:60]!r}")
        return self.rules.tokenize(self.tokenizer, (rows,), self.max_length)

    @property
    def _reading(self) -> tuple:
        """Tell what a split's token ids depend on, besides its texts."""
        return self.tokenizer_name, self.max_length, self.splits_long, type(self.rules).tokenize

    def dataset(self, split: str):
        """Convert a split to a `datasets.Dataset`, for `transformers.Trainer`: text, text_pair, label, domain."""
        from datasets import ClassLabel, Dataset

        part = self.split(split)
        columns: dict = dict(zip(("text", "text_pair"), map(list, part.texts), strict=False))
        if part.targets is not None:
            columns["label"] = part.targets.numpy()
        if part.domains is not None:
            columns["domain"] = list(part.domains)
        dataset = Dataset.from_dict(columns)
        if self.rules.answer != "classes":
            return dataset
        return dataset.cast_column("label", ClassLabel(names=list(self.labels)))

    def subset(self, n: int, seed: int = 0, split: str = "train") -> Task:
        """Keep only `n` random examples of one split, the training split if none is named."""
        part, kind = self.split(split), "training" if split == "train" else split
        if not isinstance(n, int) or not 0 < n <= len(part):
            raise KDTutorError(f"{self.name} has {len(part)} {kind} examples: no subset of {n} can be drawn")
        which = f"{n}" if split == "train" else f"{n} of {split}"
        return self._with(f"{self.name}[{which}, seed {seed}]", **{split: part.sample(n, seed)})

    def transfer(self, labelled: int = 2000, seed: int = 0) -> Task:
        """Keep all training texts, but the labels of only `labelled` random ones; the others get -100 ("unlabelled").

        `HardLabels` skips unlabelled examples; a teacher's soft targets need no label, so distillation uses them all:
        the *transfer set* of Hinton et al. 2015.
        """
        train = self.split("train")
        if self.rules.answer != "classes" or not 0 < labelled <= len(train):
            raise KDTutorError(
                f"{labelled} labelled examples of {self.name}, a {self.kind} task: "
                f"a transfer set needs a classification task, and 1 to {len(train)} of them"
            )
        keep = random_rows(len(train), labelled, seed)
        targets = torch.full_like(train.targets, IGNORED)
        targets[keep] = train.targets[keep]
        name = f"{self.name}[{labelled} labelled, seed {seed}]"
        return self._with(name, train=replace(train, targets=targets))

    def train_on(self, split: str) -> Task:
        """Return the same task with another split, such as "pool", in the place of the training texts."""
        return self._with(f"{self.name}[trained on {split}]", train=self.split(split))

    def with_pool(self, labels: bool = False) -> Task:
        """Return the training texts and then the pool's, whose labels are hidden (-100) unless `labels`.

        No teacher that ships has seen the pool's labels: what it answers there it did not memorise.
        """
        train, pool = self.split("train"), self.split("pool")
        name = f"{self.name}[and the {'labelled ' if labels else ''}pool]"
        return self._with(name, train=train.and_more(pool.texts, pool.targets if labels else None))

    def labelled_only(self) -> Task:
        """Leave out the unlabelled training texts: what stays is what a student without a teacher can learn from."""
        train = self.split("train")
        if train.targets is None:
            raise KDTutorError(f"{self.name} is a {self.kind} task: none of its texts is labelled")
        return self._with(f"{self.name}[labelled only]", train=train.labelled_only())

    def _with(self, name: str, **splits: Split) -> Task:
        return replace(self, name=name, splits=self.splits | splits)

    @cached_property
    def fingerprint(self) -> str:
        """Hash texts, targets, label names and tokenizer (SHA-256): what a cache or a checkpoint belongs to."""
        if hasattr(self.tokenizer, "backend_tokenizer"):
            tokenizer = json.loads(self.tokenizer.backend_tokenizer.to_str())
            tokenizer |= {"truncation": None, "padding": None}  # these tell only what it was last used for
        else:
            tokenizer = [type(self.tokenizer).__name__, sorted(self.tokenizer.get_vocab().items())]
        digest = hashlib.sha256(json.dumps([self.kind, self.labels, self.max_length, tokenizer]).encode())
        for name, part in self.splits.items():
            digest.update(json.dumps([name, *map(list, part.texts)]).encode())
            if part.targets is not None:
                digest.update(part.targets.numpy().tobytes())
        return digest.hexdigest()[:16]


def random_order(total: int, seed: int) -> Tensor:
    """Shuffle 0 to total - 1: int64 (total,). `seed` alone decides the order."""
    return torch.randperm(total, generator=torch.Generator().manual_seed(seed))


def random_rows(total: int, n: int, seed: int) -> Tensor:
    """Draw `n` of `total` row numbers, in increasing order: int64 (n,)."""
    return random_order(total, seed)[:n].sort().values
