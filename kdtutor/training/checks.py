"""What a training run refuses before its first step, naming the culprit, and what its checkpoints belong to."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from kdtutor.data.task import Task
from kdtutor.errors import KDTutorError
from kdtutor.evaluation.scores import check_metric
from kdtutor.models.ensemble import Ensemble
from kdtutor.models.families import refuse_whole_numbers
from kdtutor.models.fingerprint import configuration, fingerprint
from kdtutor.models.load import check_fits
from kdtutor.models.reading import check_is_causal, read_by
from kdtutor.objectives.terms import Objective, Term
from kdtutor.training.batches import Batches
from kdtutor.training.on_policy import check_on_policy
from kdtutor.training.processes import is_part
from kdtutor.training.settings import Settings, TopK


def check_run(
    student: PreTrainedModel,
    teacher: PreTrainedModel | None,
    task: Task,
    objective: Objective | Term,
    settings: Settings,
) -> None:
    """Refuse, before anything is computed, what could only fail later or teach nothing."""
    for who, model in (("student", student), ("teacher", teacher)):
        if model is None and who == "teacher":
            continue
        if not isinstance(model, PreTrainedModel):
            raise KDTutorError(f"the {who} is a {type(model).__name__}, not a model of transformers")
        if any(parameter.is_meta for parameter in model.parameters()):
            raise KDTutorError(f"the {who}'s weights are on the meta device, which holds no numbers")
        if any(is_part(parameter) for parameter in model.parameters()):
            raise KDTutorError(f"the {who}'s weights are divided by an earlier run: take that run's whole()")
    if not isinstance(task, Task):
        raise KDTutorError(f"the task is a {type(task).__name__}, not a Task: load_task(…) makes one")
    if not isinstance(objective, (Objective, Term)):
        raise KDTutorError(
            f"the objective is a {type(objective).__name__}, not terms like HardLabels() + SoftTargets(4)"
        )
    if objective.needs_teacher and teacher is None:
        raise KDTutorError(f"the objective {objective} needs a teacher, but teacher is None")
    if len(task.split(settings.split)) == 0:
        raise KDTutorError(f"the {settings.split} split of {task.name} is empty")

    _check_student(student, task)
    _check_outputs(student, teacher, objective)
    if teacher is not None:
        _check_pair(student, teacher, task, objective)
    _check_task(task, objective, settings)
    check_on_policy(settings.on_policy, task, objective, isinstance(settings.cache, TopK))


def check_texts_at_once(objective: Objective, batches: Batches) -> None:
    """Refuse micro-batches in which a term that compares texts with each other would never find enough of them."""
    for term in objective.terms:
        if batches.micro_batch < term.fewest:
            raise KDTutorError(
                f"{type(term).__name__} compares the texts of a micro-batch and wants {term.fewest} or more of them, "
                f"but a batch of {min(batches.batch_size, len(batches.data))} in {batches.parts} parts has "
                f"{batches.micro_batch}: a larger batch_size, or a smaller accumulate"
            )


def identity(
    student: PreTrainedModel,
    trained: int,
    teacher: PreTrainedModel | None,
    task: Task,
    settings: Settings,
    bf16: bool,
) -> dict[str, object]:
    """Tell what a run must share with the one that wrote a checkpoint, to go on from it.

    trained: how many tensors learn, projections included. teacher: None if no term asks it.
    """
    count = sum(p.numel() for p in student.parameters())
    return {
        "task": f"{task.name} {task.fingerprint}",
        "student": f"{type(student).__name__}, {count:,} parameters, {trained} tensors trained",
        **{f"student's {name}": repr(value) for name, value in configuration(student).items()},
        "teacher": fingerprint(teacher) if teacher is not None else "none",
        **settings.marked("resume"),
        "precision": "bf16" if bf16 else "fp32",
        # Other answers, and fixed masks; in memory or on disk they are the same.
        "cache": str(TopK(settings.cache.k)) if isinstance(settings.cache, TopK) else None,
        "on_policy": settings.on_policy and str(settings.on_policy),
    }


def _check_student(student: PreTrainedModel, task: Task) -> None:
    """Refuse a student that reads otherwise than the task is tokenized, or that can't learn."""
    if read_by(student, task) is not task:
        own = student.reads_with
        raise KDTutorError(
            f'the student reads with the tokenizer of {own}, and "{task.name}" with another one: '
            f'load_task(…, tokenizer="{own}") (--tokenizer {own})'
        )
    check_fits(student, task, "the student")
    then = "train it in float32 and quantise it then, or let it feel the rounding while it is trained"
    refuse_whole_numbers(student, "the student", f"have no gradient: {then} (kdtutor.deploy.aware)")
    check_is_causal(student, task, "the student")
    trained = [p for p in student.parameters() if p.requires_grad]
    if not trained:
        raise KDTutorError(
            "the student has no trainable parameter: was it frozen like a teacher? student.requires_grad_(True)"
        )
    if half := {p.dtype for p in trained} & {torch.float16, torch.bfloat16}:
        raise KDTutorError(
            f"the student's weights are {half.pop()}, too coarse for small steps: train student.float()"
        )


def _check_outputs(
    student: PreTrainedModel, teacher: PreTrainedModel | None, objective: Objective | Term
) -> None:
    """Refuse terms that read what a model doesn't have: one that has not everything says what it `gives`."""
    for term in objective.terms:
        for who, model in (("student", student), ("teacher", teacher if term.needs_teacher else None)):
            if lacks := sorted(term.needs - getattr(model, "gives", term.needs)):
                kind = "an ensemble" if isinstance(model, Ensemble) else f"a {type(model).__name__}"
                raise KDTutorError(
                    f"{type(term).__name__} reads {lacks[0].replace('_', ' ')}, and the {who}, {kind}, has none"
                )


def _check_pair(
    student: PreTrainedModel, teacher: PreTrainedModel, task: Task, objective: Objective | Term
) -> None:
    """Refuse a teacher that doesn't fit the task, is partly the student, or answers over another vocabulary."""
    check_fits(teacher, task, "the teacher")
    check_is_causal(teacher, task, "the teacher")
    theirs = {p.untyped_storage().data_ptr() for p in teacher.parameters()}
    for name, parameter in student.named_parameters():
        if parameter.untyped_storage().data_ptr() in theirs:
            raise KDTutorError(
                f"student and teacher share the tensor {name}: training one would change the other; copy it"
            )
    sizes = student.config.vocab_size, teacher.config.vocab_size
    # What a teacher has more is padding of its table, and is cut off: `check_fits` knows it to have all real tokens.
    if task.rules.per_token and objective.needs_teacher and sizes[0] > sizes[1]:
        raise KDTutorError(
            f"the student's vocabulary has {sizes[0]} tokens and the teacher's {sizes[1]}: their logits can't be "
            f"compared; student.resize_token_embeddings({sizes[1]}) makes them alike"
        )


def _check_task(task: Task, objective: Objective | Term, settings: Settings) -> None:
    """Refuse terms and settings about masks where nothing is masked, and targets that the task's kind can't have."""
    masked = [type(term).__name__ for term in objective.terms if term.positions == "masked"]
    if masked and not task.rules.masks:
        raise KDTutorError(f"{masked[0]} predicts masked tokens, but {task.name} is a {task.kind} task")
    inside = (
        sorted(frozenset().union(*(t.needs for t in objective.terms)) - {"logits"})
        if task.rules.writes
        else []
    )
    if inside:
        raise KDTutorError(
            f"{objective} compares {inside[0].replace('_', ' ')}, but {task.name} is a {task.kind} task: of an "
            "encoder–decoder only logits are compared"
        )
    if settings.rare_words and not task.rules.masks:
        raise KDTutorError(f"rare_words says which tokens to mask, but {task.name} is a {task.kind} task")
    if settings.sampling == "balanced" and task.rules.answer != "classes":
        raise KDTutorError(
            f'sampling = "balanced" draws classes alike, but {task.name} is a {task.kind} task: its texts have no class'
        )
    check_metric(settings.metric, task)
    task.rules.check(task.targets(settings.split), task.num_labels, settings.split, task.name)
