"""Diagrams: what goes where, as boxes and arrows, with the shapes beside them."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np
from matplotlib.patches import Rectangle

from kdtutor.plots.style import (
    INK,
    OTHERS,
    STUDENT,
    TEACHER,
    Look,
    Picture,
    canvas,
    describe,
    softmax,
    styled,
)

# Pale, so that black text stands on them: attention, one head among others, and what is singled out.
ATTENTION, MARKED, CHOSEN = TEACHER.colour + "33", TEACHER.colour + "99", OTHERS[3].colour + "33"


class Sheet:
    """A blank sheet of `width` by `height` units for boxes, arrows and words; (0, 0) is its lower left corner."""

    def __init__(self, width: float, height: float, inches: float):
        self.picture, self.axes = canvas(inches, inches * height / width)
        self.axes.set(xlim=(0, width), ylim=(0, height))
        self.axes.axis("off")

    def box(self, x: float, y: float, text: str = "", fill: str = "white", width=2.5, height=0.5, **how):
        """Draw a box whose lower edge has its middle at (x, y), with a text in its own middle."""
        how = {"edgecolor": INK, "facecolor": fill} | how
        self.axes.add_patch(Rectangle((x - width / 2, y), width, height, **how))
        if text:
            self.say(x, y + height / 2, text)

    def say(self, x: float, y: float, text: str, **how) -> None:
        self.axes.annotate(text, (x, y), **({"ha": "center", "va": "center"} | how))

    def arrow(self, *points: tuple[float, float], colour: str = INK, dashes: str = "-") -> None:
        """Draw a line through the points, with a head at the last one."""
        if len(points) > 2:
            self.axes.plot(*zip(*points[:-1], strict=True), color=colour, linewidth=1.3, linestyle=dashes)
        ends = {"arrowstyle": "-|>", "shrinkA": 0, "shrinkB": 0}
        look = {"color": colour, "linewidth": 1.3, "linestyle": dashes}
        self.axes.annotate("", points[-1], points[-2], arrowprops=ends | look)

    def columns(self, x: float, y: float, values: Sequence[float], look: Look) -> None:
        """Draw a distribution as small columns that stand on y, around x."""
        for place, value in enumerate(values):
            left = x + (place - len(values) / 2) * 0.3
            how = {"facecolor": look.colour, "edgecolor": INK, "hatch": look.hatch}
            self.axes.add_patch(Rectangle((left, y), 0.26, 1.2 * value, **how))


# ------------------------------------------------------------------------------------------------ distillation


@styled
def distillation(text: str = "a text", label: str = "its label") -> Picture:
    """Draw one step of distillation (Hinton et al. 2015): two models, a temperature, two losses, one that learns."""
    sheet = Sheet(15.6, 7.6, 10.8)
    # Four logits, as an example.
    teacher, student = np.array([3.0, 1.9, 0.5, 0.0]), np.array([1.0, 2.3, 0.4, 0.0])

    # One text goes to both models.
    sheet.say(1.4, 4.4, textwrap.fill(text, 14))
    sheet.arrow((1.4, 5.2), (1.4, 6.0), (3.0, 6.0))
    sheet.arrow((1.4, 3.6), (1.4, 3.0), (3.0, 3.0))
    sheet.box(4.0, 5.55, "teacher", ATTENTION, 2.0, 0.9)
    sheet.box(4.0, 2.55, "student", STUDENT.colour + "33", 2.0, 0.9)
    sheet.say(4.0, 6.75, "fixed: no gradients", color=TEACHER.colour, fontsize=11)

    # Their logits become distributions: both at T, the student's at 1 as well.
    _distribution(sheet, (5.0, 6.0), 6.0, "softmax(z / T)", softmax(teacher / 3), TEACHER)
    _distribution(sheet, (5.0, 3.15), 4.0, "softmax(z / T)", softmax(student / 3), STUDENT)
    _distribution(sheet, (5.0, 2.85), 2.0, "softmax(z)", softmax(student), STUDENT)
    sheet.say(5.1, 6.28, "logits z", fontsize=11, ha="left")
    sheet.say(10.3, 6.75, "soft targets", fontsize=11)
    sheet.say(10.9, 0.95, f"label: {label}", ha="right")

    _losses(sheet)

    # Gradients go back to the student alone.
    back = [(14.95, 3.2), (15.3, 3.2), (15.3, 0.3), (4.0, 0.3), (4.0, 2.55)]
    sheet.arrow(*back, colour=STUDENT.colour, dashes="--")
    sheet.say(4.2, 0.55, "gradients: only the student learns", color=STUDENT.colour, fontsize=11, ha="left")
    return describe(
        sheet.picture,
        f"One step of distillation. The text “{text}” goes to teacher and student. Both models' logits, divided by the "
        "temperature T, become distributions; the soft loss, T² times their KL divergence, compares them. The hard "
        f"loss compares the student's distribution at T = 1 with the label, {label}. L is α times the hard loss plus "
        "1 − α times the soft one. Gradients flow back to the student only; the teacher is fixed.",
    )


def _distribution(sheet: Sheet, start, y: float, formula: str, p: Sequence[float], look: Look) -> None:
    """Draw the way from a model's edge `start` through a softmax at height y to its distribution p."""
    bend = [start, (5.9, start[1]), (5.9, y)] if start[1] != y else [start]
    sheet.arrow(*bend, (6.5, y))
    sheet.box(7.7, y - 0.35, formula, width=2.4, height=0.7)
    sheet.arrow((8.9, y), (9.5, y))
    sheet.columns(10.3, y - 0.3, p, look)


def _losses(sheet: Sheet) -> None:
    """Draw the two losses beside the distributions that they compare, and their weighted sum."""
    sheet.box(12.9, 4.45, "soft loss\nT² · KL", width=2.1, height=1.1)
    sheet.arrow((11.1, 6.0), (12.9, 6.0), (12.9, 5.55))
    sheet.arrow((11.1, 4.0), (12.9, 4.0), (12.9, 4.45))
    sheet.box(12.9, 0.95, "hard loss\ncross-entropy", width=2.1, height=1.1)
    sheet.arrow((11.1, 2.0), (11.4, 2.0), (11.4, 1.75), (11.85, 1.75))
    sheet.arrow((11.0, 0.95), (11.4, 0.95), (11.4, 1.25), (11.85, 1.25))
    sheet.box(14.6, 2.85, "L", width=0.7, height=0.7)
    sheet.arrow((13.95, 5.0), (14.6, 5.0), (14.6, 3.55))
    sheet.arrow((13.95, 1.5), (14.6, 1.5), (14.6, 2.85))
    sheet.say(14.5, 4.1, "× (1 − α)", ha="right", fontsize=11)
    sheet.say(14.5, 2.4, "× α", ha="right", fontsize=11)


# ------------------------------------------------------------------------------------------------ attention


@styled
def split_into_heads(tokens: Sequence[str], width: int, heads: int) -> Picture:
    """Draw how a layer of attention makes queries, keys and values of its tokens, and cuts them into heads."""
    length, each = len(tokens), width // heads
    sheet = Sheet(17.2, 9.2, 11.5)
    whole, part = f"{length} × {width}", f"{length} × {each}"

    # The tokens' vectors, and three matrices that make queries, keys and values of them.
    _matrix(sheet, 2.6, 3.6, "x", whole)
    shown = tokens if length <= 6 else [*tokens[:3], "⋮", *tokens[-2:]]
    for row, token in enumerate(shown):
        sheet.say(1.65, 5.5 - 1.9 * (row + 0.5) / len(shown), token, ha="right", fontsize=10)
    for name, y in (("Q", 6.7), ("K", 3.6), ("V", 0.5)):
        sheet.arrow((3.5, 4.55), (3.8, 4.55), (3.8, y + 0.95), (4.9, y + 0.95))
        sheet.say(4.35, y + 1.22, f"W_{name}", fontsize=11)
        _matrix(sheet, 5.8, y, name, f"{whole}, in {heads} heads", heads)

    # One head, from its columns alone: weights of all tokens over all tokens, and the mixture of the values.
    for name, y, to in (("Q₀", 7.65, (8.2, 6.4)), ("K₀", 4.55, (8.2, 5.8)), ("V₀", 1.45, (11.2, 3.9))):
        sheet.arrow((6.7, y), (to[0] - 0.6, y), (to[0] - 0.6, to[1]), to)
        sheet.say(6.8, y + 0.27, name, ha="left", fontsize=11)
    sheet.say(6.9, 1.15, f"{part}: the columns of head 0", fontsize=10.5, ha="left")
    _matrix(sheet, 9.1, 5.15, f"softmax(Q₀ K₀ᵀ / √{each})", f"{length} × {length}", fill=MARKED)
    sheet.arrow((10.0, 6.1), (10.6, 6.1), (10.6, 4.4), (11.2, 4.4))
    _matrix(sheet, 11.4, 3.2, "head 0", part, wide=0.4, fill=MARKED)

    # All heads side by side again, and a last matrix.
    sheet.arrow((11.6, 4.15), (12.6, 4.15))
    _matrix(sheet, 13.5, 3.2, "side by side", whole, heads)
    sheet.arrow((14.4, 4.15), (15.3, 4.15))
    sheet.say(14.85, 4.42, "W_O", fontsize=11)
    _matrix(sheet, 16.2, 3.2, "output", whole)
    return describe(
        sheet.picture,
        f"Attention with {heads} heads. From the {length} tokens' vectors x, {whole}, three matrices make Q, K and V, "
        f"each {whole}, and each is cut by columns into {heads} heads of {each}. Head 0 takes its columns alone: the "
        f"softmax of its scores is {length} × {length}, and its mixture of values {part}. The {heads} results, side by "
        f"side, are {whole} again, and one more matrix, W_O, gives the output.",
    )


def _matrix(sheet: Sheet, x, y, name: str, shape: str, heads: int = 1, wide=1.8, fill="white") -> None:
    """Draw a matrix, its name above and its shape below; of the columns of several heads the first are marked."""
    step = wide / heads
    for head in range(heads):
        colour = fill if heads == 1 else MARKED if head == 0 else ATTENTION
        sheet.box(x - wide / 2 + (head + 0.5) * step, y, fill=colour, width=step, height=1.9)
    sheet.say(x, y + 2.18, name)
    sheet.say(x, y - 0.27, shape, fontsize=10.5)


@styled
def encoder_decoder(
    source: str = "source", target: str = "target so far", answer: str = "next token"
) -> Picture:
    """Draw the Transformer of Vaswani et al. 2017 as boxes, read from the bottom up; with an example's texts."""
    sheet = Sheet(9.2, 8.3, 8.0)
    masked = ("masked self-attention", "cross-attention", "feed-forward")
    sheet.say(2.2, 0.3, source)
    memory = _tower(sheet, 2.2, "encoder", ("self-attention", "feed-forward"))
    sheet.say(6.7, 0.3, target)
    top = _tower(sheet, 6.7, "decoder", masked)

    # The encoder's output goes over to the decoder, into the cross-attention of every layer.
    cross = 3.76
    sheet.say(2.1, memory + 0.35, "memory", ha="right")
    sheet.arrow((2.2, memory), (2.2, memory + 0.35), (4.65, memory + 0.35), (4.65, cross), (5.45, cross))
    sheet.say(4.75, cross + 0.25, "K, V", fontsize=11, ha="left")
    sheet.say(6.6, cross - 0.4, "Q", fontsize=11, ha="right")

    # The decoder's output becomes the next token.
    sheet.arrow((6.7, top), (6.7, top + 0.3))
    sheet.box(6.7, top + 0.3, "output layer, softmax")
    sheet.arrow((6.7, top + 0.8), (6.7, top + 1.1))
    sheet.say(6.7, top + 1.28, answer)
    return describe(
        sheet.picture,
        f"The Transformer. The encoder reads “{source}”: embeddings with positions, then N layers of "
        f"self-attention and feed-forward. The decoder reads “{target}” in the same way, but masked, and before each "
        "feed-forward with a cross-attention, whose keys and values come from the memory, the encoder's output. Past "
        f"each sublayer runs a residual connection, and the sum is normalised. The output layer predicts “{answer}”.",
    )


def _tower(sheet: Sheet, x: float, name: str, sublayers: Sequence[str]) -> float:
    """Draw a stack of layers around x, one layer in full, and return the height at which its output leaves."""
    sheet.arrow((x, 0.5), (x, 0.8))
    sheet.box(x, 0.8, "embeddings + positions")
    bottom = y = 1.5
    for sublayer in sublayers:
        # The way through the sublayer, and past it into the sum: the residual connection.
        sheet.arrow((x, y - 0.2 * (y == bottom)), (x, y + 0.45))
        sheet.box(x, y + 0.45, sublayer, CHOSEN if sublayer == "feed-forward" else ATTENTION)
        sheet.arrow((x, y + 0.95), (x, y + 1.2))
        sheet.box(x, y + 1.2, "add & norm", height=0.36)
        side = x + 1.5
        sheet.arrow((x, y + 0.2), (side, y + 0.2), (side, y + 1.38), (x + 1.25, y + 1.38))
        y += 1.56
    frame = {"linestyle": ":", "facecolor": "none"}
    sheet.box(x + 0.1, bottom, width=3.1, height=y + 0.1 - bottom, **frame)
    sheet.say(x + 1.83, (bottom + y) / 2, f"{name} layer, N times", rotation=90, fontsize=11)
    return y


# ------------------------------------------------------------------------------------------------ BERT


@styled
def masking(text: Sequence[str], reads: Sequence[str], asked: Sequence[str | None]) -> Picture:
    """Draw masked language modelling on one text: its tokens, what the model reads, and what it is asked (or None)."""
    sheet = _rows(len(text), 10.8)
    for x, name in ((1.4, "the text"), (4.2, "the model reads"), (9.3, "and is asked for")):
        sheet.say(x, _height(len(text), -1), name)
    encoder = "encoder:\nevery token\nmay look at\nevery other"
    sheet.box(6.75, 0.3, encoder, ATTENTION, 2.0, _height(len(text), 0) - 0.05)
    for row, (token, read, answer) in enumerate(zip(text, reads, asked, strict=True)):
        y, fill = _height(len(text), row), "white" if answer is None else CHOSEN
        sheet.box(1.4, y - 0.2, token, width=2.1, height=0.4)
        sheet.arrow((2.45, y), (3.15, y))
        sheet.box(4.2, y - 0.2, read, fill, 2.1, 0.4)
        sheet.arrow((5.25, y), (5.75, y))
        if answer is not None:
            sheet.arrow((7.75, y), (8.25, y))
            sheet.box(9.3, y - 0.2, answer, fill, 2.1, 0.4)
    said = [
        f"{answer} (it reads {read})" for read, answer in zip(reads, asked, strict=True) if answer is not None
    ]
    return describe(
        sheet.picture,
        f"Masked language modelling on {len(text)} tokens. All go into the encoder; the loss asks at {len(said)} of "
        f"them only, for {', '.join(said)}.",
    )


@styled
def read_from_cls(tokens: Sequence[str], width: int, classes: int) -> Picture:
    """Draw how BERT classifies: three embeddings for each token, the encoder, and a head that reads `[CLS]` alone."""
    sheet = _rows(len(tokens), 13.6)
    for x, name in ((1.2, "word"), (3.1, "position"), (4.9, "type"), (9.0, f"{width} numbers each")):
        sheet.say(x, _height(len(tokens), -1), name)
    sheet.box(7.0, 0.3, "LayerNorm,\nencoder", ATTENTION, 1.7, _height(len(tokens), 0) - 0.05)
    for row, token in enumerate(tokens):
        y = _height(len(tokens), row)
        for x, vector in ((1.2, token), (3.1, f"place {row}"), (4.9, "text A")):
            sheet.box(x, y - 0.2, vector, width=1.4, height=0.4)
        sheet.say(2.15, y, "+")
        sheet.say(4.0, y, "+")
        sheet.arrow((5.6, y), (6.15, y))
        sheet.arrow((7.85, y), (8.4, y))
        sheet.box(9.0, y - 0.2, f"h{row}", CHOSEN if row == 0 else "white", 1.2, 0.4)

    # The head: two small matrices on the first vector.
    y = _height(len(tokens), 0)
    sheet.arrow((9.6, y), (10.15, y))
    sheet.box(10.9, y - 0.25, "pooler", CHOSEN, 1.5)
    sheet.arrow((11.65, y), (12.05, y))
    sheet.box(12.8, y - 0.25, "classifier", CHOSEN, 1.5)
    sheet.arrow((12.8, y - 0.25), (12.8, y - 0.85))
    sheet.say(12.8, y - 1.1, f"{classes} logits")
    return describe(
        sheet.picture,
        f"BERT as a classifier of {len(tokens)} tokens. Each token enters as the sum of three embeddings, for word, "
        f"position and token type. LayerNorm and encoder make a vector of {width} numbers of each. The pooler reads "
        f"that of {tokens[0]} alone, and the classifier makes {classes} logits of it.",
    )


def _rows(count: int, width: float) -> Sheet:
    """Make a sheet with a line of headings above `count` rows, one for each token."""
    return Sheet(width, 0.55 * count + 1.2, 0.76 * width)


def _height(count: int, row: int) -> float:
    """Return the height of a row's middle on the sheet of `_rows`: row 0 is the first token's, −1 the headings'."""
    return 0.55 * (count - row) + 0.1
