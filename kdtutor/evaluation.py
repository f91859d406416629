"""What a student is worth: accuracy, macro-F1, calibration, size, speed, retention; and whether a difference is real.

    evaluate(student, task, teacher=teacher)      # an Evaluation: prints as a small table
    mean_and_interval([87.1, 86.8, 87.4])         # over seeds
    paired_test(logits_a, logits_b, labels)       # two students, one test set

Scores are fractions, and plain Python numbers, ready for JSON.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import mean, median, stdev

import torch
from torch import Tensor
from transformers import PreTrainedModel

from kdtutor.data import Task, length_bucketed_batches, mask_tokens
from kdtutor.errors import KDTutorError
from kdtutor.models import check_fits, forward, inputs_of, logits_of, sizes


@dataclass(frozen=True)
class Evaluation:
    """One model on one split. Scores are fractions from 0 to 1; None where they do not apply or were not asked for.

    ece: expected calibration error. latency_ms: one text at a time on the CPU, median. throughput: texts a second, in
    batches, where the model is. retention: this model's main score as a fraction of its teacher's.
    """

    task: str
    split: str
    examples: int
    parameters: int
    bytes: int
    accuracy: float | None = None
    macro_f1: float | None = None
    ece: float | None = None
    spearman: float | None = None
    mean_squared_error: float | None = None
    latency_ms: float | None = None
    throughput: float | None = None
    retention: float | None = None

    @property
    def score(self) -> float:
        """The one figure to compare by: accuracy, or rank correlation for a regression."""
        return self.accuracy if self.accuracy is not None else self.spearman

    def to_dict(self) -> dict:
        return {name: value for name, value in asdict(self).items() if value is not None}

    def __str__(self) -> str:
        formats = {
            "accuracy": "{:.2%}", "macro_f1": "{:.2%}", "ece": "{:.2%}", "retention": "{:.1%}", "spearman": "{:.3f}",
            "mean_squared_error": "{:.3f}", "latency_ms": "{:.1f} ms a text", "throughput": "{:,.0f} texts a second",
        }  # fmt: skip
        values = {name: formats[name].format(v) for name, v in self.to_dict().items() if name in formats}
        values["size"] = f"{self.parameters:,} parameters, {self.bytes / 1e6:.1f} MB"
        lines = [f"{self.task}, {self.split} split, {self.examples:,} texts"]
        return "\n".join(lines + [f"  {name.replace('_', ' '):<20}{value}" for name, value in values.items()])

    __repr__ = __str__


def evaluate(
    model: PreTrainedModel,
    task: Task,
    split: str = "test",
    *,
    teacher: PreTrainedModel | None = None,
    latency: bool = True,
    batch_size: int | None = None,
) -> Evaluation:
    """Measure `model` on a whole split, in eval mode; its mode is restored afterwards.

    Accuracy and macro-F1 are taken over the split at once, never as a mean of batch means. `teacher`: adds retention.
    Raises KDTutorError if the model does not fit the task, an example is unlabelled, or a logit is not finite.
    """
    check_fits(model, task)
    labels = task.targets(split)
    if labels is None:
        raise KDTutorError(
            f"{task.name} has no labels to compare with; for a masked LM there is masked_lm_scores"
        )
    encoded = task.encode(split)
    start = time.perf_counter()
    logits = logits_of(model, encoded, batch_size)
    seconds = time.perf_counter() - start
    if task.kind == "regression":
        error = (logits[:, 0].double() - labels).square().mean()
        scores = {"spearman": spearman(logits[:, 0], labels), "mean_squared_error": float(error)}
    else:
        f1, calibration = macro_f1(logits, labels), ece(logits, labels)
        scores = {"accuracy": accuracy(logits, labels), "macro_f1": f1, "ece": calibration}
    if latency:
        scores |= {"latency_ms": latency_ms(model, task, split), "throughput": len(logits) / seconds}
    size = sizes(model)
    result = Evaluation(task.name, split, len(logits), size.parameters, size.bytes, **scores)
    if teacher is None:
        return result
    reference = evaluate(teacher, task, split, latency=False, batch_size=batch_size).score
    return replace(result, retention=result.score / reference if reference else None)


def predict(model: PreTrainedModel, task: Task, split: str = "test", batch_size: int | None = None) -> Tensor:
    """The model's logits for every example of the split, in order: float32 (N, C) on the host."""
    return logits_of(model, task.encode(split), batch_size)


# ------------------------------------------------------------------------------------------------ scores


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Fraction of the examples (N, C) whose highest logit is the label's."""
    return float(_right(logits, labels).double().mean())


def macro_f1(logits: Tensor, labels: Tensor) -> float:
    """Mean over classes of F1 = 2·TP / (2·TP + FP + FN); a class neither present nor predicted is left out."""
    classes, predicted, right = logits.shape[-1], logits.argmax(-1), _right(logits, labels)
    true_positives = torch.bincount(labels[right], minlength=classes).double()
    occurrences = torch.bincount(labels, minlength=classes) + torch.bincount(predicted, minlength=classes)
    return float((2 * true_positives / occurrences)[occurrences > 0].mean())  # 2·TP + FP + FN occurrences


def ece(logits: Tensor, labels: Tensor, bins: int = 15) -> float:
    """Expected calibration error (Guo et al. 2017): Σ_b n_b/n · |accuracy_b − confidence_b|, equal bins of (0, 1]."""
    confidence = logits.double().softmax(-1).amax(-1)
    gap = _right(logits, labels).double() - confidence
    which = (confidence * bins).ceil().long().clamp(1, bins) - 1
    return float(torch.zeros(bins, dtype=torch.double).index_add_(0, which, gap).abs().sum() / len(labels))


def _right(logits: Tensor, labels: Tensor) -> Tensor:
    """Which examples are classified right: bool (N,). Refuses what would make a score wrong without a word."""
    if len(logits) != len(labels) or not len(labels):
        raise KDTutorError(
            f"{len(logits)} rows of logits for {len(labels)} labels: there must be one each, and any at all"
        )
    if (bad := (labels < 0) | (labels >= logits.shape[-1])).any():
        row = int(bad.nonzero()[0, 0])
        what = "is unlabelled (-100)" if labels[row] == -100 else f"has label {int(labels[row])}"
        raise KDTutorError(f"example {row} {what}, but the classes are 0 to {logits.shape[-1] - 1}")
    if (bad := ~logits.isfinite().all(-1)).any():
        raise KDTutorError(f"the logits of example {int(bad.nonzero()[0, 0])} are not finite")
    return logits.argmax(-1) == labels


def spearman(predicted: Tensor, targets: Tensor) -> float:
    """Rank correlation of two (N,) tensors, from -1 to 1: Pearson's, of the ranks; ties share their mean rank.

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


@torch.no_grad()
def masked_lm_scores(
    model: PreTrainedModel,
    task: Task,
    split: str = "test",
    *,
    masking: float = 0.15,
    seed: int = 0,
    batch_size: int = 256,
) -> dict[str, float]:
    """Masked-LM loss (nats a masked token), perplexity and accuracy over the whole split.

    The masks are drawn once, by `seed` and `batch_size`: compare models at the same ones.
    """
    encoded, generator = task.encode(split), torch.Generator().manual_seed(seed)
    device, was_training = next(model.parameters()).device, model.training
    loss = right = count = 0
    model.eval()
    try:
        for index in length_bucketed_batches(encoded.lengths, batch_size):
            batch = mask_tokens(encoded.batch(index), task.tokenizer, masking, generator)
            rows = (batch["labels"] != -100).flatten().nonzero()[:, 0]
            batch = {name: value.to(device) for name, value in batch.items()}
            labels = batch["labels"].flatten()[rows]
            logits = forward(model, batch, rows=rows.to(device)).logits.float()
            loss += float(torch.nn.functional.cross_entropy(logits, labels, reduction="sum"))
            right += int((logits.argmax(-1) == labels).sum())
            count += len(labels)
    finally:
        model.train(was_training)
    if not count:
        raise KDTutorError(f"no token of {task.name}, {split} split, was masked: the split is too small")
    mean_loss = loss / count
    return {
        "loss": mean_loss,
        "perplexity": math.exp(mean_loss),
        "accuracy": right / count,
        "masked_tokens": count,
    }


@torch.no_grad()
def latency_ms(model: PreTrainedModel, task: Task, split: str = "test", texts: int = 50) -> float:
    """Milliseconds for one text alone on the CPU, tokens already made: the median over real texts.

    The model runs as it does wherever transformers runs it, not by `kdtutor.lean`.
    """
    encoded, device, was_training = task.encode(split), next(model.parameters()).device, model.training
    chosen = torch.arange(len(encoded))[:: max(1, len(encoded) // texts)][:texts]
    batches = [inputs_of(model, encoded.batch(i[None])) for i in chosen]
    model.cpu().eval()
    times = []
    try:
        for batch in [*batches[:5], *batches]:  # the first five warm up
            start = time.perf_counter()
            model(**batch)
            times.append(time.perf_counter() - start)
    finally:
        model.to(device).train(was_training)
    return 1000 * median(times[-len(batches) :])


def latencies_ms(
    models: Mapping[str, PreTrainedModel], task: Task, split: str = "test", texts: int = 50, rounds: int = 5
) -> dict[str, float]:
    """`latency_ms` of several models, by name: the median of `rounds` in which they take turns.

    What else the machine does then slows all of them alike, and their ratio can be trusted.
    """
    times = {name: [] for name in models}
    for _ in range(rounds):
        for name, model in models.items():
            times[name].append(latency_ms(model, task, split, texts))
    return {name: median(values) for name, values in times.items()}


# ------------------------------------------------------------------------------------------------ is it real?


@dataclass(frozen=True)
class Interval:
    """A mean over seeds and the half-width of its confidence interval."""

    mean: float
    half_width: float
    n: int
    confidence: float = 0.95

    def __str__(self) -> str:
        return f"{self.mean:.4g} ± {self.half_width:.2g} (n = {self.n}, {self.confidence:.0%} interval)"


def mean_and_interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Mean over seeds with Student's t interval: t · s / √n. One value has no interval: its half-width is infinite."""
    values = [float(v) for v in values]
    if not values or not all(map(math.isfinite, values)):
        raise KDTutorError(f"finite values are needed for a mean, at least one; got {values}")
    if not 0 < confidence < 1:
        raise KDTutorError(f"confidence = {confidence}: it must be between 0 and 1")
    n = len(values)
    half_width = _t_quantile(confidence, n - 1) * stdev(values) / math.sqrt(n) if n > 1 else math.inf
    return Interval(mean(values), half_width, n, confidence)


def _t_within(t: float, freedom: int) -> float:
    """P(−t < T < t) of Student's t with `freedom` degrees: the finite sums 26.7.3 and 26.7.4 of Abramowitz & Stegun."""
    angle = math.atan(t / math.sqrt(freedom))
    odd = freedom % 2
    term, total = math.cos(angle) if odd else 1.0, 0.0
    for k in range(2 + odd, freedom + 1, 2):
        total += term
        term *= math.cos(angle) ** 2 * (k - 1) / k
    total *= math.sin(angle)
    return 2 / math.pi * (angle + total) if odd else total


def _t_quantile(confidence: float, freedom: int) -> float:
    """The t with P(−t < T < t) = confidence, by bisection."""
    low, high = 0.0, 1.0
    while _t_within(high, freedom) < confidence:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _t_within(middle, freedom) < confidence else (low, middle)
    return high


@dataclass(frozen=True)
class PairedTest:
    """Two students on the same examples, or the same seeds: how far apart, and how surprising by chance."""

    difference: float  # first minus second
    p_value: float
    detail: str

    def __str__(self) -> str:
        return f"difference {self.difference:+.4f}, p = {self.p_value:.2g} ({self.detail})"


def paired_test(logits_a: Tensor, logits_b: Tensor, labels: Tensor) -> PairedTest:
    """McNemar's exact test: of the examples that just one of two students gets right, is the split fair coin tossing?

    logits (N, C), labels (N,). It speaks of these two trained students; for the two *methods*, compare seeds.
    """
    right_a, right_b = _right(logits_a, labels), _right(logits_b, labels)
    only_a, only_b = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
    n = only_a + only_b
    tail = sum(math.comb(n, k) for k in range(min(only_a, only_b) + 1)) / 2**n
    detail = f"{only_a} examples right by the first alone, {only_b} by the second alone"
    return PairedTest((only_a - only_b) / len(labels), min(1.0, 2 * tail), detail)


def paired_seeds_test(a: Sequence[float], b: Sequence[float]) -> PairedTest:
    """Paired t-test over seeds: scores of two methods, seed by seed (same seeds, same data, same steps)."""
    if len(a) != len(b) or len(a) < 2:
        raise KDTutorError(
            f"a paired test needs the same seeds on both sides, at least two; got {len(a)} and {len(b)}"
        )
    differences = [float(x) - float(y) for x, y in zip(a, b, strict=True)]
    n, difference, spread = len(a), mean(differences), stdev(differences)
    half_width = mean_and_interval(differences).half_width
    p = 1 - _t_within(abs(difference) / spread * math.sqrt(n), n - 1) if spread else float(difference == 0)
    return PairedTest(difference, p, f"{n} seeds, interval ± {half_width:.4f}")
