"""The exercises of notebook 14 on sizes: what lies in memory, and a batch in pieces."""

from __future__ import annotations

import math

import torch

from kdtutor.exercises.banks import RIGHT
from kdtutor.exercises.definitions import Exercise, Mistake
from kdtutor.exercises.toys import between

# ----------------------------------------------------------------------------------------- 14.1 memory


def training_memory(
    student: int, teacher: int, accumulate: int, processes: int, wrong: frozenset[str] = RIGHT
) -> dict[str, int]:
    """Count the bytes that one process holds between two steps, from the parameters of student and teacher.

    bf16 autocast over float32 weights, AdamW, plain data parallelism: each process has a whole copy of everything.
    """
    weight = 2 if "weights in bf16" in wrong else 4
    gradient = 2 if "gradients in bf16" in wrong else 4
    moments = 4 if "one moment instead of two" in wrong else 8
    trained = student + teacher if "the teacher is trained" in wrong else student
    if "the teacher is trained, and not the student" in wrong:
        trained = teacher
    if "the optimiser forgotten" in wrong:
        moments = 0
    if "a copy of the weights in the optimiser" in wrong:
        moments = 12
    if "gradients forgotten" in wrong:
        gradient = 0
    if "gradients divided by the micro-batches" in wrong:
        gradient /= accumulate
    theirs = 2 if "the teacher's weights in bf16" in wrong else weight
    weight = 2 if "the student's weights in bf16" in wrong else weight
    if "a second copy in bf16" in wrong:
        weight += 2
    share = processes if "divided among the processes" in wrong else 1
    if "eight bytes a number" in wrong:
        share /= 2
    if "all processes together" in wrong:
        share /= processes
    units = {
        "numbers, not bytes": 4,
        "bits": 1 / 8,
        "in gigabytes": 1e9,
        "in GiB": 2**30,
        "in MB": 1e6,
        "in MiB": 2**20,
    }
    share *= next((units[name] for name in units if name in wrong), 1)

    def held(count: float) -> float:
        return int(count / share) if (count / share).is_integer() else count / share

    several = trained * processes if "gradients of all processes" in wrong else trained
    many = accumulate if "one for each micro-batch" in wrong else 1
    return {
        "student": held(weight * student),
        "teacher": 0 if "teacher forgotten" in wrong else held(theirs * teacher),
        "gradients": held(gradient * several * many),
        "optimiser": held(
            moments * (student + teacher if "the optimiser holds the teacher" in wrong else trained)
        ),
    }


def _models(generator: torch.Generator) -> list[tuple]:
    sizes = [(between(generator, 10, 70), between(generator, 80, 400)) for _ in range(3)]
    cut = [(between(generator, 3, 33), between(generator, 2, 9)) for _ in sizes]
    return [(840_000 * s, 840_000 * t, a, p) for (s, t), (a, p) in zip(sizes, cut, strict=True)]


TRAINING_MEMORY = Exercise(
    name="training_memory",
    number="14.1",
    title="What lies in memory between two steps",
    reference=training_memory,
    mistakes=(
        Mistake(
            "weights in bf16",
            "Your weights take two bytes each. Autocast makes such copies for the products and throws them away "
            "again; in which format are the weights to which the small updates are added?",
            also=("the teacher's weights in bf16", "the student's weights in bf16"),
        ),
        Mistake(
            "gradients in bf16",
            "Your gradients take two bytes each. A gradient has the format of the weight that it belongs to, and "
            "that is not the format of the products.",
        ),
        Mistake(
            "one moment instead of two",
            "Your optimiser keeps one number for each weight. Adam keeps a mean of the gradients, and something else "
            "as well.",
        ),
        Mistake(
            "the teacher is trained",
            "Your teacher has gradients or optimiser state, too. Who of the two learns?",
            also=("the optimiser holds the teacher", "the teacher is trained, and not the student"),
        ),
        Mistake(
            "teacher forgotten",
            "Your teacher takes no memory. It learns nothing, but it has to answer at every step.",
        ),
        Mistake(
            "one for each micro-batch",
            "Your gradients are kept once for each micro-batch. Accumulating means adding: how many tensors does a "
            "sum need?",
        ),
        Mistake(
            "divided among the processes",
            "Your processes share one copy. In plain data parallelism they share the texts, and nothing else.",
        ),
        Mistake(
            "the optimiser forgotten",
            "Your optimiser keeps nothing. Adam remembers something of every weight.",
        ),
        Mistake(
            "a copy of the weights in the optimiser",
            "Your optimiser has a copy of the weights beside its moments. That is so where the weights "
            "themselves are 16 bits wide; here they are not.",
        ),
        Mistake(
            "a second copy in bf16",
            "Your student has a second copy in bf16. Autocast makes one for the products and throws it away again: "
            "between two steps it is not there.",
        ),
        Mistake(
            "gradients forgotten", "Your gradients take no memory. They are there until they are cleared."
        ),
        Mistake(
            "gradients divided by the micro-batches",
            "Your gradients become smaller with the number of micro-batches. Their sum is as large as one of them.",
        ),
        Mistake(
            "all processes together",
            "You count what all processes hold together. What *one* of them holds was asked for.",
            also=("gradients of all processes",),
        ),
        Mistake("numbers, not bytes", "You count numbers. How many bytes has each of them?"),
        Mistake("bits", "Your numbers are eight times too large: bits, and bytes were asked for."),
        Mistake(
            "in gigabytes",
            "Your numbers are right, in a larger unit. Bytes were asked for.",
            also=("in GiB", "in MB", "in MiB"),
        ),
        Mistake(
            "eight bytes a number",
            "Your numbers have eight bytes each, which is float64. Here they are float32.",
        ),
    ),
    probes=_models,
)


# ----------------------------------------------------------------------------------------- 14.3 steps


def cut_up(
    texts: int, batch_size: int, processes: int, fits: int, wrong: frozenset[str] = RIGHT
) -> dict[str, int]:
    """Count the micro-batches of a process's part of a step, at most `fits` texts each; and steps per pass."""
    part = batch_size if "processes forgotten" in wrong else math.ceil(batch_size / processes)
    if "the parts rounded down" in wrong:
        part = batch_size // processes
    accumulate = math.ceil(part / fits)
    if "micro-batches not rounded" in wrong:
        accumulate = batch_size / processes / fits
    if {"rounded to the nearest", "micro-batches rounded to the nearest"} & wrong:
        accumulate = round(part / fits)
    if "times the processes afterwards" in wrong:
        accumulate *= processes
    if "times the processes" in wrong:
        accumulate = math.ceil(batch_size * processes / fits)
    if "rounded down" in wrong:
        accumulate = max(1, part // fits)
    if "always one more" in wrong:
        accumulate = part // fits + 1
    if "texts in a micro-batch" in wrong:
        accumulate = min(fits, batch_size // processes)
    if "a whole pass in one step" in wrong:
        accumulate = math.ceil(texts / processes / fits)
    steps = math.ceil(texts / batch_size)
    if "last texts dropped" in wrong:
        steps = texts // batch_size
    if "steps not rounded" in wrong:
        steps = texts / batch_size
    if {"rounded to the nearest", "steps rounded to the nearest"} & wrong:
        steps = round(texts / batch_size)
    if "a step for every micro-batch of a process" in wrong:
        steps = steps * accumulate
    if "a step for all that fits at once" in wrong:
        steps = math.ceil(texts / (fits * processes))
    if "a step for a process's part" in wrong:
        steps = math.ceil(texts * processes / batch_size)
    if "always one step more" in wrong:
        steps = texts // batch_size + 1
    if "every micro-batch a step" in wrong:
        steps = math.ceil(texts / fits)
    if "a batch for every process" in wrong:
        steps = math.ceil(texts / (batch_size * processes))
    if "steps of full micro-batches" in wrong:
        steps = math.ceil(texts / (accumulate * fits * processes))
    if "not rounded" in wrong:
        return {"accumulate": batch_size / processes / fits, "steps": texts / batch_size}
    if "every process reads everything" in wrong:
        steps = math.ceil(texts / math.ceil(batch_size / processes))
    return {"accumulate": accumulate, "steps": steps}


def _batches(generator: torch.Generator) -> list[tuple]:
    """Draw (texts, batch_size, processes, fits): one where all divides evenly, two where nothing does, one by a hair.

    Of the two, one has less than half of a micro-batch and of a step left over, and the other more: rounding is told
    from rounding up and down.
    """
    fits = between(generator, 5, 40)
    processes, times = between(generator, 2, 9), between(generator, 3, 9)
    even = fits * processes * times
    probes = [(even * between(generator, 20, 90), even, processes, fits)]
    for half in (0, 1):
        fits, processes = between(generator, 9, 40), between(generator, 2, 9)
        rest = (1 + fits) // 2 * half + between(generator, 1, fits // 2)
        batch = processes * (fits * between(generator, 2, 9) + rest)
        left_over = (1 + batch) // 2 * half + between(generator, 1, batch // 2)
        probes.append((batch * between(generator, 20, 90) + left_over, batch, processes, fits))
    fits, processes, times = between(generator, 5, 12), between(generator, 3, 9), between(generator, 2, 9)
    batch = fits * processes * times + 1  # one text too many: its process has a micro-batch more
    return [*probes, (batch * between(generator, 20, 90), batch, processes, fits)]


CUT_UP = Exercise(
    name="cut_up",
    number="14.3",
    title="A batch of 4,096, in pieces that fit",
    reference=cut_up,
    mistakes=(
        Mistake(
            "processes forgotten",
            "Your process cuts up the whole batch. It has the others to do their parts, and the batch would become "
            "larger with each of them.",
        ),
        Mistake(
            "rounded down",
            "Your micro-batches are too few, so that one of them is larger than what fits. In which direction does "
            "one have to round?",
        ),
        Mistake(
            "always one more",
            "Your process makes one micro-batch more than it needs when the division leaves no remainder.",
        ),
        Mistake(
            "every micro-batch a step",
            "Your optimiser takes a step after each micro-batch. That is training with a small batch; what is "
            "accumulated, and until when?",
            also=("a step for every micro-batch of a process", "a step for all that fits at once"),
        ),
        Mistake(
            "every process reads everything",
            "Your steps are too many: in a pass of yours every process reads every text. One step uses up the texts "
            "of all processes together.",
            also=("a step for a process's part",),
        ),
        Mistake(
            "rounded to the nearest",
            "You round to the nearest whole number. Half of a micro-batch too many does not fit, and texts that are "
            "left over make a step.",
            also=("micro-batches rounded to the nearest", "steps rounded to the nearest"),
        ),
        Mistake(
            "last texts dropped",
            "Your pass ends before the last texts, which fill no whole batch. They have a step of their own.",
        ),
        Mistake(
            "the parts rounded down",
            "Your processes leave texts out: a batch that cannot be shared evenly still has to be read to its "
            "last text.",
        ),
        Mistake(
            "a batch for every process",
            "Your steps are too few by the number of processes: one step takes `batch_size` texts from all of them "
            "together, not from each.",
        ),
        Mistake(
            "steps of full micro-batches",
            "You count steps as if each micro-batch were as large as what fits. It may be smaller: a step still takes "
            "`batch_size` texts.",
        ),
        Mistake(
            "not rounded",
            "Your results have fractions. There is no half of a micro-batch, nor of a step: in which direction does "
            "one have to round?",
            also=("micro-batches not rounded", "steps not rounded"),
        ),
        Mistake(
            "times the processes",
            "You multiply by the number of processes. They share the work.",
            also=("times the processes afterwards",),
        ),
        Mistake(
            "texts in a micro-batch",
            "You say how many texts a micro-batch has, and asked for is how many micro-batches there are.",
        ),
        Mistake(
            "a whole pass in one step",
            "Your micro-batches are those of the whole data set. A step has `batch_size` texts.",
        ),
        Mistake(
            "always one step more",
            "Your pass has one step too many when the batches come out even.",
        ),
    ),
    probes=_batches,
)


EXERCISES = [TRAINING_MEMORY, CUT_UP]
