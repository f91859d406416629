"""The stored study of students that write: who writes what they learn from, and who judges it.

    kdtutor study sequences --processes 2     # makes the runs that the file lacks; may be stopped at any time

Every student begins with the teacher's first layers, and sees some words with their labels. From there the arms part:
labels, labels smoothed, the teacher's word for every phoneme (three divergences), what the teacher wrote, and what the
student itself writes, all of it or half. Each arm takes equally many steps, and in each the teacher sees equally many
words. Each chooses its learning rate on validation, at one seed outside the five; the test split is only reported. A
seed decides the words and their order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from filelock import FileLock
from transformers import PreTrainedModel

from kdtutor.data.load import load_task
from kdtutor.data.saved import save_task
from kdtutor.data.task import Task, random_order
from kdtutor.evaluation import token_scores, written_scores
from kdtutor.models.fingerprint import fingerprint
from kdtutor.models.load import load_model
from kdtutor.models.students import make_student
from kdtutor.studies.bench import Bench
from kdtutor.studies.runner import as_stored, kept
from kdtutor.studies.stored import CONTROLS, HARD, MEASURED, TEACHER
from kdtutor.training.checkpoints import writable
from kdtutor.training.sequence_level import written_by
from kdtutor.training.settings import OnPolicy

START = "start"
#: what is learned from: who wrote it, its objective, and the share of the steps whose words the student writes itself
ARMS = {arm: ("data", formula, 0.0) for arm, formula in CONTROLS.items()} | {
    "word-level": ("data", "SoftTargets(1)", 0.0),
    "word-level, reverse KL": ("data", "ReverseKL(1)", 0.0),
    "word-level, JSD": ("data", "GeneralisedJSD(0.5)", 0.0),
    "sequence-level": ("teacher", "HardLabels()", 0.0),
    "on-policy, half": ("data", "GeneralisedJSD(0.5)", 0.5),
    "on-policy": ("data", "GeneralisedJSD(0.5)", 1.0),
}


@dataclass(frozen=True)
class Plan:
    """Sizes, the same for every run: about an hour and a half of one core.

    layers: of the student, on either side; its width is the teacher's. start_steps: with labels, before the arms part;
    steps: of each arm. beams: of the teacher that writes. measured: words of a split that are written and scored.
    """

    layers: int = 1
    start_steps: int = 300
    start_rate: float = 1e-3
    steps: int = 1000
    batch_size: int = 64
    beams: int = 4
    longest: int = 20
    measured: int = 2000
    max_norm: float = 20.0
    rates: tuple[float, ...] = (4e-3, 2e-3, 8e-3)
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    choosing_seed: int = 5


@dataclass(frozen=True)
class Configuration:
    """A row of a table. objective: its formula, None for the bars: teacher and start. share: as in OnPolicy."""

    name: str
    texts: str
    objective: str | None
    share: float


def configurations(plan: Plan) -> list[Configuration]:
    """List what is compared; the runs are made in this order."""
    bars = [Configuration(name, "data", None, 0.0) for name in (TEACHER, START)]
    return bars + [Configuration(name, *what) for name, what in ARMS.items()]


class Sequences(Bench):
    """Makes the rows of the file."""

    study, compared = "sequences", staticmethod(configurations)

    def seeds(self, c: Configuration) -> Sequence[int | None]:
        """List the seeds: every seed has a start of its own, and they all have one teacher."""
        return [None] if c.name == TEACHER else self.plan.seeds

    def worth(self, found: dict) -> float:
        """Return how good a run is: the fewest errors are best."""
        return -found["validation"]["error_rate"]

    def bar(self, c: Configuration, seed: int | None) -> dict:
        model = self.teacher if c.name == TEACHER else self.start(seed)
        return self.scored(model)

    def trained(self, c: Configuration, seed: int, settings: dict, splits: Sequence[str]) -> dict:
        """Train a student, and measure it in these splits."""
        student = self.start(seed)
        own = OnPolicy(share=c.share, max_new_tokens=self.plan.longest) if c.share else None
        # The teacher is asked at every step: nobody keeps the logits of all tokens.
        how = settings | {"steps": self.plan.steps, "on_policy": own, "cache": True}
        found = self.train(student, self.teacher, self.words(c.texts, seed), c.objective, seed, **how)
        return found | self.scored(student, splits)

    def scored(self, model: PreTrainedModel, splits: Sequence[str] = MEASURED) -> dict:
        return {split: self._scored(model, split) for split in splits}

    def _scored(self, model: PreTrainedModel, split: str) -> dict:
        """Measure what a model writes to the same words of a split, and how well it knows what it should write.

        accuracy: the share of words without an error.
        """
        few = self.task.subset(min(self.plan.measured, len(self.task.split(split))), split=split)
        written, known = written_scores(model, few, split), token_scores(model, few, split)
        found = {"accuracy": written["exact"], "error_rate": written["error_rate"]} | {
            name: known[name] for name in ("loss", "perplexity")
        }
        return {name: round(value, 6) for name, value in found.items()}

    # ------------------------------------------------------------------------------------------ starts and words

    def start(self, seed: int) -> PreTrainedModel:
        """Make the student with which all arms of a seed begin, once: the teacher's first layers, and some labels."""

        def make() -> tuple[PreTrainedModel, dict]:
            student = first_layers(self.teacher, self.task, self.plan.layers)
            how = {"steps": self.plan.start_steps, "learning_rate": self.plan.start_rate, "cache": True}
            return student, self.train(student, None, self._part(seed, 0), CONTROLS[HARD], seed, **how)

        decides = [as_stored(self.plan), fingerprint(self.teacher), self.task.fingerprint, seed]
        folder, _ = kept(self.folder / "models" / f"start-{seed}", decides, make)
        return load_model(str(folder), self.task)

    def words(self, texts: str, seed: int) -> Task:
        """Give the words of a seed, with the data's pronunciation or the teacher's, who is asked for it once."""
        part = self._part(seed, 1)
        if texts == "data":
            return part
        name = f"written-{part.fingerprint}-{fingerprint(self.teacher)[:12]}-{self.plan.beams}"
        folder = writable(self.folder / "answers") / name
        with FileLock(folder.with_name(f".{folder.name}.lock")):
            if not folder.is_dir():
                lessons = written_by(
                    self.teacher, part, beams=self.plan.beams, max_new_tokens=self.plan.longest
                )
                save_task(lessons, folder)
        return load_task(folder, max_length=self.task.max_length)

    def _part(self, seed: int, number: int) -> Task:
        """Give the words that come first, for the start, or second: as many as there are steps for, no word twice."""
        sizes = [steps * self.plan.batch_size for steps in (self.plan.start_steps, self.plan.steps)]
        order = random_order(len(self.task.split("train")), seed)
        first = order[: sizes[0]] if number == 0 else order[sizes[0] : sizes[0] + sizes[1]]
        chosen = self.task.split("train").select(first)
        return replace(self.task, splits=self.task.splits | {"train": chosen})


def first_layers(teacher: PreTrainedModel, task: Task, layers: int) -> PreTrainedModel:
    """Make a student of the teacher's shape with so many of its layers on either side, the first, copied."""
    student = make_student(
        "small-seq2seq", None, task, seed=0, layers=layers, width=teacher.config.d_model, dropout=0.0
    )
    weights = teacher.state_dict()
    student.load_state_dict({name: weights[name] for name in student.state_dict()})
    return student


run = Sequences.make
