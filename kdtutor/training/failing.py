"""What a step may fail of though nothing is wrong with the run: a compiler that is not there, or too little memory."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, TypeVar

from kdtutor.hardware import is_full
from kdtutor.training.memory import what_would_fit

T = TypeVar("T")


def taken(run: Any, step: Callable[[], T]) -> T:
    """Take a step of `run` (a Distillation), once more without torch.compile, and with a warning, if that fails.

    A step begins with no gradients and randomness of its own: taken again it is the same. Raises MemoryFull, which
    names what would fit, if there is not enough memory.
    """
    try:
        return step()
    except RuntimeError as error:
        if is_full(error):
            raise what_would_fit(run, error) from error
        if not (run.settings.compile and _is_of_the_compiler(error)):
            raise
        reason = getattr(error, "inner_exception", error)
        said = (str(reason).strip() or "no reason told").splitlines()[0]
        warnings.warn(
            f"torch.compile failed, training goes on without it: {type(reason).__name__}: {said}",
            stacklevel=4,
        )
    run.student.base_model._compiled_call_impl = None
    return step()


def _is_of_the_compiler(error: RuntimeError) -> bool:
    # Takes long to import; whoever compiles has it already.
    from torch._dynamo.exc import TorchDynamoException

    return isinstance(error, TorchDynamoException)
