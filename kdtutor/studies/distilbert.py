"""The stored study of DistilBERT: which parts of its recipe matter, and what is retained downstream.

    kdtutor study distilbert --processes 2 # makes the runs that the file lacks; may be stopped at any time
    kdtutor study distilbert-longer        # was it patience? five times the texts, fewer arms
    kdtutor study distilbert-reviews       # was it the corpus? three times as many of its texts are reviews
    stored = load("distilbert")            # what it found, of every seed that is complete
    stored.scores("triple loss", task="sentiment")          # test accuracy, one per seed
    stored.retention("triple loss")        # macro average over the three tasks, as a share of the teacher's
    stored.compare("triple loss", "masked LM alone")        # on supersense, over seeds and texts together

Stage one, pre-training: the course's BERT (6 layers) teaches students of 3 layers on a random part of `glosses`. It
is measured by masked LM. Stage two, fine-tuning: each of these students, and the teacher's own body, is fine-tuned on
each task for several passes: same texts, same steps. What differs between two configurations is what `ARMS` says.

Every arm chooses its own learning rate at each stage, on validation, over two seeds outside the five and by one rule
for all: two rates, and one more beyond the better. At pre-training they are tried on fewer texts; at fine-tuning from
the body of the first seed. Dropout is 0 at pre-training, as in the teacher's own, and 0.1 at fine-tuning, for all
alike. The test splits are used once. Making the runs is distilbert_runs.py's part.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import mean

from kdtutor.errors import KDTutorError, nearest
from kdtutor.evaluation.statistics import Interval, mean_and_interval
from kdtutor.studies.stored import TEACHER, WORDS, Stored

TASKS = ("supersense", "sentiment", "valence")
MEASURE = {"glosses": "accuracy", "supersense": "accuracy", "sentiment": "accuracy", "valence": "spearman"}

#: Sanh et al. 2019, arXiv:1910.01108: its tables 1 and 3, relative to BERT-base
PAPER = {"retention": 77.0 / 79.5, "parameters": 66 / 110, "speed": 668 / 410}


@dataclass(frozen=True)
class Arm:
    """One configuration: how its body was made, and how it is fine-tuned.

    pretraining: the objective on masked LM, or None: no step. copied: whether its layers are the teacher's at first, or
    random. again: whether the fine-tuned teacher of the same task and seed teaches once more at fine-tuning, as in the
    paper's section 4: half hard labels, half the teacher (soft targets, T = 2; squared error in a regression).
    body: the name of the arm whose pre-trained body it shares, by default its own.
    """

    name: str
    pretraining: str | None = None
    copied: bool = True
    again: bool = False
    body: str = ""
    tasks: tuple[str, ...] = TASKS

    @property
    def measured_on(self) -> tuple[str, ...]:
        """Return the tasks of its rows: masked LM first, unless another arm has the same body."""
        return self.tasks if self.body else ("glosses", *self.tasks)


TRIPLE = "5 * SoftTargets(2) + 2 * MaskedLM() + 1 * CosineHidden()"
CONTROL, RANDOM, START = "masked LM alone", "random weights", "copied layers alone"
DISTILLED, TWICE = "triple loss", "triple loss, distilled again"
ARMS = {
    arm.name: arm
    for arm in (
        Arm(TEACHER),
        Arm(DISTILLED, TRIPLE),
        Arm(TWICE, TRIPLE, again=True, body=DISTILLED),
        Arm(CONTROL, "MaskedLM()"),
        Arm("without soft targets", "2 * MaskedLM() + 1 * CosineHidden()", tasks=TASKS[:1]),
        Arm("without masked LM", "5 * SoftTargets(2) + 1 * CosineHidden()", tasks=TASKS[:1]),
        Arm("without cosine", "5 * SoftTargets(2) + 2 * MaskedLM()", tasks=TASKS[:1]),
        Arm(RANDOM, TRIPLE, copied=False, tasks=TASKS[:1]),
        Arm(START, tasks=TASKS[:1]),
    )
}


@dataclass(frozen=True)
class Stage:
    """How a body is trained on a task, and measured.

    texts, validation, test: how many random texts of each split, the same at every seed; None: all. passes: over the
    training texts. rates: the two learning rates that are tried first.
    """

    texts: int | None = None
    validation: int | None = None
    test: int | None = None
    passes: int = 3
    batch_size: int = 32
    max_norm: float = 1.0
    rates: tuple[float, ...] = (1e-4, 2e-4)


@dataclass(frozen=True)
class Plan:
    """Sizes: about eleven hours of one core.

    choosing_texts: of glosses, on which the rates of pre-training are tried. precision: of training, the same on every
    machine; at a GPU so small a student waits for launches, of which bf16 needs more. arms: of `ARMS`. corpus: the
    tasks whose training texts are pre-trained on, each text once; glosses first, which gives what the others leave.
    tuned_by: the study whose learning rates are taken wherever the two don't differ; those are not tried again.
    """

    glosses: Stage = Stage(40_000, 1000, 3000, passes=1, max_norm=5.0, rates=(2e-4, 4e-4))
    supersense: Stage = Stage(8000, 2000)
    sentiment: Stage = Stage(8000)
    valence: Stage = Stage(8000)
    random_rates: tuple[float, ...] = (6e-4, 1.2e-3)  # at pre-training, from random weights
    choosing_texts: int = 10_000
    dropout: float = 0.1  # at fine-tuning
    precision: str = "fp32"
    arms: tuple[str, ...] = tuple(ARMS)
    corpus: tuple[str, ...] = ("glosses",)
    tuned_by: str = ""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    choosing_seeds: tuple[int, ...] = (5, 6)


#: the study, and two that ask why: was it patience, was it the corpus?
PLANS = {
    "distilbert": Plan(),
    # 224,254 texts in place of 40,000, batches twice as large, and a bound on the gradient that no step reached.
    "distilbert-longer": Plan(
        Stage(None, 1000, 3000, passes=2, batch_size=64, max_norm=50.0, rates=(2e-4, 4e-4)),
        arms=(TEACHER, DISTILLED, CONTROL, "without masked LM", START),
        tuned_by="distilbert",
    ),
    # As many texts, of which 29 % are reviews in place of 10 %: all that there are, each once.
    "distilbert-reviews": Plan(
        arms=(DISTILLED, CONTROL), corpus=("glosses", "valence"), tuned_by="distilbert"
    ),
}


class Results(Stored):
    """The results of the study, of every seed that is complete: partial results compare like with like."""

    @property
    def seeds(self) -> list[int]:
        """List the seeds at which every configuration was measured on each of its tasks."""
        arms = [Arm(**arm) for arm in self.record["configurations"].values()]
        wanted = {(arm.name, task) for arm in arms for task in arm.measured_on}
        found = defaultdict(set)
        for row in self.record["runs"]:
            found[row["seed"]].add((row["configuration"], row["task"]))
        return sorted(seed for seed, rows in found.items() if rows >= wanted)

    def rows(self, configuration: str, task: str = "supersense") -> dict[int, dict]:
        """Return the runs of a configuration on a task by their seed; of TF-IDF the same one for every seed."""
        if configuration == WORDS and self.record.get("bars"):
            (row,) = [row for row in self.record["bars"] if row["task"] == task]
            return dict.fromkeys(self.seeds, row)
        if configuration not in self.configurations:
            raise KDTutorError(nearest("configuration of distilbert", configuration, self.configurations))
        measured = Arm(**self.record["configurations"][configuration]).measured_on
        if task not in measured:
            raise KDTutorError(f'"{configuration}" was measured on {", ".join(measured)}, not on {task}')
        rows = {
            row["seed"]: row
            for row in self.record["runs"]
            if (row["configuration"], row["task"]) == (configuration, task)
        }
        return {seed: rows[seed] for seed in self.seeds}

    def scores(
        self, configuration: str, measure: str | None = None, split: str = "test", task: str = "supersense"
    ) -> list[float]:
        """List one value per seed, in order, of one task ("glosses": masked LM) or "macro": the mean of all three.

        measure: by default accuracy, or spearman for valence; whatever the file has of that task, such as macro_f1,
        ece, loss (nats), perplexity. configuration: also "TF-IDF", which has no seed.
        """
        if task == "macro":
            tasks = [self.scores(configuration, measure, split, task) for task in TASKS]
            return [mean(scores) for scores in zip(*tasks, strict=True)]
        return [row[split][measure or MEASURE[task]] for row in self.rows(configuration, task).values()]

    def _by_seed(self, configuration: str, *what, **which) -> dict[int, float]:
        return dict(zip(self.seeds, self.scores(configuration, *what, **which), strict=True))

    def _right(self, first: str, second: str, split: str, task: str = "supersense"):
        """Return which texts both got right, as in `Stored`: only of a task with classes, not of a mean of tasks."""
        if MEASURE.get(task) != "accuracy":
            return None
        sides = [[row[split] for row in self.rows(name, task).values()] for name in (first, second)]
        return self._stacked(sides)

    def retention(self, configuration: str, task: str = "macro", split: str = "test") -> list[float]:
        """Compute the score as a share of the teacher's, one value per seed."""
        own, teacher = (self.scores(who, None, split, task) for who in (configuration, TEACHER))
        return [score / reference for score, reference in zip(own, teacher, strict=True)]

    def speed(self) -> list[float]:
        """Compute how many times faster than the teacher the student reads one text on the CPU, one value per seed."""
        times = [row["milliseconds"] for row in self.record["speed"] if row["seed"] in self.seeds]
        return [time["teacher"] / time["student"] for time in times]

    def size(self) -> float:
        """Compute the student's parameters as a share of the teacher's."""
        sizes = self.record["sizes"]
        return sizes["student"]["parameters"] / sizes["teacher"]["parameters"]

    def __str__(self) -> str:
        if not self.seeds:
            return "no seed is complete yet"
        tasks = ("glosses", *TASKS, "macro")
        lines = [f"test scores over {len(self.seeds)} seeds" + "".join(f"{task:>17}" for task in tasks)]
        for name in self.configurations:
            arm = Arm(**self.record["configurations"][name])
            measured = {*arm.measured_on, *(["macro"] if set(TASKS) <= set(arm.tasks) else [])}
            cells = [_cell(self.mean(name, task=task)) if task in measured else "" for task in tasks]
            lines.append(f"{name:<29}" + "".join(f"{cell:>17}" for cell in cells))
        if self.record.get("bars"):
            cells = [f"{self.scores(WORDS, task=task)[0]:.4f}" for task in tasks[1:]]
            lines.append(f"{WORDS:<46}" + "".join(f"{cell:<17}" for cell in cells))
        kept = (CONTROL, DISTILLED, TWICE) if TEACHER in self.configurations else ()
        for name in (name for name in kept if name in self.configurations):
            lines.append(f"retained by {name}: {_cell(mean_and_interval(self.retention(name)))}")
        lines.append(f"parameters {self.size():.3f}, speed {_cell(mean_and_interval(self.speed()))}")
        return "\n".join(lines)

    __repr__ = __str__


def _cell(found: Interval) -> str:
    return f"{found.mean:.4f} ± {found.half_width:.4f}"


# ------------------------------------------------------------------------------------------------ learning rates


def chosen_rate(record: Mapping, who: str, task: str) -> float:
    """Look up the learning rate with the best mean score on validation (masked LM: the lowest loss)."""
    worth = tried(record, who, task)
    return max(worth, key=lambda rate: mean(worth[rate].values()))


def tried(record: Mapping, who: str, task: str) -> dict[float, dict[int, float]]:
    """List what each learning rate was worth on validation, seed by seed, in the order of trying."""
    worth: dict[float, dict[int, float]] = defaultdict(dict)
    for row in record["choosing"]:
        if (row["configuration"], row["task"]) == (who, task):
            found = row["validation"]
            value = -found["loss"] if task == "glosses" else found[MEASURE[task]]
            worth[row["learning_rate"]][row["seed"]] = value
    return dict(worth)
