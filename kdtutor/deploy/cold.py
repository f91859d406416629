"""A cold start: a new process that imports, loads and answers its first text, as an app on a phone does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from kdtutor.errors import KDTutorError

_ONNX = """
from kdtutor.deploy.session import OnnxModel
answer = lambda: OnnxModel(folder).logits([text])
"""
_TORCH = """
import torch, kdtutor.models
from transformers import AutoModelForSequenceClassification, AutoTokenizer
def answer():
    inputs = AutoTokenizer.from_pretrained(folder)([text], return_tensors="pt", truncation=True)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.inference_mode():
        model(**inputs)
"""
_TOLD = """
import json
from kdtutor.hardware import peak_memory
answer()
print(json.dumps(peak_memory()))
"""


@dataclass(frozen=True)
class ColdStart:
    """seconds: from starting Python to the first answer. peak_memory: bytes resident at most."""

    seconds: float
    peak_memory: int


def cold_start(folder: str | os.PathLike, text: str = "a warm and funny film") -> ColdStart:
    """Measure a cold start of an exported folder, or of a saved model in PyTorch, in a process of its own.

    Raises KDTutorError if the folder holds neither, or the process fails.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise KDTutorError(f"{folder} holds no model, exported or saved")
    code = _ONNX if (folder / "model.onnx").is_file() else _TORCH
    start = time.perf_counter()
    ended = subprocess.run(
        [sys.executable, "-c", f"folder, text = {str(folder)!r}, {text!r}\n{code}{_TOLD}"],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    seconds = time.perf_counter() - start
    if ended.returncode:
        why = (ended.stderr.strip().splitlines() or ["no answer"])[-1]
        raise KDTutorError(f"{folder} gives no answer in a process of its own: {why[:200]}")
    return ColdStart(seconds, json.loads(ended.stdout.splitlines()[-1]))
