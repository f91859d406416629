"""Make the README's moving picture: a student's belief about one text on its way to the teacher's, step by step.

    python notebooks/images/moving.py

The student has two of its teacher's layers, copied, and learns from the teacher's answers to other texts. Takes less
than a minute on two quiet cores; another processor gives other last digits.
"""

from __future__ import annotations

import html
import re
from io import BytesIO
from pathlib import Path

import torch
from PIL import Image

import kdtutor as kd
from kdtutor.plots import style

HERE = Path(__file__).parent
README = HERE.parents[1] / "README.md"
FILE = HERE / "learning.gif"
TEXT = (
    "a consecrated place where sacred objects are kept"  # of validation; one on which the student comes close
)
COMPARED = 700  # validation texts, on which it is said how often it does not
STEPS = 240
SHOWN = sorted({round(STEPS * (i / 35) ** 2) for i in range(36)})  # many at first, where much happens
FRAME, LAST = 130, 3000  # milliseconds
COLOURS, WIDTH = 48, 760


def main() -> None:
    task = kd.load_task("supersense")
    teacher = kd.load_teacher(task)
    student = kd.half_depth(teacher, 2, seed=0)
    belief = {0: probabilities(student, task)}
    run = kd.Distillation(
        student, teacher, task, kd.SoftTargets(temperature=2), steps=STEPS, batch_size=32,
        learning_rate=2e-4, max_norm=10.0, seed=0, progress=False,
    )  # fmt: skip
    for step in run:
        if step.number in SHOWN:
            belief[step.number] = probabilities(student, task)
    right = probabilities(teacher, task)

    frames = [frame(right, p, task.labels, f"“{TEXT}”, step {step}") for step, p in belief.items()]
    frames[0].save(
        FILE, save_all=True, append_images=frames[1:], loop=0, disposal=1, optimize=True,
        duration=[FRAME] * (len(frames) - 1) + [LAST],
    )  # fmt: skip
    texts = task.encode_texts(task.texts("validation")[:COMPARED])
    answers = [kd.models.logits_of(model.eval(), texts).argmax(-1) for model in (teacher, student)]
    same = float((answers[0] == answers[1]).double().mean())
    alt = (
        f"A student learns, in {STEPS} steps. Of one text it believes at first {said(belief[0], task.labels)}, at the "
        f"end {said(belief[STEPS], task.labels)}; its teacher believes {said(right, task.labels)}. Of "
        f"{COMPARED} texts the first answer is the teacher's in {100 * same:.0f} %."
    )
    address = f"notebooks/images/{FILE.name}"
    pattern = rf'(<img src="{re.escape(address)}" width="\d+" alt=)"[^"]*"'
    alt = html.escape(alt)
    readme, found = re.subn(pattern, lambda old: f'{old[1]}"{alt}"', README.read_text(encoding="utf-8"))
    assert found, f"README.md has no picture {address}"
    README.write_text(readme, encoding="utf-8", newline="\n")
    print(f"{FILE.name}, {FILE.stat().st_size:,} bytes: {alt}")


def probabilities(model, task) -> torch.Tensor:
    """What the model believes of the text: (C,)."""
    was_training = model.training
    found = kd.models.logits_of(model.eval(), task.encode_texts([TEXT]))[0].softmax(-1)
    model.train(was_training)
    return found


def frame(teacher, student, labels, title: str) -> Image.Image:
    """Draw both beliefs, the classes always in the order of the teacher's."""
    order = teacher.argsort(descending=True)[:6]
    shares = [
        torch.cat([p[order], 1 - p[order].sum(0, keepdim=True)]).clamp(min=0) for p in (teacher, student)
    ]
    names = [*(labels[i] for i in order), f"{len(labels) - len(order)} others"]
    image = Image.open(BytesIO(bars(*(p.numpy() for p in shares), names, title).png()[0])).convert("RGB")
    return image.resize((WIDTH, round(WIDTH * image.height / image.width))).quantize(COLOURS)


@style.styled
def bars(teacher, student, names, title: str) -> style.Picture:
    picture, axes = style.canvas(7.6, 4.2)
    rows = {"teacher": (teacher, style.TEACHER), "student": (student, style.STUDENT)}
    style.draw_grouped_bars(axes, rows, names, lambda share: style.percent(share, 1))
    axes.set(xlim=(0, 1.12), xticks=[])
    axes.spines["bottom"].set_visible(False)
    axes.legend(loc="lower right")
    style.set_title(axes, title)
    return picture


def said(p, labels) -> str:
    """Name the two likeliest classes: 'food 73 % and plant 26 %'."""
    return " and ".join(f"{labels[i]} {100 * p[i]:.0f} %" for i in p.argsort(descending=True)[:2])


if __name__ == "__main__":
    main()
