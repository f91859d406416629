"""The studies of DistilBERT that ship: complete, of the teacher that ships, and told by the pages as they are."""

from pathlib import Path

import pytest

from kdtutor import data, models, studies
from kdtutor.evaluation.statistics import mean_and_interval
from kdtutor.models.fingerprint import fingerprint
from kdtutor.studies.distilbert import (
    ARMS,
    CONTROL,
    DISTILLED,
    PLANS,
    RANDOM,
    START,
    TASKS,
    TEACHER,
    TWICE,
    WORDS,
    Arm,
)
from kdtutor.studies.runner import as_stored

ROOT = Path(__file__).parents[2]
COLUMNS = ("glosses", *TASKS, "macro")
SOFTLESS, MASKLESS, COSINELESS = "without soft targets", "without masked LM", "without cosine"
SHORT, LONGER, REVIEWS = "distilbert", "distilbert-longer", "distilbert-reviews"


@pytest.fixture(scope="module")
def stored():
    return {name: studies.load(name) for name in (SHORT, LONGER, REVIEWS)}


@pytest.fixture(scope="module")
def tasks():
    return {name: data.load_task(name) for name in ("glosses", *TASKS)}


@pytest.fixture(scope="module")
def page():
    return (ROOT / "docs" / "results.md").read_text(encoding="utf-8")


def measured(results, name, task):
    """Whether a study has this arm on this task, or on all tasks for "macro"."""
    if name == WORDS:
        return task != "glosses"
    has = Arm(**results.record["configurations"][name]).measured_on
    return {*(TASKS if task == "macro" else [task])} <= {*has}


def gap(results, first, second, task="supersense"):
    return results.compare(first, second, task=task)


def points(found, digits=1):
    return f"{100 * found.difference:+.{digits}f} ± {100 * found.half_width:.{digits}f}".replace("-", "−")


def size(found, digits=1):
    """A difference as the prose has it, without a sign."""
    return points(found, digits).lstrip("+−")


def apart(found):
    """The sign of a difference whose interval leaves out 0; else 0."""
    return 0 if abs(found.difference) < found.half_width else 1 if found.difference > 0 else -1


def share(results, who, task="macro"):
    kept = mean_and_interval(results.retention(who, task))
    return f"{100 * kept.mean:.1f} ± {100 * kept.half_width:.1f} %"


def clipped(results, name):
    return mean_and_interval([row["clipped"] for row in results.rows(name, "glosses").values()]).mean


# ----------------------------------------------------------------------- what ships


@pytest.mark.parametrize("name", [SHORT, LONGER, REVIEWS])
def test_what_ships_is_complete_and_of_the_teacher_and_data_that_ship(name, stored, tasks):
    record, plan = stored[name].record, PLANS[name]
    assert stored[name].seeds == list(plan.seeds)
    assert record["plan"] == {key: value for key, value in as_stored(plan).items() if key != "seeds"}
    assert record["configurations"] == {arm: as_stored(ARMS[arm]) for arm in plan.arms}
    assert record["teacher"] == fingerprint(models.load_teacher(tasks["glosses"]))
    assert record["data"] == ", ".join(f"{name} {task.fingerprint}" for name, task in tasks.items())


# ----------------------------------------------------------------------- the page of results


def test_the_results_page_has_every_arm_of_both_studies_as_it_was_measured(stored, page):
    def cell(results, name, task):
        if not measured(results, name, task):
            return ""
        found = results.mean(name, task=task)
        return f"{100 * found.mean:.1f}" + (f" ± {100 * found.half_width:.1f}" if found.half_width else "")

    def row(results, name, told):
        # The third study has no teacher's rows of its own: they are the first one's.
        has_share = name in (DISTILLED, TWICE, CONTROL) and TEACHER in results.configurations
        kept = share(results, name) if has_share else ""
        cells = [told, *(cell(results, name, task) for task in COLUMNS), kept]
        return f"| {' | '.join(cells)} |".replace("|  ", "| ")

    for name in (*ARMS, WORDS):
        assert row(stored[SHORT], name, name) in page
    for name in (DISTILLED, CONTROL, MASKLESS):
        assert row(stored[LONGER], name, f"{name}, longer") in page
    for name in (DISTILLED, CONTROL):
        assert row(stored[REVIEWS], name, f"{name}, more reviews") in page


def test_the_results_page_has_the_differences_of_both_studies(stored, page):
    for first, second in ((DISTILLED, CONTROL), (MASKLESS, CONTROL), (DISTILLED, START), (CONTROL, START)):
        for name, which in ((SHORT, ""), (LONGER, ", longer")):
            both = [
                measured(stored[name], first, task) and measured(stored[name], second, task)
                for task in COLUMNS
            ]
            cells = [
                points(gap(stored[name], first, second, task)) if known else ""
                for task, known in zip(COLUMNS, both, strict=True)
            ]
            row = f"| {' | '.join([f'{first}, minus {second}{which}', *cells])} |"
            assert row.replace("|  ", "| ") in page
    cells = [points(gap(stored[REVIEWS], DISTILLED, CONTROL, task)) for task in COLUMNS]
    assert f"| {DISTILLED}, minus {CONTROL}, more reviews | {' | '.join(cells)} |" in page


def test_what_the_results_page_says_in_words_of_distilbert_is_what_was_found(stored, page):
    short, longer = stored[SHORT], stored[LONGER]

    # The start, the parts.
    for left_out, told in (
        (RANDOM, "end {} points behind in masked LM and {} on `supersense`"),
        (SOFTLESS, "the soft targets, {} and {};"),
        (COSINELESS, "could be seen, {} and {}."),
    ):
        both = [gap(short, left_out, DISTILLED, task) for task in ("glosses", "supersense")]
        assert [apart(found) for found in both] == ([0, 0] if left_out == COSINELESS else [-1, -1])
        assert told.format(*(size(found, 2 if left_out == COSINELESS else 1) for found in both)) in page
    harm, worth = (gap(results, MASKLESS, DISTILLED, "glosses") for results in (short, longer))
    assert (apart(harm), apart(worth)) == (1, -1)
    assert f"without it {size(harm)} points more" in page and f"worth {size(worth)} in the long one" in page
    assert all(apart(gap(results, MASKLESS, DISTILLED)) == 0 for results in (short, longer))

    # The teacher's worth: on definitions, and on reviews.
    assert apart(gap(short, DISTILLED, CONTROL)) == apart(gap(longer, DISTILLED, CONTROL)) == 1
    reviews = ("sentiment", "valence", "macro")
    assert [apart(gap(short, DISTILLED, CONTROL, task)) for task in reviews] == [-1, -1, -1]
    assert [apart(gap(longer, DISTILLED, CONTROL, task)) for task in reviews] == [0, 0, 0]
    assert all(apart(gap(results, CONTROL, START)) == 0 for results in (short, longer))
    again = gap(short, TWICE, DISTILLED, "macro")
    assert apart(again) == 0 and f"brings {size(again)} points" in page
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"gains {size(gap(short, DISTILLED, CONTROL))} points on a task of definitions" in readme
    lost = [gap(short, DISTILLED, CONTROL, task).difference for task in reviews[:2]]
    assert "it is about a point *behind* its control" in readme
    assert -0.012 < min(lost) < max(lost) < -0.007
    kept = [mean_and_interval(short.retention(who)).mean for who in (DISTILLED, CONTROL)]
    assert kept[0] < 0.97 < kept[1] < kept[0] + 0.01

    # How it was made.
    assert (clipped(short, DISTILLED), clipped(longer, DISTILLED), clipped(longer, MASKLESS)) == (1, 0, 0)
    assert f"but {clipped(short, MASKLESS):.0%} of those".replace("%", " %") in page
    speed = mean_and_interval(short.speed())
    assert f"{speed.mean:.2f} ± {speed.half_width:.2f} times its speed" in page
    assert f"{100 * short.size():.0f} % of its teacher's parameters" in page
    assert f"{short.core_hours:.1f} hours of one process" in page
    assert f"another {longer.core_hours - taken_over(longer, short):.1f} hours" in page
    steps = [next(iter(r.rows(DISTILLED, "glosses").values()))["steps"] for r in (short, longer)]
    texts = steps[1] * 64 / (steps[0] * 32)
    assert f"{steps[0]:,} steps" in page and f"{steps[1]:,} steps of 64, so {texts:.1f} times" in page


def test_more_reviews_did_not_mend_the_loss_on_reviews(stored, page, tasks):
    short, more = stored[SHORT], stored[REVIEWS]
    notebook = (ROOT / "notebooks" / "09_downstream.ipynb").read_text(encoding="utf-8")
    found = gap(more, DISTILLED, CONTROL, "sentiment")
    assert apart(found) == -1 and f"{found.p_value:.3f}" == "0.003"
    for text in (page, notebook):
        assert f"still there, {size(found)} points" in text.replace("**", "")
    assert apart(gap(more, DISTILLED, CONTROL, "macro")) == -1
    assert f"On definitions the gain is {size(gap(more, DISTILLED, CONTROL))} points" in notebook

    # On valence the control moved, and the student did not.
    assert apart(gap(more, DISTILLED, CONTROL, "valence")) == 0
    moved = {
        who: mean_and_interval(
            [a - b for a, b in zip(*(r.scores(who, task="valence") for r in (more, short)), strict=True)]
        )
        for who in (DISTILLED, CONTROL)
    }
    assert moved[CONTROL].mean + moved[CONTROL].half_width < 0
    assert moved[CONTROL].mean == pytest.approx(-0.005, abs=0.001)
    assert abs(moved[DISTILLED].mean) < moved[DISTILLED].half_width

    # One thing differs.
    reviews = {*tasks["valence"].texts("train")}
    count = more.record["plan"]["glosses"]["texts"]
    assert f"all {len(reviews):,} reviews" in page and f"{len(reviews) / count:.0%}" == "29%"
    assert f"another {more.core_hours - taken_over(more, short):.1f} hours). All figures" in page
    for task in COLUMNS[:-1]:
        for who in (DISTILLED, CONTROL):
            rates = [{row["learning_rate"] for row in r.rows(who, task).values()} for r in (short, more)]
            assert rates[0] == rates[1]


def taken_over(longer, short):
    """The hours of the rows that a later study has from the first one."""
    hours = 0
    for name, rows in longer.record.items():
        if isinstance(rows, list):
            hours += sum(row.get("seconds", 0) for row in rows if row in short.record[name]) / 3600
    return hours


def test_nine_in_ten_of_the_texts_of_pre_training_are_definitions(tasks):
    reviews = {text for name in ("sentiment", "valence") for text in tasks[name].texts("train")}
    for results in PLANS[SHORT], PLANS[LONGER]:
        count = results.glosses.texts
        read = tasks["glosses"].subset(count) if count else tasks["glosses"]
        found = [text in reviews for text in read.texts("train")]
        assert sum(found) / len(found) == pytest.approx(0.1, abs=0.01)


# ----------------------------------------------------------------------- the notebooks


def test_notebook_08_says_of_the_studies_what_they_found(stored):
    text = (ROOT / "notebooks" / "08_distilbert.ipynb").read_text(encoding="utf-8")
    short, longer = stored[SHORT], stored[LONGER]
    told = [
        f"ends {size(gap(short, RANDOM, DISTILLED))} points behind",
        f"counts most as well: {size(gap(short, RANDOM, DISTILLED, 'glosses'))} points",
        f"*soft targets* {size(gap(short, SOFTLESS, DISTILLED), 2)} points are lost",
        f"{size(gap(short, MASKLESS, DISTILLED), 2)} ahead of the full recipe",
        f"worth {size(gap(short, DISTILLED, CONTROL, 'glosses'), 2)} over the control",
        f"*costs* {size(gap(short, MASKLESS, DISTILLED, 'glosses'), 2)} at the very exam",
        f"{size(gap(short, DISTILLED, CONTROL))} points ahead of its control",
        f"two soft terms alone {size(gap(short, MASKLESS, CONTROL))}",
        f"{size(gap(short, CONTROL, START))} points *behind* copied layers",
        f"{size(gap(short, DISTILLED, START))} points",
        f"{size(gap(longer, MASKLESS, DISTILLED, 'glosses'))} points behind the full recipe",
        f"what it was, {size(gap(longer, DISTILLED, CONTROL))}",
        f"ends at {100 * longer.mean(DISTILLED, task='glosses').mean:.1f} %",
        f"keeps {share(short, DISTILLED)} of its teacher's score",
        f"never saw a teacher, keeps {share(short, CONTROL)}",
        f"keeps {share(short, DISTILLED, 'supersense').split()[0]} % of the teacher's score",
    ]
    assert [figure for figure in told if figure not in text] == []
    # The loss, on the way from the copied layers to the teacher.
    begin, *losses, end = (
        short.mean(who, "loss", task="glosses").mean for who in (START, CONTROL, DISTILLED, MASKLESS, TEACHER)
    )
    ways = [f"{(begin - loss) / (begin - end):.0%}".replace("%", " %") for loss in losses]
    done = "the control has {} of the way behind it, the triple loss {}, soft targets and cosine alone {}."
    found = short.compare(DISTILLED, CONTROL, "loss", task="glosses")
    assert f"clearly still: {-found.difference:.3f} ± {found.half_width:.3f} nats" in text
    assert done.format(*ways) in text
    ranks = sorted(
        (RANDOM, SOFTLESS, COSINELESS, MASKLESS), key=lambda arm: gap(short, arm, DISTILLED).difference
    )
    assert ranks == [RANDOM, SOFTLESS, COSINELESS, MASKLESS], "the order of the paper"
    rooms = [gap(short, arm, CONTROL).difference for arm in (DISTILLED, MASKLESS, TEACHER)]
    assert 0.4 < rooms[0] / rooms[2] < 0.5 < rooms[1] / rooms[2]


def test_notebook_09_says_of_the_study_what_it_found(stored):
    text = (ROOT / "notebooks" / "09_downstream.ipynb").read_text(encoding="utf-8")
    figures = [share(stored[SHORT], who) for who in (DISTILLED, CONTROL)]
    assert [figure for figure in figures if figure not in text] == []
