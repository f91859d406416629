"""The exercises of notebook 02 on the whole: counting parameters, a step with teacher forcing."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdtutor.exercises.definitions import Exercise, Mistake
from kdtutor.exercises.stepping import GRAPH_KEPT, LOSS_AFTER, STEPPING, take_step
from kdtutor.exercises.toys import between, keeps_graph

PAD, START, END = 0, 1, 2  # the ids that notebook 02 uses for padding, and for an answer's beginning and end


# -------------------------------------------------------------------------------------- 2.4 counting parameters


def transformer_parameters(
    vocabulary: int, width: int, heads: int, hidden: int, layers: int, wrong: frozenset[str] = frozenset()
) -> int:
    """Count an encoder–decoder's, `layers` each, one table for both embeddings and the output layer, no output bias."""
    bias = "biases forgotten" not in wrong
    matrices = 3 if "no output projection" in wrong else 4
    attention = matrices * (width * width + (bias and "no biases in attention" not in wrong) * width)
    if "matrices of a single head" in wrong:
        attention = matrices * (width + bias) * (width // heads)
    if "times the heads" in wrong:
        attention *= heads
    if "an inner width of 4 × width" in wrong:
        hidden = 4 * width
    feed_forward = 2 * width * hidden + (bias and "no biases in feed-forward" not in wrong) * (hidden + width)
    norm = 0 if "norms forgotten" in wrong else 2 * width
    encoder = attention + feed_forward + 2 * norm
    decoder = encoder if "no cross-attention" in wrong else 2 * attention + feed_forward + 3 * norm
    tables = 3 if "the table three times" in wrong else 2 if "the table twice" in wrong else 1
    if "the encoder alone" in wrong:
        decoder = 0
    if "a decoder without feed-forward" in wrong:
        decoder -= feed_forward
    if "a third norm forgotten" in wrong:
        decoder -= norm
    if "a norm of one vector" in wrong:
        encoder, decoder = encoder - 2 * width, decoder - 3 * width
    if "one layer" in wrong:
        layers = 1
    if "embeddings forgotten" in wrong:
        tables = 0
    output_bias = vocabulary if "the output's bias counted" in wrong else 0
    return layers * (encoder + decoder) + tables * vocabulary * width + output_bias


def _sizes(generator: torch.Generator) -> list[tuple]:
    one = partial(between, generator)
    return [(one(1000, 9000), 8 * one(8, 64), (2, 4, 8)[k], one(300, 2000), one(2, 9)) for k in (0, 1, 2, 1)]


# --------------------------------------------------------------------------------------------- 2.6 teacher forcing


def training_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, source: Tensor, target: Tensor,
    wrong: frozenset[str] = frozenset(),
) -> Tensor:  # fmt: skip
    """Take one step with teacher forcing; return its loss, a scalar without a graph.

    target (B, L): START, the answer, its end, then PAD (0). model(source, what the decoder reads) → logits.
    """
    if "not shifted" in wrong:
        reads, answers = target, target
    elif "shifted the wrong way" in wrong:
        reads, answers = target[:, 1:], target[:, :-1]
    else:
        reads, answers = target[:, :-1], target[:, 1:]
    if "source and answer exchanged" in wrong:
        source, reads = reads, source
    logits = model(source, reads)  # (B, L − 1, vocabulary)
    losses = F.cross_entropy(logits.flatten(0, 1), answers.flatten(), reduction="none").view(answers.shape)
    valid = torch.ones_like(losses) if "padding counted" in wrong else (answers != PAD).float()
    if "the end left out" in wrong:
        valid = (answers != END).float()
    if "a mean of means" in wrong:
        loss = ((losses * valid).sum(1) / valid.sum(1)).mean()
    elif "divided by the padding too" in wrong:
        loss = (losses * valid).mean()
    else:
        loss = (losses * valid).sum() / valid.sum()
    if "summed" in wrong:
        loss = (losses * valid).sum()
    take_step(model, optimizer, loss, wrong)
    if "the loss after the step" in wrong:
        logits = model(source, reads)
        loss = F.cross_entropy(logits.flatten(0, 1), answers.flatten(), ignore_index=PAD)
    return loss if "the returned loss keeps its graph" in wrong else loss.detach()


class _Toy(nn.Module):
    """An "encoder–decoder" for the checker: causal like a real one, but its only mixing of tokens is a mean."""

    def __init__(self, vocabulary: int, width: int, generator: torch.Generator):
        super().__init__()
        self.source, self.target, self.out = (
            nn.Parameter(0.7 * torch.randn(vocabulary, width, generator=generator)) for _ in range(3)
        )
        self.read: list[Tensor] = []

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        self.read.append(target.detach().clone())
        before = self.target[target].cumsum(1) / torch.arange(1, target.shape[1] + 1)[:, None]
        return (self.source[source].mean(1, keepdim=True) + before + self.target[target]).tanh() @ self.out.T


def _observe_training_step(function: Callable, source: Tensor, target: Tensor, seed: int) -> dict:
    """Watch two steps on a toy model: what is read, what is returned, and where the weights are afterwards."""
    model = _Toy(9, 6, torch.Generator().manual_seed(seed))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    steps = []
    optimizer.register_step_pre_hook(lambda *_: steps.append(1))
    losses = [function(model, optimizer, source, target) for _ in range(2)]
    return {
        "whether the returned loss keeps its graph": keeps_graph(*losses),
        "how often the optimiser steps": len(steps),
        # its last token may be read: nobody before it sees it, and the logits behind it may be cut off
        "what the decoder reads": model.read[0][:, : target.shape[1] - 1] if model.read else "nothing",
        "the loss of the first step": losses[0],
        "the loss of the second step": losses[1],
        "the model's weights after two steps": nn.utils.parameters_to_vector(model.parameters()).detach(),
    }


def _batches(generator: torch.Generator) -> list[tuple]:
    """Draw answers of different lengths, so that there is padding: START, 3 to 8 …, an end (2), PAD."""
    probes = []
    for lengths in ((1, 4, 2), (5, 1), (3, 2, 1, 6)):
        source = torch.randint(3, 9, (len(lengths), 4), generator=generator)
        target = torch.full((len(lengths), max(lengths) + 2), PAD)
        for row, n in zip(target, lengths, strict=True):
            row[0], row[n + 1] = START, 2
            row[1 : n + 1] = torch.randint(3, 9, (n,), generator=generator)
        probes.append((source, target, int(torch.randint(1000, (), generator=generator))))
    return probes


EXERCISES = [
    Exercise(
        name="transformer_parameters",
        number="2.4",
        title="Count them before you build it",
        reference=transformer_parameters,
        mistakes=(
            Mistake(
                "times the heads",
                "Attention is counted once for each head. The heads share the width: h heads of D / h numbers cost "
                "what one of D does.",
            ),
            Mistake(
                "biases forgotten",
                "You are short by exactly the biases: each linear layer has one number for each output.",
            ),
            Mistake(
                "norms forgotten",
                "You are short by the LayerNorms: a gain and a bias each, two an encoder layer.",
            ),
            Mistake(
                "no cross-attention",
                "Your decoder layers are as large as your encoder layers. What do they have that an encoder lacks?",
            ),
            Mistake(
                "no output projection",
                "Three matrices an attention are one too few: after queries, keys and values, the heads' results "
                "are joined and projected once more.",
            ),
            Mistake(
                "the table three times",
                "The vocabulary table is counted for source, target and output. Here the three are one tensor.",
            ),
            Mistake(
                "the table twice",
                "The vocabulary table is counted twice. Source, target and output share one tensor.",
            ),
            Mistake(
                "the encoder alone",
                "Your number is that of an encoder. There are as many decoder layers.",
            ),
            Mistake(
                "a third norm forgotten",
                "A decoder layer has three sublayers, and a norm after each of them.",
            ),
            Mistake(
                "a norm of one vector",
                "Your norms have one vector each. They have a gain and a bias.",
            ),
            Mistake(
                "the output's bias counted",
                "Your output layer has a bias, and here it has none.",
            ),
            Mistake(
                "no biases in attention",
                "You are short by the biases of attention: each of its four matrices has one.",
            ),
            Mistake(
                "a decoder without feed-forward",
                "Your decoder layers have no feed-forward part. They have three sublayers.",
            ),
            Mistake(
                "an inner width of 4 × width",
                "Your feed-forward part is four times as wide as the model. Here its width is an argument.",
            ),
            Mistake(
                "one layer", "Your number is that of one encoder and one decoder layer. How many are there?"
            ),
            Mistake("embeddings forgotten", "Your number lacks the table of the vocabulary."),
            Mistake(
                "matrices of a single head",
                "Your attention has the matrices of one head. Side by side, those of all heads are D × D.",
            ),
            Mistake(
                "no biases in feed-forward",
                "You are short by the biases of the feed-forward parts: both of their linear layers have one.",
            ),
        ),
        probes=_sizes,
        terms={
            "vocabulary · width": "one table of the vocabulary",
            "vocabulary": "one bias over the vocabulary",
            "width² · layers": "one D × D matrix in every layer",
            "width · layers": "one vector of width D in every layer",
            "width · hidden · layers": "one feed-forward matrix in every layer",
            "hidden · layers": "the bias of the inner layer",
        },
    ),
    Exercise(
        name="training_step",
        number="2.6",
        title="A training step with teacher forcing",
        reference=training_step,
        mistakes=(
            Mistake(
                "not shifted",
                "The decoder reads the very token that it is asked for, so it learns to copy, and at inference there "
                "is nothing to copy. At each place, what may it have seen?",
            ),
            Mistake(
                "shifted the wrong way",
                "The decoder is asked for the token *before* the one it reads. It should foretell the next.",
            ),
            Mistake(
                "padding counted",
                "The loss counts the padding behind short answers, and a model that has learned to write PAD looks "
                "better than it is.",
            ),
            Mistake(
                "divided by the padding too",
                "Padding adds nothing to your sum, but your divisor counts it: the more padding in a batch, the "
                "smaller the loss.",
            ),
            Mistake(
                "a mean of means",
                "Your loss is a mean over the answers of their means, so a token in a short answer weighs more than "
                "one in a long answer. Sum over all real tokens, then divide once.",
            ),
            *STEPPING,
            GRAPH_KEPT,
            LOSS_AFTER,
            Mistake(
                "summed",
                "Your loss is a sum over the tokens: longer answers would make longer steps.",
            ),
            Mistake(
                "the end left out",
                "Your loss leaves out the token that ends an answer, and counts padding. Who never learns to stop?",
            ),
            Mistake(
                "source and answer exchanged",
                "Your decoder reads the source, and your encoder the answer. Which comes first?",
            ),
        ),
        planted=("not shifted",),
        symptom="Its loss falls to next to nothing, and a model trained like this can't write a single number.",
        probes=_batches,
        observe=_observe_training_step,
    ),
]
