"""Where the students of `BeTheTeacher` come from: their view of a text, their first lessons, and texts to choose from.

The student is described in be_the_teacher.py; nothing here knows of widgets' states or of the browser.
"""

from __future__ import annotations

import base64

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdtutor.data.task import Task
from kdtutor.data.tokens import Encoded
from kdtutor.models.forward import logits_of
from kdtutor.widgets import reading
from kdtutor.widgets.base import SettingError, finite

WIDTH = 32  # numbers by which the student knows a text
SHOWN = 4  # classes with a bar of their own; the rest is one bar
NOTHING = 1e-12  # targets below this have no proportions to keep
STUDENTS = ("start", "yours", "label")


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
        notice, pieces = reading.warning(self.task, text)
        lesson = self._written(text, int(p.argmax()), x, p, self.related(None, x, p))
        return lesson | {"notice": notice, "pieces": pieces}

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
