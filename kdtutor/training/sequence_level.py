"""Sequence-level distillation (Kim & Rush 2016): the teacher writes, and what it wrote is what the student learns from.

    lessons = written_by(teacher, task, beams=4)      # a task like any other
    save_task(lessons, "lessons")                     # asked once, kept: load_task("lessons")
    Distillation(student, None, lessons, HardLabels())

Word-level distillation (SoftTargets at each token) hands on what a teacher thinks of each next token of the *data's*
texts. Here it hands on one text each, its own: the likeliest, near the mode of p_T(text), as far as a beam search finds
it. That is a hard label again, but an easier one: it says what the teacher can say, in the teacher's own way, again and
again.
"""

from __future__ import annotations

from dataclasses import replace

from transformers import PreTrainedModel

from kdtutor.data.load import as_task
from kdtutor.data.task import Split, Task
from kdtutor.data.tokens import length_bucketed_batches
from kdtutor.errors import COUNT, KDTutorError
from kdtutor.models.writing import generate, generated_ids
from kdtutor.neighbours import beside_neighbours
from kdtutor.training.on_policy import prompts_of, with_written

AT_ONCE = 128  # texts


def written_by(
    teacher: PreTrainedModel,
    task: Task | str,
    *,
    beams: int = 4,
    prompt: int = 4,
    max_new_tokens: int | None = None,
) -> Task:
    """Return the task with training texts that the teacher wrote: Kim & Rush 2016, arXiv:1606.07947.

    An encoder–decoder answers every text of the training split; a causal LM goes on from the first `prompt` tokens of
    each. beams: beginnings followed at once. All other splits stay as they are. Where the teacher wrote nothing, the
    text is left out, and `notes` says how often. Raises KDTutorError if it never wrote anything, or for what generate
    refuses.
    """
    task, beams = as_task(task), COUNT("beams", beams)
    train = task.split("train")
    if task.rules.writes:
        said = generate(teacher, task, list(train.texts[0]), beams=beams, max_new_tokens=max_new_tokens)
        columns = [*train.texts[0]], said
    else:
        said = _continued(teacher, task, beams, COUNT("prompt", prompt), max_new_tokens)
        columns = (said,)

    keep = [row for row, text in enumerate(said) if text]
    if not keep:
        raise KDTutorError(
            f"the teacher wrote nothing for any of the {len(said)} training texts of {task.name}"
        )
    domains = train.domains and [train.domains[row] for row in keep]
    lessons = Split(tuple([column[row] for row in keep] for column in columns), None, domains)
    lost = len(said) - len(keep)
    notes = (f"{lost} of {len(said)} training texts are left out: the teacher wrote nothing",) if lost else ()
    return replace(
        task, name=f"{task.name}[written by a teacher, {beams} beams]",
        splits=task.splits | {"train": lessons}, notes=(*task.notes, *notes),
    )  # fmt: skip


def _continued(
    teacher: PreTrainedModel, task: Task, beams: int, prompt: int, max_new_tokens: int | None
) -> list[str]:
    """Let a causal LM go on from the first tokens of every training text; the whole texts, in order."""
    if not task.rules.per_token or task.rules.masks:
        raise KDTutorError(
            f'"{task.name}" is a {task.kind} task: models of causal-lm and seq2seq tasks write'
        )
    encoded = task.encode("train")
    said = [""] * len(encoded)
    order = length_bucketed_batches(encoded.lengths, AT_ONCE)
    for index in beside_neighbours(order, teacher.device):
        prompts = prompts_of(task, encoded.batch(index), prompt)
        ids, mask = generated_ids(teacher, task, prompts, beams=beams, max_new_tokens=max_new_tokens)
        whole = with_written(task, prompts, ids.cpu(), mask.cpu())["input_ids"]
        for row, text in zip(
            index.tolist(), task.tokenizer.batch_decode(whole, skip_special_tokens=True), strict=True
        ):
            said[row] = text.strip()
    return said
