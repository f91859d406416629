"""What a student is worth: accuracy, macro-F1, calibration, size, speed, retention; and whether a difference is real.

    evaluate(student, task, teacher=teacher)      # an Evaluation: prints as a small table
    mean_and_interval([87.1, 86.8, 87.4])         # over seeds
    paired_test(logits_a, logits_b, labels)       # two students, one test set

Scores are fractions, and plain Python numbers, ready for JSON.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from transformers import PreTrainedModel

from kdtutor.data.kinds import Kind
from kdtutor.data.load import as_task
from kdtutor.data.task import Task
from kdtutor.errors import KDTutorError, nearest
from kdtutor.evaluation.speed import latency_ms
from kdtutor.evaluation.tokens import token_scores
from kdtutor.evaluation.writing import written_scores
from kdtutor.hardware import release_freed_memory
from kdtutor.models.forward import logits_of
from kdtutor.models.load import check_fits, load_teacher
from kdtutor.models.reading import read_by
from kdtutor.models.sizes import sizes


@dataclass(frozen=True)
class Evaluation:
    """One model on one split. Its scores are attributes too, as in `result.accuracy`; None if not measured here.

    scores: by name, the one to judge by first. ece: expected calibration error. latency_ms: one text at a time on the
    CPU, median. throughput: texts per second, in batches, on the model's device. retention: this model's score, if
    more is better, as a fraction of its teacher's.
    """

    task: str
    split: str
    examples: int
    parameters: int
    bytes: int
    scores: dict[str, float]
    latency_ms: float | None = None
    throughput: float | None = None
    retention: float | None = None

    def __getattr__(self, name: str) -> float | None:
        scores = self.__dict__.get("scores", {})
        if name in scores or name in FORMATS:
            return scores.get(name)
        raise AttributeError(f"an evaluation has no {name}; its scores are {', '.join(scores)}", name=name)

    @property
    def score(self) -> float:
        """Return the one figure to compare by: accuracy, or rank correlation for a regression."""
        return next(iter(self.scores.values()))

    def to_dict(self) -> dict:
        """List everything that was measured, scores beside the rest."""
        given = {name: value for name, value in vars(self).items() if value is not None}
        scores = given.pop("scores")
        return given | scores

    def __str__(self) -> str:
        values = {n: FORMATS.get(n, "{:.3f}").format(v) for n, v in self.scores.items()}
        for name in [n for n in values if n.endswith("_half_width")]:
            values[name.removesuffix("_half_width")] += values.pop(name)
        measured = ((n, getattr(self, n)) for n in ("latency_ms", "throughput", "retention"))
        values |= {n: FORMATS[n].format(v) for n, v in measured if v is not None}
        values["size"] = f"{self.parameters:,} parameters, {self.bytes / 1e6:.1f} MB"
        lines = [f"{self.task}, {self.split} split, {self.examples:,} texts"]
        return "\n".join(
            lines + [f"  {name.replace('_', ' '):<19} {value}" for name, value in values.items()]
        )

    __repr__ = __str__


def evaluate(
    model: PreTrainedModel | str,
    task: Task | str,
    split: str = "test",
    *,
    teacher: PreTrainedModel | str | None = None,
    latency: bool = True,
    batch_size: int | None = None,
    masking: float = 0.15,
    metric: str | None = None,
) -> Evaluation:
    """Measure `model` on a whole split, in eval mode; its mode is restored afterwards.

    Every score is taken over the split at once, never as a mean of batch means. `teacher`: adds retention. `masking`:
    for a masked LM, the fraction of tokens to predict. `metric`: the score to judge by, such as "macro_f1"; by default
    the main one of the task's kind. Raises KDTutorError if the model does not fit the task, an example is unlabelled,
    or a logit is not finite.
    """
    task = as_task(task)
    check_metric(metric, task)
    model, teacher = (load_teacher(task, m) if isinstance(m, str) else m for m in (model, teacher))
    check_fits(model, task)
    start = time.perf_counter()
    # What is timed is the model as transformers runs it.
    scores = measure(model, task, split, batch_size=batch_size, masking=masking, fast=not latency)
    seconds = time.perf_counter() - start
    # Batches of many lengths leave gaps that nobody fills.
    release_freed_memory()
    first = metric if metric in scores else task.rules.scores[0]
    scores = {first: scores[first]} | scores

    examples, size = len(task.split(split)), sizes(model)
    result = Evaluation(task.name, split, examples, size.parameters, size.bytes, scores)
    if latency:
        per_text = latency_ms(model, task, split)
        result = replace(result, latency_ms=per_text, throughput=examples / seconds)
    if teacher is None or first in LOWER_IS_BETTER:
        return result
    check_fits(teacher, task, "the teacher")
    theirs = measure(teacher, task, split, batch_size=batch_size, masking=masking)
    reference = theirs[first]
    return replace(result, retention=result.score / reference if reference else None)


def check_metric(metric: str | None, task: Task) -> None:
    """Raise KDTutorError, with those there are, if `metric` is neither "loss" nor a score of the task's kind."""
    if metric is not None and metric not in (known := {*task.rules.scores, "loss"}):
        raise KDTutorError(nearest(f"metric of a {task.kind} task", metric, sorted(known)))


def measure(
    model: PreTrainedModel,
    task: Task,
    split: str = "test",
    *,
    batch_size: int | None = None,
    masking: float = 0.15,
    fast: bool = True,
) -> dict[str, float]:
    """Compute the scores of the task's kind over a whole split, by name, the main one first. fast: as for `forward`."""
    if task.rules.per_token:
        found = token_scores(model, task, split, masking=masking, batch_size=batch_size, fast=fast)
        if task.rules.writes:
            found |= written_scores(model, task, split)
        return {name: found[name] for name in task.rules.scores}
    if task.targets(split) is None:
        raise KDTutorError(f"{task.name} has no labels to compare with in its {split} split")
    return scores_of(predict(model, task, split, batch_size, fast), task.targets(split), task.rules)


def scores_of(logits: Tensor, targets: Tensor, rules: Kind) -> dict[str, float]:
    """Compute a kind's scores from logits (N, C) and targets (N, …), by name, the main one first."""
    return {name: SCORES[name](logits, targets) for name in rules.scores}


def predict(
    model: PreTrainedModel, task: Task, split: str = "test", batch_size: int | None = None, fast: bool = True
) -> Tensor:
    """Compute the model's logits for every example of the split, in order: float32 (N, C) on the host."""
    return logits_of(model, read_by(model, task).encode(split), batch_size, fast)


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Compute the fraction of examples (N, C) whose highest logit is the label's."""
    return float(is_right(logits, labels).double().mean())


def macro_f1(logits: Tensor, labels: Tensor) -> float:
    """Average F1 = 2·TP / (2·TP + FP + FN) over classes; a class neither present nor predicted is left out.

    labels: class numbers (N,), or several labels per text, (N, C), each 0 or 1: those above a probability of ½ count.
    """
    true_positives, occurrences = _found(logits, labels)
    return float((2 * true_positives / occurrences)[occurrences > 0].mean()) if occurrences.any() else 0.0


def micro_f1(logits: Tensor, labels: Tensor) -> float:
    """Compute F1 over all decisions, a text and a label each: logits and labels (N, C). 0 if there is no label."""
    true_positives, occurrences = _found(logits, labels)
    return float(2 * true_positives.sum() / occurrences.sum().clamp(min=1))


def _found(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Count for each class TP, and 2·TP + FP + FN, which is how often it occurs among labels and predictions: (C,)."""
    if labels.dim() == 1:
        classes, predicted, right = logits.shape[-1], logits.argmax(-1), is_right(logits, labels)
        occurrences = torch.bincount(labels, minlength=classes) + torch.bincount(predicted, minlength=classes)
        return torch.bincount(labels[right], minlength=classes).double(), occurrences
    _check_several(logits, labels)
    given, predicted = labels > 0, logits > 0
    return (given & predicted).sum(0).double(), given.sum(0) + predicted.sum(0)


def mean_average_precision(logits: Tensor, labels: Tensor) -> float:
    """Average over labels that occur: Σ (recall_n − recall_{n−1}) · precision_n, down the texts by logit; (N, C) both.

    Texts with equal logits come together, as one step. 0 if no label occurs.
    """
    _check_several(logits, labels)
    found = [
        _average_precision(logits[:, c], labels[:, c] > 0)
        for c in range(labels.shape[1])
        if labels[:, c].any()
    ]
    return sum(found) / max(1, len(found))


def _average_precision(scores: Tensor, given: Tensor) -> float:
    order = scores.argsort(descending=True)
    scores, right = scores[order], given[order].double().cumsum(0)
    last = torch.cat([scores[1:] != scores[:-1], torch.ones(1, dtype=torch.bool)]).nonzero()[:, 0]
    precision, recall = right[last] / (last + 1), right[last] / right[-1]
    return float((recall.diff(prepend=torch.zeros(1, dtype=torch.double)) * precision).sum())


def _check_several(logits: Tensor, labels: Tensor) -> None:
    """Refuse what would make a score of several labels wrong in silence."""
    if logits.shape != labels.shape or not len(labels):
        shapes = f"{tuple(logits.shape)} and {tuple(labels.shape)}"
        raise KDTutorError(
            f"each label of each text needs a logit, and there must be a text at least: {shapes}"
        )
    if (bad := ((labels != 0) & (labels != 1)).any(1)).any():
        raise KDTutorError(f"example {int(bad.nonzero()[0, 0])} is unlabelled, or a label is neither 0 nor 1")
    if (bad := ~logits.isfinite().all(-1)).any():
        raise KDTutorError(f"the logits of example {int(bad.nonzero()[0, 0])} are not finite")


def ece(logits: Tensor, labels: Tensor, bins: int = 15) -> float:
    """Compute the expected calibration error Σ_b n_b/n · |accuracy_b − confidence_b| (Guo et al. 2017), equal bins."""
    confidence = logits.double().softmax(-1).amax(-1)
    gap = is_right(logits, labels).double() - confidence
    which = (confidence * bins).ceil().long().clamp(1, bins) - 1
    return float(torch.zeros(bins, dtype=torch.double).index_add_(0, which, gap).abs().sum() / len(labels))


def is_right(logits: Tensor, labels: Tensor) -> Tensor:
    """Tell which examples are classified right: bool (N,). Refuses what would make a score wrong in silence."""
    if len(logits) != len(labels) or not len(labels):
        rows = f"{len(logits)} rows of logits for {len(labels)} labels"
        raise KDTutorError(f"{rows}: each example needs one of both, and there must be one at least")
    if (bad := (labels < 0) | (labels >= logits.shape[-1])).any():
        row = int(bad.nonzero()[0, 0])
        what = "is unlabelled (-100)" if labels[row] == -100 else f"has label {int(labels[row])}"
        raise KDTutorError(f"example {row} {what}, but the classes are 0 to {logits.shape[-1] - 1}")
    if (bad := ~logits.isfinite().all(-1)).any():
        raise KDTutorError(f"the logits of example {int(bad.nonzero()[0, 0])} are not finite")
    return logits.argmax(-1) == labels


def spearman(predicted: Tensor, targets: Tensor) -> float:
    """Compute the rank correlation of two (N,) tensors, from -1 to 1: Pearson's, of ranks; ties share the mean rank.

    0 if either is constant: it ranks nothing.
    """
    if predicted.shape != targets.shape or predicted.dim() != 1 or len(targets) < 2:
        shapes = f"{tuple(predicted.shape)} and {tuple(targets.shape)}"
        raise KDTutorError(
            f"a rank correlation needs two values for each of two or more examples; got {shapes}"
        )
    if (bad := ~(predicted.isfinite() & targets.isfinite())).any():
        raise KDTutorError(f"the prediction or target of example {int(bad.nonzero()[0, 0])} is not finite")

    def ranks(values: Tensor) -> Tensor:
        _, inverse, counts = values.double().unique(return_inverse=True, return_counts=True)
        return (counts.cumsum(0) - (counts.double() - 1) / 2)[inverse]

    both = torch.stack([ranks(predicted), ranks(targets)])
    return float(torch.corrcoef(both)[0, 1]) if (both.std(dim=1) > 0).all() else 0.0


def mean_squared_error(predicted: Tensor, targets: Tensor) -> float:
    """Average the squared differences of two (N,) tensors."""
    return float((predicted.double() - targets).square().mean())


#: How a score is computed from logits (N, C) and targets (N, …). A kind of task names those that it is measured by.
SCORES: dict[str, Callable[[Tensor, Tensor], float]] = {
    "accuracy": accuracy,
    "macro_f1": macro_f1,
    "micro_f1": micro_f1,
    "mean_average_precision": mean_average_precision,
    "ece": ece,
    "spearman": lambda logits, targets: spearman(logits[:, 0], targets),
    "mean_squared_error": lambda logits, targets: mean_squared_error(logits[:, 0], targets),
}
LOWER_IS_BETTER = frozenset({"loss", "perplexity", "ece", "mean_squared_error", "error_rate"})
#: How a measured value is printed; other scores get three digits.
FORMATS = {
    "accuracy": "{:.2%}", "macro_f1": "{:.2%}", "micro_f1": "{:.2%}", "mean_average_precision": "{:.2%}",
    "ece": "{:.2%}", "spearman": "{:.3f}", "mean_squared_error": "{:.3f}",
    "loss": "{:.4f}", "perplexity": "{:.2f}", "masked_tokens": "{:,}", "tokens": "{:,}",
    "error_rate": "{:.2%}", "error_rate_half_width": " ± {:.2%}", "exact": "{:.2%}",
    "latency_ms": "{:.1f} ms per text", "throughput": "{:,.0f} texts per second", "retention": "{:.1%}",
}  # fmt: skip
