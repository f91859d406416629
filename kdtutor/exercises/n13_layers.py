"""The exercise of notebook 13 on the layers that are rounded first."""

from __future__ import annotations

from itertools import combinations

import torch
from torch import Tensor

from kdtutor.exercises.banks import RIGHT
from kdtutor.exercises.definitions import Exercise, Mistake

# ----------------------------------------------------------------------------------------------- 13.3 which layers


def layers_to_quantize(
    error: Tensor, bytes: Tensor, budget: float, wrong: frozenset[str] = RIGHT
) -> list[int]:
    """Choose layers to store in int8, a quarter of their bytes, until all bytes together are at most `budget`.

    error, bytes (n,): what int8 in this layer alone does to the logits, and its size in float32. One layer after the
    other goes, that of the least error for each byte saved first. Returns their numbers in increasing order.
    """
    share = 1 if "a layer in int8 is free" in wrong else 0.25 if "a quarter is saved" in wrong else 0.75
    saved = bytes * share
    price = error / saved
    if "size does not count" in wrong:
        price = error
    if "by the bytes alone" in wrong:
        price = -bytes
    if "the smallest layer first" in wrong:
        price = bytes
    if "in the order of the layers" in wrong:
        price = torch.arange(len(bytes))
    if "the last layers first" in wrong:
        price = -torch.arange(len(bytes))
    if "error times bytes" in wrong:
        price = error * bytes
    if "the budget is to be saved" in wrong:
        budget = float(bytes.sum()) - budget
    if "the least error of all choices" in wrong:
        return _least_error(error, bytes, budget)
    if "the most sensitive first" in wrong:
        price = -price
    chosen, left = [], float(bytes.sum())
    for i in price.argsort(stable=True).tolist():
        met = left < budget if "a layer more where the budget is just met" in wrong else left <= budget
        if "one layer in any case" in wrong:
            met = met and bool(chosen)
        if met and not {"what is rounded fills the budget", "all layers"} & wrong:
            break
        if "what is rounded fills the budget" in wrong and float(bytes[[*chosen, i]].sum()) > budget:
            break
        if "stops a layer too early" in wrong and left - float(saved[i]) <= budget:
            break
        chosen.append(i)
        left -= float(saved[i])
    if "those that stay" in wrong:
        chosen = sorted({*range(len(bytes))} - {*chosen})
    if "places in the order" in wrong:
        return list(range(len(chosen)))
    if "yes or no for each layer" in wrong:
        return [int(i in chosen) for i in range(len(bytes))]
    return chosen if "in the order they went" in wrong else sorted(chosen)


def _least_error(error: Tensor, bytes: Tensor, budget: float) -> list[int]:
    """Find the layers whose errors together are the least, of all choices that keep to the budget."""
    some = [each for n in range(len(error) + 1) for each in combinations(range(len(error)), n)]
    kept = [each for each in some if float(bytes.sum() - 0.75 * bytes[list(each)].sum()) <= budget]
    return list(min(kept, key=lambda each: float(error[list(each)].sum())))


def _layer_probes(generator: torch.Generator) -> list[tuple]:
    probes = []
    # of the last but one exactly the budget is reached, and of the last nothing has to go
    for n, share in ((6, 0.7), (9, 0.5), (8, 0.6), (7, None), (5, 1.1)):
        bytes = torch.randint(1, 40, (n,), generator=generator).float() * 4
        error = torch.rand(n, generator=generator) * bytes.sqrt()
        saved = 0.75 * bytes[(error / bytes).argsort()]
        met = float(bytes.sum() - saved[:3].sum())  # to the byte
        probes.append((error, bytes, share * float(bytes.sum()) if share else met))
    return probes


LAYERS_TO_QUANTIZE = Exercise(
    name="layers_to_quantize",
    number="13.3",
    title="Which layers go first?",
    reference=layers_to_quantize,
    mistakes=(
        Mistake(
            "the most sensitive first",
            "You round those layers that bear it least. Which end of the list costs the answers little?",
        ),
        Mistake(
            "size does not count",
            "You go by the error alone. A small layer with a small error saves next to nothing: error for what?",
        ),
        Mistake(
            "by the bytes alone",
            "You go by the bytes alone, whatever it does to the answers.",
            also=("the smallest layer first",),
        ),
        Mistake(
            "places in the order",
            "You return places in the order of going. Which layers stand at these places?",
        ),
        Mistake(
            "a layer in int8 is free",
            "A layer in int8 still takes a byte for each weight: three quarters are saved.",
        ),
        Mistake(
            "stops a layer too early",
            "Your model is still larger than the budget: the last layer is missing.",
        ),
        Mistake(
            "a layer more where the budget is just met",
            "Where all bytes together are exactly the budget, you let one more layer go. At most, it said.",
        ),
        Mistake("a quarter is saved", "Of a layer in int8 a quarter stays. How much of it is saved, then?"),
        Mistake(
            "what is rounded fills the budget",
            "You add up the layers that went until they fill the budget. It is for all bytes together, of those that "
            "stayed and of what is left of the others.",
        ),
        Mistake(
            "in the order of the layers",
            "You go through the layers as they stand. Which one costs the answers least for what it saves?",
            also=("the last layers first",),
        ),
        Mistake(
            "error times bytes",
            "You multiply the error by the bytes. An error *for each byte* is a quotient.",
        ),
        Mistake(
            "the budget is to be saved",
            "You save as many bytes as the budget has. The budget is what may be left.",
        ),
        Mistake("all layers", "You let all layers go. It is enough to come down to the budget."),
        Mistake(
            "the least error of all choices",
            "You search all choices for the least error, which takes 2ⁿ trials. Asked for is one layer after the "
            "other, by its error for each byte.",
        ),
        Mistake(
            "one layer in any case",
            "Where the bytes are within the budget from the beginning, you still let a layer go: when do you look?",
        ),
        Mistake(
            "those that stay", "Those are the layers that stay in float32, and the others were asked for."
        ),
        Mistake(
            "yes or no for each layer", "You say of each layer whether it went; their numbers were asked for."
        ),
        Mistake("in the order they went", "Those are the layers. They were to be named in increasing order."),
    ),
    probes=_layer_probes,
    observe=lambda function, *arguments: {
        "how many layers there are": len(found := [int(i) for i in function(*arguments)]),
        "the list of their numbers": torch.tensor(found, dtype=torch.float64),
    },
)

EXERCISES = [LAYERS_TO_QUANTIZE]
