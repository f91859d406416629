"""The stored study of distilling logits: patience and temperature, unlabelled texts, few labels, other teachers.

    kdtutor study logits --processes 2     # makes the runs that the file lacks; may be stopped at any time

Every run is trained to the end of its own schedule. Each arm chooses its settings at each length on validation, at one
seed outside the five and by one rule for all (see `settings_to_try`); the test split is only reported. Five parts:

patience    2 × 128 student, random weights, the same 10,000 texts at every seed: all arms after ten passes, after 1 to
            20 the main ones and logit MSE, which came out ahead
pool        the main arms from 10,000 texts whose labels no teacher has seen
few labels  2,000 labels, alone or with the pool's texts, and how far the pool's own labels would carry
well-read   a student of 3 layers copied from the pre-trained masked LM
teachers    a weak and an over-trained teacher, two of each, at T = 4

Soft targets stand beside 0.1 of the hard labels where there are labels, as everywhere in the course. The bars of every
table are the teacher itself and TF-IDF with a linear model on the same labels. logits_runs.py makes the runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from kdtutor.evaluation.statistics import mean_and_interval
from kdtutor.studies.runner import Sweeps
from kdtutor.studies.stored import CONTROLS, HARD, SMOOTH, TEACHER, WORDS, Stored

NONE = 1000.0  # a bound on gradients that none reaches


@dataclass(frozen=True)
class Plan:
    """Sizes, the same for every run: about ten hours of one core.

    examples: of the texts that a student reads, the teacher's own or the pool's; few: of the few labels. passes: over
    them, the most instructive first. steps: those that few labels may choose from. watched: texts whose scores are
    taken after each pass. small, read: the students' layers, and the small one's width. others: texts and passes of the
    other teachers. All lists of rates and bounds begin with the one that is kept until its turn comes.
    """

    examples: int = 10_000
    few: int = 2000
    passes: tuple[int, ...] = (10, 2, 1, 5, 20)
    steps: tuple[int, ...] = (2500, 1000, 5000)
    read_passes: tuple[int, ...] = (1, 3)
    others: tuple[tuple[str, int, int], ...] = (("weak", 5000, 1), ("over-trained", 10_000, 10))
    watched: int = 2000
    small: tuple[int, int] = (2, 128)
    read: int = 3
    batch_size: int = 32
    rates: tuple[float, ...] = (1e-3, 5e-4, 2e-3)
    bounds: tuple[float, ...] = (5.0, NONE)
    read_rates: tuple[float, ...] = (2e-4, 1e-4, 4e-4)
    others_rate: float = 1.5e-4
    dropout: float = 0.1  # of what starts from pre-trained layers
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    choosing_seed: int = 5


@dataclass(frozen=True)
class Configuration:
    """A row of a table: everything that decides a run, but for plan and seed.

    arm: what is learned from. objective: its formula; None where nothing is trained step by step. texts: "own" (the
    teacher's), "pool", "few" or "few and pool". labels: "true", "argmax" (the teacher's answer as label wherever the
    true one is hidden, on its own texts everywhere) or "hidden". sweeps: the settings to choose from. settings_of:
    whose choice it takes over instead.
    """

    name: str
    part: str
    arm: str
    objective: str | None
    texts: str = "own"
    labels: str = "true"
    student: str = "small"
    teacher: str = "teacher"
    passes: int | None = None
    sweeps: Sweeps = ()
    settings_of: str = ""


ARGMAX = "the teacher's argmax as label"
FORMULAS = CONTROLS | {ARGMAX: CONTROLS[HARD]}


def soft(temperature: int) -> str:
    return f"soft targets, T = {temperature}"


MAIN = HARD, SMOOTH, soft(1), soft(4)  # the arms that come first, at every length


def configurations(plan: Plan) -> list[Configuration]:
    """List what is compared, the most instructive first: the runs are made in this order."""
    patience = list(_patience(plan))
    main = [c for c in patience if c.arm in MAIN]
    early, longest, few = plan.passes[:3], plan.passes[0], list(_few(plan))
    in_order = [
        *_bars(),
        *(c for c in main if c.passes in early),
        *(c for c in patience if c.passes == longest),
        *(c for c in few if c.arm in (HARD, soft(4))),
        *_pool(plan),
        *main,
        *few,
        *_well_read(plan),
        *_teachers(plan),
        *patience,
    ]
    # Each stands where it is named first.
    return list({c.name: c for c in in_order}.values())


def _bars() -> Iterator[Configuration]:
    yield Configuration(TEACHER, "bars", TEACHER, None)
    for texts, labels in (
        ("own", "true"), ("pool", "true"), ("pool", "argmax"), ("few", "true"), ("few and pool", "argmax"),
        ("few and pool", "true"),
    ):  # fmt: skip
        yield Configuration(f"{WORDS}, {texts}, {labels} labels", "bars", WORDS, None, texts, labels)


def _patience(plan: Plan) -> Iterator[Configuration]:
    for passes in plan.passes:
        how = {"passes": passes, "sweeps": _sweeps(plan, passes)}
        more = (soft(2), soft(8), ARGMAX) if passes == plan.passes[0] else ()
        for arm in (*MAIN, *more, "logit MSE"):
            labels = "argmax" if arm == ARGMAX else "true"
            yield Configuration(name_of(arm, passes), "patience", arm, _formula(arm), labels=labels, **how)


def _pool(plan: Plan) -> Iterator[Configuration]:
    passes = plan.passes[0]
    how = {"texts": "pool", "passes": passes, "sweeps": _sweeps(plan, passes)}
    for arm in (HARD, soft(4), ARGMAX, SMOOTH, soft(1)):
        name = name_of(arm, passes, "pool")
        yield Configuration(name, "pool", arm, _formula(arm, labelled=False), labels=_labels(arm), **how)


def _few(plan: Plan) -> Iterator[Configuration]:
    sweeps = (("steps", plan.steps), ("learning_rate", plan.rates), ("max_norm", plan.bounds))
    both = "few and pool"
    for arm, texts in (
        (HARD, "few"), (HARD, both), (soft(4), "few"), (soft(4), both), (ARGMAX, both), (SMOOTH, "few"),
    ):  # fmt: skip
        labels = "true" if texts == "few" else _labels(arm)
        name = f"{arm}, {texts}"
        yield Configuration(name, "few labels", arm, _formula(arm), texts, labels, sweeps=sweeps)


def _well_read(plan: Plan) -> Iterator[Configuration]:
    for texts, all_passes in (("own", plan.read_passes), ("pool", plan.read_passes[-1:])):
        for passes in all_passes:
            steps = _steps(plan, passes)
            sweeps = (("steps", (steps,)), ("learning_rate", plan.read_rates), ("max_norm", (1.0,)))
            for arm in (HARD, SMOOTH, soft(4)):
                labels = "true" if texts == "own" else _labels(arm)
                formula = _formula(arm, labelled=texts == "own")
                name = name_of(arm, passes, "well-read", *["pool"] * (texts == "pool"))
                same = name_of(arm, passes, "well-read") if texts == "pool" else ""
                how = {"passes": passes, "student": "read", "sweeps": sweeps, "settings_of": same}
                yield Configuration(name, "well-read", arm, formula, texts, labels, **how)


def _teachers(plan: Plan) -> Iterator[Configuration]:
    for kind, _, _ in plan.others:
        for number in (1, 2):
            yield Configuration(
                f"{kind} teacher {number}", "teachers", TEACHER, None, teacher=f"{kind} {number}"
            )
    passes, arm = plan.passes[0], soft(4)
    for kind, number, texts in ((k, n, t) for k, *_ in plan.others for n in (1, 2) for t in ("own", "pool")):
        formula, labels = _formula(arm, labelled=texts == "own"), "true" if texts == "own" else "hidden"
        at = ["pool"] * (texts == "pool")
        first, name = (name_of(arm, passes, f"{kind} teacher {n}", *at) for n in (1, number))
        same = first if number > 1 else ""  # the second of a kind learns as the first does
        how = {"passes": passes, "sweeps": _sweeps(plan, passes), "settings_of": same}
        yield Configuration(name, "teachers", arm, formula, texts, labels, teacher=f"{kind} {number}", **how)


def _formula(arm: str, labelled: bool = True) -> str:
    if arm in FORMULAS:
        return FORMULAS[arm]
    taught = "LogitsMSE()" if arm == "logit MSE" else f"SoftTargets({arm.rpartition(' ')[2]})"
    return f"0.1 * HardLabels() + 0.9 * {taught}" if labelled else taught


def _labels(arm: str) -> str:
    """Tell what is known of the pool's labels: all of them where they are the upper bound, otherwise nothing."""
    return {HARD: "true", SMOOTH: "true", ARGMAX: "argmax"}.get(arm, "hidden")


def name_of(arm: str, passes: int, *more: str) -> str:
    """Name a configuration."""
    return ", ".join([arm, f"{passes} pass{'es' * (passes > 1)}", *more])


def _steps(plan: Plan, passes: int) -> int:
    return passes * -(-plan.examples // plan.batch_size)


def _sweeps(plan: Plan, passes: int) -> Sweeps:
    return ("steps", (_steps(plan, passes),)), ("learning_rate", plan.rates), ("max_norm", plan.bounds)


# ------------------------------------------------------------------------------------------------ reading


def lengths(
    stored: Stored, arm: str, measure: str = "accuracy", split: str = "test"
) -> list[tuple[int, list[float]]]:
    """List (passes, one score per seed) of an arm: runs of their own, each at the end of its whole schedule."""
    found = stored.record["configurations"]
    names = sorted(stored.select(part="patience", arm=arm), key=lambda name: found[name]["passes"])
    return [(found[name]["passes"], stored.scores(name, measure, split)) for name in names]


def table(stored: Stored, names: Sequence[str], against: str | None = None) -> str:
    """Write configurations as a table, one per line, all on the test split but for the accuracy in training.

    Accuracies have their mean over the seeds. The difference from `against`, in points, has a 95 % interval over seeds
    and texts together. Rows without a seed, the teacher and TF-IDF, may stand among the others.
    """
    head = f"{'':<44}{'accuracy':>9}{'difference':>15}{'loss':>7}{'ECE':>7}{'training':>9}{'clipped':>8}{'rate':>8}"
    lines = [head]
    for name in names:
        row = next(iter(stored.rows(name).values()))
        accuracy, loss, ece = (stored.mean(name, measure).mean for measure in ("accuracy", "loss", "ece"))
        gap = ""
        if against and name != against and len({*stored.rows(name), *stored.rows(against)}) > 1:
            test = stored.compare(name, against)
            gap = f"{100 * test.difference:+.1f} ± {100 * test.half_width:.1f}"
        line = f"{name:<44}{accuracy:>9.1%}{gap:>15}{loss:>7.2f}{ece:>7.1%}"
        if "curve" in row:
            training = mean_and_interval(stored.curve(name, split="train")[-1][1]).mean
            clipped = mean_and_interval([run["clipped"] for run in stored.rows(name).values()]).mean
            line += f"{training:>9.1%}{clipped:>8.0%}{row['settings']['learning_rate']:>8g}"
        lines.append(line)
    return "\n".join(lines)
