"""Which rows are trained on and which are measured on: by a hash of the text, so a row keeps its part."""

from __future__ import annotations

import hashlib

import numpy as np

from kdtutor.data.columns import Columns
from kdtutor.data.rows import BY
from kdtutor.errors import KDTutorError

SPLITS = ("train", "validation", "test")
TRAIN, VALIDATION, TEST = range(3)
HELD_OUT = 0.1  # the fraction of the texts that each of validation and test gets
STRATIFY = "stratify=True (--stratify)"


def text_keys(texts: tuple[list[str], ...], seed: int = 0) -> np.ndarray:
    """Hash each text (or pair) to a uint64 (N,). Texts that differ only by case or blanks get the same."""
    salt = str(seed).encode()
    rows = texts[0] if len(texts) == 1 else map("\0".join, zip(*texts, strict=True))

    def key(text: str) -> int:
        same = " ".join(text.casefold().split()).encode("utf-8", "surrogatepass")
        return int.from_bytes(hashlib.blake2b(same, digest_size=8, key=salt).digest(), "little")

    return np.fromiter(map(key, rows), np.uint64, count=len(texts[0]))


def cut(keys: np.ndarray, held_out: tuple[int, ...] = (VALIDATION, TEST)) -> np.ndarray:
    """Give every row a part by its key alone: (N,). Other rows, more or fewer of them, change nothing."""
    share = keys / 2.0**64
    part = np.full(len(keys), TRAIN)
    # From the last part to the first: each begins a tenth below the one after it.
    for i, split in enumerate(sorted(held_out)):
        part[share >= 1 - HELD_OUT * (len(held_out) - i)] = split
    return part


def stratified(
    keys: np.ndarray,
    classes: np.ndarray | None,
    held_out: tuple[int, ...] = (VALIDATION, TEST),
    fewest: int = 1,
) -> np.ndarray:
    """Cut each class by itself, in the order of its keys: (N,). Every class of three texts or more is in all parts.

    classes: (N,), or None to cut all rows alike. A text that has several labels goes with its first one. fewest: texts
    of a class that each part held out gets.
    """
    unique, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    kinds = np.zeros(len(unique), np.int64) if classes is None else classes[first]
    part = np.full(len(unique), TRAIN)
    for kind in np.unique(kinds):
        rows = np.flatnonzero(kinds == kind)
        share = max(fewest, round(HELD_OUT * len(rows))) if len(rows) > fewest * len(held_out) else 0
        for i, split in enumerate(held_out):
            part[rows[i * share : (i + 1) * share]] = split
    return part[inverse]


def duplicates(keys: np.ndarray, classes: np.ndarray | None, columns: Columns) -> list[str]:
    """Count rows whose text occurs before, and texts that have several labels."""
    unique, inverse = np.unique(keys, return_inverse=True)
    if len(unique) == len(keys):
        return []
    notes = [f"{len(keys) - len(unique):,} rows repeat the text of another one; equal texts stay in one part"]
    if classes is not None:
        labelled = np.flatnonzero(classes >= 0)
        pairs = np.unique(np.stack([inverse[labelled], classes[labelled]]), axis=1)
        several = np.flatnonzero(np.bincount(pairs[0], minlength=len(unique)) > 1)
        if len(several):
            rows = labelled[np.isin(inverse[labelled], several[:1])]
            other = rows[classes[rows] != classes[rows[0]]][0]
            where = f"{columns.place(int(rows[0]))} and {columns.place(int(other)).rpartition(', ')[2]}"
            notes.append(f"WARNING: {len(several):,} texts have several labels, such as {where}")
    return notes


def overlaps(keys: np.ndarray, part: np.ndarray) -> list[str]:
    """Count the texts that given files share."""
    notes = []
    for measured in (VALIDATION, TEST):
        own = np.unique(keys[part == measured])
        shared = int(np.isin(own, keys[part == TRAIN]).sum())
        if shared:
            notes.append(
                f"WARNING: {shared:,} of {len(own):,} {SPLITS[measured]} texts are in train too: scores there say "
                "too much; leave them out of train"
            )
    return notes


def taught(by_teacher: np.ndarray, part: np.ndarray) -> list[str]:
    """Count the labels that are a teacher's: measured on them, a score says how alike student and teacher are."""
    notes = [
        f"{int((by_teacher & (part == TRAIN)).sum()):,} training labels are a teacher's, as label_by says"
    ]
    for measured in (VALIDATION, TEST):
        if count := int((by_teacher & (part == measured)).sum()):
            notes.append(
                f"WARNING: {count:,} of {int((part == measured).sum()):,} {SPLITS[measured]} labels are a teacher's: "
                "scores there say how alike the two are, not what is right"
            )
    return notes


def check_large_enough(
    part: np.ndarray, keys: np.ndarray, where: str, fewest: int = 1, stratify: bool = False, taught: int = 0
) -> None:
    """Refuse a cut that leaves nothing to train on or to measure on."""
    sizes = np.bincount(part[part >= 0], minlength=3)
    if (sizes >= fewest).all():
        return
    listed = ", ".join(f"{name} {size}" for name, size in zip(SPLITS, sizes, strict=True))
    what = f"{where} has {len(part)} rows with {len(np.unique(keys))} different texts"
    if taught:
        what += f" and {len(part) - taught} labels that are no teacher's (without its column {BY} all are measured on)"
    what += ", too few to be cut"
    if stratify:
        raise KDTutorError(f"{what} class by class ({listed}): a class needs 3 texts to be in all parts")
    raise KDTutorError(
        f"{what} by chance ({listed}); {STRATIFY} cuts exactly, and then 10 different texts will do"
    )
