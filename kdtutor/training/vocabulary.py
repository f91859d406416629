"""Losses over a vocabulary, a few hundred tokens at a time: a full table of logits never exists.

A language model's batch of n tokens has n · V logits, student's and teacher's, and as many gradients: with BERT's
vocabulary of 30,522 and 32,768 tokens, 4 GB each in float32. But a token's loss depends on its own row alone. So rows
are taken chunk by chunk: both models' logits from what goes into their last matrix (n, D), every term's loss, its
gradient with respect to the logits, and from that the gradients of features, matrix and bias. What a chunk needs fits
the processor's cache, which makes it faster too.

It is exact, and it knows no term by name: each computes its own loss, and autograd the gradient, on a chunk's logits.
A term that counts none of a chunk's rows is not asked: `Batches` puts those with a label first, so that most chunks of
a masked LM have none.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence, Set

import torch
from torch import Tensor, nn

from kdtutor.data.tokens import IGNORED
from kdtutor.models.forward import Outputs, unembedding
from kdtutor.objectives.terms import Objective, Term
from kdtutor.training.top_logits import logits_of_top

# How many bytes one model's float32 logits of a chunk may take: a share of a CPU's last cache; a GPU wants many rows.
CHUNK_BYTES, ELSEWHERE = {"cpu": 4 << 20}, 256 << 20
# With fewer rows, reading the matrix takes longer than multiplying by it.
FEWEST = 64


def can_chunk(objective: Objective, student: nn.Module, teacher: nn.Module | None) -> bool:
    """Tell whether `losses` can stand in for the objective's terms that read logits.

    It can where the heads are known, and where each such term reads nothing else and takes every row by itself: a term
    that needs hidden states as well, or one that compares rows with each other, has all logits at once.
    """
    terms = [term for term in objective.terms if "logits" in term.needs]
    asked = [student, teacher] if any(term.needs_teacher for term in terms) else [student]
    if not terms or any(unembedding(model) is None for model in asked):
        return False
    return all(term.needs == {"logits"} and _can_take_rows(term, student) for term in terms)


def forward_needs(objective: Objective, chunked: bool) -> tuple[Set[str], Set[str]]:
    """Tell what student and teacher compute: features instead of logits, where these are made chunk by chunk."""
    needs = objective.needs, frozenset().union(*(t.needs for t in objective.terms if t.needs_teacher))
    if not chunked:
        return needs
    mine, theirs = (each - {"logits"} | {"features"} if "logits" in each else each for each in needs)
    return mine, theirs


def _can_take_rows(term: Term, student: nn.Module) -> bool:
    """Tell by a trial on random logits whether the loss of six rows is the sum of that of one, of two and of three."""
    draw, V = torch.Generator().manual_seed(0), student.config.vocab_size
    term = copy.deepcopy(term).cpu()
    z_s, z_t = torch.randn(2, 6, V, generator=draw, dtype=torch.float64)
    labels = torch.randint(V, (6,), generator=draw)
    labels[::3] = IGNORED

    def loss(rows: slice) -> Tensor:
        batch = {"labels": labels[rows]}
        if not term.count(batch):  # as in `losses`
            return z_s.new_zeros(())
        return term(Outputs(z_s[rows]), Outputs(z_t[rows]), batch, reduction="sum")

    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            # The first row has no label.
            parts = [loss(slice(*ends)) for ends in ((0, 1), (1, 3), (3, 6))]
            whole = loss(slice(None))
    except Exception:
        # It wants more of a batch than labels. If it is wrong altogether, the first step says so.
        return False
    return torch.allclose(whole, torch.stack(parts).sum(), rtol=1e-4, atol=1e-6)


def losses(
    terms: Sequence[Term], factors: Tensor, student: Outputs, teacher: Outputs | None, labels: Tensor,
    chunk_size: int | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Compute Σ factor · loss over the terms that read logits, and each term's loss.

    factors: (n_terms,). student, teacher: `features` (n or more, D) and the `unembedding` they go into, or the
    teacher's `top` logits. labels: (n,), −100 where there is none; on the host, since counting them makes a GPU wait;
    features beyond the n-th are padding. chunk_size: rows at a time. Returns the sum (0-d; `backward()` gives the
    gradients of the student's features, matrix and bias, and of what terms learn) and the losses, each summed over its
    valid items (n_terms,), without gradients. Terms of weight 0, and those that read no logits, give 0.
    """
    active = [(i, term) for i, term in enumerate(terms) if term.weight and "logits" in term.needs]
    asked = teacher if any(term.needs_teacher for _, term in active) else None
    learned = [p for _, term in active for p in term.parameters() if p.requires_grad]

    # Half precision multiplies matrices, sums are float32 or better.
    kind = _product_dtype(student.features)
    wide = torch.promote_types(kind, torch.float32)
    vocabulary, device = len(student.unembedding.weight), student.features.device
    student_logits = _logits_by_chunk(student, kind, wide, vocabulary)
    teacher_logits = _logits_by_chunk(asked, kind, wide, vocabulary)

    factors = factors.to(wide)
    values = torch.zeros(len(terms), dtype=wide, device=device)
    sums = _Sums(student, learned, kind, wide)

    chunks = _chunks(len(student.features), chunk_size or default_chunk_size(vocabulary, device.type))
    there = labels.to(device, non_blocking=True)
    with torch.autocast(device.type, enabled=False):
        for chunk in chunks:
            speaking = [(i, term) for i, term in active if term.count({"labels": labels[chunk]})]
            if not speaking:
                continue
            logits = student_logits(chunk), teacher_logits(chunk)
            d_logits, *d_learned = _gradients(speaking, learned, factors, logits, there[chunk], values)
            sums.add(chunk, d_logits, d_learned)
            del logits, d_logits  # before the next chunk's are made

    return _WithKnownGradients.apply((factors * values).sum(), sums.gradients(), *sums.inputs), values.float()


class _Sums:
    """The gradients with respect to what the student's logits are made of and what terms learn, summed over chunks.

    inputs: the features (n, D), the matrix (V, D), the bias (V,) if there is one, and what terms learn.
    """

    def __init__(self, student: Outputs, learned: list[Tensor], kind: torch.dtype, wide: torch.dtype):
        last = student.unembedding
        self.inputs = [student.features, last.weight, *([] if last.bias is None else [last.bias]), *learned]
        self.kind, self.has_bias = kind, last.bias is not None
        self.features, self.matrix = (x.detach().to(kind) for x in self.inputs[:2])
        self.d_features = torch.zeros_like(self.features) if student.features.requires_grad else None
        self.rest = [torch.zeros_like(p, dtype=wide) if p.requires_grad else None for p in self.inputs[1:]]

    def add(self, chunk: slice, d_logits: Tensor, d_learned: list[Tensor]) -> None:
        """Add what follows from the gradients of a chunk's logits (n, V), and those of what terms learn."""
        d_matrix, *rest = self.rest
        d_bias = rest.pop(0) if self.has_bias else None
        for total, d in zip(rest, d_learned, strict=True):
            total += d
        if d_bias is not None:
            d_bias += d_logits.sum(0)
        d_logits = d_logits.to(self.kind)
        if self.d_features is not None:
            torch.mm(d_logits, self.matrix, out=self.d_features[chunk])
        if d_matrix is not None:
            _add_product(d_matrix, d_logits.T, self.features[chunk])

    def gradients(self) -> list[Tensor | None]:
        """Return the sums, each in the precision of its input; None where no gradient is wanted."""
        found = zip((self.d_features, *self.rest), self.inputs, strict=True)
        return [d if d is None else d.to(x.dtype) for d, x in found]


def _gradients(
    active: list[tuple[int, Term]], learned: list[Tensor], factors: Tensor,
    logits: tuple[Tensor, Tensor | None], labels: Tensor, values: Tensor,
) -> tuple[Tensor, ...]:  # fmt: skip
    """Return the gradients of Σ factor · loss with respect to a chunk's logits (n, V) and to what terms learn.

    Each term's loss, summed over the chunk, is added to `values` (n_terms,).
    """
    z_s, z_t = logits
    z_s.requires_grad_()
    # Rows beyond the labels' are padding: no term sees them, and their gradient is 0.
    real = Outputs(_first(z_s, len(labels))), Outputs(_first(z_t, len(labels)))
    total = z_s.new_zeros(())
    for i, term in active:
        loss = term(*real, {"labels": labels}, reduction="sum")
        values[i] += loss.detach()
        total = total + factors[i] * loss
    return torch.autograd.grad(total, [z_s, *learned], materialize_grads=True)


def _first(rows: Tensor | None, n: int) -> Tensor | None:
    return rows if rows is None or len(rows) == n else rows[:n]


class _WithKnownGradients(torch.autograd.Function):
    """A value of some tensors whose gradients have been computed with it."""

    @staticmethod
    def forward(ctx, value: Tensor, gradients: list[Tensor | None], *_: Tensor) -> Tensor:
        ctx.gradients = gradients
        return value.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, upstream: Tensor):
        return None, None, *(d if d is None else d * upstream.to(d.dtype) for d in ctx.gradients)


def _product_dtype(features: Tensor) -> torch.dtype:
    """Tell what matrices are multiplied in: autocast's choice where it is on."""
    device = features.device.type
    if torch.is_autocast_enabled(device) and features.dtype != torch.float64:
        return torch.get_autocast_dtype(device)
    return features.dtype


def default_chunk_size(vocabulary: int, device: str) -> int:
    """Tell how many tokens make a chunk."""
    return max(FEWEST, CHUNK_BYTES.get(device, ELSEWHERE) // (4 * vocabulary))


def _chunks(rows: int, size: int) -> list[slice]:
    return [slice(first, first + size) for first in range(0, rows, size)]


def _logits_by_chunk(
    outputs: Outputs | None, kind: torch.dtype, wide: torch.dtype, vocabulary: int
) -> Callable[[slice], Tensor | None]:
    """Return a function from a chunk's rows to a model's logits there, (n, V), ready to be summed over."""
    if outputs is None:
        return lambda chunk: None
    if outputs.top:
        log_p, tokens = outputs.top
        return lambda chunk: logits_of_top(log_p[chunk], tokens[chunk], vocabulary, wide)
    last = outputs.unembedding
    features, matrix = (x.detach().to(kind) for x in (outputs.features, last.weight))
    if last.bias is None:
        return lambda chunk: (features[chunk] @ matrix.T).to(wide)
    bias = last.bias.detach().to(kind)
    return lambda chunk: torch.addmm(bias, features[chunk], matrix.T).to(wide)


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """Add a @ b to `total`, in one pass where the precisions agree."""
    if total.dtype == a.dtype:
        total.addmm_(a, b)
    else:
        total += a @ b
