"""What a lesson says in words of its live cells is what these cells printed, as the page is stored."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[1]
WORDS = ("none", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


class Page:
    """A notebook as a reader has it: what it says, and what a cell printed, its pictures' sentences among it."""

    def __init__(self, name: str):
        self.cells = {cell.id: cell for cell in nbformat.read(ROOT / "notebooks" / name, 4).cells}
        said = [cell.source for cell in self.cells.values() if cell.cell_type == "markdown"]
        self.prose = " ".join(" ".join(said).split())

    def printed(self, cell: str) -> str:
        parts = []
        for output in self.cells[cell].outputs:
            parts.append(output.get("text") or output.get("data", {}).get("text/plain", ""))
        return " ".join(parts)

    def rows(self, cell: str, pattern: str) -> dict[str, tuple[float, ...]]:
        """Find lines that begin with a name, and the numbers in their groups; per cent become fractions."""
        found = {}
        for line in self.printed(cell).splitlines():
            if match := re.fullmatch(rf"(.+?)\s+{pattern}.*", line):
                name, *numbers = match.groups()
                found[name] = tuple(
                    float(n.rstrip("%")) / (100 if n.endswith("%") else 1) for n in numbers if n
                )
        return found


@pytest.fixture(scope="module")
def shapes() -> Page:
    return Page("07_shapes.ipynb")


@pytest.fixture(scope="module")
def beyond() -> Page:
    return Page("06_beyond_logits.ipynb")


# ------------------------------------------------------------------------------------------- 07


def test_the_race_ends_as_07_says(shapes):
    scores = shapes.rows("race-scores", r"([\d.]+%) ±")
    hard, soft, pool = (scores[name][0] for name in ("hard labels", "soft targets", "soft targets and pool"))
    bars = [float(bar) / 100 for bar in re.findall(r"TF-IDF, .*: ([\d.]+)%", shapes.printed("race-scores"))]
    assert "worth several points over their labels" in shapes.prose and 0.02 < soft - hard < 0.1
    assert "more than ten points again" in shapes.prose and pool - soft > 0.1
    assert "the LSTM is level with TF-IDF" in shapes.prose and abs(hard - bars[0]) < 0.015
    assert "it passes the TF-IDF that had the teacher's likeliest classes" in shapes.prose and pool > bars[1]
    passes, few = re.search(
        r"soft targets +(\d+) passes over ([\d,]+) texts", shapes.printed("3f8e4503")
    ).groups()
    assert f"after {passes} passes" in shapes.prose and few == "2,000"


def test_the_teacher_is_surer_of_real_texts(shapes):
    surer, less = shapes.rows(
        "augment-teacher", r"likeliest class (\d+%) on average, entropy ([\d.]+)"
    ).values()
    assert "Less sure on the whole" in shapes.prose and surer[0] > less[0] and surer[1] < less[1]


def test_what_a_second_task_brought_is_what_07_says(shapes):
    rows = {}
    for line in shapes.printed("f89bf027").splitlines():
        for task, *seeds in re.findall(r"(praise|supersense|valence) (0\.\d+) (0\.\d+)", line):
            rows[line[:29].strip(), task] = [float(seed) for seed in seeds]
    alone = rows["praise alone", "praise"]
    assert "**Valence helps praise**, at both seeds" in shapes.prose
    for company in ("praise and valence", "all three"):
        assert all(with_it > a for with_it, a in zip(rows[company, "praise"], alone, strict=True))
    assert "what they bring is no more than the noise" in shapes.prose
    assert abs(sum(rows["praise and supersense", "praise"]) - sum(alone)) / 2 < 0.014
    longer = rows["praise alone, 3 × the steps", "praise"]
    assert "**More steps** for the body are not it" in shapes.prose and sum(longer) <= sum(alone)
    guests = {
        task: sum(rows["all three", task]) - sum(rows[f"{task} alone", task])
        for task in ("supersense", "valence")
    }
    assert "what valence gains by company is small, and supersense gains nothing" in shapes.prose
    assert 0 < guests["valence"] / 2 < 0.05 and guests["supersense"] / 2 < 0.005
    assert "test reviews among the rated texts: 0" in shapes.printed("f89bf027")


def test_the_chart_has_the_models_where_07_says(shapes):
    rows = shapes.rows("equal-latency", r"([\d.]+%) in ([\d.]+) × the LSTM's time")
    lstm, cnn, bert = (rows[name] for name in ("LSTM", "CNN", "BERT, 1 × 64"))
    assert "The LSTM is several points ahead" in shapes.prose and 0.02 < lstm[0] - bert[0] < 0.15
    assert "the CNN is ahead of both in less time than either" in shapes.prose
    assert cnn[0] > max(lstm[0], bert[0]) and cnn[1] < min(lstm[1], bert[1])
    teacher, size = re.search(
        r"teacher \(([\d.]+).%, [\d.]+.ms, ([\d.]+) M", shapes.printed("d9d1a671")
    ).groups()
    below = WORDS[round(float(teacher) - 100 * cnn[0])]
    assert f"the CNN: a twentieth of the teacher's size, {below} points below it" in shapes.prose
    own = float(re.search(r"CNN +([\d.]+) M parameters", shapes.printed("family-sizes"))[1])
    assert own / float(size) == pytest.approx(1 / 20, abs=0.005)
    assert "with twice the multiply-adds and no step that has to wait" in shapes.prose
    work = {
        name: float(thousands.replace(",", ""))
        for name, thousands in re.findall(r"(LSTM|CNN) .*? ([\d,]+) thousand", shapes.printed("family-sizes"))
    }
    assert work["CNN"] / work["LSTM"] == pytest.approx(2, abs=0.1)


# ------------------------------------------------------------------------------------------- 06


def test_the_ladder_of_06_is_read_as_it_stands(beyond):
    rows = beyond.rows(
        "beyond-52", r"accuracy ([\d.]+%), ([\d.]+) nats from the teacher, ([\d.]+) × the time"
    )
    counts = {
        line[:25].strip(): re.search(r"\((\d+) examples right by the first alone, (\d+)", line).groups()
        for line in beyond.printed("beyond-53").splitlines()
    }
    ahead, behind = map(int, counts["+ hidden states"])
    assert f"by {WORDS[ahead]} texts, and {WORDS[behind]} the other way round" in beyond.prose
    alone, longer = rows["logits alone"][0], rows["logits alone, 40 steps"][0]
    assert "Relations of texts may be, a little; attention is not" in beyond.prose
    assert rows["+ relations of texts"][0] > alone >= rows["+ attention"][0]
    assert "the last row is ahead of them all" in beyond.prose
    assert longer > max(accuracy for name, (accuracy, *_) in rows.items() if name != "logits alone, 40 steps")


def test_what_probes_read_is_what_06_says(beyond):
    ends = dict(
        re.findall(
            r"(teacher|copied, not trained) goes from\s+[\d.]+ to\s+([\d.]+)", beyond.printed("beyond-20")
        )
    )
    begins = float(re.search(r"teacher goes from\s+([\d.]+)", beyond.printed("beyond-20"))[1])
    assert "More than half of the task can be done by words alone" in beyond.prose and 0.5 < begins < 0.6
    assert "a probe reads nearly four fifths from its last layer" in beyond.prose
    assert 0.76 < float(ends["copied, not trained"]) < 0.81
    assert "end at nearly 90 %" in beyond.prose and 0.86 < float(ends["teacher"]) < 0.9


def test_the_maps_of_attention_and_the_birds_are_as_06_says(beyond):
    rows = beyond.rows("beyond-41", r"layer 1: ([\d.]+) layer 2: ([\d.]+) layer 3: ([\d.]+)")
    before, after = rows.values()
    assert "Layer 1 of the copied student gives the teacher's weights themselves" in beyond.prose
    assert before[0] == after[0] == 0 and "does not bring these maps back, or hardly" in beyond.prose
    assert all(abs(a - b) < 0.1 and b > 0.1 for a, b in zip(after[1:], before[1:], strict=True))
    assert "On the birds they agree" in beyond.prose
    first, second, *_ = re.findall(
        r"teacher: (.+)\n +trained by logits alone: (.+)", beyond.printed("beyond-46")
    )
    assert first[0] == first[1] and second[0] == second[1]


def test_the_memory_of_a_term_is_what_the_benchmark_measured(beyond):
    page = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    table = {name: float(memory) for name, memory in re.findall(r"\| ([^|]+) \| [^|]+ \| ([\d.]+)× \|", page)}
    said = re.search(
        r"held ([\d.]+) times as much at its peak with hidden states, ([\d.]+) to ([\d.]+) times with relations, be "
        r"they of tokens or of texts, or with attention maps, and ([\d.]+) times with all three relations of MiniLMv2",
        beyond.prose,
    )
    hidden, low, high, three = map(float, said.groups())
    for name in ("hidden states, last", "hidden states, every second"):
        assert table[name] == pytest.approx(hidden, abs=0.055)
    relations = [
        table[name]
        for name in table
        if name.startswith(("attention", "value", "RKD", "similarity", "contrastive"))
    ]
    assert low - 0.06 < min(relations) and max(relations) < high + 0.05
    assert table["MiniLMv2"] == pytest.approx(three, abs=0.05)


def test_every_term_on_layers_and_relations_has_a_row_of_the_benchmark():
    from kdtutor import objectives

    source = (ROOT / "benchmarks" / "objectives.py").read_text(encoding="utf-8")
    benchmark = dict(re.findall(r'^    "(.+)": "(.+\))",$', source, re.MULTILINE))
    page = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    assert {*benchmark} <= {*re.findall(r"^\| ([^|]+) \| [\d.]+× ", page, re.MULTILINE)}
    measured = {name for formula in benchmark.values() for name in re.findall(r"(\w+)\(", formula)}
    modules = (objectives.hidden, objectives.attention, objectives.relations)
    terms = {
        name
        for module in modules
        for name, what in vars(module).items()
        if isinstance(what, type) and issubclass(what, objectives.Term) and what.__module__ == module.__name__
    }
    assert len(terms) == 12 and terms | {"DecoupledKD", "PearsonKD"} <= measured
