"""The training loop: a student, a teacher (or none), a task, and an objective.

    run = Distillation(student, teacher, task, 0.1 * HardLabels() + 0.9 * SoftTargets(temperature=4), epochs=3)
    for step in run:            # an iterator: break, plot, change goal.temperature, go on
        ...

One loop serves pre-training (`MaskedLM()`, no teacher), fine-tuning (`HardLabels()`, no teacher) and distillation.
Read `Distillation._train_step` first: it is the whole idea, and the rest makes it fast, resumable and safe. The
teacher's side of a step is teachers.py, what may be set settings.py, what changes while a run learns state.py; it is
saved and resumed by resumable.py.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedModel

from kdtutor.data.load import load_task
from kdtutor.data.task import Task
from kdtutor.hardware import FreedMemory, peak_memory
from kdtutor.models.forward import forward, record_for_good
from kdtutor.models.load import load_teacher
from kdtutor.neighbours import Neighbours
from kdtutor.objectives.rows import ObjectiveError
from kdtutor.objectives.terms import Objective, Term
from kdtutor.training import checkpoints, processes, sharding, vocabulary
from kdtutor.training.asking import Answers, Inference
from kdtutor.training.batches import Batches
from kdtutor.training.checks import check_run, check_texts_at_once
from kdtutor.training.diagnosis import Diagnosis, diagnose, share_clipped, warn_if_mostly_clipped
from kdtutor.training.failing import taken
from kdtutor.training.on_policy import Writing
from kdtutor.training.randomness import own_randomness
from kdtutor.training.resumable import CHECK_EVERY, Resumable
from kdtutor.training.settings import Settings, TopK, check_setting, describe, takes_settings
from kdtutor.training.several import answers_of
from kdtutor.training.state import Learning
from kdtutor.training.teacher_check import check_teacher
from kdtutor.training.validation import Validation


@dataclass(frozen=True)
class Step:
    """One optimiser step. Reading `loss` or `terms` waits for the device; not reading them keeps it busy."""

    number: int  # 1 for the first
    epoch: float  # passes over the data so far
    total: int
    run: Distillation = field(repr=False)

    @property
    def loss(self) -> float:
        return self.run.history[self.number - 1]["loss"]

    @property
    def terms(self) -> dict[str, float]:
        row = self.run.history[self.number - 1]
        return {name: row[name] for name in self.run.term_names}


class Distillation(Resumable):
    """Train `student` on `task` to minimise `objective`, with `teacher` (None where no term needs one).

    Iterate over it (a `Step` each optimiser step), or call `run()`. Breaking off and iterating again goes on
    where it stopped. `learning_rate`, and the objective's weights and temperatures, may be changed between
    steps. The teacher is frozen: eval mode, no gradients.

    `teacher_mode` says how the teacher is asked, and why; `diagnose()` whether the student is trained. Raises
    KDTutorError before the first step if anything does not fit, MemoryFull if a step finds no memory, NonFiniteLoss
    within ten steps if a loss or gradient is not finite; warns at the end if more than half of the steps were clipped.
    Launched with FSDP, processes divide the student's weights (sharding.py), and `whole()` gives all of them.

    Read in this order: `_train_step`, `_losses`, `__init__`, `__iter__`; the rest as you need it. The settings:
    """

    @takes_settings
    def __init__(
        self,
        student: PreTrainedModel,
        teacher: PreTrainedModel | str | None,
        task: Task | str,
        objective: Objective | Term,
        **settings,
    ):
        # Who learns what from whom, and how it is written down.
        self.settings = given = Settings.of(settings)
        self.task = task = load_task(task) if isinstance(task, str) else task
        self.teacher = load_teacher(task, teacher) if isinstance(teacher, str) else teacher
        check_run(student, self.teacher, task, objective, given)
        self.student, self.split = student, given.split
        self.objective = objective if isinstance(objective, Objective) else Objective([objective])
        self.seed, self.masking, self.progress = given.seed, given.masking, given.progress
        self.folder = None if given.folder is None else checkpoints.writable(given.folder)

        # On which devices, in which batches, for how long; what both forward passes compute.
        self.accelerator = processes.join_launch()
        self.device = self.accelerator.device
        learns_texts = None if task.rules.per_token else student
        self.bf16 = processes.is_bf16(self.accelerator, given.precision, learns_texts)
        self._prepare_batches()
        self._prepare_models()
        self._decide_needs()

        # What learns, at what rate, and how far it is.
        self._learning = Learning(student, self.objective, given.weight_decay, self.device, self.sharded)
        self.parameters, self.optimizer = self._learning.parameters, self._learning.optimizer
        self.validation = Validation(
            self._learning, task, given, self.accelerator, self.batches.per_epoch, self.total_steps
        )
        self.learning_rate = given.learning_rate
        self._began_with = repr(self.objective)
        self._saved: tuple | None = None  # step and settings of the checkpoint that the loop wrote last

        # The teacher's answers, asked once where no step changes them.
        self.answers = self.answers_with(given.cache)
        self.answers.ask()

    # ------------------------------------------------------------------------------------------ the step

    def _train_step(self) -> dict:
        """Take one step, forward, loss, backward, update, with one mean over all micro-batches and all processes."""
        if not any(term.weight for term in self.objective.terms):
            raise ObjectiveError(f"every weight of {self.objective} is 0: there is nothing to learn")
        if not self.student.training:
            self.student.train()

        # The texts: the data's, or in a share of the steps what the student itself writes.
        micro_batches = self.batches[self.done]
        if self.writing:
            micro_batches = self.writing.instead_of(micro_batches, self.done)

        # How much each term counts: its weight, and over how many valid items its mean is taken.
        weights = torch.tensor([term.weight for term in self.objective.terms], device=self.device)
        counts = self._counts(micro_batches)

        # Forward and backward, micro-batch by micro-batch: losses and gradients add up.
        sums = torch.zeros_like(weights)
        self.optimizer.zero_grad(set_to_none=True)
        with own_randomness(self.device, self.seed, "dropout", self.done, self.accelerator.process_index):
            for batch in micro_batches:
                loss, losses = self._losses(batch, weights / counts)
                loss.backward()
                sums += losses
            self._keep_pace()

        # Over all processes.
        processes.sum_gradients(self.accelerator, self.parameters)
        terms = processes.sum_values(self.accelerator, sums) / counts
        loss = (weights * terms).sum()

        # Update.
        norm = processes.clip_gradients(self.accelerator, self.parameters, self.settings.max_norm)
        rate = self.learning_rate * self.settings.schedule(self.done, self.total_steps)
        self._learning.update(rate, is_finite=torch.isfinite(norm + loss))
        return self._record(rate, torch.cat([torch.stack([loss, norm]), terms]))

    def _record(self, rate: float, values: Tensor) -> dict:
        """Add to the history what is told of a step: its loss, norm and terms (`values`) stay on the device."""
        row = {
            "step": self.done + 1,
            "epoch": (self.done + 1) / self.batches.per_epoch,
            "tokens": self.batches.tokens(self.done),
            "learning_rate": rate,
            "settings": self.objective.settings(),
            "seconds": 0.0,
            "peak_memory": 0,
        }
        self._learning.history.add(row, values)
        return row

    def _losses(self, batch: dict, factors: Tensor) -> tuple[Tensor, Tensor]:
        """Run both forward passes, and sum every term over its valid items (0 where its weight is 0).

        Returns Σ factor · loss, to go backward from (0-d), and the losses without gradients (n_terms,).
        """
        inputs = {name: value.to(self.device, non_blocking=True) for name, value in batch.items()}
        teacher = self.answers.outputs(batch, inputs)

        # The student's forward pass, and the terms whose logits are made chunk by chunk.
        total, by_chunk = 0, 0
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            call = self.sharded or forward
            student = call(self.student, inputs, self.needs, inputs.get("rows"), self.settings.fast)
            if self.chunked:
                labels = batch["labels"]
                total, by_chunk = vocabulary.losses(self.objective.terms, factors, student, teacher, labels)

        # Every other term; its sum over valid items, so that the whole step has one mean.
        nothing = torch.zeros((), device=self.device)
        losses = [
            term(student, teacher, inputs, reduction="sum")
            if term.weight and not (self.chunked and "logits" in term.needs)
            else nothing
            for term in self.objective.terms
        ]
        losses = torch.stack([loss.float() for loss in losses])
        return total + (factors * losses).sum(), by_chunk + losses.detach()

    def _keep_pace(self) -> None:
        """Go through what others have a micro-batch more of, to no effect: weights are gathered by all processes."""
        for batch in self.batches.missing(self.done) if self.sharded else ():
            self._losses(batch, torch.zeros(len(self.objective.terms), device=self.device))[0].backward()

    def _counts(self, micro_batches: list[dict]) -> Tensor:
        """Tell how many valid items each term has in the whole step, over all processes; at least 1: (n_terms,)."""
        counts = torch.zeros(len(self.objective.terms))
        for batch in micro_batches:
            counts += torch.stack([term.count(batch) for term in self.objective.terms])
        return processes.sum_values(self.accelerator, counts.to(self.device, non_blocking=True)).clamp(min=1)

    @property
    def is_over(self) -> bool:
        """Say whether all steps were taken, or `patience` is at its end."""
        return self.done >= self.total_steps or self.validation.is_exhausted

    @property
    def learning_rate(self) -> float:
        return self._learning_rate

    @learning_rate.setter
    def learning_rate(self, value: float) -> None:
        self._learning_rate = check_setting("learning_rate", value)

    # ------------------------------------------------------------------------------------------ iterating

    def __len__(self) -> int:
        return self.total_steps

    def __iter__(self) -> Iterator[Step]:
        """Take the remaining steps: the loop's body sees each of them once, in order.

        A checkpoint is written when the body has run, so it has what the body changed; leaving the body, by `break` or
        an exception, counts as its end. Ctrl-C within a step is raised after that step's body and checkpoint. Pressed
        twice it gets through at once: the step is taken again, or refused if its update was torn. Steps that
        NonFiniteLoss took back, or that lie after the checkpoint a run is resumed from, are seen again.
        """
        with (
            self._own_folder(),
            processes.bar(
                self.accelerator, self.progress, total=self.total_steps, initial=self.done, unit="step"
            ) as bar,
            Neighbours(self.device) as neighbours,
        ):
            self._learning.check_not_torn()
            self._save_if_expected()  # what could not be written before, or was changed since
            self._freed, first = FreedMemory(), self.done
            while not self.is_over:
                neighbours.look()
                number = self.done + 1
                step = Step(number, number / self.batches.per_epoch, self.total_steps, self)
                interrupted = False
                try:
                    with processes.finish_first():
                        self._take_step(bar)
                except KeyboardInterrupt:
                    if self.done < number:  # pressed twice
                        raise
                    interrupted = True

                try:
                    yield step
                finally:
                    self._save_if_expected()
                if interrupted:
                    raise KeyboardInterrupt

        self._learning.finish()
        if self.done > first and self.accelerator.is_main_process:
            warn_if_mostly_clipped(self._learning.history.norms(), self.settings.max_norm)

    def _take_step(self, bar: tqdm) -> None:
        """Take one optimiser step, count and time it, and look at its loss where a checkpoint may follow."""
        started = time.perf_counter()
        row = taken(self, self._train_step)
        self._learning.count()
        is_scheduled = self.validation.is_scheduled(self.done)
        if self.done % CHECK_EVERY == 0 or is_scheduled or self._is_saved_here():
            self.check_finite()
            bar.set_postfix(loss=f"{row['loss']:.3f}", refresh=False)
        if self.device.type == "cpu":
            self._freed.after(self.done, self.is_over)
        if is_scheduled:
            self.validation.look(row)
        row["seconds"] = time.perf_counter() - started
        row["peak_memory"] = peak_memory(self.device)
        bar.update()

    def _is_saved_here(self) -> bool:
        """Say whether the step just taken ends with a checkpoint, or with the run."""
        return self.is_over or bool(self.folder and self.done % self.save_every == 0)

    def _save_if_expected(self) -> None:
        """Write this step's checkpoint, unless that has been done and nothing was changed since."""
        if not (self.folder and self.done and self._is_saved_here()):
            return
        now = self.done, self.objective.settings(), self.learning_rate
        if self._saved != now:
            with processes.finish_first():
                self.save()
                self._saved = now

    def run(self) -> list[dict]:
        """Take all remaining steps, and return the history."""
        for _ in self:
            pass
        return self.history

    @property
    def history(self) -> list[dict]:
        """Return a dict for each step: step, epoch, tokens, learning_rate, settings (each term's weight, temperature),
        seconds, peak_memory (bytes, of the process so far), loss, grad_norm (before clipping), each term's own loss."""
        return self._learning.history.rows

    @property
    def term_names(self) -> tuple[str, ...]:
        """Name the terms as the history does, those of the same kind numbered."""
        return self._learning.history.terms

    @property
    def clipped(self) -> float:
        """Tell which share of the steps so far had a gradient longer than `max_norm`, which was shortened."""
        return share_clipped(self._learning.history.norms(), self.settings.max_norm)

    def diagnose(self) -> Diagnosis:
        """Measure the student on training texts and on validation: does it underfit or overfit? See `Diagnosis`.

        The first thing to ask of every run. To judge an objective by a student that could still learn is to judge its
        first steps: distillation needs patience (Beyer et al. 2022, arXiv:2106.05237). Nothing of the run is changed.
        """
        return diagnose(self.whole(), self.task, self.split, masking=self.masking, clipped=self.clipped)

    @contextmanager
    def _own_folder(self) -> Iterator[None]:
        """Keep others from writing to the run's folder while it runs."""
        with ExitStack() as held:
            if self.folder:
                checkpoints.check_none_later(self.folder, self.done)
                processes.on_main(self.accelerator, lambda: held.enter_context(checkpoints.held(self.folder)))
            yield

    # ------------------------------------------------------------------------------------------ setting up

    @property
    def teacher_mode(self) -> str:
        """Tell how the teacher is asked, and why."""
        return self.answers.mode + self.answers.remark

    def answers_with(self, cache: bool | str | os.PathLike | TopK) -> Answers:
        """Return the teacher's answers as they would be kept with this `cache`; nothing is asked yet."""
        given, known = self.settings, self.student.config.vocab_size if self.task.rules.per_token else None
        bf16 = processes.is_bf16(self.accelerator, given.precision)
        inference = Inference(self.teacher, self.accelerator, bf16, given.fast, self.progress, known)
        return answers_of(
            inference, self.objective.terms, self.teacher_needs, self.batches, self.split, cache
        )

    def _prepare_batches(self) -> None:
        given, rank, world = self.settings, self.accelerator.process_index, self.accelerator.num_processes
        self.batches = Batches.of(self.task, given, self.objective.positions, rank, world)
        self.writing = given.on_policy and Writing(self.student, self.task, given.on_policy, given.seed, rank)
        check_texts_at_once(self.objective, self.batches)
        self.total_steps = given.steps or max(1, round(given.epochs * self.batches.per_epoch))
        self.save_every = given.save_every or self.batches.per_epoch

    def _prepare_models(self) -> None:
        """Make what the objective learns along, and bring everything to the device; the teacher is frozen."""
        self.objective.see_labels(self.task.targets(self.split), self.task.num_labels)
        with own_randomness(self.device, self.seed, "projections"):
            self.objective.prepare(self.student, self.teacher)
        for model in filter(None, (self.student, self.teacher)):
            if "attentions" in self.objective.needs:
                model.set_attn_implementation("eager")  # fused attention returns no maps
        self.sharded = sharding.place(self)
        if self.settings.compile:
            record_for_good(self.student, self.objective.needs)
            self.student.base_model.compile(dynamic=True)
        if self.settings.check_teacher and self.objective.needs_teacher:
            check_teacher(self.teacher, self.task, self.settings.fast)

    def _decide_needs(self) -> None:
        """Decide whether logits are made chunk by chunk, and so what either model computes."""
        self.chunked = (
            self.settings.chunked
            and self.task.rules.per_token
            and vocabulary.can_chunk(self.objective, self.student, self.teacher)
        )
        self.needs, self.teacher_needs = vocabulary.forward_needs(self.objective, self.chunked)


Distillation.__doc__ += f"\n{describe()}\n"
