"""Which model to choose: what each costs and how well it answers, side by side, and which are worth a look.

    models = choices({"teacher": teacher, "LSTM": lstm}, task, {"LSTM": "soft targets, 17,000 texts"})
    [models[i].name for i in pareto_front(models)]

Nobody is at once faster and better than those on the front. The chart of them is kdtutor/widgets/model_chart.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from transformers import PreTrainedModel

from kdtutor.data.load import as_task
from kdtutor.data.task import Task
from kdtutor.errors import KDTutorError, nearest
from kdtutor.evaluation.scores import accuracy, predict
from kdtutor.evaluation.speed import speeds
from kdtutor.evaluation.statistics import share_interval
from kdtutor.models.sizes import sizes

# What a model costs, by the field that has it: more of it is dearer (1), or cheaper (-1).
COSTS = {"milliseconds": 1, "bytes": 1, "throughput": -1}


@dataclass(frozen=True)
class Choice:
    """One model, as it was measured. low, high: its accuracy's 95 % interval over so many `texts`. bytes: on disk.
    milliseconds: for one text alone, the median. throughput: texts per second, in batches. recipe: how it was made.
    """

    name: str
    accuracy: float
    low: float
    high: float
    texts: int
    bytes: int
    parameters: int
    milliseconds: float
    throughput: float
    recipe: str = ""


def choices(
    models: Mapping[str, PreTrainedModel],
    task: Task | str,
    recipes: Mapping[str, str] | None = None,
    split: str = "test",
    texts: int = 50,
    rounds: int = 3,
) -> list[Choice]:
    """Measure models by name: accuracy on a split, sizes, and times on the CPU, in which they take turns (`speeds`).

    recipes: how each was made, by name. texts, rounds: of the timing, with torch's threads. Raises KDTutorError for a
    task without classes, a split without labels, and a recipe of a model that is not there.
    """
    task, recipes = as_task(task), recipes or {}
    if task.rules.answer != "classes":
        raise KDTutorError(f"models are compared by classes here, and {task.name} is a {task.kind} task")
    for name in recipes:
        if name not in models:
            raise KDTutorError(nearest("model with a recipe", name, models))
    times, labels, found = speeds(models, task, split, texts, rounds), task.targets(split), []
    for name, model in models.items():
        score = accuracy(predict(model, task, split), labels)
        low, high = share_interval(score, len(labels))
        found.append(
            Choice(
                name=name,
                accuracy=score,
                low=low,
                high=high,
                texts=len(labels),
                bytes=times[name].bytes,
                parameters=sizes(model).parameters,
                milliseconds=times[name].median_ms,
                throughput=times[name].throughput,
                recipe=recipes.get(name, ""),
            )
        )
    return found


def pareto_front(models: Sequence[Choice], cost: str = "milliseconds") -> list[int]:
    """List the places of the models that none dominates, from the cheapest to the dearest.

    A model dominates another if it costs no more and scores no less, and is better in one of the two. cost: a field in
    COSTS. Raises KDTutorError for another one.
    """
    if cost not in COSTS:
        raise KDTutorError(nearest("cost", cost, COSTS))
    at = [(COSTS[cost] * getattr(model, cost), -model.accuracy) for model in models]
    kept = [
        i
        for i, mine in enumerate(at)
        if not any(other[0] <= mine[0] and other[1] <= mine[1] and other != mine for other in at)
    ]
    return sorted(kept, key=at.__getitem__)
