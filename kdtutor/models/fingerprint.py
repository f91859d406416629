"""What tells one model from another, for what is kept of it: a teacher's answers, a checkpoint, a stored study."""

from __future__ import annotations

import hashlib

import torch
from transformers import PreTrainedModel


def configuration(model: PreTrainedModel) -> dict[str, object]:
    """Return a model's configuration, less what changes when the model is saved."""
    config = model.config.to_diff_dict()
    saving = ("transformers_version", "architectures", "dtype")
    return {name: value for name, value in config.items() if name not in saving}


def fingerprint(model: PreTrainedModel) -> str:
    """Take the SHA-256 of a model's configuration and weights, shortened to 16 digits."""
    digest = hashlib.sha256(repr(sorted(configuration(model).items())).encode())
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:16]
