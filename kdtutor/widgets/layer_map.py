"""The layer map: lines from the teacher's layers to the student's, drawn by hand, and what comes of learning by them.

    board = LayerMap(student, teacher, task, steps=60)
    board.run("evenly")               # trains by that map, here and now; {} is by logits alone
    board.pairs = [[1, 2], [2, 6]]    # [student's layer, teacher's], as if drawn
    board.start()                     # or the button: trains by the lines, in the background

Each training begins with the same student and takes the same batches. What is kept of it, in `results`, is its map, its
scores on validation texts, and the CKA of all its layers with the teacher's.
"""

from __future__ import annotations

import asyncio
import copy
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress

import torch
import traitlets
from transformers import PreTrainedModel

from kdtutor import evaluation, plots
from kdtutor.data.load import as_task
from kdtutor.data.task import Task
from kdtutor.errors import COUNT, KDTutorError
from kdtutor.evaluation.similarity import cka_of_layers, layer_states
from kdtutor.models.forward import logits_of
from kdtutor.objectives import HiddenStates, Objective, SoftTargets, Term, kl_divergence
from kdtutor.objectives.layers import NAMED, check_layers, layer_pairs
from kdtutor.objectives.layers import LayerMap as Layers
from kdtutor.training.distillation import Distillation
from kdtutor.widgets.background import TURNS, Home, needed_loop
from kdtutor.widgets.base import Instrument, OneOf, SettingError
from kdtutor.widgets.live_parts import one_sentence, short

LOOKS = 6  # at the layers, on the way through a training
BEFORE = "before training"


class LayerMap(Instrument):
    """Draw a map of layers, train a copy of `student` by it for some steps, and compare what its layers became.

    student: what every training begins with; it stays as it is. objective: what is minimised beside the hidden states,
    by default SoftTargets(2). weight: that of HiddenStates(the map), in which a projection is learned where widths
    differ. steps, settings: of each Distillation. texts: so many validation texts are looked at, always the same.

    pairs: the lines, [student's layer, teacher's], 0 being the embeddings; a student's layer has at most one. results:
    a dict for each training, the first is the student as it was. shown, beside: the numbers of the two that stand side
    by side. Raises KDTutorError if the task has no classes or a model no hidden states, and SettingError, a kind of it,
    for lines that lead nowhere.
    """

    _script, _style = "layer_map.js", "layer_map.css"

    pairs = traitlets.List().tag(sync=True)
    shown = traitlets.Int(0).tag(sync=True)
    beside = traitlets.Int(0).tag(sync=True)
    status = OneOf("ready", ("ready", "training")).tag(sync=True)
    # What never changes: depths, presets, the formula around the lines.
    plan = traitlets.Dict().tag(sync=True)
    results = traitlets.List().tag(sync=True)
    now = traitlets.Dict().tag(sync=True)  # the training under way, like a result: {} if there is none

    def __init__(
        self,
        student: PreTrainedModel,
        teacher: PreTrainedModel,
        task: Task | str,
        objective: Objective | Term | None = None,
        *,
        weight: float = 1.0,
        steps: int = 60,
        texts: int = 100,
        **settings,
    ) -> None:
        self.task, self.teacher, self.student = as_task(task), teacher, copy.deepcopy(student)
        if self.task.rules.answer != "classes":
            raise KDTutorError(f"a layer map scores classes, and {self.task.name} is a {self.task.kind} task")
        self.objective = SoftTargets(2) if objective is None else objective
        self.weight, self.settings = weight, {"steps": COUNT("steps", steps), "progress": False} | settings

        # What every look at a student compares with.
        self._texts = self.task.split("validation").sample(COUNT("texts", texts))
        self._encoded = self.task.encode_texts(self._texts.texts[0])
        self._states = layer_states(teacher, self.task, self._texts)
        self._logits = logits_of(teacher, self._encoded)
        first = self._look(self.student) | {"name": BEFORE, "pairs": [], "steps": 0}
        self.depths = len(first["similarity"]) - 1, len(self._states) - 1

        self._task: asyncio.Task | None = None
        self._stop_wanted = False
        self._home = Home()
        super().__init__(plan=self._make_plan(), results=[first])
        self.pairs = self._written("evenly")
        self.on_msg(self._message)
        self._summarise()

    # ------------------------------------------------------------------------------------------ what a person does

    def run(self, layers: Layers | None = None) -> dict:
        """Train by a map of layers, here and now, and return its result.

        layers: as HiddenStates takes it, or {} for no line at all; by default as the lines are drawn.
        """
        if layers is not None:
            self.pairs = self._written(layers)
        for _ in self._training(looks=1):  # nobody sees a picture before the end
            pass
        return self.results[-1]

    def start(self) -> None:
        """Train by the lines in the background, whenever the event loop is free; `run` is the way of a script."""
        if self.status == "training":
            return
        loop = needed_loop("board.run() there")
        self._home = Home()
        self._task = loop.create_task(self._train())

    def stop(self) -> None:
        """End the training under way after the step in hand; nothing is kept of it."""
        self._stop_wanted = True

    async def finished(self) -> None:
        """Wait until no training is under way."""
        if self._task is not None:
            await asyncio.wait({self._task})

    def close(self) -> None:
        self.stop()
        super().close()

    # ------------------------------------------------------------------------------------------ training

    async def _train(self) -> None:
        try:
            for _ in self._training(LOOKS):
                for _ in range(TURNS):
                    await asyncio.sleep(0)
        except Exception as error:
            self.problem = one_sentence(error)

    def _training(self, looks: int) -> Iterator[None]:
        """Take one step after another, and keep what came of it; a training that is stopped leaves nothing."""
        if self.status == "training":
            raise KDTutorError(
                "this layer map is training already: board.stop() first, or await board.finished()"
            )
        pairs, self.problem, self._stop_wanted, self.status = self.pairs, "", False, "training"
        try:
            student = copy.deepcopy(self.student)
            run = self._distillation(student, dict(pairs))
            about = {"name": self._name(pairs), "pairs": pairs}
            self.now = self.results[0] | about
            every = max(1, run.total_steps // looks)
            for step in run:
                if self._stop_wanted:
                    return
                if step.number % every == 0 and step.number < run.total_steps:
                    self.now = about | {"steps": step.number, **self._look(student)}
                yield
            result = about | {"steps": run.total_steps, **self._look(student), "clipped": short(run.clipped)}
            self.results = [*self.results, result]
            self.shown = len(self.results) - 1
        finally:
            self.now, self.status = {}, "ready"
            self._summarise()

    def _distillation(self, student: PreTrainedModel, pairs: Mapping[int, int]) -> Distillation:
        goal = self.objective
        if pairs:
            goal = goal + self.weight * HiddenStates(dict(pairs))
        with _crossing_is_fine():
            return Distillation(student, self.teacher, self.task, goal, **self.settings)

    def _look(self, student: PreTrainedModel) -> dict:
        """Measure a student: accuracy, KL from the teacher in nats, and CKA with the teacher, layer by layer."""
        logits, targets = logits_of(student, self._encoded), self._texts.targets
        labelled = self._texts.labelled
        similarity = cka_of_layers(layer_states(student, self.task, self._texts), self._states)
        return {
            "accuracy": short(evaluation.accuracy(logits[labelled], targets[labelled])),
            "kl": short(float(kl_divergence(self._logits, logits))),
            "similarity": [[round(value, 4) for value in row] for row in similarity.tolist()],
        }

    # ------------------------------------------------------------------------------------------ maps

    def _written(self, layers: Layers) -> list[list[int]]:
        """Write a map of layers out as lines: [student's, teacher's] layers, counted from the embeddings."""
        if not layers:
            return []
        with _crossing_is_fine():
            pairs = layer_pairs(check_layers(layers), *self.depths)
        return sorted(
            [layer % (depth + 1) for layer, depth in zip(pair, self.depths, strict=True)]
            for pair in pairs.items()
        )

    @traitlets.validate("pairs")
    def _check_pairs(self, proposal) -> list[list[int]]:
        pairs = proposal.value
        try:
            good = all(0 <= s <= self.depths[0] and 0 <= t <= self.depths[1] for s, t in pairs)
            pairs = sorted([int(s), int(t)] for s, t in pairs)
        except (TypeError, ValueError):
            good = False
        if not good:
            depths = f"0 to {self.depths[0]} and the teacher's 0 to {self.depths[1]}"
            raise SettingError(f"pairs = {pairs!r}: a line is [student's layer, teacher's], of {depths}")
        if len({s for s, _ in pairs}) < len(pairs):
            raise SettingError(f"pairs = {pairs!r}: each layer of the student learns from one of the teacher")
        return pairs

    @traitlets.validate("shown", "beside")
    def _check_number(self, proposal) -> int:
        if not 0 <= proposal.value < max(1, len(self.results)):
            name = proposal.trait.name
            raise SettingError(
                f"{name} = {proposal.value}: there are the results 0 to {len(self.results) - 1}"
            )
        return proposal.value

    def _name(self, pairs: list[list[int]]) -> str:
        """Call a map by its preset's name, or by its lines."""
        for name, layers in self.plan["presets"].items():
            if layers == pairs:
                return "logits alone" if not pairs else name
        teachers = [t for _, t in pairs]
        crossing = " (crossing)" if teachers != sorted(teachers) else ""
        return ", ".join(f"{s} ← {t}" for s, t in pairs) + crossing

    def _make_plan(self) -> dict:
        presets: dict[str, list] = {"no lines": []}
        for name in NAMED:
            with suppress(KDTutorError):  # "every second" of too few
                if (lines := self._written(name)) not in presets.values():
                    presets[name] = lines
        return {
            "student": self.depths[0] + 1,
            "teacher": self.depths[1] + 1,
            "presets": presets,
            "steps": self.settings["steps"],
            "task": self.task.name,
            "texts": len(self._texts),
            "objective": repr(self.objective),
            "weight": self.weight,
        }

    # ------------------------------------------------------------------------------------------ the front end

    def _message(self, _, content: dict, buffers) -> None:
        do = content.get("do") if isinstance(content, dict) else None
        self.send({"heard": do})  # so that a view knows that there is a kernel
        if do == "stop":
            self.stop()
        elif do == "start":
            self._home.do(self._obey)

    def _obey(self) -> None:
        try:
            self.start()
        except Exception as error:
            self.problem = one_sentence(error)

    @traitlets.observe("shown", "beside", "results")
    def _summarise(self, change=None) -> None:
        if self.results:
            two = dict.fromkeys((self.beside, self.shown))
            self.summary = "; ".join(self._sentence(self.results[i]) for i in two) + "."

    def _sentence(self, result: Mapping) -> str:
        score, nats = plots.percent(result["accuracy"]), f"{result['kl']:.2f}"
        said = f"{result['name']}: accuracy {score}, {nats} nats from the teacher"
        lines = [f"{s} with {t} {result['similarity'][s][t]:.2f}" for s, t in result["pairs"]]
        return said + (f", CKA of the paired layers {', '.join(lines)}" if lines else "")

    def picture(self) -> plots.Picture:
        """Draw the two results' CKA side by side, their pairs framed."""
        two = {self.results[i]["name"]: self.results[i] for i in dict.fromkeys((self.beside, self.shown))}
        maps = {name: torch.tensor(result["similarity"]) for name, result in two.items()}
        picture = plots.similarity_maps(maps, {name: dict(result["pairs"]) for name, result in two.items()})
        return plots.describe(picture, f"{self.summary} {picture.alt}")


@contextmanager
def _crossing_is_fine() -> Iterator[None]:
    """Leave out the warning of a map that crosses: the name of the result says so."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the map of layers crosses")
        yield
