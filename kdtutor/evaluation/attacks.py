"""Two attacks built for the lesson: they change few words of a text until a model's answer changes.

    attacked = attack(model, task, texts, labels)                 # words for synonyms, by asking the model
    attacked = attack(model, task, texts, labels, "gradient")     # words for words, by its gradient

The first is the idea of TextFooler (Jin et al. 2020, arXiv:1907.11932): words are ranked by what leaving each out does
to the label's probability, and exchanged in that order. TextFooler takes near vectors and compares whole sentences;
here WordNet's synonyms are all that vouches for the meaning. The second is HotFlip (Ebrahimi et al. 2018,
arXiv:1712.06751): the gradient by a word's vector says which other word raises the loss most. Nothing vouches for the
meaning there: "good" may become "bad", and then the label is wrong, not the model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from kdtutor.data.corruption import STRENGTH, split_words, written_like
from kdtutor.data.load import as_task
from kdtutor.data.synonyms import synonyms
from kdtutor.data.task import Task
from kdtutor.errors import KDTutorError, nearest
from kdtutor.models.forward import evaluating, forward, logits_of

METHODS = ("synonyms", "gradient")


@dataclass(frozen=True)
class Attacked:
    """One text and what an attack made of it. changes: (word, what it became), in the order in which they were made.

    was_right: whether the model knew the label before; if not, nothing was tried. queries: texts that the model read.
    """

    text: str
    label: int
    broken: str
    changes: tuple[tuple[str, str], ...]
    queries: int
    was_right: bool
    succeeded: bool


def attack(
    model: PreTrainedModel,
    task: Task | str,
    texts: Sequence[str],
    labels: Sequence[int] | Tensor,
    method: str = "synonyms",
    at_most: float = 0.3,
) -> list[Attacked]:
    """Attack a model on each text: change words until its answer is no longer the label.

    method: "synonyms" or "gradient". at_most: which share of a text's words may be changed, one word at least. Raises
    KDTutorError where texts and labels don't pair up, or a model has no table of tokens for the gradient.
    """
    task = as_task(task)
    if method not in METHODS:
        raise KDTutorError(nearest("method of attack", method, METHODS))
    if len(texts) != len(labels):
        raise KDTutorError(f"{len(texts)} texts have {len(labels)} labels: an attack needs one for each")
    at_most = STRENGTH("at_most", at_most)
    one = _by_synonyms if method == "synonyms" else _by_gradient
    return [one(model, task, text, int(label), at_most) for text, label in zip(texts, labels, strict=True)]


def attack_rates(attacked: Sequence[Attacked]) -> dict[str, float]:
    """Summarise attacks: accuracy before, accuracy after, success (of the texts that were right), queries and changed
    words for each text that was tried."""
    if not attacked:
        raise KDTutorError("there are no attacks to summarise")
    tried = [one for one in attacked if one.was_right]
    found = [one for one in tried if one.succeeded]
    return {
        "before": len(tried) / len(attacked),
        "after": (len(tried) - len(found)) / len(attacked),
        "success": len(found) / max(1, len(tried)),
        "queries": sum(one.queries for one in tried) / max(1, len(tried)),
        "changes": sum(len(one.changes) for one in found) / max(1, len(found)),
    }


# ------------------------------------------------------------------------------------------ by asking


def _by_synonyms(model: PreTrainedModel, task: Task, text: str, label: int, at_most: float) -> Attacked:
    pieces, words = split_words(text)
    known = {i: synonyms().get(pieces[i].lower(), ()) for i in words}

    # What does each word mean to the model? All texts with one word less, at once.
    without = ["".join(pieces[:i] + pieces[i + 1 :]) for i in words]
    p, right = _label_probability(model, task, [text, *without], label)
    queries, best = len(p), float(p[0])
    if not right[0]:
        return Attacked(text, label, text, (), 1, False, False)
    order = sorted((i for i in words if known[i]), key=lambda i: float(p[1 + words.index(i)]))

    # In that order, each becomes the synonym that costs the label most, until another class wins.
    changes: list[tuple[str, str]] = []
    for i in order[: max(1, int(at_most * len(words)))]:
        given = pieces[i]
        variants = [written_like(other, given) for other in known[i]]
        p, right = _label_probability(
            model, task, ["".join([*pieces[:i], word, *pieces[i + 1 :]]) for word in variants], label
        )
        queries += len(p)
        worst = int(p.argmin())
        if float(p[worst]) < best:
            best, pieces[i] = float(p[worst]), variants[worst]
            changes.append((given, variants[worst]))
        if not right[worst]:
            return Attacked(text, label, "".join(pieces), tuple(changes), queries, True, True)
    return Attacked(text, label, "".join(pieces), tuple(changes), queries, True, False)


def _label_probability(
    model: PreTrainedModel, task: Task, texts: Sequence[str], label: int
) -> tuple[Tensor, Tensor]:
    """Ask for the label's probability, (n,), and whether it is the likeliest class, bool (n,)."""
    p = logits_of(model, task.encode_texts(list(texts))).softmax(-1)
    return p[:, label], p.argmax(-1) == label


# ------------------------------------------------------------------------------------------ by gradient


def _by_gradient(model: PreTrainedModel, task: Task, text: str, label: int, at_most: float) -> Attacked:
    pieces, words = split_words(text)
    _, right = _label_probability(model, task, [text], label)
    if not right[0]:
        return Attacked(text, label, text, (), 1, False, False)
    table = model.get_input_embeddings()
    if table is None or not hasattr(table, "weight"):
        raise KDTutorError(
            f"a {type(model).__name__} has no table of tokens: its gradient says nothing of words"
        )
    candidates, names = _whole_words(task)
    changes: list[tuple[str, str]] = []
    changed: set[int] = set()
    queries = 1
    for _ in range(max(1, int(at_most * len(words)))):
        place = _places(task, pieces, words)
        open_to_change = [i for i in words if i in place and i not in changed]
        if not open_to_change:
            break
        gradient = _gradient(model, task, "".join(pieces), label)

        # First order: exchanging e for e' raises the loss by (e' − e) · ∂L/∂e.
        at = torch.tensor([place[i] for i in open_to_change])
        vectors = table.weight.detach()
        now = vectors[task.encode_texts("".join(pieces)).ids[at].long()]
        gains = gradient[at] @ vectors[candidates].T - (gradient[at] * now).sum(-1, keepdim=True)
        row, column = divmod(int(gains.argmax()), len(candidates))
        i, given = open_to_change[row], pieces[open_to_change[row]]
        pieces[i] = written_like(names[column], given)
        changes.append((given, pieces[i]))
        changed.add(i)
        _, right = _label_probability(model, task, ["".join(pieces)], label)
        queries += 2
        if not right[0]:
            return Attacked(text, label, "".join(pieces), tuple(changes), queries, True, True)
    return Attacked(text, label, "".join(pieces), tuple(changes), queries, True, False)


def _gradient(model: PreTrainedModel, task: Task, text: str, label: int) -> Tensor:
    """Compute the gradient of the cross-entropy by each token's vector in the table, (L, D)."""
    batch = {name: x.to(model.device) for name, x in task.encode_texts(text).batch(torch.arange(1)).items()}
    seen: list[Tensor] = []
    with evaluating(model), torch.enable_grad(), _watched(model, seen):
        logits = forward(model, batch, fast=False).logits.float()
        loss = F.cross_entropy(logits, torch.tensor([label], device=logits.device))
        [gradient] = torch.autograd.grad(loss, seen[:1])
    return gradient[0]


@contextmanager
def _watched(model: PreTrainedModel, seen: list[Tensor]) -> Iterator[None]:
    """Keep what the table of tokens gives, and let gradients reach it, also in a frozen model."""

    def keep(_, __, output: Tensor) -> Tensor:
        seen.append(output.detach().requires_grad_())
        return seen[-1]

    handle = model.get_input_embeddings().register_forward_hook(keep)
    try:
        yield
    finally:
        handle.remove()


def _places(task: Task, pieces: Sequence[str], words: Sequence[int]) -> dict[int, int]:
    """Tell at which token a word stands, of those that are a single token."""
    tokenizer = task.tokenizer
    if not tokenizer.is_fast:
        raise KDTutorError("the gradient attack needs a fast tokenizer, which says where its tokens stand")
    encoded = tokenizer(
        "".join(pieces), return_offsets_mapping=True, truncation=True, max_length=task.max_length
    )
    spans = {tuple(span): token for token, span in enumerate(encoded["offset_mapping"])}
    place, start = {}, 0
    for i, piece in enumerate(pieces):
        if i in words and (start, start + len(piece)) in spans:
            place[i] = spans[start, start + len(piece)]
        start += len(piece)
    return place


def _whole_words(task: Task) -> tuple[Tensor, list[str]]:
    """List the tokens that are words of three letters or more by themselves: their ids, and how they are written."""
    found = sorted(
        (token, name)
        for name, token in task.tokenizer.get_vocab().items()
        if len(name) > 2 and name.isascii() and name.isalpha()
    )
    return torch.tensor([token for token, _ in found]), [name for _, name in found]
