"""A teacher, how it is run, and what may stand in for it: the base of teachers.py, top_logits.py and several.py."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from transformers import PreTrainedModel

from kdtutor.models.forward import Outputs, forward
from kdtutor.objectives.terms import Batch


@dataclass(frozen=True)
class Inference:
    """A teacher, and how it is run. progress: whether to show a bar (see `bar`).

    vocabulary: how many tokens the student knows, where tokens have logits. What a teacher has beyond only rounds up
    its table, and no text has it: those logits are cut off.
    """

    model: PreTrainedModel
    accelerator: Accelerator
    bf16: bool
    fast: bool
    progress: bool | None = False
    vocabulary: int | None = None

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.accelerator.device.type, torch.bfloat16, enabled=self.bf16)

    @torch.no_grad()
    def outputs(self, inputs: Batch, needs: Set[str]) -> Outputs:
        with self.autocast():
            found = forward(self.model.eval(), inputs, needs, inputs.get("rows"), self.fast)
        return found if self.vocabulary is None else found.narrowed(self.vocabulary)


class Answers:
    """The outputs of no teacher. mode: a phrase that says how the teacher is asked, and why; bytes: what is kept."""

    mode = "not used (no term needs a teacher)"
    bytes = 0

    def ask(self) -> None:
        """Ask once what no step changes. KDTutorError if the answers find no room, or are not finite."""

    def ask_anew(self) -> None:
        """Ask again, also where the answers are known already: what it takes is timed."""
        self.ask()

    def is_shipped(self) -> bool:
        """Tell whether the answers come with the course, and nobody is asked."""
        return False

    def outputs(self, batch: Batch, inputs: Batch) -> Outputs | None:
        """Give the teacher's outputs for a micro-batch, which lies on the host (`batch`) and the device (`inputs`)."""
        return None
