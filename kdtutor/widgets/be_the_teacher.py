"""Be the teacher: give one text's soft targets by hand, and see what a small student makes of them.

    game = BeTheTeacher(task, teacher)
    game.target = {"plant": 0.7, "animal": 0.3}      # moves the picture, as dragging a bar does
    game.beliefs("yours")                            # of the text and of its related texts, (1 + n, C)
    game.compare()                                   # all texts that divide the teacher: whom the label alone harms

The student is a linear softmax classifier, small enough to learn in the browser while a bar is dragged. Its logits are
W x, without a bias. x, its only view of a text: the mean of the teacher's word vectors over the text's pieces, less the
mean over many texts, projected on 32 principal components and scaled to length 1. W, (classes, 32), first learns a few
hundred labelled texts; from there two copies get the same number of steps on the *one* text: one by hand-made targets,
one by the label.
"""

from __future__ import annotations

import base64
import textwrap
from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
import traitlets
from matplotlib.ticker import PercentFormatter
from torch import Tensor, nn

from kdtutor import plots
from kdtutor.data.task import Task
from kdtutor.data.tokens import Encoded
from kdtutor.errors import nearest
from kdtutor.models.forward import logits_of
from kdtutor.models.load import check_fits, load_teacher
from kdtutor.widgets.base import Instrument, Number, SettingError, finite

WIDTH = 32  # numbers by which the student knows a text
SHOWN = 4  # classes with a bar of their own; the rest is one bar
CHOSEN, TYPED = 6, 6  # lessons that are kept: the most telling ones, and the last that were typed
NOTHING = 1e-12  # targets below this have no proportions to keep
STUDENTS = ("start", "yours", "label")


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

    Settings, all of which the browser shares: text; label, a class or its name; target, a distribution or {name:
    probability}; steps, 0 to 100; temperature T of the soft loss; learning_rate.

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
        classes = task.rules.answer == "classes"
        if not classes or task.num_labels < 2:
            what = "has one class only" if classes else f"is a {task.kind} task"
            raise SettingError(
                f'"{task.name}" {what}: a soft target needs at least two classes to choose from'
            )
        self._task, self._teacher = task, load_teacher(task) if teacher is None else teacher
        check_fits(self._teacher, task, "the teacher")
        self._school = School(task, self._teacher, taught, seed)
        self._found = self._school.telling(candidates)
        if not self._found and text is None:
            raise SettingError(
                f"none of {candidates} texts of {task.name} divides the teacher: give a text of your own"
            )
        lessons = [self._school.lesson(i) for i in self._found[:CHOSEN]]
        known = [lesson["text"] for lesson in lessons]
        if text is not None and text not in known:
            lessons.append(self._school.lesson_of(text))
        lesson = lessons[0] if text is None else lessons[known.index(text) if text in known else -1]
        super().__init__(
            class_names=list(map(str, task.labels)),
            lessons=lessons,
            others=self._school.others(),
            start=pack(self._school.start),
            taught=self._school.taught,
            text=lesson["text"],
            label=lesson["label"],
            target=_onehot(lesson["label"], task.num_labels),
        )
        for name in sorted(settings, key=lambda name: name == "target"):  # a label before the target
            if name not in ("label", "target", "steps", "temperature", "learning_rate"):
                raise SettingError(
                    nearest("setting", name, ("label", "target", "steps", "temperature", "learning_rate"))
                )
            setattr(self, name, settings[name])
        self.on_msg(self._hear)

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

    @traitlets.observe("text")
    def _new_lesson(self, change) -> None:
        with self.hold_sync():
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

    @property
    def lesson(self) -> dict:
        """Return the present text with its label, the teacher's answer, and its related texts."""
        return next(lesson for lesson in self.lessons if lesson["text"] == self.text)

    def student(self, which: str = "yours") -> Tensor:
        """Return its W, float64 (C, 32): "start", before the lesson; "yours", your target's; "label", the label's."""
        if which not in STUDENTS:
            raise SettingError(nearest("student", which, STUDENTS))
        W, x = unpack(self.start, len(self.class_names)), unpack(self.lesson["x"])[0]
        if which == "start":
            return W
        if which == "label":
            onehot = torch.tensor(_onehot(self.label, len(self.class_names)))
            return teach(W, x, onehot.double(), round(self.steps), self.learning_rate)
        t = torch.tensor(self.target, dtype=torch.float64)
        return teach(W, x, t, round(self.steps), self.learning_rate, self.temperature)

    def beliefs(self, which: str = "yours") -> Tensor:
        """Compute what that student believes of the text (row 0) and of each related text: float64 (1 + n, C)."""
        x = torch.cat([unpack(self.lesson["x"]), *(unpack(near["x"]) for near in self.lesson["related"])])
        return (x @ self.student(which).T).softmax(-1)

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
        return _drawn(panels, np.array(self.target), rows, lesson["classes"], names, self.summary)


# ------------------------------------------------------------------------------------------------ the lesson


def teach(
    W: Tensor, x: Tensor, target: Tensor, steps: int, learning_rate: float = 1.0, temperature: float = 1.0
) -> Tensor:
    """Take `steps` of gradient descent on T² KL(t_T ‖ softmax(W x / T)): W (C, d), x (d,), target (C,) → a new W.

    The gradient with respect to the logits z = W x is T (p_T − t_T), so that of W is its outer product with x.
    """
    softened = target ** (1 / temperature)
    softened = softened / softened.sum()
    for _ in range(steps):
        p = (W @ x / temperature).softmax(-1)
        W = W - learning_rate * temperature * torch.outer(p - softened, x)
    return W


def rescaled(target, places, probability: float) -> list[float]:
    """Scale targets (C,) so that `places` have `probability` together, and they and all others keep their proportions.

    Where there are none to keep, because all are 0, it is shared evenly.
    """
    t = np.array(target, float)
    inside = np.isin(np.arange(len(t)), places)
    for group, total in ((inside, probability), (~inside, 1 - probability)):
        if group.any():
            t[group] = total * (t[group] / t[group].sum() if t[group].sum() > NOTHING else 1 / group.sum())
    return (t / t.sum()).tolist()


class School:
    """Where the students come from: their view of a text, their first lessons, and texts to choose from."""

    def __init__(self, task: Task, teacher: nn.Module, taught: int, seed: int, pool: int = 4000) -> None:
        self.task, self.teacher = task, teacher
        self.classes = task.num_labels
        self.vectors = teacher.get_input_embeddings().weight.detach().double().cpu()  # (V, D)
        self.special = torch.tensor(sorted({*task.tokenizer.all_special_ids}))
        texts, labels = self._some("train", taught, seed)
        raw = self._mean_vectors(texts)
        self.middle = raw.mean(0)
        self.axes = torch.linalg.svd(raw - self.middle, full_matrices=False)[2][:WIDTH].T  # (D, d)
        self.taught = len(texts)
        self.start = _fit(self.view(texts), labels, self.classes)
        self.texts, self.labels = self._some("validation", pool, seed, letters=(15, 60))
        self.x = self.view(self.texts)  # (N, d)
        self.checked = slice(max(0, len(self.texts) - 300), None)  # "other texts" are the last of the pool

    def _some(self, split: str, n: int, seed: int, letters: tuple[int, int] | None = None):
        """Pick labelled texts in random order: those of a length that fits on a card, if there are enough of them."""
        texts, labels = self.task.texts(split), self.task.targets(split)
        usable = [i for i in (labels >= 0).nonzero()[:, 0].tolist() if texts[i].strip()]
        if not usable:
            raise SettingError(f"the {split} split of {self.task.name} has no labelled text")
        fitting = [i for i in usable if letters and letters[0] <= len(texts[i]) <= letters[1]]
        usable = fitting if len(fitting) >= 100 else usable
        order = torch.randperm(len(usable), generator=torch.Generator().manual_seed(seed))[:n].tolist()
        chosen = [usable[i] for i in order]
        return [texts[i] for i in chosen], labels[torch.tensor(chosen, dtype=torch.long)]

    def _mean_vectors(self, texts: list[str]) -> Tensor:
        """Average the word vectors of each text's pieces, without [CLS] and the like: (N, D). Refuses texts without."""
        encoded: Encoded = self.task.encode_texts(texts)
        row = torch.repeat_interleave(torch.arange(len(encoded)), encoded.lengths)
        ids = encoded.ids.long()
        known = ~torch.isin(ids, self.special)
        counts = torch.bincount(row[known], minlength=len(encoded))
        if not counts.all():
            text = texts[int((counts == 0).nonzero()[0, 0])]
            raise SettingError(f"the student finds no piece that it knows in the text “{text[:40]}”")
        sums = torch.zeros(len(encoded), self.vectors.shape[1], dtype=torch.float64)
        return sums.index_add_(0, row[known], self.vectors[ids[known]]) / counts[:, None]

    def view(self, texts: list[str]) -> Tensor:
        """Compute how the student sees texts: (N, 32), each of length 1, rounded to float32 as the browser gets it."""
        x = F.normalize((self._mean_vectors(texts) - self.middle) @ self.axes, dim=-1)
        if not x.isfinite().all():
            raise SettingError("the teacher's word vectors are not finite")
        return x.float().double()

    def telling(self, candidates: int, least: float = 0.2) -> list[int]:
        """Find the places in the pool of the texts that divide the teacher, the most telling first.

        Among the first `candidates`: the teacher's first guess is the label, and its second has `least` or more. In the
        order of how much more of its label a related text keeps if the lesson is the teacher's answer instead of the
        label, after 20 steps. That order picks a striking example; `compare` says what happens with all of them.
        """
        n = min(candidates, len(self.texts) - 300 if len(self.texts) > 600 else len(self.texts))
        if n < 1:
            return []
        p = self._answers(self.texts[:n])
        best, guess = p.topk(2)
        found = ((guess[:, 0] == self.labels[:n]) & (best[:, 1] >= least)).nonzero()[:, 0].tolist()
        self.answers = {i: p[i] for i in found}
        gain = {}
        for i in found:
            near = [j for j, _ in self.related(i)]
            yours, label = self._after(i, 20, 1.0, 1.0)
            y = self.labels[near]
            gain[i] = float((_chance(self.x[near], yours, y) - _chance(self.x[near], label, y)).mean())
        return sorted(found, key=lambda i: -gain[i])

    def _answers(self, texts: list[str]) -> Tensor:
        return logits_of(self.teacher, self.task.encode_texts(texts)).double().softmax(-1)

    def _after(self, i: int, steps: int, rate: float, temperature: float) -> tuple[Tensor, Tensor]:
        """Train the student on the lesson of text i: by the teacher's answer, and by the label."""
        onehot = F.one_hot(self.labels[i], self.classes).double()
        x = self.x[i]
        return (
            teach(self.start, x, self.answers[i], steps, rate, temperature),
            teach(self.start, x, onehot, steps, rate),
        )

    def related(
        self, i: int | None, x: Tensor | None = None, p: Tensor | None = None
    ) -> list[tuple[int, str]]:
        """Pick the places of five texts to watch, and say why.

        By x·x': the two nearest whose label is the teacher's first guess, the two nearest whose label is its second,
        and one that is as unlike as can be, with x·x' nearest to 0.
        """
        x, p = (self.x[i], self.answers[i]) if x is None else (x, p)
        alike = self.x @ x
        if i is not None:
            alike[i] = -torch.inf
        first, second = p.topk(2).indices.tolist()
        chosen = []
        for c, why in ((first, "the teacher's first guess"), (second, "its second guess")):
            there = torch.where(self.labels == c, alike, -torch.inf)
            top = there.topk(min(2, len(there)))
            chosen += [
                (j, why) for j, s in zip(top.indices.tolist(), top.values.tolist(), strict=True) if s > -2
            ]
        chosen.append((int(alike.abs().argmin()), "unrelated"))
        return chosen

    def lesson(self, i: int) -> dict:
        return self._written(self.texts[i], int(self.labels[i]), self.x[i], self.answers[i], self.related(i))

    def lesson_of(self, text: str) -> dict:
        """Make a lesson of any text; its label is the teacher's first guess, until somebody sets another."""
        if not text.strip():
            raise SettingError("the text is empty: give at least one word")
        x, p = self.view([text])[0], self._answers([text])[0]
        return self._written(text, int(p.argmax()), x, p, self.related(None, x, p))

    def _written(self, text: str, label: int, x: Tensor, p: Tensor, related: list[tuple[int, str]]) -> dict:
        """Write a lesson as the browser gets it."""
        near = [
            {
                "text": self.texts[j],
                "label": int(self.labels[j]),
                "x": pack(self.x[j]),
                "alike": float(self.x[j] @ x),
                "why": why,
            }
            for j, why in related
        ]
        order = [*p.topk(min(3, len(p))).indices.tolist(), label, *(n["label"] for n in near)]
        order += p.argsort(descending=True).tolist()
        classes = list(dict.fromkeys(order))[: len(p) if len(p) <= SHOWN + 1 else SHOWN]
        return {
            "text": text,
            "label": label,
            "x": pack(x),
            "teacher": finite(p, "the teacher's probabilities"),
            "classes": sorted(classes, key=lambda c: -p[c]),
            "related": near,
        }

    def others(self) -> dict:
        return {"x": pack(self.x[self.checked]), "labels": self.labels[self.checked].tolist()}

    def compare(self, found: list[int], steps: int, rate: float, temperature: float) -> dict:
        rows: dict[str, list[list[float]]] = {which: [] for which in STUDENTS}
        rest, y_rest = self.x[self.checked], self.labels[self.checked]
        for i in found:
            yours, label = self._after(i, steps, rate, temperature)
            for which, W in zip(STUDENTS, (self.start, yours, label), strict=True):
                row = []
                for kind in ("the teacher's first guess", "its second guess"):
                    near = [j for j, why in self.related(i) if why == kind]
                    row.append(float(_chance(self.x[near], W, self.labels[near]).mean()) if near else np.nan)
                right = ((rest @ W.T).argmax(-1) == y_rest).double().mean()
                rows[which].append([*row, float(right)])
        heads = ("same class", "second guess's class", "right on other texts")
        means = {which: np.nanmean(np.array(r), axis=0).tolist() for which, r in rows.items()}
        return {"lessons": len(found)} | {w: dict(zip(heads, m, strict=True)) for w, m in means.items()}


def _short(text: str) -> str:
    return textwrap.shorten(text, 100, placeholder=" …")


def _onehot(label: int, classes: int) -> list[float]:
    return [float(c == label) for c in range(classes)]


def _chance(x: Tensor, W: Tensor, labels: Tensor) -> Tensor:
    """Compute the probability that student W gives to each text's label: (n,)."""
    return (x @ W.T).softmax(-1).gather(1, labels[:, None])[:, 0]


def _fit(x: Tensor, labels: Tensor, classes: int, decay: float = 1e-3) -> Tensor:
    """Fit a softmax regression: the W (C, d) of least mean cross-entropy plus decay/2 · |W|², rounded to float32."""
    W = torch.zeros(classes, x.shape[1], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([W], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(x @ W.T, labels) + decay / 2 * W.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    return W.detach().float().double()


def pack(values: Tensor) -> str:
    """Write numbers as base64 of float32, little-endian."""
    return base64.b64encode(values.numpy().astype("<f4").tobytes()).decode("ascii")


def unpack(text: str, rows: int = 1) -> Tensor:
    """Undo `pack`: float64 (rows, n)."""
    return torch.from_numpy(np.frombuffer(base64.b64decode(text), "<f4").astype(float)).reshape(rows, -1)


# ------------------------------------------------------------------------------------------------ the plain picture


@plots.styled
def _drawn(panels, target, rows, classes, names, sentence: str) -> plots.Picture:
    """Draw a panel for each text: the shown classes, and a bar for each student; your target in the first panel."""
    rest = [c for c in range(len(names)) if c not in classes]
    shown = [names[c] for c in classes] + ([f"{len(rest)} others"] if rest else [])

    def values(p: np.ndarray) -> np.ndarray:
        return np.append(p[classes], p[rest].sum()) if rest else p[classes]

    looks = {
        "before the lesson": plots.Look("white", "", "-", ""),
        "your target": plots.TEACHER,
        "student, your target": plots.STUDENT,
        "student, label": plots.OTHERS[1],
    }
    columns = 2
    lines = -(-len(panels) // columns)
    picture = plots.Picture(figsize=(11, 0.5 + lines * (1.2 + 0.56 * len(shown))), layout="constrained")
    for axes, place in zip(
        picture.subplots(lines, columns, squeeze=False).flat, range(lines * columns), strict=True
    ):
        if place >= len(panels):
            axes.set_visible(False)
            continue
        text, label = panels[place]
        series = {"before the lesson": rows["start"][place]} | ({"your target": target} if place == 0 else {})
        series |= {"student, your target": rows["yours"][place], "student, label": rows["label"][place]}
        drawn = {name: (values(p), looks[name]) for name, p in series.items()}
        plots.draw_grouped_bars(
            axes, drawn, [f"★ {n}" if n == names[label] else n for n in shown], lambda v: plots.percent(v)
        )
        axes.set(xlim=(0, 1.14), xticks=np.linspace(0, 1, 6))
        axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
        axes.tick_params(axis="x", labelsize=10)
        title = textwrap.shorten(("the lesson: " if place == 0 else "") + text, 110, placeholder=" …")
        axes.set_title("\n".join(textwrap.wrap(title, 48)), loc="left", fontsize=12)
        if place == 0:
            handles = axes.get_legend_handles_labels()
        axes.get_legend().remove()
    picture.legend(*handles, loc="outside lower center", ncols=4)
    return plots.describe(picture, sentence)
