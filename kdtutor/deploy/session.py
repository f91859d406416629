"""An exported folder, read without PyTorch and transformers: its tokenizer, onnxruntime, its labels."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kdtutor.deploy.extra import require
from kdtutor.errors import KDTutorError

Text = str | tuple[str, str]
FILES = ("model.onnx", "tokenizer.json", "config.json", "export.json")


class OnnxModel:
    """A model that `export` wrote: texts in, logits out.

    labels: what its outputs are called, in their order. problem_type: what transformers calls their kind. max_length:
    tokens of a text that are read. inputs: what it takes. bytes: of the graph. about: what export.json says. threads:
    of onnxruntime; None, as many as it likes.
    """

    def __init__(self, folder: str | os.PathLike, threads: int | None = None):
        require("reading an exported model", "onnxruntime")
        import onnxruntime
        from tokenizers import Tokenizer

        self.folder = checked(Path(folder))
        try:
            self.about = json.loads((self.folder / "export.json").read_text(encoding="utf-8"))
            config = json.loads((self.folder / "config.json").read_text(encoding="utf-8"))
            names, self.problem_type = config["id2label"], config.get("problem_type")
            self.tokenizer = Tokenizer.from_file(str(self.folder / "tokenizer.json"))
            self.session = onnxruntime.InferenceSession(
                self.folder / "model.onnx", _options(onnxruntime, threads), ["CPUExecutionProvider"]
            )
            self.labels = tuple(names[str(i)] for i in range(len(names)))
            self.max_length, self.pad = int(self.about["max_length"]), int(self.about["pad_token_id"])
        # A damaged file: a different type for each of the four.
        except Exception as error:
            why = " ".join(str(error).split())[:200]
            raise KDTutorError(f"{folder} can't be read as an exported model: {why}") from error
        self.tokenizer.enable_truncation(self.max_length)
        self.tokenizer.enable_padding(pad_id=self.pad, pad_token=self.tokenizer.id_to_token(self.pad))
        self.bytes = (self.folder / "model.onnx").stat().st_size
        self.inputs = tuple(given.name for given in self.session.get_inputs())

    def encode(self, texts: Sequence[Text]) -> dict[str, np.ndarray]:
        """Tokenize texts, or pairs of them, padded to the longest: int64 (B, L) for each of the model's inputs."""
        if bad := [text for text in texts if not is_text("".join(text))]:
            raise KDTutorError(f"{bad[0][:80]!r} holds half a character (a lone surrogate)")
        encoded = self.tokenizer.encode_batch([*texts])
        rows = {
            "input_ids": [e.ids for e in encoded],
            "attention_mask": [e.attention_mask for e in encoded],
            "token_type_ids": [e.type_ids for e in encoded],
        }
        return {name: np.array(rows[name], np.int64) for name in self.inputs}

    def run(self, batch: dict[str, Any]) -> np.ndarray:
        """Compute logits, float32 (B, C), for tokens (B, L); what the model does not take of a batch is left out."""
        return self.session.run(["logits"], {name: np.asarray(batch[name]) for name in self.inputs})[0]

    def logits(self, texts: Sequence[Text], batch_size: int = 32) -> np.ndarray:
        """Compute the logits of any number of texts, in their order: float32 (N, C)."""
        # The longest first, so that little of a batch is padding.
        order = sorted(range(len(texts)), key=lambda i: -len("".join(texts[i])))
        found = np.empty((len(texts), len(self.labels)), np.float32)
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            found[chosen] = self.run(self.encode([texts[i] for i in chosen]))
        return found


def is_text(text: str) -> bool:
    """Tell whether a text can be written as UTF-8: half of a surrogate pair can't, and JSON lets it in."""
    try:
        return bool(text.encode()) or not text
    except UnicodeEncodeError:
        return False


def checked(folder: Path) -> Path:
    """Return the folder. Raises KDTutorError, naming what it lacks, if it holds no exported model."""
    if lacking := [name for name in FILES if not (folder / name).is_file()]:
        raise KDTutorError(
            f"{folder} holds no exported model: it lacks {', '.join(lacking)}; kdtutor export MODEL --output {folder} "
            "writes all of them"
        )
    return folder


def _options(onnxruntime: Any, threads: int | None) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads = threads
    return options
