"""Throw generated cases at what people type and hand in, and count what comes of it: `make fuzz`.

    python tools/fuzz.py --cases 1000 --seed 7

Files, folders, flags, formulas, settings and label maps, sound ones and damaged ones; the seed decides all. Each
case ends as good (accepted, and what was understood is what was meant), refused (one short sentence), wrong (accepted,
and understood as something else, or a sound one refused), raw (another exception than KDTutorError) or hang. Anything
but good and refused is printed with its case, and ends the program with 1.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import json
import os
import random
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pyarrow as pa
from pyarrow import parquet

from kdtutor.cli.commands import COMMANDS, parse
from kdtutor.data.load import load_task
from kdtutor.errors import KDTutorError
from kdtutor.models.outputs import read_label_map, written
from kdtutor.objectives.parse import parse_objective
from kdtutor.training.settings import Settings

PATIENCE = 10  # seconds of processor time until a case counts as a hang: on a busy machine sound ones wait
LONGEST = 2500  # letters of what is still a sentence
ODD = [
    "", "\0", "²", "nan", "-1", "1e999", "9" * 400, "ß", "ﷺ", "'", '"', ",", ";", "\n", "[", "{", "\ud800", "None",
    "A" * 999,
]  # fmt: skip
WORDS = [
    "good", "bad", "fish", "tree", "naïve", "x,y", 'say "so"', "two\nlines", "東京", "😀", "007", "1e5", "NA", "=1+1",
    "a;b",
]  # fmt: skip

#: makes a case: what to run, and None or what must come of it
Case = tuple[str, Callable[[], object], object]
ANY = object()  # whatever comes is right, if it comes as one sentence or without a word


# ------------------------------------------------------------------------------------------------ what is generated


def file_case(draw: random.Random, folder: Path) -> Case:
    """Make a table in some format; damaged, any number of its bytes are others, or are missing."""
    count = draw.choice([2, 12, 60, 200])
    texts = [f"{draw.choice(WORDS)} {draw.choice(WORDS)} number {n}" for n in range(count)]
    classes = draw.sample(WORDS, 2) if draw.random() < 0.7 else ["1", "01"]
    # No list and no line break is a class.
    classes = [name.replace("\n", " ") for name in classes]
    labels = [classes[draw.random() < 0.4] for _ in texts]
    kind, delimiter = draw.choice([".csv", ".tsv", ".jsonl", ".json"]), draw.choice(",;\t|")
    if kind in (".jsonl", ".json"):
        rows = [{"text": text, "label": label} for text, label in zip(texts, labels, strict=True)]
        ascii_only = draw.random() < 0.5
        lines = [json.dumps(row, ensure_ascii=ascii_only) for row in rows]
        content = "\n".join(lines) if kind == ".jsonl" else f"[{', '.join(lines)}]"
    else:
        out = io.StringIO(newline="")
        writer = csv.writer(out, delimiter=delimiter, lineterminator=draw.choice(["\n", "\r\n"]))
        writer.writerow(["text", "label"])
        writer.writerows(zip(texts, labels, strict=True))
        content = out.getvalue()
    data = content.encode(draw.choice(["utf-8", "utf-8-sig", "utf-16"]))
    damaged = draw.random() < 0.5
    if damaged:
        data = _damaged(draw, data)
    path = folder / f"case{kind}"
    path.write_bytes(data)
    what = f"{kind}, {count} rows, {classes}, {'damaged' if damaged else 'sound'}: {data[:160]!r}"

    def run() -> object:
        task = load_task(str(path), text="text", label="label", stratify=draw_stratify)
        rows = {}
        for split in task.split_names:
            targets = task.targets(split).tolist()
            rows |= {
                text: task.labels[i] for text, i in zip(task.texts(split), targets, strict=True) if i >= 0
            }
        return rows

    draw_stratify = draw.random() < 0.5
    meant = dict(zip(texts, labels, strict=True))
    # Too few rows, or a class too rare, may be refused; what is read must be what was written.
    return what, run, ANY if damaged else ("or refused", meant)


def folder_case(draw: random.Random, folder: Path) -> Case:
    """Make parts in files of several formats, of classes or lists of labels; Parquet has its own numbers for names."""
    several = draw.random() < 0.4
    classes = draw.sample(["good", "bad", "a b", "naïve", "東京", "1", "NA"], draw.choice([2, 3]))
    place = folder / f"parts{draw.randrange(10**9)}"
    place.mkdir()
    meant: dict[str, object] = {}
    for part in ("train", "validation", "test"):
        texts = [f"{draw.choice(WORDS)} of {part}, number {n}" for n in range(12)]
        # Each class by itself first, so that all are learned and measured.
        labels = [[classes[n % len(classes)]] for n in range(12)]
        if several:
            labels = [
                draw.sample(classes, draw.randrange(len(classes) + 1)) if n > 5 else labels[n]
                for n in range(12)
            ]
        _write_part(draw, place, part, texts, labels, several)
        meant |= {text: sorted(own) if several else own[0] for text, own in zip(texts, labels, strict=True)}

    def run() -> object:
        task = load_task(str(place), text="text", label="label", kind="multi-label" if several else None)
        rows: dict[str, object] = {}
        for split in task.split_names:
            for text, target in zip(task.texts(split), task.targets(split).tolist(), strict=True):
                found = (
                    [name for name, mark in zip(task.labels, target, strict=True) if mark]
                    if several
                    else target
                )
                rows[text] = sorted(found) if several else task.labels[found]
        return rows

    return (
        f"folder of {classes}, {'lists' if several else 'one each'}, {sorted(os.listdir(place))}",
        run,
        meant,
    )


def _write_part(
    draw: random.Random, place: Path, part: str, texts: list, labels: list, several: bool
) -> None:
    """Write one part of a folder as JSON lines, CSV or Parquet, there with numbers that stand for names."""
    kind = draw.choice(["jsonl", "parquet"] if several else ["jsonl", "csv", "parquet"])
    file = place / f"{part}.{kind}"
    cells = labels if several else [own[0] for own in labels]
    if kind == "jsonl":
        rows = [{"text": text, "label": cell} for text, cell in zip(texts, cells, strict=True)]
        file.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    elif kind == "csv":
        with file.open("w", newline="", encoding="utf-8") as out:
            csv.writer(out).writerows([("text", "label"), *zip(texts, cells, strict=True)])
    else:
        names = sorted({name for own in labels for name in own}, key=lambda _: draw.random())
        feature: dict = {"names": names, "_type": "ClassLabel"}
        about = {"info": {"features": {"label": {"feature": feature} if several else feature}}}
        numbers = [[names.index(name) for name in own] if several else names.index(own[0]) for own in labels]
        kind = pa.list_(pa.int64()) if several else pa.int64()
        table = pa.table({"text": pa.array(texts), "label": pa.array(numbers, kind)})
        parquet.write_table(table.replace_schema_metadata({"huggingface": json.dumps(about)}), file)


def _damaged(draw: random.Random, data: bytes) -> bytes:
    how = draw.randrange(4)
    if how == 0:
        return data[: draw.randrange(len(data))]
    if how == 1:
        place = draw.randrange(len(data))
        return data[:place] + draw.choice(ODD).encode("utf-8", "surrogatepass") + data[place:]
    changed = bytearray(data)
    for _ in range(draw.choice([1, 3, 30])):
        changed[draw.randrange(len(changed))] = draw.randrange(256)
    return bytes(changed) if how == 2 else bytes(changed[::-1])


def formula_case(draw: random.Random, folder: Path) -> Case:
    """Make a sum of weighted terms; damaged, with odd letters in it."""
    terms = [
        "HardLabels()", "SoftTargets({t})", "SoftTargets(temperature={t})", "LogitsMSE()", "CosineHidden()",
        "MaskedLM()", "BinarySoftTargets({t})", "HiddenStates({{1: 2}})", "HardLabels(class_weights='balanced')",
    ]  # fmt: skip
    parts = [
        f"{draw.choice([0.1, 2, 0.5, 1e-3])} * {draw.choice(terms).format(t=draw.choice([1, 2, 4.5, 20]))}"
        for _ in range(draw.choice([1, 2, 3]))
    ]
    formula = " + ".join(parts)
    if draw.random() < 0.5:
        place = draw.randrange(len(formula))
        formula = (
            formula[:place]
            + draw.choice([*ODD, "**", "(" * 200, "{1: ", "T=2,"])
            + formula[place + draw.randrange(3) :]
        )
        return f"formula {formula[:200]!r}", lambda: _again(formula), ANY
    return f"formula {formula!r}", lambda: _again(formula), True


def _again(formula: str) -> bool:
    """Tell whether what was understood, written down and read again, is the same."""
    found = repr(parse_objective(formula))
    return repr(parse_objective(found)) == found


def setting_case(draw: random.Random, folder: Path) -> Case:
    """Make one setting, of its own kind or of another."""
    name = draw.choice([f.name for f in fields(Settings)])
    default = next(f.default for f in fields(Settings) if f.name == name)
    odd = [
        *ODD,
        None,
        True,
        3,
        0,
        -1,
        1.5,
        float("nan"),
        float("inf"),
        10**400,
        [],
        {},
        (1,),
        b"x",
        object,
        2**70,
        1e-300,
    ]
    if draw.random() < 0.3:
        return f"setting {name}={default!r}", lambda: getattr(Settings.of({name: default}), name), default
    value = draw.choice(odd)
    return (
        f"setting {name}={value!r}"[:300],
        lambda: getattr(Settings.of({name: value}), name),
        ("or refused", value),
    )


def flag_case(draw: random.Random, folder: Path) -> Case:
    """Make a command line, or the same in a YAML file."""
    command = draw.choice(["pretrain", "finetune", "distill", "evaluate", "predict", "label"])
    kind = COMMANDS[command][0]
    sound = {
        "seed": 7,
        "epochs": 2.5,
        "batch_size": 16,
        "learning_rate": 1e-4,
        "output": "runs/x",
        "max_length": 64,
    }
    known = {f.name for f in fields(kind)}
    given = {name: value for name, value in sound.items() if name in known and draw.random() < 0.6}
    arguments = [f"--{name.replace('_', draw.choice('_-'))}={value}" for name, value in given.items()]
    if draw.random() < 0.5:
        # A field of another command, an odd value, or both.
        other = draw.choice(
            [*sorted({f.name for arguments, _ in COMMANDS.values() for f in fields(arguments)}), "sed", ""]
        )
        value = draw.choice(ODD)
        if draw.random() < 0.5:
            file = folder / "recipe.yaml"
            text = "".join(f"{name}: {value}\n" for name, value in given.items()) + f"{other}: {value}\n"
            file.write_text(text, encoding="utf-8", errors="surrogatepass")
            return (
                f"{command} recipe {text[-200:]!r}",
                lambda: parse(kind, [str(file)], "kdtutor") and None,
                ANY,
            )
        return (
            f"{command} --{other}={value[:60]!r}",
            lambda: parse(kind, [*arguments, f"--{other}={value}"], "") and None,
            ANY,
        )
    return (
        f"{command} {' '.join(arguments)}",
        lambda: {name: getattr(parse(kind, arguments, "kdtutor"), name) for name in given},
        given,
    )


def label_map_case(draw: random.Random, folder: Path) -> Case:
    """Make a map of outputs to classes, written and read again; damaged, any text."""
    names = draw.sample([*WORDS, "a=b", "LABEL_0", "{", "'", " x "], 4)
    meant = {names[0]: names[1], names[2]: names[3]}
    if draw.random() < 0.6:
        return f"label map {meant!r}", lambda: read_label_map(written(meant)), meant
    text = "".join(draw.choice([*ODD, *WORDS, "=", ",", ":"]) for _ in range(draw.randrange(6)))
    return f"label map {text[:200]!r}", lambda: read_label_map(text) and None, ANY


KINDS = {
    "files": file_case,
    "folders": folder_case,
    "formulas": formula_case,
    "settings": setting_case,
    "flags": flag_case,
    "label maps": label_map_case,
}


# ------------------------------------------------------------------------------------------------ what comes of it


def outcome(run: Callable[[], object], meant: object) -> tuple[str, str]:
    """Run a case, and say how it ended, and why that is no good end."""
    may_refuse = meant is ANY or (isinstance(meant, tuple) and meant[:1] == ("or refused",))
    expected = meant[1] if may_refuse and meant is not ANY else meant
    try:
        with _in_time(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            found = run()
    except KDTutorError as error:
        if not may_refuse:
            return "wrong", f"a sound case is refused: {error}"
        return (
            ("refused", "")
            if str(error) and len(str(error)) < LONGEST
            else ("wrong", f"no sentence: {str(error)[:200]}…")
        )
    except _TooLong:
        return "hang", f"over {PATIENCE} s"
    except SystemExit as error:
        return "good" if not error.code else "raw", f"the program ended: {error.code}"
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return "raw", f"{type(error).__name__}: {str(error)[:200]}"
    if meant is ANY or _alike(found, expected):
        return "good", ""
    return "wrong", f"understood as {str(found)[:200]}, meant {str(expected)[:200]}"


def _alike(found: object, expected: object) -> bool:
    # 3 may be kept as 3.0, a path as a path; True is no 1.
    return (found == expected and isinstance(found, bool) == isinstance(expected, bool)) or str(found) == str(
        expected
    )


class _TooLong(BaseException):
    """A case takes longer than anybody waits."""


@contextlib.contextmanager
def _in_time():
    def too_long(*_):
        raise _TooLong

    # Whoever waits uses none: twelve times as long by the clock is a hang too.
    timers = {
        signal.SIGPROF: (signal.ITIMER_PROF, PATIENCE),
        signal.SIGALRM: (signal.ITIMER_REAL, 12 * PATIENCE),
    }
    before = {number: signal.signal(number, too_long) for number in timers}
    for timer, seconds in timers.values():
        signal.setitimer(timer, seconds)
    try:
        yield
    finally:
        for number, (timer, _) in timers.items():
            signal.setitimer(timer, 0)
            signal.signal(number, before[number])


def fuzz(cases: int, seed: int, kinds: list[str] | None = None) -> tuple[dict[str, Counter], list[str]]:
    """Run so many cases, kinds in turn. Returns how many ended how, by kind, and what ended badly."""
    counts: dict[str, Counter] = {kind: Counter() for kind in kinds or KINDS}
    bad = []
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for number in range(cases):
            kind = [*counts][number % len(counts)]
            what, run, meant = KINDS[kind](random.Random(f"{seed} {number}"), Path(folder))
            ended, why = outcome(run, meant)
            counts[kind][ended] += 1
            if ended not in ("good", "refused"):
                bad.append(f"case {number}, {ended}: {what}\n    {why}")
    return counts, bad


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument(
        "--seed", type=int, default=int.from_bytes(os.urandom(3)), help="default: drawn, and printed"
    )
    parser.add_argument("--kind", choices=KINDS, action="append", help="only these")
    given = parser.parse_args()
    counts, bad = fuzz(given.cases, given.seed, given.kind)
    print(*bad, sep="\n")
    total = sum(counts.values(), Counter())
    ends = ("good", "refused", "wrong", "raw", "hang")
    print(f"{given.cases:,} cases at seed {given.seed}")
    for kind, found in (*counts.items(), ("all", total)):
        print(f"{kind:<12}" + "  ".join(f"{end} {found[end]:>4}" for end in ends))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
