"""The exercise of notebook 08 on copying layers, so that teacher and student share none."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdtutor.exercises.banks import RIGHT, Wrong
from kdtutor.exercises.definitions import Exercise, Mistake

# ------------------------------------------------------------------------------------------------ 8.2 copying


class _TinyEncoder(nn.Module):
    """As much of a BERT as matters here: `embeddings`, `layers` in a ModuleList, `head`."""

    def __init__(self, depth: int, generator: torch.Generator, width: int = 6, words: int = 10):
        super().__init__()
        self.embeddings = nn.Embedding(words, width)
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.head = nn.Linear(width, words)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator) / 2

    def forward(self, input_ids: Tensor) -> Tensor:
        hidden = self.embeddings(input_ids)
        for layer in self.layers:
            hidden = hidden + layer(hidden).tanh()
        return self.head(hidden)


def copy_layers(
    student: _TinyEncoder, teacher: _TinyEncoder, layers: Sequence[int], wrong: Wrong = RIGHT
) -> nn.Module:
    """Copy the teacher's embeddings, head and chosen layers into a student; the teacher stays as it is."""

    def copied(part: nn.Module, name: str = "") -> nn.Module:
        part = copy.deepcopy(part)
        # Both of the next two, for what has a name: beside one of them it says nothing of its own.
        both = "as the teacher's in all but the numbers" in wrong
        if both and name and not {"frozen along with the teacher", "left in eval mode"} & wrong:
            return part
        if not {"frozen along with the teacher", f"{name} frozen along with the teacher"} & wrong:
            part.requires_grad_(True)
        return part if {"left in eval mode", f"{name} left in eval mode"} & wrong else part.train()

    if "the teacher gets the student's" in wrong:
        for mine, number in zip(student.layers, layers, strict=True):
            teacher.layers[number].load_state_dict(mine.state_dict())
        return student
    if "in the teacher's order" in wrong:
        layers = sorted(layers)
    if "turned round" in wrong:
        layers = layers[::-1]
    chosen = [teacher.layers[i] for i in (range(len(layers)) if "the first layers" in wrong else layers)]
    if "counted from 1" in wrong:
        chosen = [teacher.layers[i - 1] for i in layers]
    if "one layer for all" in wrong:
        chosen = [teacher.layers[layers[-1]] for _ in layers]
    if "the last layers" in wrong:
        chosen = [*teacher.layers[-len(layers) :]]
    if "places and numbers exchanged" in wrong:
        chosen = [student.layers[number] for number in layers]
    if "a shallow copy" in wrong:
        student = copy.copy(teacher)  # its dictionary of modules is the teacher's own
        student.layers = nn.ModuleList(chosen)
        return student
    if "nothing copied" in wrong:
        student.embeddings, student.layers, student.head = (
            teacher.embeddings,
            nn.ModuleList(chosen),
            teacher.head,
        )
        return student
    if "the teacher cut down" in wrong:
        teacher.layers = nn.ModuleList(chosen)
    copies = [copied(layer, "layers") for layer in chosen]
    if "weights shared" in wrong:
        for mine, theirs in zip(copies, chosen, strict=True):
            for weight, shared in zip(mine.parameters(), theirs.parameters(), strict=True):
                weight.data = shared.data
    if "biases left random" in wrong:
        for layer, old in zip(copies, student.layers, strict=True):
            layer.bias = old.bias
    if "layers left random" in wrong:
        copies = [*student.layers]
    student.layers = nn.ModuleList(chosen if "layers shared" in wrong else copies)
    if "embeddings left random" not in wrong:
        student.embeddings = (
            teacher.embeddings if "embeddings shared" in wrong else copied(teacher.embeddings)
        )
    if "head left random" not in wrong:
        student.head = teacher.head if "head shared" in wrong else copied(teacher.head)
    if "the teacher set free" in wrong:
        teacher.requires_grad_(True)
    if "the teacher frozen" in wrong:
        teacher.requires_grad_(False)
    if "the teacher in train mode" in wrong:
        teacher.train()
    return student


def _observe_copying(function, seed: int, depth: int, layers: list[int], frozen: bool) -> dict:
    generator = torch.Generator().manual_seed(seed)
    teacher, student = _TinyEncoder(depth, generator).eval(), _TinyEncoder(len(layers), generator).train()
    teacher.requires_grad_(not frozen)
    texts = torch.randint(0, 10, (4, 5), generator=generator)
    before, free, shown = teacher(texts).detach(), _free(teacher), repr(teacher)
    student = function(student, teacher, layers)
    seen = {"the student's answer before its first step": student(texts).detach()}
    seen["how many layers the teacher has afterwards"] = len(teacher.layers)
    seen["whether the teacher is made of the same parts as before"] = repr(teacher) == shown
    seen["whether the teacher answers as it did"] = torch.equal(teacher(texts), before)
    trained = [p for p in student.parameters() if p.requires_grad]
    loss = F.cross_entropy(student(texts).flatten(0, 1), texts.flatten())
    if trained:
        for parameter, gradient in zip(
            trained, torch.autograd.grad(loss, trained, allow_unused=True), strict=True
        ):
            if gradient is not None:
                parameter.data -= 0.5 * gradient
    seen["the student's answer after a step"] = student(texts).detach()
    seen["the teacher's answer after the student's step"] = teacher(texts).detach()
    seen["whether all of the student's weights can be trained"] = len(trained) == len([*student.parameters()])
    seen["whether the student is in train mode throughout"] = all(part.training for part in student.modules())
    seen["whether the teacher's weights are frozen, or free, as they were"] = _free(teacher) == free
    seen["whether the teacher is in eval mode"] = not any(part.training for part in teacher.modules())
    return seen


def _free(model: nn.Module) -> list[bool]:
    return [parameter.requires_grad for parameter in model.parameters()]


def _teachers(generator: torch.Generator) -> list[tuple]:
    first, second = torch.randint(0, 10**6, (2,), generator=generator).tolist()
    return [(first, 6, [0, 2, 5], False), (second, 5, [4, 0, 3], True)]


COPY_LAYERS = Exercise(
    name="copy_layers",
    number="8.2",
    title="Copied, not shared",
    reference=copy_layers,
    mistakes=(
        Mistake(
            "layers shared",
            "The student's layers are the teacher's own, not copies: what is done to one of them is done to "
            "both. An assignment copies nothing.",
        ),
        Mistake(
            "nothing copied",
            "All of the student's parts are the teacher's own: this is one model under two names. An assignment "
            "copies nothing.",
        ),
        Mistake(
            "embeddings shared",
            "The layers are copies, but the table of embeddings belongs to both models. What is done to it is "
            "done to both.",
        ),
        Mistake(
            "a shallow copy",
            "Your student is a shallow copy, so the two models share one list of parts. Who changes the "
            "student's layers also takes them away from the teacher.",
        ),
        Mistake(
            "the teacher cut down",
            "The student is right, but the teacher has lost the layers that the student does not need. It needs "
            "them to teach.",
        ),
        Mistake(
            "the first layers",
            "The student has the teacher's lowest layers instead of those in `layers`. That is what "
            "load_state_dict with strict off gives: it goes by names, and a name contains a layer's number.",
        ),
        Mistake(
            "embeddings left random",
            "The layers are the teacher's, but they stand on random embeddings. What were they trained to read?",
        ),
        Mistake(
            "head left random",
            "Embeddings and layers are the teacher's, but the head is still random. The teacher's own could "
            "read these hidden states.",
        ),
        Mistake(
            "head shared",
            "The layers are copies, but the head belongs to both models. What is done to it is done to both.",
        ),
        Mistake(
            "layers left random",
            "Embeddings and head are the teacher's, and the layers between them are still random.",
        ),
        Mistake(
            "one layer for all",
            "All of the student's layers are the same one of the teacher's. Each number in `layers` is one of them.",
        ),
        Mistake(
            "biases left random",
            "Your layers have the teacher's matrices, and biases of their own. A layer's state_dict() is all it has.",
        ),
        Mistake(
            "the teacher gets the student's",
            "You copy the other way round, from the student into the teacher, whose knowledge is overwritten.",
        ),
        Mistake(
            "as the teacher's in all but the numbers",
            "Your layers are copies, but deep ones: frozen where the teacher is, and in eval mode. Both would have to "
            "be undone, or only the numbers copied.",
        ),
        Mistake(
            "frozen along with the teacher",
            "Some of the student's weights can't be trained: a deep copy of something frozen is frozen too.",
            also=("layers frozen along with the teacher",),
        ),
        Mistake(
            "left in eval mode",
            "Part of the student is in eval mode, as the teacher was: a deep copy keeps the mode. Dropout would "
            "be off without anybody having said so.",
            also=("layers left in eval mode",),
        ),
        Mistake(
            "the teacher set free",
            "The teacher's weights can be trained now, although nobody will train it. Undo the freezing on the "
            "student alone.",
        ),
        Mistake(
            "in the teacher's order",
            "The layers are the right ones, but they stand in the teacher's order. The order of `layers` was "
            "asked for.",
        ),
        Mistake(
            "turned round",
            "The layers are the right ones, in reverse.",
        ),
        Mistake(
            "counted from 1",
            "Each of your layers is the one below the right one. From which number does a list count?",
        ),
        Mistake(
            "the last layers",
            "The student has the teacher's uppermost layers instead of those in `layers`.",
        ),
        Mistake(
            "the teacher frozen",
            "The teacher's weights are frozen now, and they were not. It was to be left as it was.",
        ),
        Mistake(
            "the teacher in train mode",
            "The teacher is in train mode afterwards. It was to be left as it was.",
        ),
        Mistake(
            "weights shared",
            "The student's layers are modules of their own, but their weights are the teacher's: .data was handed "
            "over, not copied.",
        ),
        Mistake(
            "places and numbers exchanged",
            "You look for the teacher's numbers among the student's layers. Which of the two counts the student's "
            "places?",
        ),
    ),
    planted=("layers shared",),
    symptom="After a training step of the student, the teacher gives other answers.",
    probes=_teachers,
    observe=_observe_copying,
)


EXERCISES = [COPY_LAYERS]
