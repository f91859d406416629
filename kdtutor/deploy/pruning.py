"""What a student can do without: pieces of the vocabulary that no text uses, heads of attention that change little."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from kdtutor.data.task import Task
from kdtutor.errors import COUNT, KDTutorError
from kdtutor.models.families import refuse_whole_numbers
from kdtutor.models.forward import Outputs, inputs_of
from kdtutor.models.names import attention_modules
from kdtutor.objectives.logits import HardLabels


def prune_vocabulary(
    model: PreTrainedModel, task: Task, folder: str | os.PathLike, splits: Sequence[str] = ("train",)
) -> tuple[PreTrainedModel, Task]:
    """Keep the WordPieces that the texts of `splits` use, and single characters; return a smaller model and its task.

    `folder` gets the tokenizer. The model's answers to those texts stay as they were: WordPiece takes the longest piece
    that there is, and of these none went. In other texts a rare word falls into smaller pieces. Raises KDTutorError if
    the tokenizer is no WordPiece, or the model writes tokens too.
    """
    if model.get_output_embeddings() is not None:
        raise KDTutorError(f"a {type(model).__name__} answers with tokens: none of its vocabulary can go")
    kept = _used(task, splits)
    tokenizer = copy.deepcopy(task.tokenizer)
    tokenizer.save_pretrained(folder)
    file = Path(folder, "tokenizer.json")
    file.write_text(
        json.dumps(_renumbered(json.loads(file.read_text(encoding="utf-8")), kept)), encoding="utf-8"
    )

    small = copy.deepcopy(model)
    table = small.get_input_embeddings()
    new = nn.Embedding(len(kept), table.embedding_dim, padding_idx=task.tokenizer.pad_token_id)
    new.weight = nn.Parameter(table.weight.detach()[kept].clone(), table.weight.requires_grad)
    small.set_input_embeddings(new)
    small.config.vocab_size, small.config.pad_token_id = len(kept), kept.index(task.tokenizer.pad_token_id)
    new.padding_idx, small.reads_with = small.config.pad_token_id, None
    return small, replace(task, tokenizer_name=str(folder))


def _used(task: Task, splits: Iterable[str]) -> list[int]:
    """List the ids that the texts use, with special tokens and single characters, in increasing order."""
    used = torch.zeros(len(task.tokenizer), dtype=torch.bool)
    for split in splits:
        used[task.encode(split).ids.long()] = True
    used[task.tokenizer.all_special_ids] = True
    for piece, number in task.tokenizer.get_vocab().items():
        used[number] |= len(piece.removeprefix("##")) == 1
    return used.nonzero()[:, 0].tolist()


def _renumbered(content: dict, kept: list[int]) -> dict:
    """Cut a tokenizer.json to the pieces `kept`, which get the numbers 0, 1, 2, … in their order."""
    model = content["model"]
    if model["type"] != "WordPiece":
        raise KDTutorError(f"only a WordPiece vocabulary is pruned, and this one is a {model['type']}")
    number = {old: new for new, old in enumerate(kept)}
    model["vocab"] = {piece: number[old] for piece, old in model["vocab"].items() if old in number}
    for token in content["added_tokens"]:
        token["id"] = number[token["id"]]
    for token in (content["post_processor"] or {}).get("special_tokens", {}).values():
        token["ids"] = [number[old] for old in token["ids"]]
    return content


def head_importance(model: PreTrainedModel, task: Task, texts: int = 256, seed: int = 0) -> Tensor:
    """Estimate by how much the loss on training texts would change without each head: (layers, heads).

    |∂L/∂ξ| at ξ = 1, where ξ multiplies what a head gives; the mean over texts (Michel et al. 2019, arXiv:1905.10650).
    """
    outputs, heads = _outputs(model), model.config.num_attention_heads
    part = task.labelled_only().split("train").sample(texts, seed)
    encoded = replace(task, splits={"train": part}).encode("train")
    total = torch.zeros(len(outputs), heads)
    was_training, trained = model.training, [p.requires_grad for p in model.parameters()]
    seen: list[Tensor] = []

    def watch(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        inputs[0].retain_grad()
        seen.append(inputs[0])

    handles = [module.register_forward_pre_hook(watch) for module in outputs]
    model.eval().requires_grad_(True)
    try:
        # Few at once: each keeps what its backward pass needs.
        for index in torch.arange(len(encoded)).split(8):
            seen.clear()
            batch = {name: value.to(model.device) for name, value in encoded.batch(index).items()}
            logits = model(**inputs_of(model, batch)).logits
            HardLabels()(Outputs(logits), None, batch, reduction="sum").backward()
            for layer, x in enumerate(seen):
                product = (x * x.grad).detach().unflatten(-1, (heads, -1))  # (B, L, H, d)
                total[layer] += product.sum((1, 3)).abs().sum(0).cpu()
            model.zero_grad(set_to_none=True)
    finally:
        for handle in handles:
            handle.remove()
        model.train(was_training)
        for parameter, was in zip(model.parameters(), trained, strict=True):
            parameter.requires_grad_(was)
    return total / len(encoded)


def prune_heads(model: PreTrainedModel, importance: Tensor, keep: int) -> PreTrainedModel:
    """Return a copy that has in every layer the `keep` heads of greatest `importance` (layers, heads).

    It can be trained and exported; transformers' configuration has no such shape, so it can't be saved and loaded.
    Raises KDTutorError if there are not so many heads, or the layers aren't BERT's or DistilBERT's.
    """
    heads = model.config.num_attention_heads
    if COUNT("keep", keep) > heads:
        raise KDTutorError(f"there are {heads} heads in a layer: {keep} of them can't be kept")
    small = copy.deepcopy(model)
    outputs = _outputs(small)
    kept = importance.topk(keep, dim=1).indices.sort(1).values  # (layers, keep)
    for part in ("query", "key", "value"):
        for module, which in zip(attention_modules(small, part), kept, strict=True):
            rows = torch.arange(module.out_features).view(heads, -1)[which].flatten()
            _keep(module, rows, 0)
    for module, which in zip(outputs, kept, strict=True):
        _keep(module, torch.arange(module.in_features).view(heads, -1)[which].flatten(), 1)
    small.config.num_attention_heads = keep
    return small


def _outputs(model: PreTrainedModel) -> list[nn.Module]:
    """Find the matrix of every layer that mixes its heads. Raises KDTutorError if there are none of that name."""
    refuse_whole_numbers(model, "the model", "are not cut: prune it in float32, and quantise it then")
    found = attention_modules(model, "output")
    if not found:
        raise KDTutorError(
            f"the heads of a {type(model).__name__} are not known here: BERT's and DistilBERT's are"
        )
    return found


def _keep(linear: nn.Linear, which: Tensor, dim: int) -> None:
    """Cut a matrix to some outputs (dim 0), with their biases, or to some inputs (dim 1)."""
    which = which.to(linear.weight.device)
    linear.weight = nn.Parameter(linear.weight.detach().index_select(dim, which), linear.weight.requires_grad)
    if dim == 0:
        linear.bias = nn.Parameter(linear.bias.detach()[which], linear.bias.requires_grad)
    linear.out_features, linear.in_features = linear.weight.shape
