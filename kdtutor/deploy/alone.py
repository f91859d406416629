"""An exported model in a process of its own, measured there: what costs.py starts, and what has no PyTorch in it.

python -m kdtutor.deploy.alone FOLDER < asked.json     # {"texts": […], "timed": 32}; prints a line, then JSON
"""

from __future__ import annotations

import json
import sys
import time

import numpy as np

from kdtutor.deploy.session import OnnxModel
from kdtutor.hardware import joules, peak_memory


def main() -> None:
    """Answer one text, and say so; then time the first `timed` texts, one by one and together; then answer all."""
    asked = json.load(sys.stdin)
    # JSON has no tuples, and pairs of texts are that.
    texts = [tuple(text) if isinstance(text, list) else text for text in asked["texts"]]
    timed = texts[: asked["timed"]]
    model = OnnxModel(sys.argv[1], threads=1)
    model.logits(timed[:1])
    print("answered", flush=True)

    alone = [model.encode([text]) for text in timed]
    _seconds(model, alone[:3])  # warms up
    times = _seconds(model, alone)
    energy, start = joules(), time.perf_counter()
    model.logits(timed)
    together = time.perf_counter() - start
    found = {
        "times": times,
        "throughput": len(timed) / together,
        "joules": None if energy is None else (joules() - energy) / len(timed),
        "peak_memory": peak_memory(),
    }
    # All cores: these are not timed.
    logits = OnnxModel(sys.argv[1]).logits(texts[len(timed) :])
    found["logits"] = np.concatenate([model.logits(timed), logits]).tolist()
    print(json.dumps(found))


def _seconds(model: OnnxModel, batches: list[dict[str, np.ndarray]]) -> list[float]:
    times = []
    for batch in batches:
        start = time.perf_counter()
        model.run(batch)
        times.append(time.perf_counter() - start)
    return times


if __name__ == "__main__":
    main()
