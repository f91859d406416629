"""The answers of an ensemble: each teacher is asked as if it were alone, and all are combined at each step."""

from __future__ import annotations

import os
from collections.abc import Sequence, Set
from dataclasses import replace

import torch

from kdtutor.errors import KDTutorError
from kdtutor.models.ensemble import Ensemble
from kdtutor.models.forward import Outputs
from kdtutor.objectives.terms import Batch, Term
from kdtutor.training.asking import Answers, Inference
from kdtutor.training.batches import Batches
from kdtutor.training.settings import TopK
from kdtutor.training.teachers import answers_for


class Several(Answers):
    """Several teachers' answers, kept one by one: a folder that has some of them already is asked for the others."""

    def __init__(self, ensemble: Ensemble, each: Sequence[Answers]):
        self.ensemble, self.each = ensemble, each
        self.bytes = sum(answers.bytes for answers in each)

    @property
    def mode(self) -> str:  # type: ignore[override]
        modes = [answers.mode for answers in self.each]
        each = [f"teacher {number} {mode}" for number, mode in enumerate(modes, start=1)]
        told = f"each {modes[0]}" if len({*modes}) == 1 else "; ".join(each)
        return f"{len(self.each)} teachers, their {self.ensemble.config.combine} averaged: {told}"

    def ask(self) -> None:
        self._of_each("ask")

    def ask_anew(self) -> None:
        self._of_each("ask_anew")

    def is_shipped(self) -> bool:
        return all(answers.is_shipped() for answers in self.each)

    def outputs(self, batch: Batch, inputs: Batch) -> Outputs:
        logits = torch.stack([answers.outputs(batch, inputs).logits.float() for answers in self.each])
        pool = self.ensemble.pool(logits)
        return Outputs(pool.at(1.0), pool=pool)

    def _of_each(self, what: str) -> None:
        for number, answers in enumerate(self.each, start=1):
            try:
                getattr(answers, what)()
            except KDTutorError as error:
                raise KDTutorError(f"teacher {number}: {error}") from error


def answers_of(
    inference: Inference,
    terms: Sequence[Term],
    needs: Set[str],
    batches: Batches,
    split: str,
    cache: bool | str | os.PathLike | TopK,
) -> Answers:
    """Return the answers of one teacher, or of an ensemble, as `answers_for` does of one."""
    if not isinstance(inference.model, Ensemble) or not needs:
        return answers_for(inference, terms, needs, batches, split, cache)
    members = (replace(inference, model=member) for member in inference.model.members)
    return Several(
        inference.model, [answers_for(member, terms, needs, batches, split, cache) for member in members]
    )
