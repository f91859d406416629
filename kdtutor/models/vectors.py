"""What a teacher knows of single tokens: its vectors of each, averaged, from which a student's table can start."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from kdtutor.data.task import Task
from kdtutor.data.tokens import Encoded, length_bucketed_batches
from kdtutor.errors import KDTutorError
from kdtutor.models.forward import evaluating, forward, texts_at_once
from kdtutor.models.reading import read_by
from kdtutor.neighbours import beside_neighbours

TEXTS = 1000  # training texts in whose contexts the tokens are seen
SPREAD = 0.1  # of the vectors: their root mean square, as of a new table


@torch.no_grad()
def token_vectors(teacher: PreTrainedModel, task: Task, width: int, texts: int = TEXTS) -> Tensor:
    """Average the teacher's last vectors of each token over where it stands: float32 (V, width).

    It stands alone, as a text of one token (model2vec: Tulkens & van Dongen 2024), and wherever the first `texts`
    training texts have it. Of the teacher's dimensions those `width` are kept along which the vectors vary most (PCA);
    what is wider than the teacher is 0 there. Raises KDTutorError if the teacher has other tokens than the task.
    """
    if read_by(teacher, task) is not task:
        raise KDTutorError(
            f"the teacher reads with a tokenizer of its own ({teacher.reads_with}), so it has no vectors of the tokens "
            f'of "{task.name}": take random ones, with teacher=None (--vectors random)'
        )
    size = len(task.tokenizer)
    sums, counts = None, torch.zeros(size)
    with evaluating(teacher):
        in_context = task.encode_texts(task.texts("train")[:texts])
        # A token alone is a very short text: many of them make a batch.
        for encoded, many in ((_alone(task), 16), (in_context, 1)):
            order = length_bucketed_batches(encoded.lengths, many * texts_at_once(teacher.device))
            for index in beside_neighbours(order, teacher.device):
                batch = {name: value.to(teacher.device) for name, value in encoded.batch(index).items()}
                states = forward(teacher, batch, frozenset({"hidden_states"})).hidden_states[-1]
                real = batch["attention_mask"].bool()
                ids, found = batch["input_ids"][real].cpu(), states[real].float().cpu()
                sums = torch.zeros(size, found.shape[1]) if sums is None else sums
                sums.index_add_(0, ids, found)
                counts += torch.bincount(ids, minlength=size)
    return _narrowed(sums / counts[:, None], width)


def _alone(task: Task) -> Encoded:
    """Make a text of every token of the vocabulary, with the special tokens that any text has around it."""
    around, tokenizer = task.encode_texts([""]).ids, task.tokenizer
    starts = torch.tensor([i for i in (tokenizer.cls_token_id, tokenizer.bos_token_id) if i is not None])
    before = torch.isin(around, starts)
    rows = [around[before], torch.zeros(1, dtype=torch.int32), around[~before]]
    ids = torch.cat(rows).repeat(len(tokenizer), 1)  # (V, tokens)
    ids[:, int(before.sum())] = torch.arange(len(tokenizer), dtype=torch.int32)
    offsets = torch.arange(len(ids) + 1) * ids.shape[1]
    return Encoded(ids.flatten(), offsets, None, pad=tokenizer.pad_token_id or 0)


def _narrowed(vectors: Tensor, width: int) -> Tensor:
    """Keep the `width` principal components of vectors (V, D), in float64 and with signs that no machine chooses."""
    centred = vectors.double() - vectors.double().mean(0)
    _, axes = torch.linalg.eigh(centred.T @ centred)
    axes = axes.flip(1)[:, :width]  # the largest first
    largest = axes.gather(0, axes.abs().argmax(0, keepdim=True))
    kept = centred @ (axes * largest.sign())
    kept = SPREAD * kept / kept.square().mean().sqrt()
    return F.pad(kept, (0, width - kept.shape[1])).float()
