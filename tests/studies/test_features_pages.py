"""What the results page and notebook 06 say of the study of what lies below the logits is what its file holds."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from statistics import mean, median

import nbformat
import pytest

from kdtutor import data, models, studies
from kdtutor.evaluation.statistics import PairedTest
from kdtutor.studies.features import ARMS, LONGER, MAIN, TEACHER, WORDS, Plan, configurations

ROOT = Path(__file__).parents[2]
EVERYTHING = (*list(ARMS)[:3], LONGER, *list(ARMS)[3:])  # in the order of the table


@pytest.fixture(scope="module")
def stored():
    return studies.load("features")


@pytest.fixture(scope="module")
def page():
    return " ".join((ROOT / "docs" / "results.md").read_text(encoding="utf-8").split())


@pytest.fixture(scope="module")
def lesson():
    cells = nbformat.read(ROOT / "notebooks" / "06_beyond_logits.ipynb", 4).cells
    return " ".join(" ".join(cell.source for cell in cells if cell.cell_type == "markdown").split())


def points(found: PairedTest, digits: int) -> str:
    """Write a difference as the pages do: +0.30 ± 0.20."""
    value, width = 100 * found.difference, 100 * found.half_width
    return f"{value:+.{digits}f} ± {width:.{digits}f}".replace("-", "−")


def unsigned(found: PairedTest, digits: int = 1) -> str:
    return points(found, digits).lstrip("+−")


def table(stored, student: str, digits: int) -> list[str]:
    """Write a student's table: accuracy, minus logits alone, minus logits at equal time, few texts and many."""
    arms = EVERYTHING if student == "copied" else [arm for arm in EVERYTHING if arm in MAIN]
    rows = []
    for arm in arms:
        cells = []
        for texts in ("few", "many"):
            name = f"{arm}, {student}, {texts}"
            if name not in stored.select():
                cells += ["", "", ""]
                continue
            cells.append(f"{100 * stored.mean(name).mean:.1f}")
            for other in ("logits", LONGER):
                found = stored.compare(name, f"{other}, {student}, {texts}")
                cells.append("" if arm == other else points(found, digits))
        rows.append(f"| {' | '.join([arm, *cells])} |".replace("  ", " "))
    return rows


def test_the_study_is_whole(stored):
    assert {*stored.select()} == {c.name for c in configurations()}
    trained = [c.name for c in configurations() if c.objective is not None]
    assert all(len(stored.rows(name)) == 5 for name in trained)


@pytest.mark.parametrize("student, digits", [("copied", 2), ("random", 1)])
def test_the_results_page_has_the_tables(stored, page, student, digits):
    for row in table(stored, student, digits):
        assert row in page
    words = [f"{100 * stored.mean(f'{WORDS}, {texts}').mean:.1f}" for texts in ("few", "many")]
    assert f"| *TF-IDF, linear model* | {words[0]} | | | {words[1]} | | |" in page
    assert f"teacher has {100 * stored.mean(f'{TEACHER}, few').mean:.1f}" in page


def test_the_results_page_says_what_the_copied_student_gains(stored, page):
    def gap(a: str, b: str, texts: str = "few", digits: int = 1) -> str:
        return unsigned(stored.compare(f"{a}, copied, {texts}", f"{b}, copied, {texts}"), digits)

    answers = (
        f"{gap('logits', 'hard labels')} points over labels, {gap('logits', 'label smoothing')} over smoothed"
    )
    assert answers in page
    assert f"Distances of texts add {gap('distances of texts', 'logits', digits=2)}" in page
    harm = [gap(arm, "logits", "many", 2) for arm in ("hidden states", "value relations")]
    assert "hidden states cost {} and value relations {}".format(*harm) in page
    terms = list(ARMS)[3:]
    found = {arm: stored.compare(f"{arm}, copied, few", "logits, copied, few") for arm in terms}
    sure = {arm for arm, test in found.items() if abs(test.difference) > test.half_width}
    assert sure == {"distances of texts", "value relations"}, "the others cannot be told from 0"
    assert max(abs(100 * test.difference) for test in found.values()) < 0.35


def test_the_results_page_says_what_the_random_student_gains_and_what_beats_it(stored, page):
    def gap(a: str, b: str, texts: str) -> PairedTest:
        return stored.compare(f"{a}, random, {texts}", f"{b}, random, {texts}")

    hidden = [gap("hidden states", other, texts) for texts in ("few", "many") for other in ("logits", LONGER)]
    over = "{} points over logits alone with few texts, {} at equal time; {} and {} with many"
    assert over.format(*map(unsigned, hidden)) in page
    for texts, behind in (("few", "0.5 ± 1.0"), ("many", "2.6 ± 1.8")):
        found = stored.compare(f"hidden states, random, {texts}", f"{WORDS}, {texts}")
        assert unsigned(found) == behind and found.difference < 0
        assert stored.best(stored.select(student="random", texts=texts)) == f"hidden states, random, {texts}"
    assert "even hidden states are 0.5 ± 1.0 and 2.6 ± 1.8 points behind counting words" in page
    values = [
        gap("value relations", other, texts) for texts in ("few", "many") for other in ("logits", LONGER)
    ]
    assert all(abs(test.difference) < test.half_width for test in values), "value relations show nothing"


def test_the_results_page_says_what_the_study_leaves_open(stored, page):
    hard = [stored.compare(f"logits, random, {t}", f"hard labels, random, {t}") for t in ("few", "many")]
    assert f"({points(hard[0], 1)}, and {points(hard[1], 1)} with many texts)" in page
    longer = stored.compare(f"{LONGER}, random, many", "logits, random, many")
    assert f"1.7 times the steps bring {unsigned(longer)} points" in page
    patient = studies.load("logits")
    name = "soft targets, T = 4, few"
    assert {row["steps"] for row in patient.rows(name).values()} == {10_000}
    assert f"sixteen times the steps, has {100 * patient.mean(name).mean:.1f} %" in page
    gained = 100 * (patient.mean(name).mean - stored.mean("logits, random, few").mean)
    assert gained == pytest.approx(8, abs=0.2) and "good for about eight of the 12.5 points" in page

    chosen = {name: stored.settings(name) for name in stored.select() if stored.rows(name).get(0)}
    weights = {name: s["weight"] for name, s in chosen.items() if "weight" in s}
    assert {n for n, w in weights.items() if w == 20} == {
        *("hidden states, random, few", "hidden states, random, many"),
        *("distances of texts, copied, few", "similarities of texts, copied, few"),
    }
    smallest = {n.partition(",")[0] for n, w in weights.items() if w == 0.05 and "copied" in n}
    assert smallest == {"hidden states", "attention relations", "value relations"}
    assert chosen["hidden states, random, few"]["learning_rate"] == 2e-3, "the largest that was tried"

    taught = [f"{arm}, random, {t}" for t in ("few", "many") for arm in MAIN[1:]]
    cut = [mean(row["clipped"] for row in stored.rows(name).values()) for name in taught]
    assert min(cut) == pytest.approx(1 / 8, abs=0.02) and max(cut) == pytest.approx(1 / 2, abs=0.03)

    ratios = []
    for place in ("copied, few", "random, few", "copied, many", "random, many"):
        seconds = [
            median(row["seconds"] for row in stored.rows(f"{arm}, {place}").values())
            for arm in ("hidden states", "logits")
        ]
        ratios.append(seconds[0] / seconds[1])
    assert (round(min(ratios), 1), round(max(ratios), 1)) == (1.6, 1.7)
    assert f"{stored.core_hours:.1f} hours of one core in sum). Test accuracy" in page


def test_a_step_that_asks_the_teacher_costs_what_the_pages_say():
    task = data.load_task("supersense")
    teacher = models.load_teacher(task)
    students = [models.half_depth(teacher, seed=0), models.small_bert(task, layers=2, width=128, seed=0)]
    theirs, *own = (models.sizes(model, 20).multiply_adds for model in (teacher, *students))
    # Forward and backward are about three forward passes; kept logits need no teacher.
    more = [(3 * mine + theirs) / (3 * mine) for mine in own]
    assert more == pytest.approx([Plan().longer, 10], rel=0.05)


def test_notebook_06_says_what_the_copied_student_has_of_the_layers(stored, lesson):
    def gap(a: str, b: str, texts: str = "few", digits: int = 1) -> str:
        return unsigned(stored.compare(f"{a}, copied, {texts}", f"{b}, copied, {texts}"), digits)

    answers = "worth {} points over labels, and {} over smoothed ones"
    assert answers.format(*(gap("logits", arm) for arm in ("hard labels", "label smoothing"))) in lesson
    assert f"Distances of texts add {gap('distances of texts', 'logits', digits=2)}" in lesson
    assert f"Value relations take {gap('value relations', 'logits', digits=2)} away" in lesson
    harm = [gap(arm, "logits", "many", 2) for arm in ("hidden states", "value relations")]
    assert "hidden states cost {} points, value relations {}.".format(*harm) in lesson
    moved = [stored.compare(f"{arm}, copied, few", "logits, copied, few") for arm in list(ARMS)[3:]]
    ahead = [test for test in moved if test.difference > test.half_width]
    assert max(abs(test.difference) for test in moved) < 0.005 and len(ahead) == 1
    nothing = [
        stored.compare(f"{arm}, copied, few", "logits, copied, few") for arm in ("hidden states", LONGER)
    ]
    assert all(abs(test.difference) < 0.0005 for test in nothing), "what section 8 saw is gone"
    rates = (stored.record["plan"]["few"], stored.record["plan"]["many"])
    assert "*few* texts, {:,} in 625 steps of 32, or *many*, {:,} in 1,250".format(*rates) in lesson
    steps = {row["steps"] for t in ("few", "many") for row in stored.rows(f"logits, random, {t}").values()}
    assert steps == {625, 1250}


def test_notebook_06_says_what_the_random_student_has_of_them_and_what_beats_it(stored, lesson):
    def gap(other: str, texts: str) -> str:
        return unsigned(stored.compare(f"hidden states, random, {texts}", f"{other}, random, {texts}"))

    alone, equal = [[gap(other, texts) for texts in ("few", "many")] for other in ("logits", LONGER)]
    assert "worth {} points over logits alone with few texts and {} with many".format(*alone) in lesson
    assert "many; {} and {} at equal time".format(*equal) in lesson
    bars = [f"{100 * stored.mean(f'{WORDS}, {texts}').mean:.1f}" for texts in ("few", "many")]
    assert "TF-IDF has {} and {} %".format(*bars) in lesson
    behind = [
        stored.compare(f"hidden states, random, {texts}", f"{WORDS}, {texts}") for texts in ("few", "many")
    ]
    assert "hidden states are {} and {} points behind".format(*map(unsigned, behind)) in lesson
    others = [
        100 * stored.compare(name, f"{WORDS}, {name.rpartition(', ')[2]}").difference
        for name in stored.select(student="random")
        if not name.startswith("hidden states")
    ]
    assert max(others) < -10, "all others more than ten"
    assert f"The teacher has {100 * stored.mean(f'{TEACHER}, few').mean:.1f} %" in lesson


def test_notebook_06_says_how_far_to_trust_it(stored, lesson):
    hard = [stored.compare(f"logits, random, {t}", f"hard labels, random, {t}") for t in ("few", "many")]
    told = "hard labels ({} points with few texts, {} with many)"
    assert told.format(*(points(test, 1) for test in hard)) in lesson
    longer = stored.compare(f"{LONGER}, random, many", "logits, random, many")
    assert f"1.7 times the steps bring {unsigned(longer)} points" in lesson
    trials = Counter(row["configuration"] for row in stored.record["choosing"])
    logits = {count for name, count in trials.items() if name.startswith("logits")}
    assert logits == {3} and max(trials.values()) == 6
