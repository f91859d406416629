"""A step of an optimiser, which several exercises share, with the mistakes that are made in it."""

from __future__ import annotations

from torch import Tensor, nn
from torch.optim import Optimizer

from kdtutor.exercises.banks import Wrong
from kdtutor.exercises.definitions import Mistake


def take_step(model: nn.Module, optimizer: Optimizer, loss: Tensor, wrong: Wrong) -> None:
    """Clear the gradients of an earlier step, go backward, and step."""
    if "gradients not cleared" not in wrong:
        model.zero_grad()
    if "the step before the backward pass" in wrong:
        optimizer.step()
    loss.backward()
    if "the step finds no gradients" in wrong:
        model.zero_grad()
    if not {"no step", "the step before the backward pass"} & wrong:
        optimizer.step()


STEPPING = (
    Mistake(
        "gradients not cleared",
        "The first step is right and the second is not: the gradients of the first are still in it.",
    ),
    Mistake("no step", "The loss is right, but the weights have not moved: who takes the step?"),
    Mistake(
        "the step finds no gradients",
        "The optimiser steps when there are no gradients: before the backward pass, or after they were cleared.",
        also=("the step before the backward pass",),
    ),
)
GRAPH_KEPT = Mistake(
    "the returned loss keeps its graph",
    "The loss that you return still holds everything needed for another backward pass. Whoever keeps a list of losses "
    "keeps all of that in memory.",
)
LOSS_AFTER = Mistake(
    "the loss after the step",
    "You return the loss of the model *after* its step, at the price of a second forward pass. The one that gave the "
    "gradient was asked for.",
)
