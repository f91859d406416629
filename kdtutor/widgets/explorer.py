"""The temperature explorer: one text, a teacher, a student, and what T and α make of them.

    explorer = TemperatureExplorer(teacher, student, task)   # a cell's last line shows it
    explorer.temperature = 4                                 # moves the picture
    explorer.text = "a red fruit"                            # both models read it, once
    explorer.numbers()                                       # entropies, KL, losses

The browser has both models' logits of the present text and computes everything else itself (static/explorer.js), so
a slider never waits for Python. The same formulas are here, from kdtutor.objectives, for cells, tests and the plain
picture.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import torch
import torch.nn.functional as F
import traitlets

from kdtutor import objectives, plots
from kdtutor.data.task import Task
from kdtutor.errors import nearest
from kdtutor.models.forward import logits_of
from kdtutor.models.load import check_fits
from kdtutor.widgets import reading
from kdtutor.widgets.base import Number, OneOf, Row, SettingError, WithExamples, finite
from kdtutor.widgets.explorer_examples import class_of, entry_of, examples_of, listed, public, rows_of

SHOWN = 8  # classes that are drawn before the rest is added up as "n others"


class TemperatureExplorer(WithExamples):
    """Teacher's and student's distribution over the classes as T moves, their losses as α moves, and the gradients.

    teacher, student: classifiers of `task`. examples: what may be picked, texts or places in the test split; by default
    those that `telling_examples` (explorer_examples.py) finds in it. Settings, which the browser shares:

    temperature, 0.1 to 20; alpha, 0 to 1, the weight of the hard labels; t_squared: is KL multiplied by T²?
    order of the classes: "teacher" (its likeliest first) or "class". zoom: does each axis end at its longest bar?
    all_classes: are all drawn where there are more than 8? text; example, a place in `examples`, or None for another
    text; label: a class, its name, or None.

    Raises KDTutorError if a model does not fit the task, a text is empty, or a logit is not finite.
    """

    _script, _style = "explorer.js", "explorer.css"

    temperature = Number(2.0, 0.1, 20, "a temperature").tag(sync=True)
    alpha = Number(0.5, 0, 1, "α, the weight of the hard labels,").tag(sync=True)
    t_squared = traitlets.Bool(True).tag(sync=True)
    order = OneOf("teacher", ("teacher", "class")).tag(sync=True)
    zoom = traitlets.Bool(False).tag(sync=True)
    all_classes = traitlets.Bool(False).tag(sync=True)
    label = traitlets.Any(None, allow_none=True).tag(sync=True)
    # What the browser computes from, set with the text.
    class_names = traitlets.List(traitlets.Unicode()).tag(sync=True, told=True)
    teacher_logits = Row().tag(sync=True)
    student_logits = Row().tag(sync=True)
    # About the text: that it was cut, or can't be read.
    notice = traitlets.Unicode("").tag(sync=True, told=True)
    # Of a text that can't be read (reading.py).
    pieces = traitlets.List(traitlets.Dict()).tag(sync=True, told=True)
    can_read = traitlets.Bool(False).tag(sync=True, told=True)  # are there models to read a typed text?

    def __init__(
        self, teacher, student, task: Task, examples: Sequence[str | int] | None = None, **settings
    ) -> None:
        if task.rules.answer != "classes":
            raise SettingError(
                f'the explorer shows probabilities of classes, and "{task.name}" is a {task.kind} task'
            )
        for who, model in (("the teacher", teacher), ("the student", student)):
            check_fits(model, task, who)
        self._models, self._task = (teacher, student), task
        self._start(examples_of(teacher, student, task, examples), task.labels, settings)

    @classmethod
    def from_logits(
        cls, teacher_logits, student_logits, class_names: Sequence[str], labels=None, texts=None, **settings
    ) -> TemperatureExplorer:
        """Make an explorer without models: both logits (N, C), or (C,) for one example; labels: N classes or None.

        Raises SettingError, naming what does not fit: shapes, numbers that are not finite, a label that is no class.
        """
        rows = [
            rows_of(teacher_logits, "the teacher's logits"),
            rows_of(student_logits, "the student's logits"),
        ]
        n, names = len(rows[0]), [str(name) for name in class_names]
        labels = [None] * n if labels is None else listed(labels)
        texts = (
            [f"example {i}" for i in range(n)]
            if texts is None
            else [texts]
            if isinstance(texts, str)
            else texts
        )
        for what, given in (("rows of student logits", rows[1]), ("labels", labels), ("texts", texts)):
            if len(given) != n:
                raise SettingError(f"there are {n} rows of teacher logits, but {len(given)} {what}")
        explorer = cls.__new__(cls)
        explorer._models, explorer._task = None, None
        entries = [
            entry_of(str(text), *logits, names, label)
            for text, *logits, label in zip(texts, *rows, labels, strict=True)
        ]
        explorer._start(entries, names, settings)
        return explorer

    def _start(self, entries: list[dict], class_names: Sequence[str], settings: dict) -> None:
        if not entries:
            raise SettingError("the explorer needs one example at least")
        if len({entry["text"] for entry in entries}) < len(entries):
            raise SettingError("two of the examples have the same text")
        if unknown := [name for name in settings if name not in SETTINGS]:
            raise SettingError(nearest("setting of the explorer", unknown[0], SETTINGS))
        self._known = {entry["text"]: {**entry, "example": i} for i, entry in enumerate(entries)}
        super().__init__(class_names=list(class_names), examples=entries, can_read=self._models is not None)
        self.on_msg(self._hear)
        self.example = 0
        for name in sorted(settings, key=SETTINGS.index):  # a text before its label
            setattr(self, name, settings[name])

    # -------------------------------------------------------------------------------------------- one state

    @traitlets.validate("text")
    def _read(self, proposal) -> str:
        text = proposal["value"]
        if text not in self._known:
            self._known[text] = self._ask_models(text)
        return text

    @traitlets.validate("teacher_logits", "student_logits")
    def _are_logits(self, proposal) -> list[float]:
        name = proposal["trait"].name.replace("_", " ")
        return finite(proposal["value"], name, len(self.class_names))

    @traitlets.validate("label")
    def _check_label(self, proposal) -> int | None:
        return class_of(proposal["value"], self.class_names)

    @traitlets.observe("text")
    def _show(self, change) -> None:
        entry = self._known[change["new"]]
        with self.hold_sync():
            self.set_trait("example", entry["example"])
            for name in ("teacher", "student"):
                setattr(self, f"{name}_logits", entry[name])
            self.label, self.problem = entry["label"], ""
            self.notice, self.pieces = entry["notice"], entry["pieces"]

    @traitlets.observe(
        "temperature", "alpha", "t_squared", "label", "text", "teacher_logits", "student_logits"
    )
    def _sum_up(self, change=None) -> None:
        if len(self.teacher_logits) == len(self.student_logits) == len(self.class_names) > 0:
            self.summary = self._sentence()

    # -------------------------------------------------------------------------------------------- the models

    def _ask_models(self, text: str) -> dict:
        """Ask for both models' logits of a new text, and what there is to say about it."""
        if not text.strip():
            raise SettingError("the text is empty: a few words at least are needed")
        if self._models is None:
            raise SettingError(
                f"this explorer has no models to read a new text: pick one of its {len(self.examples)}"
            )
        encoded = self._task.encode_texts([text])
        teacher, student = (logits_of(model, encoded)[0] for model in self._models)
        tokens = len(self._task.tokenizer(text, truncation=False, verbose=False)["input_ids"])
        read = int(encoded.lengths[0])
        cut = f"The models read the first {read:,} of its {tokens:,} tokens." if tokens > read else ""
        doubt, pieces = reading.warning(self._task, text)
        entry = entry_of(text, teacher, student, self._task.labels, None)
        return {**entry, "notice": f"{doubt} {cut}".strip(), "pieces": pieces, "example": None}

    # -------------------------------------------------------------------------------------------- in numbers

    def numbers(self) -> dict[str, float | None]:
        """Compute what the tiles show, in nats: both entropies and KL at T; hard loss (at T = 1), soft loss, and total.

        soft: T² · KL, or KL alone without t_squared. total: α · hard + (1 − α) · soft. Without a label hard is None and
        adds nothing, as in a training with unlabelled texts.
        """
        z_t, z_s = self._logits()
        kl = float(objectives.kl_divergence(z_t, z_s, self.temperature))
        soft = kl * (self.temperature**2 if self.t_squared else 1)
        hard = None if self.label is None else float(F.cross_entropy(z_s, torch.tensor([self.label])))
        return {
            "entropy_teacher": float(objectives.entropy(z_t, self.temperature)),
            "entropy_student": float(objectives.entropy(z_s, self.temperature)),
            "kl": kl,
            "hard": hard,
            "soft": soft,
            "total": self.alpha * (hard or 0) + (1 - self.alpha) * soft,
        }

    def gradients(self) -> dict[str, list[float]]:
        """Compute what each weighted term pulls the student's logits with, by autograd: "hard" and "soft", (C,) each.

        A step of gradient descent raises a logit whose gradient is negative. Without a label "hard" is 0 everywhere.
        """
        z_t, z_s = self._logits()
        z_s.requires_grad_()
        hard = 0 * z_s.sum()
        if self.label is not None:
            hard = self.alpha * F.cross_entropy(z_s, torch.tensor([self.label]))
        soft = (1 - self.alpha) * objectives.kl_divergence(z_t, z_s, self.temperature)
        if self.t_squared:
            soft = self.temperature**2 * soft
        pulls = {"hard": hard, "soft": soft}
        return {name: torch.autograd.grad(loss, z_s)[0][0].tolist() for name, loss in pulls.items()}

    def _logits(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return teacher's and student's logits, float64 (1, C) each."""
        return tuple(
            torch.tensor([z], dtype=torch.float64) for z in (self.teacher_logits, self.student_logits)
        )

    def _probabilities(self) -> list:
        return [(z / self.temperature).softmax(-1)[0].numpy() for z in self._logits()]

    def _sentence(self) -> str:
        """Write the same sentence as the browser's (`sentence` in explorer.js)."""
        n = self.numbers()
        of = {
            who: plots.ranking(p, self.class_names)
            for who, p in zip(("teacher", "student"), self._probabilities(), strict=True)
        }
        square = f"T²{plots.NBSP}·{plots.NBSP}KL" if self.t_squared else "KL without T²"
        hard = "there is no label" if n["hard"] is None else f"hard loss {n['hard']:.2f}"
        return (
            f"At T = {self.temperature:.3g} the teacher's probabilities are {of['teacher']}, "
            f"the student's {of['student']}; {hard}, soft loss ({square}) {n['soft']:.2f}, "
            f"total {n['total']:.2f} nats at α = {self.alpha:.2f}."
        )

    def picture(self) -> plots.Picture:
        """Draw both distributions, and beside them what the weighted terms pull with: of the ten likeliest classes."""
        probabilities = dict(zip(("teacher", "student"), self._probabilities(), strict=True))
        setting = f"T = {self.temperature:.3g}, α = {self.alpha:.2f}"
        picture = plots.temperature_and_alpha(
            probabilities,
            self.gradients(),
            self.class_names,
            self.rows(10),
            f"“{self.text}”",
            setting,
            self.label,
        )
        picture.alt = f"{self.summary} The text: “{textwrap.shorten(self.text, 200, placeholder=' …')}”."
        return picture

    def rows(self, most: int = SHOWN) -> list[int]:
        """Choose the classes that are drawn, in order: of more than `most`, the label and what either ranks highest.

        Ranks are the same at every temperature, so no row jumps while T moves.
        """
        z_t, z_s = self.teacher_logits, self.student_logits
        by_teacher, by_student = (sorted(range(len(z)), key=lambda c, z=z: -z[c]) for z in (z_t, z_s))
        both = [c for pair in zip(by_teacher, by_student, strict=True) for c in pair]
        label = [] if self.label is None else [self.label]
        chosen = set(list(dict.fromkeys(label + both))[:most])
        return [c for c in (by_teacher if self.order == "teacher" else range(len(z_t))) if c in chosen]

    def refresh(self) -> None:
        """Let the models read everything again: after a training, say."""
        if self._models is None:
            raise SettingError("this explorer has no models")
        texts = list(self._known)
        encoded = self._task.encode_texts(texts)
        teacher, student = (logits_of(model, encoded) for model in self._models)
        for text, z_t, z_s in zip(texts, teacher, student, strict=True):
            self._known[text] |= {"teacher": finite(z_t, text), "student": finite(z_s, text)}
        with self.hold_sync():
            self.examples = [public(self._known[entry["text"]]) for entry in self.examples]
            self.teacher_logits, self.student_logits = (
                self._known[self.text][who] for who in ("teacher", "student")
            )


#: Settings that the constructor takes, in the order in which they are set.
SETTINGS = ("text", "example", "label", "temperature", "alpha", "t_squared", "order", "zoom", "all_classes")
