"""The exercises of notebook 06 on layers: how alike two are, which teaches which, and a hint with its projection."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from kdtutor.exercises.banks import RIGHT, Wrong
from kdtutor.exercises.definitions import Exercise, Mistake
from kdtutor.exercises.toys import keeps_graph, weights_of

# ------------------------------------------------------------------------------------------------ 6.1 linear CKA


def linear_cka(x: Tensor, y: Tensor, mask: Tensor, wrong: Wrong = RIGHT) -> Tensor:
    """‖YᵀX‖² / (‖XᵀX‖ ‖YᵀY‖), Frobenius norms, of two layers (B, L, D) over the tokens that are not padding."""
    if "each text by itself" in wrong:
        texts = zip(x.split(1), y.split(1), mask.split(1), strict=True)
        return torch.stack([linear_cka(*text) for text in texts]).mean()
    early = "padding in the means" in wrong
    if early:
        x, y = x - x.mean((0, 1)), y - y.mean((0, 1))
    real = torch.ones_like(mask) if "padding counted" in wrong else mask
    if "one vector for each text" in wrong:
        x, y = ((z * mask[..., None]).sum(1) / mask.sum(1, keepdim=True) for z in (x, y))
    elif "padding as zeros" in wrong:
        x, y = ((z * mask[..., None]).flatten(0, 1) for z in (x, y))
    else:
        x, y = x[real.bool()], y[real.bool()]
    if "each token centred by itself" in wrong:
        x, y = (z - z.mean(-1, keepdim=True) for z in (x, y))
    elif not early and "not centred" not in wrong:
        x, y = x - x.mean(0), y - y.mean(0)
    if "divided by spread" in wrong:
        x, y = x / x.std(0), y / y.std(0)
    if "another norm" in wrong:
        return _cka_by("nuc", x, y)
    if "the largest singular value for a norm" in wrong:
        return _cka_by(2, x, y)
    top = (y.T @ x).norm()
    top = top if "the square left out" in wrong else top.square()
    if "not divided" in wrong:
        return top
    if "divided by the layers' own norms" in wrong:
        return top / (x.norm() * y.norm()).square()
    if "divided by one layer alone" in wrong:
        return top / (x.T @ x).norm().square()
    if "divided by the other layer alone" in wrong:
        return top / (y.T @ y).norm().square()
    bottom = (x.T @ x).norm() * (y.T @ y).norm()
    return top / (bottom.square() if "both norms squared" in wrong else bottom)


def _cka_by(norm: str | int, x: Tensor, y: Tensor) -> Tensor:
    top, left, right = (torch.linalg.norm(m, norm) for m in (y.T @ x, x.T @ x, y.T @ y))
    return top.square() / (left * right)


def _two_layers(generator: torch.Generator) -> tuple:
    """Padded states of two models that have something in common, far from 0, and as large at the padding."""
    texts, longest = 9, 7
    x = torch.randn(texts, longest, 6, generator=generator)
    y = torch.randn(texts, longest, 5, generator=generator)
    y[..., :3] += x[..., :3]
    lengths = torch.randint(2, longest, (texts, 1), generator=generator)
    mask = torch.arange(longest) < lengths
    x[~mask], y[~mask] = 3 * x[~mask], 3 * y[~mask] + 1
    return x + 0.5, y - 0.7, mask.long()


LINEAR_CKA = Exercise(
    name="linear_cka",
    number="6.1",
    title="Linear CKA",
    reference=linear_cka,
    mistakes=(
        Mistake(
            "each text by itself",
            "You compare within each text, and average over the texts. With so few tokens at a time a CKA is near 1 "
            "whatever the layers are: all tokens belong into one matrix.",
        ),
        Mistake(
            "not centred",
            "Your columns are not centred. Then whatever two layers have as their mean vector counts as something in "
            "common, and almost any two look alike.",
        ),
        Mistake(
            "padding counted",
            "What stands at the padding is in your sums. How far the longest text of a batch sticks out must not "
            "decide how alike two layers are.",
        ),
        Mistake(
            "padding in the means",
            "Your sums leave the padding out, but your means were taken before that.",
        ),
        Mistake(
            "each token centred by itself",
            "You take off each token's own mean. Centring is done down the columns: each coordinate gets the mean 0 "
            "over all tokens.",
        ),
        Mistake(
            "padding as zeros",
            "Your padding is zeros now, and still rows of the matrix: it pulls the means towards 0, and after the "
            "centring it is not even 0 any more. Select the tokens first.",
        ),
        Mistake(
            "one vector for each text",
            "You average each text's tokens first, and compare texts. The rows are to be the tokens.",
        ),
        Mistake(
            "divided by one layer alone",
            "Below the bar one layer stands twice. Each of the two has its own norm there, or a stretched copy would "
            "not be 1.",
            also=("divided by the other layer alone",),
        ),
        Mistake(
            "another norm",
            "That is another norm of a matrix. Frobenius' is the root of the sum of all squares.",
            also=("the largest singular value for a norm",),
        ),
        Mistake("the square left out", "The norm above the fraction bar is to be squared."),
        Mistake(
            "not divided", "Your number grows with the layers' size: there is a fraction bar in the formula."
        ),
        Mistake(
            "divided by the layers' own norms",
            "Below the bar stand norms of products, of a layer with itself. You took the norms of the layers.",
        ),
        Mistake("both norms squared", "The norms below the fraction bar are not squared."),
        Mistake(
            "divided by spread",
            "You bring each column to one scale. CKA leaves scales as they are: what varies more counts more.",
        ),
    ),
    probes=lambda generator: [_two_layers(generator) for _ in range(3)],
)


# ------------------------------------------------------------------------------------------------ 6.2 layer map


def even_map(student_depth: int, teacher_depth: int, wrong: Wrong = RIGHT) -> dict[int, int]:
    """{student's layer: teacher's}, both counted from 1 (0 is the embeddings): i from i · n / m, rounded up."""
    m, n = student_depth, teacher_depth
    if "every second whatever the depths" in wrong:
        return {i: min(2 * i, n) for i in range(1, m + 1)}
    if "the first layers" in wrong:
        return {i: i for i in range(1, m + 1)}
    if "the first from the first" in wrong:
        return {i + 1: 1 + (round(i * (n - 1) / (m - 1)) if m > 1 else 0) for i in range(m)}
    if "the first from the first, rounded down" in wrong:
        return {i + 1: 1 + (i * (n - 1) // (m - 1) if m > 1 else 0) for i in range(m)}
    rounded = math.floor if "rounded down" in wrong else math.ceil
    rounded = round if "rounded to the nearest" in wrong else rounded
    pairs = {i: rounded(i * n / m) for i in range(1, m + 1)}
    if "one step for all" in wrong:
        pairs = {i: i * (n // m) for i in range(1, m + 1)}
    if "one step for all, rounded up" in wrong:
        pairs = {i: i * math.ceil(n / m) for i in range(1, m + 1)}
    if "embeddings taken for the first layer" in wrong:
        pairs = {i - 1: j - 1 for i, j in pairs.items()}
    if "the embeddings as well" in wrong:
        pairs = {0: 0} | pairs
    return {j: i for i, j in pairs.items()} if "the teacher learns from the student" in wrong else pairs


EVEN_MAP = Exercise(
    name="even_map",
    number="6.2",
    title="An even map",
    reference=even_map,
    mistakes=(
        Mistake(
            "embeddings taken for the first layer",
            "Your layers are counted from 0, and 0 is the embeddings: each pair is one layer too low, and the last "
            "layers are left out.",
        ),
        Mistake(
            "every second whatever the depths",
            "You take every second layer of any teacher. That fits if it is twice as deep as the student.",
        ),
        Mistake(
            "rounded down",
            "You round down. Where the depths do not divide, layers of the student would learn from too low ones: "
            "the map rounds up.",
        ),
        Mistake(
            "the first from the first",
            "You spread from the first layer to the last. Here the student's first layer already does the work of "
            "several of the teacher's, so it learns from the last of these.",
            also=("the first from the first, rounded down",),
        ),
        Mistake("rounded to the nearest", "You round to the nearest layer. The map rounds up."),
        Mistake(
            "one step for all",
            "You round the quotient of the depths, and then count in such steps: where they do not divide, you end "
            "below the teacher's last layer, or above it. Round each product by itself.",
            also=("one step for all, rounded up",),
        ),
        Mistake(
            "the first layers",
            "Your student learns from the first layers, and never hears of the last.",
        ),
        Mistake(
            "the embeddings as well", "You pair the embeddings, too. Here the layers alone are asked for."
        ),
        Mistake(
            "the teacher learns from the student",
            "Keys and values are exchanged: the key is the student's layer, the value the teacher's.",
        ),
    ),
    probes=lambda generator: [(3, 6), (2, 6), (4, 6), (6, 12), (5, 12), (1, 4), (3, 3)],
)


# ------------------------------------------------------------------------------------------------ 6.3 a hint


def train_with_hints(
    student: nn.Module, projection: nn.Module, inputs: Tensor, teacher_hidden: Tensor, steps: int,
    learning_rate: float, wrong: Wrong = RIGHT,
) -> float:  # fmt: skip
    """Steps of SGD on the mean squared difference of projection(student(inputs)) and teacher_hidden; the last loss."""
    held = [*student.parameters(), *projection.parameters()]
    if "projection left out of the optimiser" in wrong:
        held = [*student.parameters()]
    if "only the projection learns" in wrong:
        held = [*projection.parameters()]
    if "only the projection's matrix learns" in wrong:
        held = [*student.parameters(), projection.weight]
    optimizer, losses = _optimizer(held, learning_rate, wrong), []
    for _ in range(steps):
        hidden = student(inputs)
        hidden = hidden.detach() if "the student detached" in wrong else hidden
        if "the teacher projected" in wrong:
            difference = hidden - projection(teacher_hidden)
        else:
            difference = projection(hidden) - teacher_hidden
        if "summed over the width" in wrong:
            loss = difference.square().sum(-1).mean()
        elif "distances not squared" in wrong:
            loss = difference.norm(dim=-1).mean()
        else:
            loss = difference.square().mean()
        if "never cleared" not in wrong:
            student.zero_grad()
            projection.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss)
    if "the first loss" in wrong:
        return losses[0].item()
    if "the mean of the losses" in wrong:
        return torch.stack(losses).mean().item()
    if "the loss after the last step" in wrong:
        return (projection(student(inputs)) - teacher_hidden).square().mean().item()
    return losses[-1] if "the returned loss keeps its graph" in wrong else losses[-1].item()


def _optimizer(held: list[Tensor], rate: float, wrong: Wrong) -> torch.optim.Optimizer:
    if "Adam" in wrong:
        return torch.optim.Adam(held, lr=rate)
    if "AdamW" in wrong:
        return torch.optim.AdamW(held, lr=rate)
    return torch.optim.SGD(held, lr=rate, momentum=0.9 if "another optimiser" in wrong else 0)


def _observe_hints(function: Callable, student: nn.Module, projection: nn.Module, *rest) -> dict:
    before = weights_of(student), weights_of(projection)
    loss = function(student, projection, *rest)
    after = weights_of(student), weights_of(projection)
    return {
        "whether the student learns": not torch.equal(before[0], after[0]),
        "whether the projection learns": not torch.equal(before[1], after[1]),
        "whether the returned loss keeps its graph": keeps_graph(loss),
        "the change of the student's weights": after[0] - before[0],
        "the change of the projection's weights": after[1] - before[1],
        "the loss that is returned": loss,
    }


def _hint_probes(generator: torch.Generator) -> list[tuple]:
    probes = []
    for texts, steps in ((7, 3), (5, 2)):
        # with a bias in the second: who hands over the matrix alone forgets it
        student, projection = nn.Linear(4, 3), nn.Linear(3, 6, bias=texts == 5)
        for weights in (*student.parameters(), *projection.parameters()):
            nn.init.normal_(weights, generator=generator)
        inputs = torch.randn(texts, 4, generator=generator)
        probes.append((student, projection, inputs, torch.randn(texts, 6, generator=generator), steps, 0.05))
    return probes


TRAIN_WITH_HINTS = Exercise(
    name="train_with_hints",
    number="6.3",
    title="A hint that is never quite understood",
    reference=train_with_hints,
    mistakes=(
        Mistake(
            "projection left out of the optimiser",
            "Your projection has at the end the random numbers that it began with. Nobody raised an error: it gets "
            "gradients, and no optimiser holds it.",
        ),
        Mistake(
            "only the projection learns",
            "Your projection learns and the student does not: no optimiser holds it, or its states were cut off from "
            "their graph. A good translator of a layer that stays as it was.",
            also=("the student detached",),
        ),
        Mistake(
            "only the projection's matrix learns",
            "A projection may have a bias as well, and yours never learns. A module's parameters() are all it has.",
        ),
        Mistake(
            "another optimiser",
            "Your steps are those of another optimiser. Plain SGD was there, and nothing was wrong with it.",
            also=("Adam", "AdamW"),
        ),
        Mistake(
            "the teacher projected",
            "You send the teacher's states through the projection. It maps the student's to the teacher's width.",
        ),
        Mistake(
            "the mean of the losses", "You return a mean over the steps. The last step's loss was asked for."
        ),
        Mistake(
            "the loss after the last step",
            "The training is right. Your loss is measured once more at the end; the one asked for is that of the last "
            "step, before its weights moved.",
        ),
        Mistake(
            "never cleared",
            "Your first step is right. The later ones still have the gradients of those before.",
        ),
        Mistake(
            "summed over the width",
            "Your loss is a sum over the width. Taken as a mean it would not grow with the teacher.",
        ),
        Mistake("distances not squared", "Your loss has a root in it: squared differences are asked for."),
        Mistake("the first loss", "You return the loss of the first step. The last one was asked for."),
        Mistake(
            "the returned loss keeps its graph",
            "What you return still holds its graph. A plain number was asked for.",
        ),
    ),
    probes=_hint_probes,
    observe=_observe_hints,
    planted=("projection left out of the optimiser",),
    symptom="The loss falls, and still ends higher than it could: two modules are trained here, and one of them stands "
    "still.",
)


EXERCISES = [LINEAR_CKA, EVEN_MAP, TRAIN_WITH_HINTS]
