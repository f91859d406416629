"""How long a model takes for one text."""

from __future__ import annotations

import time
from collections.abc import Mapping
from statistics import median

import torch
from transformers import PreTrainedModel

from kdtutor.data.task import Task
from kdtutor.models.forward import inputs_of
from kdtutor.models.reading import read_by


@torch.no_grad()
def latency_ms(model: PreTrainedModel, task: Task, split: str = "test", texts: int = 50) -> float:
    """Time one text alone on the CPU, tokens already made: milliseconds, the median over real texts.

    The model runs as it does wherever transformers runs it, not by `kdtutor.models.lean`.
    """
    encoded = read_by(model, task).encode(split)
    device, was_training = next(model.parameters()).device, model.training
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
    """Time several models, by name, each by the median `latency_ms` of `rounds` in which they take turns.

    What else the machine does then slows all of them alike, and their ratio can be trusted.
    """
    times: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(rounds):
        for name, model in models.items():
            times[name].append(latency_ms(model, task, split, texts))
    return {name: median(values) for name, values in times.items()}
