"""The exercises of notebook 02 on the parts: LayerNorm, positions, an encoder layer."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from kdtutor.exercises.definitions import Exercise, Mistake

# ------------------------------------------------------------------------------------------------- 2.1 LayerNorm


def layer_norm(
    x: Tensor, gain: Tensor, bias: Tensor, eps: float, wrong: frozenset[str] = frozenset()
) -> Tensor:
    """Give each token's numbers in (B, L, D) mean 0 and variance 1, then `gain` and `bias` (D,)."""
    axes = {
        "over the tokens": (-2,),
        "over the whole sentence": (-2, -1),
        "over the batch": (0,),
        "over batch and tokens": (0, 1),
    }
    dims = next((axes[name] for name in axes if name in wrong), (-1,))
    centred = x if "mean left in" in wrong else x - x.mean(dims, keepdim=True)
    variance = x.var(dims, correction=1 if "divided by n − 1" in wrong else 0, keepdim=True)
    if "statistics cut off from the graph" in wrong:
        centred, variance = x - x.mean(dims, keepdim=True).detach(), variance.detach()
    if "the sum of the squares" in wrong:
        variance = variance * x.shape[-1]
    if "gain and bias exchanged" in wrong:
        gain, bias = bias, gain
    if "no gain" in wrong:
        gain = torch.ones_like(gain)
    if "RMSNorm" in wrong:
        return gain * x / (x.square().mean(-1, keepdim=True) + eps).sqrt() + (
            0 if "no bias" in wrong else bias
        )
    if "ε forgotten" in wrong:
        eps = 0.0
    if "not divided" in wrong:
        return gain * centred + bias
    if "the variance where its root should be" in wrong:
        normed = centred / (variance + eps)
    elif "eps outside the root" in wrong:
        normed = centred / (variance.sqrt() + eps)
    else:
        normed = centred / (variance + eps).sqrt()
    if "bias before gain" in wrong:
        return gain * (normed + bias)
    if "no bias" in wrong:
        return gain * normed
    return normed if "no gain and bias" in wrong else gain * normed + bias


def _layer_norm_probes(generator: torch.Generator) -> list[tuple]:
    # A large eps makes its place visible; a mean and a scale of their own do that for all else.
    return [
        _normed_input(generator, *shape, eps)
        for *shape, eps in ((2, 3, 4, 0.3), (1, 5, 8, 0.1), (3, 2, 6, 1e-5))
    ]


def _normed_input(
    generator: torch.Generator, batch: int, length: int, width: int, eps: float, mean: float = 2.0
):
    x = mean + 0.8 * torch.randn(batch, length, width, generator=generator)
    gain, bias = 1 + 0.5 * torch.randn(2, width, generator=generator)
    return x, gain, bias, eps


# ------------------------------------------------------------------------------------------------- 2.2 positions


def sinusoidal_positions(length: int, width: int, wrong: frozenset[str] = frozenset()) -> Tensor:
    """Put sin(t ω_i) into column 2i of row t, cos(t ω_i) into 2i + 1, ω_i = 10000^(−2i / width): (length, width)."""
    t = torch.arange(length, dtype=torch.float32)[:, None]
    if "counted from 1" in wrong:
        t = t + 1
    i = torch.arange(width // 2, dtype=torch.float32)
    exponent = i / width if "half the exponent" in wrong else 2 * i / width
    if "the index doubled" in wrong:
        exponent = 4 * i / width
    if "spread to the last pair" in wrong:
        exponent = i / max(1, width // 2 - 1)
    base = 1000.0 if "another base" in wrong else 10000.0
    is_product = "multiplied instead of divided" in wrong
    angles = t * base**exponent if is_product else t / base**exponent  # (length, width / 2)
    sines, cosines = angles.sin(), angles.cos()
    if "a frequency for each column" in wrong:  # the cosine of column 2i + 1 has that column's own exponent
        cosines = (t / base ** ((2 * i + 1) / width)).cos()
    if "sine and cosine swapped" in wrong:
        sines, cosines = cosines, sines
    if "sines alone" in wrong:
        cosines = sines
    if "side by side" in wrong:
        return torch.cat([sines, cosines], -1)
    return torch.stack([sines, cosines], -1).flatten(-2)


# --------------------------------------------------------------------------------------------- 2.3 encoder layer


def encoder_layer(
    x: Tensor, attention: Callable, feed_forward: Callable, norm1: Callable, norm2: Callable,
    wrong: frozenset[str] = frozenset(),
) -> Tensor:  # fmt: skip
    """Run two sublayers over (B, L, D), around each a residual connection and then a LayerNorm (post-norm)."""
    if "one norm for both" in wrong:
        norm2 = norm1
    first, second = (feed_forward, attention) if "feed-forward first" in wrong else (attention, feed_forward)

    if "norms swapped" in wrong:
        norm1, norm2 = norm2, norm1
    if "attention twice" in wrong:
        second = first

    def around(x: Tensor, sublayer: Callable, norm: Callable, residual: Tensor) -> Tensor:
        cut = "the first residual cut off" in wrong and sublayer is first
        if cut or "residual cut off from the graph" in wrong:
            residual = residual.detach()
        which = "first" if sublayer is first and norm is norm1 else "second"
        if {"no residual", f"the {which} residual left out"} & wrong:
            residual = torch.zeros_like(residual)
        if "residual added twice" in wrong and which == "first":
            residual = 2 * residual
        if f"the {which} norm left out" in wrong:
            return residual + sublayer(x)
        if "normalised on both sides" in wrong:
            return norm(residual + sublayer(norm(x)))
        if {"norm before the sublayer", f"norm before the {which} sublayer"} & wrong:
            return residual + sublayer(norm(x))
        if "residual around the norm" in wrong:
            return residual + norm(sublayer(x))
        return norm(residual + sublayer(x))

    if "both sublayers side by side" in wrong:
        return norm2(x + attention(x) + feed_forward(x))
    h = around(x, first, norm1, x)
    if "feed-forward reads the layer's input" in wrong:
        return norm2(h + feed_forward(x))
    back = attention(x) if "the residual of attention alone" in wrong else h
    return around(h, second, norm2, x if "the residual of the input" in wrong else back)


def _observe_encoder_layer(function: Callable, x: Tensor, seed: int) -> dict[str, Tensor]:
    """Run it on parts that are made from the seed: attention that mixes tokens, a feed-forward net, two norms."""
    generator, width = torch.Generator().manual_seed(seed), x.shape[-1]
    w = torch.randn(6, width, width, generator=generator) / math.sqrt(width)
    gains = 1 + 0.5 * torch.randn(2, width, generator=generator)

    def attention(x: Tensor) -> Tensor:
        q, k, v = x @ w[0], x @ w[1], x @ w[2]
        return (q @ k.mT / math.sqrt(width)).softmax(-1) @ v @ w[3]

    def feed_forward(x: Tensor) -> Tensor:
        return (x @ w[4]).relu() @ w[5]

    norms = [lambda x, gain=gain: gain * F.layer_norm(x, (width,)) for gain in gains]
    x = x.clone().requires_grad_()
    result = function(x, attention, feed_forward, *norms)
    if not (isinstance(result, Tensor) and result.requires_grad and result.shape == x.shape):
        return {"the result": result}
    (gradient,) = torch.autograd.grad(result.square().sum() + result.sum(), x)
    return {"the result": result, "its gradient with respect to x": gradient}


EXERCISES = [
    Exercise(
        name="layer_norm",
        number="2.1",
        title="LayerNorm by hand",
        reference=layer_norm,
        mistakes=(
            Mistake(
                "over the tokens",
                "Your statistics are taken over the tokens of a sentence, so a token's result changes when its "
                "neighbours do. Which axis holds the numbers of *one* token?",
            ),
            Mistake(
                "over the whole sentence",
                "There is one mean and one variance for a whole sentence. LayerNorm gives every token its own.",
            ),
            Mistake(
                "divided by n − 1",
                "Your variance is divided by D − 1, as statisticians do for a sample (and `torch.var` by default). "
                "LayerNorm divides by D: it rescales these numbers and estimates nothing.",
            ),
            Mistake(
                "eps outside the root",
                "ε is added after the square root. In the formula it is added to the variance, under the root, "
                "where it also keeps the gradient of the root finite.",
            ),
            Mistake(
                "the variance where its root should be",
                "The numbers are divided by their variance, so their spread is 1/σ rather than 1. What has the same "
                "unit as the numbers themselves?",
            ),
            Mistake(
                "mean left in",
                "The mean has not been taken off: that is close to RMSNorm, a younger relative, but not LayerNorm.",
            ),
            Mistake(
                "no gain and bias",
                "This is the normalised token, mean 0 and variance 1. Two learned vectors have still to act on it.",
            ),
            Mistake(
                "bias before gain",
                "The bias is multiplied by the gain: it was added one operation too early.",
            ),
            Mistake(
                "over the batch",
                "Your statistics are taken over the batch, as BatchNorm does: a text's result depends on its "
                "neighbours.",
            ),
            Mistake(
                "over batch and tokens",
                "Your statistics are taken over all tokens of the batch, as BatchNorm does. Each token has its own.",
            ),
            Mistake(
                "RMSNorm",
                "This is RMSNorm: the root of the mean square divides, and no mean is taken off. A younger "
                "relative, but not LayerNorm.",
            ),
            Mistake(
                "ε forgotten",
                "ε plays no part in your result. A token whose numbers are all equal would be divided by 0.",
            ),
            Mistake(
                "not divided",
                "The mean is taken off, but nothing is divided: the spread stays what it was.",
            ),
            Mistake(
                "no bias",
                "The gain has acted, the bias has not.",
            ),
            Mistake(
                "statistics cut off from the graph",
                "The values are right, the gradient is not: mean and variance are detached, and they depend on x.",
            ),
            Mistake(
                "the sum of the squares",
                "You divide by the root of a *sum* of squares. The variance is their mean.",
            ),
            Mistake("gain and bias exchanged", "You multiply by the bias and add the gain."),
            Mistake("no gain", "The gain plays no part in your result."),
        ),
        probes=_layer_norm_probes,
        gradients=(0, 1, 2),
        # E[x²] − E[x]² cancels where the mean is far larger than the spread.
        stress=lambda generator: [_normed_input(generator, 2, 3, 32, 1e-5, mean=1000.0)],
        growth=lambda n: _normed_input(torch.Generator().manual_seed(0), n, 4, 8, 1e-5),
    ),
    Exercise(
        name="sinusoidal_positions",
        number="2.2",
        title="Sinusoidal positions",
        reference=sinusoidal_positions,
        mistakes=(
            Mistake(
                "sine and cosine swapped",
                "Sine and cosine have changed places. Position 0 tells: its first number should be sin 0 = 0.",
            ),
            Mistake(
                "side by side",
                "All sines stand left and all cosines right. That is a sound encoding too, and some libraries use "
                "it, but in this formula they alternate: column 2i and column 2i + 1 are a pair.",
            ),
            Mistake(
                "half the exponent",
                "From pair to pair your waves get longer, but too little. The exponent is 2i / D with i "
                "counting *pairs*, so it runs from 0 to almost 1.",
            ),
            Mistake(
                "a frequency for each column",
                "Each column has a frequency of its own. A sine and its cosine must share one: only then is a shift "
                "of the position a rotation of the pair.",
            ),
            Mistake(
                "counted from 1",
                "Your first row is that of position 1. Positions are counted from 0.",
            ),
            Mistake(
                "multiplied instead of divided",
                "The position is multiplied by 10000^(2i/D), so that the waves get shorter from pair to pair. They "
                "should get longer.",
            ),
            Mistake(
                "another base", "Your longest wavelength is too short: look at the base of the power again."
            ),
            Mistake(
                "the index doubled",
                "Your waves get longer too quickly: the index is doubled twice. Counting in steps of two already "
                "gives 2i.",
            ),
            Mistake(
                "spread to the last pair",
                "Your longest wave has exactly the wavelength of the base, as in the code of some libraries. In the"
                " formula the exponent 2i / D stays below 1.",
            ),
            Mistake(
                "sines alone",
                "Both columns of a pair are sines. One of them is a cosine.",
            ),
        ),
        probes=lambda generator: [(5, 8), (12, 6), (30, 16), (3, 2)],
        growth=lambda n: (n, 8),
    ),
    Exercise(
        name="encoder_layer",
        number="2.3",
        title="An encoder layer from its parts",
        reference=encoder_layer,
        mistakes=(
            Mistake(
                "no residual",
                "What comes out is only what the sublayers made: the token itself has been lost on the way.",
            ),
            Mistake(
                "norm before the sublayer",
                "Your norms, or one of them, stand *before* the sublayers. That is pre-norm, which most models since "
                "GPT-2 use; the paper and BERT normalise the sum, after the sublayer.",
                also=("norm before the second sublayer",),
            ),
            Mistake(
                "residual around the norm",
                "The sublayer's output is normalised first and x added afterwards. Is the sum normalised?",
            ),
            Mistake(
                "the residual of the input",
                "Your second residual connection brings back the layer's input. It should bring back what the "
                "second sublayer got.",
            ),
            Mistake(
                "one norm for both",
                "`norm1` is used twice. Each sublayer has a norm with its own gain and bias.",
            ),
            Mistake(
                "feed-forward first",
                "The sublayers have changed places: tokens first look at each other, then think.",
            ),
            Mistake(
                "the first residual left out",
                "Around the first sublayer the residual connection is missing.",
            ),
            Mistake(
                "the second residual left out",
                "Around the second sublayer the residual connection is missing.",
            ),
            Mistake(
                "the first norm left out",
                "After the first sublayer nothing is normalised.",
            ),
            Mistake(
                "the second norm left out",
                "After the second sublayer nothing is normalised.",
            ),
            Mistake(
                "norms swapped",
                "The two norms have changed places: the first belongs to attention.",
            ),
            Mistake(
                "attention twice",
                "Attention runs twice, and the feed-forward part never.",
            ),
            Mistake(
                "normalised on both sides",
                "Each of your norms is used twice, before its sublayer and after it.",
            ),
            Mistake(
                "feed-forward reads the layer's input",
                "Your feed-forward part reads what came into the layer. It should read what attention has made of it.",
                also=("both sublayers side by side",),
            ),
            Mistake(
                "residual cut off from the graph",
                "The values are right, the gradient is not: what goes past the sublayers is detached, and that is the "
                "very way by which a gradient reaches the lower layers.",
                also=("the first residual cut off",),
            ),
            Mistake(
                "the residual of attention alone",
                "Your second residual connection brings back what attention made. It should bring back what the second "
                "sublayer got.",
            ),
            Mistake("residual added twice", "Your first residual connection adds x twice."),
        ),
        probes=lambda generator: [
            (torch.randn(2, 4, 6, generator=generator), int(torch.randint(1000, (), generator=generator)))
            for _ in range(3)
        ],
        observe=_observe_encoder_layer,
    ),
]
