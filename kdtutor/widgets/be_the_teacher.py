"""Be the teacher: give one text's soft targets by hand, and see what a small student makes of them.

    game = BeTheTeacher(task, teacher)
    game.target = {"plant": 0.7, "animal": 0.3}      # moves the picture, as dragging a bar does
    game.beliefs("yours")                            # of the text and of its related texts, (1 + n, C)
    game.level = 1                                   # the first of three levels: levels.py says what is to be reached
    game.compare()                                   # all texts that divide the teacher: whom the label alone harms

The student is a linear softmax classifier, small enough to learn in the browser while a bar is dragged. Its logits are
W x, without a bias. x, its only view of a text: the mean of the teacher's word vectors over the text's pieces, less the
mean over many texts, projected on 32 principal components and scaled to length 1. W, (classes, 32), first learns a few
hundred labelled texts; from there two copies get the same number of steps on the *one* text: one by hand-made targets,
one by the label.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping

import numpy as np
import torch
import traitlets
from torch import Tensor, nn

from kdtutor import plots
from kdtutor.data.task import Task
from kdtutor.errors import nearest
from kdtutor.models.load import check_fits, load_teacher
from kdtutor.plots.lesson import lesson as draw_lesson
from kdtutor.widgets.base import Instrument, Number, SettingError, finite
from kdtutor.widgets.levels import SPOILED, levels_of, reached, views
from kdtutor.widgets.school import STUDENTS, School, pack, rescaled, teach, unpack

CHOSEN, TYPED = 6, 6  # lessons that are kept: the most telling ones, and the last that were typed

#: What the constructor takes, in the order in which it is set: a level brings a text, a label a target.
SETTINGS = ("level", "label", "steps", "temperature", "learning_rate", "target")


class Target(traitlets.List):
    """A distribution over the classes: numbers (C,), or {class name: probability}, where what is missing is 0."""

    def validate(self, obj, value) -> list[float]:
        names = obj.class_names
        if isinstance(value, Mapping):
            unknown = [name for name in value if name not in names]
            if unknown:
                raise SettingError(nearest("class", unknown[0], names))
            value = [value.get(name, 0.0) for name in names]
        t = np.array(finite(value, "the targets", len(names) or None))
        if t.min() < 0 or abs(t.sum() - 1) > 1e-3:
            raise SettingError(
                f"the targets are no distribution: the lowest is {t.min():.3g}, the sum {t.sum():.4g}, not 1"
            )
        # A last digit changed here would go back to the browser and undo what is dragged meanwhile.
        return (t if abs(t.sum() - 1) < 1e-9 else t / t.sum()).tolist()


class BeTheTeacher(Instrument):
    """One lesson by hand: bars to drag, two students, and what they now believe of related texts.

    teacher: by default the one that ships for the task. text: the lesson; by default the most telling of `candidates`
    validation texts (see `_lessons`), and the next best may be picked. taught: how many labelled training texts the
    students know before. seed: which.

    Settings, all of which the browser shares: level, 1 to 3 (0: free play); text; label, a class or its name; target, a
    distribution or {name: probability}; steps, 0 to 100; temperature T of the soft loss; learning_rate.

    The hand-made target t is meant at T = 1. As in notebook 04 the loss is T² KL(t_T ‖ p_T), t_T = t^(1/T) normalised
    and p_T = softmax(z / T), so that a step is W ← W − learning_rate · T · (p_T − t_T) xᵀ. The other student's loss is
    the cross-entropy with the label, at T = 1.

    Raises KDTutorError for a task without classes or with one class only, for a teacher that does not fit or whose
    logits are not finite, and, naming it, for any setting that is not what it should be.
    """

    _script = "be_the_teacher.js"
    _style = "be_the_teacher.css"

    text = traitlets.Unicode().tag(sync=True)
    label = traitlets.Union([traitlets.Int(), traitlets.Unicode()]).tag(sync=True)
    target = Target().tag(sync=True)
    steps = Number(20, 0, 100, "a number of steps").tag(sync=True)
    temperature = Number(1.0, 0.5, 10, "a temperature").tag(sync=True)
    learning_rate = Number(1.0, 0.01, 4, "a learning rate").tag(sync=True)
    # What the browser computes from.
    class_names = traitlets.List(traitlets.Unicode()).tag(sync=True, told=True)
    lessons = traitlets.List(traitlets.Dict()).tag(sync=True, told=True)
    others = traitlets.Dict().tag(sync=True, told=True)  # many other texts: how often are the students right?
    start = traitlets.Unicode().tag(sync=True, told=True)  # W, (C, 32)
    taught = traitlets.Int().tag(sync=True, told=True)
    # Those that these lessons are good for.
    levels = traitlets.List(traitlets.Dict()).tag(sync=True, told=True)
    level = traitlets.Int(0).tag(sync=True)

    def __init__(
        self,
        task: Task,
        teacher: nn.Module | None = None,
        *,
        text: str | None = None,
        candidates: int = 1000,
        taught: int = 400,
        seed: int = 0,
        **settings,
    ) -> None:
        _check_choice(task)
        self._task, self._teacher = task, load_teacher(task) if teacher is None else teacher
        check_fits(self._teacher, task, "the teacher")
        self._school = School(task, self._teacher, taught, seed)
        self._found = self._school.telling(candidates)
        if not self._found and text is None:
            raise SettingError(
                f"none of {candidates} texts of {task.name} divides the teacher: give a text of your own"
            )
        lessons, lesson = self._lessons(text)
        super().__init__(
            class_names=list(map(str, task.labels)),
            lessons=lessons,
            others=self._school.others(),
            start=pack(self._school.start),
            taught=self._school.taught,
            levels=levels_of(lessons, self._school.start),
            text=lesson["text"],
            label=lesson["label"],
            target=_onehot(lesson["label"], task.num_labels),
        )
        if unknown := [name for name in settings if name not in SETTINGS]:
            raise SettingError(nearest("setting", unknown[0], SETTINGS))
        for name in sorted(settings, key=SETTINGS.index):
            setattr(self, name, settings[name])
        self.on_msg(self._hear)

    def _lessons(self, text: str | None) -> tuple[list[dict], dict]:
        """Return the lessons to choose from, and the one to begin with: that of `text`, or the first."""
        lessons = [self._school.lesson(i) for i in self._found[:CHOSEN]]
        if text is None:
            return lessons, lessons[0]
        if (first := next((each for each in lessons if each["text"] == text), None)) is None:
            first = self._school.lesson_of(text)
            lessons.append(first)
        return lessons, first

    # ------------------------------------------------------------------------------------------ one state

    @traitlets.validate("text")
    def _check_text(self, proposal) -> str:
        text = proposal["value"]
        if all(lesson["text"] != text for lesson in self.lessons):
            lesson = self._school.lesson_of(text)  # raises, and the last good text stays
            given = min(CHOSEN, len(self._found))
            self.lessons = [*self.lessons[:given], *[*self.lessons[given:], lesson][-TYPED:]]
        return text

    @traitlets.validate("steps")
    def _check_steps(self, proposal) -> float:
        if proposal["value"] % 1:
            raise SettingError(f"steps = {proposal['value']}: half a step can't be taken")
        return proposal["value"]

    @traitlets.validate("level")
    def _check_level(self, proposal) -> int:
        playable = [0, *(level["level"] for level in self.levels)]
        if proposal["value"] not in playable or isinstance(proposal["value"], bool):
            listed = ", ".join(map(str, playable))
            raise SettingError(
                f"level = {proposal['value']}: with these lessons there are the levels {listed}"
            )
        return proposal["value"]

    @traitlets.observe("level")
    def _begin_level(self, change) -> None:
        if (level := self._played()) is not None:
            self.text = level["text"]
            self.target = _onehot(self.label, len(self.class_names))
        self._sum_up()

    @traitlets.observe("text")
    def _new_lesson(self, change) -> None:
        with self.hold_sync():
            if self._played() is not None and self._played()["text"] != self.text:
                self.level = 0
            self.label, self.problem = self.lesson["label"], ""
            self.target = _onehot(self.label, len(self.class_names))

    @traitlets.validate("label")
    def _check_label(self, proposal) -> int:
        label = proposal["value"]
        if isinstance(label, str):
            if label not in self.class_names:
                raise SettingError(nearest("class", label, self.class_names))
            return self.class_names.index(label)
        if not 0 <= label < len(self.class_names):
            raise SettingError(f"label = {label}: the classes are 0 to {len(self.class_names) - 1}")
        return label

    @traitlets.observe("text", "label", "target", "steps", "temperature", "learning_rate")
    def _sum_up(self, change=None) -> None:
        if self.target and self.lessons:
            self.summary = self._sentence()

    def drag(self, name: str, probability: float) -> None:
        """Set one class's target as its bar does: the others keep their proportions (if all were 0: evenly)."""
        if name not in self.class_names:
            raise SettingError(nearest("class", name, self.class_names))
        if not 0 <= probability <= 1:
            raise SettingError(f"{probability!r} is no probability: it must be from 0 to 1")
        self.target = rescaled(self.target, [self.class_names.index(name)], probability)

    # ------------------------------------------------------------------------------------------ the students

    def _played(self) -> dict | None:
        return next((level for level in self.levels if level["level"] == self.level), None)

    @property
    def reached(self) -> bool:
        """Tell whether the level that is played is won."""
        level = self._played()
        if level is None:
            return False
        before = (views(self.lesson) @ unpack(self.start, len(self.class_names)).T).softmax(-1)
        return reached(level, self.lesson, before, self.beliefs("yours"), self.target)

    @property
    def lesson(self) -> dict:
        """Return the present text with its label, the teacher's answer, and its related texts."""
        return next(lesson for lesson in self.lessons if lesson["text"] == self.text)

    def student(self, which: str = "yours") -> Tensor:
        """Return its W, float64 (C, 32): "start", before the lesson; "yours", your target's; "label", the label's."""
        if which not in STUDENTS:
            raise SettingError(nearest("student", which, STUDENTS))
        W, x = unpack(self.start, len(self.class_names)), unpack(self.lesson["x"])[0]
        level = self._played()
        if level is not None and level["mistake"] is not None:
            mistake = torch.tensor(_onehot(level["mistake"], len(self.class_names)), dtype=torch.float64)
            W = teach(W, x, mistake, SPOILED, self.learning_rate)
        if which == "start":
            return W
        if which == "label":
            onehot = torch.tensor(_onehot(self.label, len(self.class_names)))
            return teach(W, x, onehot.double(), round(self.steps), self.learning_rate)
        t = torch.tensor(self.target, dtype=torch.float64)
        return teach(W, x, t, round(self.steps), self.learning_rate, self.temperature)

    def beliefs(self, which: str = "yours") -> Tensor:
        """Compute what that student believes of the text (row 0) and of each related text: float64 (1 + n, C)."""
        return (views(self.lesson) @ self.student(which).T).softmax(-1)

    def score(self, which: str = "yours") -> float:
        """Compute the share of the other texts whose label is that student's first guess."""
        logits = unpack(self.others["x"], len(self.others["labels"])) @ self.student(which).T
        return float((logits.argmax(-1) == torch.tensor(self.others["labels"])).double().mean())

    def compare(self) -> dict:
        """Give the same lesson with *all* texts that divide the teacher, by its own answer as target and by the label.

        "lessons": how many. For each student the mean probability of the label: on related texts of the lesson's own
        class, on those of the teacher's second guess; and how often its first guess is right on the other texts. T,
        steps and learning rate as set.
        """
        if not self._found:
            raise SettingError("there is nothing to compare: no text divides the teacher")
        return self._school.compare(self._found, round(self.steps), self.learning_rate, self.temperature)

    # ------------------------------------------------------------------------------------------ in words, and plain

    def _sentence(self) -> str:
        names, label = self.class_names, self.beliefs("label").numpy()
        yours = self.beliefs("yours").numpy()

        def of(p) -> str:
            p = np.array(p)
            return plots.ranking(p, names, 2 if np.sort(p)[-2] >= 0.005 else 1)

        said = (
            f"“{_short(self.text)}”: your target is {of(self.target)}, the label is {names[self.label]}. After "
            f"{round(self.steps)} steps the student believes {of(yours[0])}."
        )
        apart = np.abs(yours - label).sum(1)[1:]
        if apart.max() < 0.01:
            return said
        i = int(apart.argmax())
        near = self.lesson["related"][i]
        return (
            f"{said} Of the related text “{_short(near['text'])}” ({names[near['label']]}) it believes "
            f"{of(yours[1 + i])}; taught by the label, {of(label[1 + i])}."
        )

    def picture(self) -> plots.Picture:
        """Draw your target and both students on the text, and the students on each related text."""
        lesson, names = self.lesson, self.class_names
        rows = {which: self.beliefs(which).numpy() for which in STUDENTS}
        panels = [(self.text, self.label)] + [(near["text"], near["label"]) for near in lesson["related"]]
        return draw_lesson(panels, np.array(self.target), rows, lesson["classes"], names, self.summary)


def _check_choice(task: Task) -> None:
    """Refuse a task that offers no choice of classes."""
    has_classes = task.rules.answer == "classes"
    if not has_classes or task.num_labels < 2:
        what = "has one class only" if has_classes else f"is a {task.kind} task"
        raise SettingError(f'"{task.name}" {what}: a soft target needs at least two classes to choose from')


def _short(text: str) -> str:
    return textwrap.shorten(text, 100, placeholder=" …")


def _onehot(label: int, classes: int) -> list[float]:
    return [float(c == label) for c in range(classes)]
