"""The exercise of notebook 09 on a loss for `Trainer`.

`compute_loss` is tried inside of a stand-in for `transformers.Trainer` that keeps to its rules: the model is in train
mode, gradients of several micro-batches add up, and a loss to which the number of the step's texts was handed is not
divided any further.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace

import torch
from torch import Tensor, nn

from kdtutor.exercises.banks import HARD, RIGHT, SOFT, WEIGHTS, hard_loss, soft_loss, weigh
from kdtutor.exercises.definitions import Exercise, Mistake
from kdtutor.exercises.toys import CLASSES, Output, TinyClassifier, labels_with_gaps, padded_texts

# --------------------------------------------------------------------------------- 9.1 compute_loss for Trainer


def compute_loss(
    self, model: nn.Module, inputs: dict[str, Tensor], return_outputs: bool = False,
    num_items_in_batch: Tensor | None = None, wrong: frozenset[str] = RIGHT,
) -> Tensor | tuple[Tensor, Output]:  # fmt: skip
    """Compute α · hard + (1 − α) · T² KL, a mean over the step's texts, of which these `inputs` may be only some.

    self: the trainer; it has teacher, alpha and temperature.
    """
    labels, T = inputs["labels"], self.temperature
    without = {name: value for name, value in inputs.items() if name != "labels"}
    self.teacher.train("teacher in train mode" in wrong)
    with torch.set_grad_enabled("teacher inside the graph" in wrong):
        z_t = self.teacher(**(inputs if "labels given to the teacher" in wrong else without))[0]
    if "student in eval mode" in wrong:
        model.eval()
    outputs = model(**without)
    z_s = outputs.logits
    texts = len(labels) if num_items_in_batch is None else num_items_in_batch
    hard, soft = hard_loss(z_s, labels, T, wrong, z_t), soft_loss(z_s, z_t, T, wrong)
    if "the labels' part a mean of the micro-batch" in wrong:
        hard = hard * texts / len(labels)
    if "the teacher's part a mean of the micro-batch" in wrong:
        soft = soft * texts / len(labels)
    loss = weigh(hard, soft, self.alpha, wrong)
    if "the mean of the micro-batch" in wrong:
        texts = len(labels)
    if "every micro-batch counts the same" in wrong:
        texts = len(labels) * self.current_gradient_accumulation_steps
    loss = loss * len(labels) / (1 if "a sum over the texts" in wrong else texts)
    if "the labels never reach the loss" in wrong:
        loss = (1 - self.alpha) * soft * len(labels) / texts
    if "times the texts of the step" in wrong and num_items_in_batch is not None:
        loss = loss * texts * texts / len(labels)
    if "divided by the texts once more" in wrong:
        loss = loss / len(labels)
    if "the logits instead of the outputs" in wrong:
        outputs = z_s
    if "the outputs first" in wrong and return_outputs:
        return outputs, loss
    if "outputs whether asked for or not" in wrong:
        return loss, outputs
    return (loss, outputs) if return_outputs and "outputs are kept back" not in wrong else loss


def _observe_trainer(
    function: Callable, student: TinyClassifier, teacher: TinyClassifier, micro_batches: Sequence[dict[str, Tensor]],
    alpha: float, temperature: float,
) -> dict:  # fmt: skip
    """Watch an optimiser step of several micro-batches, as Trainer takes it, and its evaluation of the first one."""
    trainer = SimpleNamespace(
        teacher=teacher.train(),
        alpha=alpha,
        temperature=temperature,
        model=student,
        args=SimpleNamespace(
            device=torch.device("cpu"), n_gpu=0, gradient_accumulation_steps=len(micro_batches)
        ),
        accelerator=SimpleNamespace(num_processes=1, device=torch.device("cpu")),
        current_gradient_accumulation_steps=1,
    )
    student.eval()
    parts = repr(teacher)
    with torch.no_grad():
        evaluated = function(trainer, student, dict(micro_batches[0]), return_outputs=True)
    returned = (
        evaluated if isinstance(evaluated, (tuple, list)) and len(evaluated) == 2 else (evaluated, None)
    )
    trainer.current_gradient_accumulation_steps = len(micro_batches)
    texts = torch.tensor(sum(len(batch["labels"]) for batch in micro_batches))
    losses = []
    for batch in micro_batches:
        loss = function(trainer, student.train(), dict(batch), num_items_in_batch=texts.clone())
        loss.backward()
        losses.append(loss.detach())
    return {
        "whether the student learns in train mode": all(call.in_train_mode for call in student.calls[1:]),
        "whether the teacher is made of the same parts as before": repr(teacher) == parts,
        "whether the teacher answers in eval mode": not any(teacher.in_train_mode),
        "whether gradients reach the teacher": any(w.grad is not None for w in teacher.parameters()),
        "whether the outputs come with the loss when they are asked for": returned[1] is not None,
        "the loss of a batch without num_items_in_batch": returned[0],
        "the logits that come with it": getattr(returned[1], "logits", "none"),
        "the gradient of a step of several micro-batches": torch.cat(
            [w.grad.flatten() for w in student.parameters()]
        ),
        "the loss of such a step, the sum of what was returned": sum(losses),
    }


def _trainer_probes(generator: torch.Generator) -> list[tuple]:
    probes = []
    for sizes, alpha, temperature in (((4, 2), 0.3, 2.0), ((3, 4, 1), 0.8, 3.0)):
        student = TinyClassifier(width=3, generator=generator)
        teacher = TinyClassifier(width=6, dropout=0.5, generator=generator)
        batches = []
        for texts in sizes:
            labels = {"labels": labels_with_gaps(generator, texts, CLASSES, last=texts > 2)}
            inputs = padded_texts(generator, texts)
            # No function may rely on their order.
            batches.append(labels | inputs if texts % 2 else inputs | labels)
        probes.append((student, teacher, batches, alpha, temperature))
    return probes


COMPUTE_LOSS = Exercise(
    name="compute_loss",
    number="9.1",
    title="compute_loss, from memory",
    reference=compute_loss,
    mistakes=(
        Mistake(
            "labels given to the teacher",
            "Your teacher is given the labels, so the first thing in its answer is its own loss: a single number, "
            "which was silently spread over all texts and classes.",
        ),
        Mistake(
            "teacher in train mode",
            "The teacher answers with dropout on. Trainer sees to the mode of the student alone; who sees to the "
            "teacher's?",
        ),
        Mistake(
            "teacher inside the graph",
            "The backward pass runs through the teacher too: twice the memory, and gradients that nobody wants.",
        ),
        Mistake(
            "the mean of the micro-batch",
            "Your loss is right for one batch, but a step of several micro-batches is too long: the means of all of "
            "them add up. Trainer told you how many texts the step has, and then divides by nothing any more.",
        ),
        Mistake(
            "every micro-batch counts the same",
            "Your loss divides by the number of micro-batches, and so a text in a small one weighs more than a text "
            "in a large one. Which number were you given to divide by?",
        ),
        Mistake(
            "outputs are kept back",
            "Trainer asked for the outputs beside the loss, as it does in every evaluation, and got the loss alone.",
        ),
        *WEIGHTS,
        *HARD,
        *SOFT,
        Mistake(
            "student in eval mode",
            "You put the student into eval mode, and Trainer had put it into train mode: its dropout stays off "
            "while it learns.",
        ),
        Mistake(
            "a sum over the texts",
            "Your loss is a sum over the texts of the batch, and is divided by nothing.",
        ),
        Mistake(
            "the logits instead of the outputs",
            "Beside the loss you return the logits. Trainer asked for the outputs, in which it looks them up by"
            " itself.",
        ),
        Mistake(
            "the outputs first",
            "You return outputs and loss in this order. Trainer takes the first of the two for the loss.",
        ),
        Mistake(
            "the labels' part a mean of the micro-batch",
            "The labels' part is a mean over the micro-batch, as a model's own loss is, and these means add up. Divide "
            "it by the number that Trainer gives, like the teacher's.",
        ),
        Mistake(
            "the teacher's part a mean of the micro-batch",
            "The teacher's part is a mean over the micro-batch, and these means add up. Divide it by the number that "
            "Trainer gives, like the labels'.",
        ),
        Mistake(
            "the labels never reach the loss",
            "Your loss is the teacher's part alone, and the labels are never used.",
        ),
        Mistake(
            "times the texts of the step",
            "You multiply a mean by the number of the step's texts. A sum over the texts is divided by it.",
        ),
        Mistake(
            "divided by the texts once more",
            "Your loss is a mean already, and is divided by the number of texts once more.",
        ),
        Mistake(
            "outputs whether asked for or not",
            "You always return two things, and Trainer wants to go backward through what it gets: `return_outputs` "
            "says whether it asks for both.",
        ),
    ),
    probes=_trainer_probes,
    observe=_observe_trainer,
)


EXERCISES = [COMPUTE_LOSS]
