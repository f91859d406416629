"""A saved model on the Hub: the README.md that is its card there, and `--push_to_hub`, named as transformers does."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

from kdtutor.errors import KDTutorError
from kdtutor.files import write_atomically

#: what the Hub calls a kind of task
PIPELINES = {"masked-lm": "fill-mask", "causal-lm": "text-generation", "seq2seq": "text2text-generation"}
ELSEWHERE = ["checkpoints/*", "control/*"]  # what stays on this machine


def write_card(folder: Path, card: dict, kind: str, made_from: str | None) -> None:
    """Write README.md beside a model, of what its card.json holds: how it was made, and what it scored.

    made_from: the teacher, or the model that was fine-tuned; None if the weights were random.
    """
    # What transformers alone can't load is ours.
    kind_of_model = json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_type"]
    about = {
        "library_name": "kdtutor" if kind_of_model.startswith("kdtutor") else "transformers",
        "pipeline_tag": PIPELINES.get(kind, "text-classification"),
        "tags": ["kdtutor", card["command"].split()[1]],
    }
    # The Hub links what it can find: a name there, never a folder here.
    if made_from is not None and made_from.count("/") == 1 and not Path(made_from).exists():
        about["base_model"] = made_from
    scores = {
        split: {n: v for n, v in found.items() if n in _names(card)}
        for split, found in card["scores"].items()
    }
    rows = [
        f"| {split} | {name.replace('_', ' ')} | {value:.4f} |"
        for split, found in scores.items()
        for name, value in found.items()
    ]
    data = card["data"]
    lines = [
        *("---", *(f"{name}: {_yaml(value)}" for name, value in about.items()), "---", ""),
        f"# {folder.resolve().name}",
        "",
        f"{card['command'].split()[1]} on {data['task']} ({data['train']:,} training texts, {card['steps']:,} steps; "
        f"objective `{card['settings']['objective']}`). It reads texts of up to {card['max_length']:,} tokens.",
        "",
        *("| part | score | value |", "|---|---|---|", *rows, ""),
        f"Made with kdtutor {card['versions']['kdtutor']}, seed {card['seed']}:",
        "",
        *("```sh", card["command"], "```", ""),
    ]
    write_atomically(folder / "README.md", "\n".join(lines))


def push(folder: Path, name: str | None) -> str:
    """Upload a saved model to the Hub, checkpoints left out, and return its address.

    name: owner/name, or a name in one's own account; by default the folder's. KDTutorError if it can't be done.
    """
    from huggingface_hub import HfApi

    name = name or folder.resolve().name
    api = HfApi()
    try:
        repository = api.create_repo(name, exist_ok=True).repo_id
        api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            ignore_patterns=ELSEWHERE,
            commit_message="Made with kdtutor",
        )
    # No network, no token, a name that is taken: a different type for each.
    except Exception as error:
        why = " ".join(str(error).split())[:200]
        raise KDTutorError(
            f"{folder} is saved, but was not pushed to the Hub as {name} ({type(error).__name__}: {why}); `hf auth "
            f"login` logs in, `hf upload {name} {folder}` pushes it later"
        ) from error
    return f"{api.endpoint}/{repository}"


def _names(card: dict) -> set[str]:
    """Name what of an evaluation is a score, not a size or a time."""
    from kdtutor.evaluation.scores import Evaluation

    return {*card["scores"]["test"]} - {field.name for field in fields(Evaluation)}


def _yaml(value: object) -> str:
    return f"[{', '.join(value)}]" if isinstance(value, list) else str(value)
