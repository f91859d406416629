"""Is it trained? What a student can do on texts that it learned from, and on new ones.

    run.run()
    print(run.diagnose())     # training 67.0% (loss 0.930), validation 53.0% (loss 1.410): mostly underfitting: …

A comparison between two students says nothing while both could still learn: Beyer et al. 2022, "Knowledge distillation:
A good teacher is patient and consistent" (arXiv:2106.05237), find that distillation goes on improving over schedules
many times as long as usual, and that what looks like a better objective after a short one may be a worse one later.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from statistics import median

import torch
from torch import Tensor
from transformers import PreTrainedModel

from kdtutor.data.task import Task
from kdtutor.errors import KDTutorError
from kdtutor.evaluation.scores import FORMATS, predict, scores_of
from kdtutor.evaluation.tokens import token_scores
from kdtutor.evaluation.writing import written_scores
from kdtutor.models.forward import Outputs
from kdtutor.objectives.parse import parse_objective

TEXTS = 2000  # training texts that are asked: an accuracy then has a standard error of 1.1 points at most
MANY = 0.5  # of the steps: so many clipped ones are worth a warning
CLIP_LESS = "raise max_norm, or lower the learning rate"
FEW_STEPS = 20  # gradients are long at the beginning: fewer steps than these say nothing about clipping


class ClippingWarning(UserWarning):
    """More than half of a run's steps were clipped."""


@dataclass(frozen=True)
class Diagnosis:
    """Say how well a student does on training texts and on validation; printed, it is a line.

    Another line follows if most steps were clipped, or if next to nothing was learned.

    What validation lacks (1 − accuracy; where a score is no fraction, the loss) is what is lacking on training texts
    too, which is *underfitting*, and what is lacking on new texts alone, which is *overfitting*. Errors that no model
    could avoid count as underfitting here: a teacher's own score says how much can be reached.

    training, validation: the main score of the task's kind, then the mean loss with the true labels. texts: how many
    training texts were asked. clipped: the share of the steps whose gradient was longer than max_norm. warning: a
    sentence if the student has learned next to nothing, see `hardly_learned`.
    """

    training: dict[str, float]
    validation: dict[str, float]
    texts: int
    clipped: float = 0.0
    is_fraction: bool = True
    warning: str = ""

    @property
    def verdict(self) -> str:
        """Tell whether underfitting or overfitting costs more, and what helps."""
        training, validation = (self._lacking(fit) for fit in (self.training, self.validation))
        everywhere = min(training, validation)
        new_texts_alone = validation - everywhere
        if validation <= 0:
            return "nothing is lacking"
        if self.is_fraction:
            whole, lacking = f"of the {100 * validation:.1f} points that validation lacks", "are lacking"
        else:
            whole, lacking = f"of validation's loss of {validation:.3f}", "are lost"

        def amount(value: float) -> str:
            return f"{100 * value:.1f}" if self.is_fraction else f"{value:.3f}"

        if everywhere >= new_texts_alone:
            found = f"{amount(everywhere)} {lacking} on training texts too"
            return f"mostly underfitting: {whole}, {found}; train longer, or take a larger student"
        found = f"{amount(new_texts_alone)} {lacking} on new texts alone"
        help = "more texts help (a teacher needs no labels), or fewer passes"
        return f"mostly overfitting: {whole}, {found}; {help}"

    def to_dict(self) -> dict:
        """List everything that was measured, for JSON."""
        found = asdict(self)
        del found["is_fraction"]
        return found | {"verdict": self.verdict}

    def __str__(self) -> str:
        line = f"training {self._shown(self.training)}, validation {self._shown(self.validation)}: {self.verdict}"
        if self.clipped > MANY:
            line += f"\n{self.clipped:.0%} of the steps were clipped: {CLIP_LESS}"
        return f"{line}\nwarning: {self.warning}" if self.warning else line

    def _lacking(self, fit: dict[str, float]) -> float:
        return 1 - next(iter(fit.values())) if self.is_fraction else fit["loss"]

    def _shown(self, fit: dict[str, float]) -> str:
        name, score = next(iter(fit.items()))
        shown = f"{score:.1%}" if self.is_fraction else FORMATS.get(name, "{:.3f}").format(score)
        return f"{shown} (loss {fit['loss']:.3f})"


def diagnose(
    student: PreTrainedModel, task: Task, split: str = "train", *, masking: float = 0.15, clipped: float = 0.0
) -> Diagnosis:
    """Measure `student` on at most 2,000 labelled texts of the `split` that it learned from, and on validation.

    The texts are the same each time, and dropout is off. Raises KDTutorError if none of them has a label.
    """
    few = _sample(task, split)
    training = fit(student, few, split, masking)
    warning = ""
    if task.rules.per_token:
        validation = fit(student, task, "validation", masking)
    else:
        logits, targets = predict(student, task, "validation"), task.targets("validation")
        validation = _fit(logits, targets, task)
        if task.rules.answer == "classes":
            warning = hardly_learned(logits, targets, task.labels)
        elif task.kind == "multi-label":
            warning = same_labels(logits, task.labels)
    return Diagnosis(training, validation, len(few.split(split)), clipped, task.rules.is_fraction, warning)


def _sample(task: Task, split: str) -> Task:
    """Keep at most `TEXTS` random texts of a split, labelled ones where labels don't come from the texts."""
    part = task.split(split) if task.rules.per_token else task.split(split).labelled_only()
    if not len(part):
        raise KDTutorError(f"the {split} split of {task.name} has no labels to compare with")
    return replace(task, splits=task.splits | {split: part.sample(TEXTS)})


def fit(
    student: PreTrainedModel,
    task: Task,
    split: str,
    masking: float = 0.15,
    fast: bool = True,
    metric: str | None = None,
) -> dict[str, float]:
    """Compute the main score of the task's kind, that of `metric`, and the mean loss with the true labels."""
    if not task.rules.per_token:
        return _fit(predict(student, task, split, fast=fast), task.targets(split), task, metric)
    scores = token_scores(student, task, split, masking=masking, fast=fast)
    if metric is not None and metric not in scores:
        scores |= written_scores(student, task, split)
    return {name: scores[name] for name in (task.rules.scores[0], metric, "loss") if name}


def _fit(logits: Tensor, targets: Tensor, task: Task, metric: str | None = None) -> dict[str, float]:
    loss = parse_objective(task.rules.hard)(Outputs(logits), None, {"labels": targets})
    scores = scores_of(logits, targets, task.rules) | {"loss": float(loss.mean())}
    return {name: scores[name] for name in (task.rules.scores[0], metric, "loss") if name}


def hardly_learned(logits: Tensor, labels: Tensor, names: Sequence[str]) -> str:
    """Say so if logits (N, C) give one class to every text, or are right hardly more often than one class would be.

    "" where they are right more often, by two standard errors at least, or where all the labels (N,) are alike.
    """
    n, predicted, counts = len(labels), logits.argmax(-1), torch.bincount(labels)
    if (labels == labels[0]).all():
        return ""
    if (predicted == predicted[0]).all():
        return f"all {n:,} validation texts get the same answer, {names[int(predicted[0])]!r}"
    right, majority = int((predicted == labels).sum()), int(counts.max())
    if right - majority > 2 * math.sqrt(majority * (1 - majority / n)):
        return ""
    always = f"{names[int(counts.argmax())]!r}, given to every text, would be right on {majority / n:.1%}"
    return f"the answers are right on {right / n:.1%} of {n:,} validation texts, and {always}"


# ------------------------------------------------------------------------------------------------ clipping


def share_clipped(norms: Sequence[float], max_norm: float) -> float:
    """Tell which share of the gradients' norms lies above `max_norm`; 0 if there are none."""
    return sum(norm > max_norm for norm in norms) / max(1, len(norms))


def warn_if_mostly_clipped(norms: Sequence[float], max_norm: float) -> None:
    """Warn, once per run, if more than half of its gradients were shortened to `max_norm`.

    Clipping is meant for the odd outlier. Where it is the rule, every step is equally long however much there is to
    learn from its batch, and a bound that was chosen for one objective decides how well another one does.
    """
    share = share_clipped(norms, max_norm)
    if len(norms) >= FEW_STEPS and share > MANY:
        warnings.warn(
            f"{share:.0%} of the {len(norms)} steps were clipped: the gradient's norm, {median(norms):.2g} in the "
            f"median, was above max_norm = {max_norm:g}; {CLIP_LESS}",
            ClippingWarning,
            stacklevel=3,
        )


def same_labels(logits: Tensor, names: Sequence[str]) -> str:
    """Say so if logits (N, C) give the same labels, or none, to every text; "" where they don't."""
    given = logits > 0
    if (given != given[0]).any():
        return ""
    found = ", ".join(name for name, is_given in zip(names, given[0].tolist(), strict=True) if is_given)
    return f"all {len(given):,} validation texts get the same labels: {found or 'none'}"
