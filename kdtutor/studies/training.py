"""What every study does with a model: train it and watch it, measure it, put words into a linear model."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from kdtutor.data.kinds import Kind
from kdtutor.data.task import Task
from kdtutor.errors import KDTutorError
from kdtutor.evaluation import predict, scores_of
from kdtutor.evaluation.scores import is_right
from kdtutor.objectives.parse import parse_objective
from kdtutor.studies.stored import packed
from kdtutor.training.distillation import Distillation

WATCH_EVERY = 300  # steps: no more often than that, and after whole passes


def train(
    student: PreTrainedModel, teacher, task: Task, formula: str, watch: Task | None = None, **settings
) -> dict:
    """Train a student: what was seen on the way. settings: as for `Distillation`.

    watch: fixed texts, whose scores are taken after each pass in every split. clipped: the share of the steps whose
    gradient was longer than the bound; where it is large, the rate is not what it says.
    """
    objective = parse_objective(formula)
    teacher = teacher if objective.needs_teacher else None
    run = Distillation(student, teacher, task, objective, progress=False, **settings)
    every = run.batches.per_epoch * math.ceil(WATCH_EVERY / run.batches.per_epoch)
    curve = []
    for step in run:
        if watch and (step.number % every == 0 or step.number == step.total):
            seen = {split: scores(student, watch, split) for split in watch.split_names}
            seen = {
                split: {name: found[name] for name in ("accuracy", "loss")} for split, found in seen.items()
            }
            curve.append({"passes": round(step.epoch, 3)} | seen)
    precision = "bf16" if run.bf16 else "fp32"
    found = {"steps": run.total_steps, "precision": precision, "clipped": round(run.clipped, 4)}
    return found | ({"curve": curve} if watch else {})


def scores(model: PreTrainedModel, task: Task, split: str, right: bool = False) -> dict:
    return scores_from(predict(model, task, split), task.targets(split), task.rules, right)


def scores_from(logits: Tensor, targets: Tensor, rules: Kind, right: bool = False) -> dict:
    """Compute a kind's scores, for classes also the loss in nats; right: also which texts were right, as bits."""
    found = scores_of(logits, targets, rules)
    if rules.answer == "classes":
        found["loss"] = float(torch.nn.functional.cross_entropy(logits.double(), targets))
    found = {name: round(value, 6) for name, value in found.items()}
    return found | (
        {"right": packed(is_right(logits, targets))} if right and rules.answer == "classes" else {}
    )


# ------------------------------------------------------------------------------------------------ counting words


def words_alone(task: Task, strengths: Sequence[float] = (3, 10, 30)) -> dict:
    """Train TF-IDF and a linear model on a task's labels: the bar for everything that reads in order.

    Word 1- and 2-grams, sublinear; one softmax, or a model for each class against the rest. That choice and C are made
    by accuracy on validation. A regression gets ridge, and its strength by rank correlation. Chance decides nothing.
    """
    try:
        from sklearn.feature_extraction.text import TfidfVectorizer
    except ImportError as error:
        raise KDTutorError(
            "TF-IDF, the bar of every table, needs scikit-learn: pip install scikit-learn"
        ) from error

    # One-letter words count too ("I", "a"), which scikit-learn's default pattern would skip.
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"(?u)\b\w+\b")
    features = {"train": vectorizer.fit_transform(task.texts("train"))}
    features |= {split: vectorizer.transform(task.texts(split)) for split in ("validation", "test")}
    main = task.rules.scores[0]
    best, chosen = {main: -math.inf}, {}
    for kind, strength, model in _linear_models(task, strengths):
        model.fit(features["train"], task.targets("train").numpy())
        found = scores_from(
            _answers(model, features["validation"], task.num_labels), task.targets("validation"), task.rules
        )
        if found[main] > best[main]:
            best, chosen, fitted = found, {"model": kind, "strength": strength}, model
    test = scores_from(
        _answers(fitted, features["test"], task.num_labels), task.targets("test"), task.rules, right=True
    )
    return {"settings": chosen, "validation": best, "test": test}


def _linear_models(task: Task, strengths: Sequence[float]):
    """List (kind, strength, untrained model); the solvers are quick on sparse features, and their order is fixed."""
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.multiclass import OneVsRestClassifier

    for c in strengths:
        if task.rules.answer != "classes":
            yield "ridge", c, Ridge(alpha=1 / c)
            continue
        yield "softmax", c, LogisticRegression(C=c, solver="saga", tol=1e-3, max_iter=200, random_state=0)
        if task.num_labels > 2:
            one = LogisticRegression(
                C=c, solver="liblinear", dual=True, tol=0.01, max_iter=1000, random_state=0
            )
            yield "one against the rest", c, OneVsRestClassifier(one)


def _answers(model, features, classes: int) -> Tensor:
    """Return what a model answers, as logits: (N, C), or (N, 1) of a regression. Classes that it never saw get none."""
    if not hasattr(model, "predict_proba"):
        return torch.from_numpy(model.predict(features)).float()[:, None]
    p = torch.zeros(features.shape[0], classes, dtype=torch.double)
    p[:, torch.from_numpy(model.classes_)] = torch.from_numpy(model.predict_proba(features))
    return p.clamp(min=1e-12).log()
