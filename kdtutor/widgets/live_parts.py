"""What a live distillation is made of: the twin, the way back, the score and the probe.

live.py puts them together; nothing here knows of widgets or of the event loop.
"""

from __future__ import annotations

import textwrap
import time
from dataclasses import replace

import torch
from torch import Tensor

from kdtutor import evaluation
from kdtutor.data.task import Task
from kdtutor.errors import KDTutorError
from kdtutor.models.forward import evaluating, forward, logits_of
from kdtutor.objectives.formulas import kl_divergence
from kdtutor.training.control import NoControl, control_of
from kdtutor.training.distillation import Distillation

ROWS = 6  # classes of the probe that are shown


# ------------------------------------------------------------------------------------------------ the twin


def make_twin(run: Distillation, wanted: bool) -> tuple[Distillation | None, str]:
    """Return the same run with hard labels alone; or None, and a sentence if one was wanted."""
    if not wanted:
        return None, ""
    try:
        return control_of(run, progress=False), ""
    except NoControl as error:
        return None, f"There is no twin that learns from labels: {error}."


def twin_name(twin: Distillation, run: Distillation) -> str:
    """Say what the twin learns from; also how many texts, where these are not the student's."""
    formula = repr(twin.objective)
    name = "hard labels alone" if formula == twin.task.rules.hard else formula
    read, own = (len(each.task.split("train")) for each in (run, twin))
    return name if read == own else f"{name}, {own:,} texts instead of {read:,}"


def check_live(run: Distillation, twin: bool | Distillation) -> None:
    if not isinstance(run, Distillation):
        raise KDTutorError(
            f"LiveDistillation shows a Distillation, not a {type(run).__name__}: "
            "LiveDistillation(kd.Distillation(student, teacher, task, objective))"
        )
    if not isinstance(twin, (bool, Distillation)):
        raise KDTutorError(f"twin must be True, False or a Distillation, not a {type(twin).__name__}")
    if run.accelerator.num_processes > 1:
        raise KDTutorError("a live run has one process: under accelerate launch, take distillation.run()")
    if run.settings.patience:
        raise KDTutorError("a live run takes all its steps, so that its twin can: leave patience out")
    if run.done >= run.total_steps:
        raise KDTutorError(
            f"all {run.total_steps} steps of this run are done: make a new Distillation to watch"
        )
    if twin is True and run.done:
        raise KDTutorError(
            f"this run has taken {run.done} of {run.total_steps} steps, and a twin has to begin with it: "
            "make a new Distillation, or say twin=False"
        )
    if isinstance(twin, Distillation):
        mine, theirs = {id(p) for p in run.student.parameters()}, {id(p) for p in twin.student.parameters()}
        if mine & theirs:
            raise KDTutorError("the twin trains the very student of the distillation: give it a copy")
        for what in ("total_steps", "done", "learning_rate"):
            if getattr(run, what) != getattr(twin, what):
                values = f"{getattr(run, what):g}, the twin's {getattr(twin, what):g}"
                raise KDTutorError(f"twins go at equal steps, but the distillation's {what} is {values}")


# ------------------------------------------------------------------------------------------------ score and probe


class Score:
    """How good a model is on some validation texts, always the same, by the main score of the task's kind.

    seconds: what one model's score took the last time.
    """

    def __init__(self, run: Distillation, size: int):
        task, self.masking, self.seconds, self.possible = run.task, run.masking, 0.0, False
        self.texts = 0
        name = task.rules.score_name
        self.is_fraction, self.name = task.rules.is_fraction, f"validation {name}"
        split = task.splits.get("validation")
        if split is not None and not task.rules.per_token:
            split = split.labelled_only()
        if split is None or len(split) < 2:
            self.note = f"{task.name} has no labelled validation texts, so no {name} is shown."
            return
        chosen, whole = split.sample(size), task.split("validation")
        self.task = replace(task, splits={"validation": chosen})
        self.possible = True
        some = "all" if len(chosen) == len(whole) else "the same random"
        self.texts = len(chosen)
        self.note = f"The score is taken on {some} {len(chosen):,} of {len(whole):,} validation texts."

    def __call__(self, model) -> float | None:
        if not self.possible:
            return None
        started = time.perf_counter()
        scores = evaluation.measure(model, self.task, "validation", masking=self.masking)
        self.seconds = time.perf_counter() - started
        return next(iter(scores.values()))


class Probe:
    """One text, and what teacher, student and twin make of it: classes, a masked token, or a regression's value."""

    def __init__(self, run: Distillation, probe: str | int):
        task = self.task = run.task
        self.kind = task.rules.answer
        self.text, self.truth = _probe_text(task, probe)
        if self.kind == "token" and task.tokenizer.mask_token not in self.text:
            words = self.text.split()
            self.truth = words[len(words) // 2]
            words[len(words) // 2] = task.tokenizer.mask_token
            self.text = " ".join(words)
        self.encoded = task.encode_texts(self.text)
        read = int(self.encoded.lengths[0])
        self.note = (
            f"Of the probe text only the first {read} tokens are read." if read >= task.max_length else ""
        )
        self.at = None
        if self.kind == "token":
            at = (self.encoded.ids == task.tokenizer.mask_token_id).nonzero()[:1, 0]
            if not len(at):
                raise KDTutorError(
                    f"the first {read} tokens of the probe, all that is read, have no {task.tokenizer.mask_token}"
                )
            self.at = at
        self.teacher = None
        if run.teacher is not None:
            try:
                self.teacher = self._logits(run.teacher)  # asked once
            except KDTutorError as error:
                raise KDTutorError(f"the teacher's answer to the probe text: {error}") from error

    def about(self, runs: list[str]) -> dict:
        """Tell the front end the text, what is known of it, and who answers, in the order of a snapshot's values."""
        return {
            "text": textwrap.shorten(self.text, 300, placeholder=" …"),
            "truth": self.truth,
            "kind": self.kind,
            "who": ([] if self.teacher is None else ["teacher"]) + runs,
        }

    def snapshot(self, models: dict) -> dict:
        """Ask what all say now: names of the rows, values [who][row], and for each model its KL from the teacher."""
        logits = {} if self.teacher is None else {"teacher": self.teacher}
        logits |= {who: self._logits(model) for who, model in models.items()}
        if self.kind == "value":
            values = [[short(x) for x in z.tolist()] for z in logits.values()]
            return {"names": list(self.task.labels), "values": values, "distance": [], "star": None}
        answers = [z.softmax(-1) for z in logits.values()]
        rows = self._rows(answers)
        values = [p[rows].tolist() for p in answers]
        names = [self._name(i) for i in rows]
        if (left := len(answers[0]) - len(rows)) > 0:
            names.append(f"all {left:,} others")
            values = [[*v, max(0.0, 1 - sum(v))] for v in values]
        distance = []
        if self.teacher is not None:
            apart = (kl_divergence(self.teacher[None], logits[who][None]) for who in models)
            distance = [short(max(0.0, float(kl))) for kl in apart]
        values = [[round(x, 4) for x in v] for v in values]
        star = names.index(self.truth) if self.truth in names else None
        return {"names": names, "values": values, "distance": distance, "star": star}

    def _rows(self, answers: list[Tensor]) -> list[int]:
        """Choose the classes to show. The teacher's likeliest keep their place; then come the others' favourites."""
        first = answers[0].argsort(descending=True, stable=True).tolist()
        chosen = dict.fromkeys(first[: ROWS - 2])
        if self.truth in self.task.labels:
            chosen[self.task.labels.index(self.truth)] = None
        for p in answers[1:]:
            chosen[int(p.argmax())] = None
        for c in first:
            if len(chosen) >= ROWS:
                break
            chosen[c] = None
        return list(chosen)

    def _name(self, c: int) -> str:
        return str(
            self.task.labels[c] if self.kind == "classes" else self.task.tokenizer.convert_ids_to_tokens(c)
        )

    @torch.no_grad()
    def _logits(self, model) -> Tensor:
        """Compute (C,) in float64: one text, eval mode."""
        if self.at is None:
            return logits_of(model, self.encoded)[0].double()
        device = next(model.parameters()).device
        batch = {name: value.to(device) for name, value in self.encoded.batch(torch.tensor([0])).items()}
        with evaluating(model):
            return forward(model, batch, rows=self.at.to(device)).logits[0].double().cpu()


def _probe_text(task: Task, probe: str | int) -> tuple[str, str | None]:
    """Find the text, and its label or value if it is an example of the task's."""
    if isinstance(probe, bool) or not isinstance(probe, (str, int)):
        raise KDTutorError(f"probe must be a text, or the number of a validation example, not {probe!r}")
    if isinstance(probe, str):
        if not probe.strip():
            raise KDTutorError("the probe text is empty")
        for name, split in task.splits.items():
            if name != "train" and probe in split.texts[0]:
                return probe, _target(task, name, list(split.texts[0]).index(probe))
        return probe, None
    split = "validation" if "validation" in task.splits else next(iter(task.splits))
    texts = task.texts(split)
    if not 0 <= probe < len(texts):
        raise KDTutorError(f"probe = {probe}: the {split} split has the examples 0 to {len(texts) - 1}")
    return texts[probe], _target(task, split, probe)


def _target(task: Task, split: str, row: int) -> str | None:
    part = task.split(split)
    return task.rules.text_of(part.targets[row], task.labels) if part.labelled[row] else None


# ------------------------------------------------------------------------------------------------ small helpers


def same_temperature(run: Distillation) -> tuple[float | None, str]:
    """Find the temperature that all terms share, or None, and say what a reader has to know."""
    values = [term.temperature for term in run.objective.terms if hasattr(term, "temperature")]
    if not values:
        return None, f"No term of {run.objective!r} has a temperature."
    if len({*values}) > 1:
        listing = ", ".join(f"{value:g}" for value in values)
        return None, f"The terms have different temperatures ({listing}), so there is no one slider for them."
    return values[0], ""


def short(x: float) -> float:
    """Round to five digits: a curve needs no more, and messages stay small."""
    return float(f"{x:.5g}")


def one_sentence(error: Exception) -> str:
    if isinstance(error, KDTutorError):
        return str(error)
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or ['no message'])[0]}"
