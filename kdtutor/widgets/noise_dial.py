"""The noise dial: a text is broken bit by bit, and a teacher and its students answer on the way. Find the flip.

    dial = NoiseDial({"teacher": teacher, "distilled student": soft, "hard student": hard}, task)
    dial.kind, dial.strength = "typo", 0.4       # moves the picture
    dial.text = "a warm and funny film"          # all models read it, at every strength
    dial.flips()                                 # at which strength each model's answer changes first

The browser has all answers to the present text, at eleven strengths of each kind, so the dial never waits for Python.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

import traitlets
from transformers import PreTrainedModel

from kdtutor import plots
from kdtutor.data.corruption import corrupt
from kdtutor.data.load import as_task
from kdtutor.data.task import Task
from kdtutor.errors import SEED
from kdtutor.models.forward import logits_of
from kdtutor.models.load import check_fits
from kdtutor.widgets.base import Number, OneOf, SettingError, WithExamples

KINDS = {
    "typo": "typing errors",
    "drop": "lost words",
    "swap": "swapped words",
    "synonym": "synonyms",
}
STEPS = 10  # of the dial, from 0 to 1
MOST = 3  # models: as many as have a look of their own
LONGEST = 600  # letters of a text


class NoiseDial(WithExamples):
    """Break a text gradually, and see every model's probabilities move.

    models: one to three classifiers of `task`, by the name under which they are drawn. examples: texts to pick, or
    places in the test split (default: the first six of a middle length). seed: of what is broken, and how.

    Settings, shared with the browser: kind, one of KINDS; strength, 0 to 1, in tenths; text; example, a place in
    `examples`, or None for another text. Raises KDTutorError if a model does not fit, and SettingError, a kind of it,
    for an empty text or a setting that can't be.
    """

    _script, _style = "noise_dial.js", "noise_dial.css"

    kind = OneOf("typo", KINDS).tag(sync=True)
    strength = Number(0.0, 0, 1, "a share of the words").tag(sync=True)
    # What the browser draws from: for each kind and step the broken text and each model's probabilities.
    plan = traitlets.Dict().tag(sync=True, told=True)
    ladders = traitlets.Dict().tag(sync=True, told=True)

    def __init__(
        self,
        models: Mapping[str, PreTrainedModel],
        task: Task | str,
        examples: Sequence[str | int] | None = None,
        seed: int = 0,
        **settings,
    ) -> None:
        self._task, self._seed = as_task(task), SEED("seed", seed)
        if self._task.rules.answer != "classes":
            raise SettingError(f"the dial shows classes, and {self._task.name} is a {self._task.kind} task")
        if not 1 <= len(models) <= MOST:
            raise SettingError(f"the dial shows one to {MOST} models, not {len(models)}")
        for name, model in models.items():
            check_fits(model, self._task, name)
        self._models = dict(models)

        # The examples are read before the page is there, all at once.
        chosen = self._chosen(examples)
        ladders = self._read([text for text, _ in chosen])
        entries = [
            {"text": text, "label": label, "ladders": found}
            for (text, label), found in zip(chosen, ladders, strict=True)
        ]
        self._known = {entry["text"]: (i, entry["ladders"]) for i, entry in enumerate(entries)}
        super().__init__(
            plan={
                "models": list(models),
                "classes": list(self._task.labels),
                "kinds": KINDS,
                "task": self._task.name,
            },
            examples=entries,
        )
        self.on_msg(self._hear)
        self.example = 0
        for name, value in settings.items():
            if name not in ("kind", "strength", "text", "example"):
                raise SettingError(f"the dial has no setting {name}: kind, strength, text, example")
            setattr(self, name, value)

    # ------------------------------------------------------------------------------------------ reading

    def _chosen(self, examples: Sequence[str | int] | None) -> list[tuple[str, int | None]]:
        """List the examples, each with its label, or None."""
        texts, labels = self._task.texts("test"), self._task.targets("test")
        if examples is None:
            middle = [i for i, text in enumerate(texts) if 6 <= len(text.split()) <= 16]
            examples = (middle or [*range(len(texts))])[:6]
        chosen: dict[str, int | None] = {}
        for given in examples:
            if isinstance(given, int) and not 0 <= given < len(texts):
                raise SettingError(f"example {given}: the test split has {len(texts)} texts")
            text = texts[given] if isinstance(given, int) else given
            label = int(labels[given]) if isinstance(given, int) and labels[given] >= 0 else None
            chosen.setdefault(self._fitting(text), label)
        if not chosen:
            raise SettingError("the dial needs one example at least")
        return list(chosen.items())

    def _fitting(self, text: str) -> str:
        if not text.strip():
            raise SettingError("the text is empty: a few words at least are needed")
        if len(text) > LONGEST:
            raise SettingError(f"the text has {len(text):,} letters, and the dial takes {LONGEST}")
        return text

    def _read(self, texts: Sequence[str]) -> list[dict]:
        """Ask all models about each text, broken in every kind at every step: {kind: {"texts", "p"}} for each text.

        p[m][step]: model m's probabilities of all classes.
        """
        strengths = [step / STEPS for step in range(STEPS + 1)]
        broken = {
            (text, kind): [corrupt([text], kind, strength, self._seed)[0] for strength in strengths]
            for text in texts
            for kind in KINDS
        }
        each = list(dict.fromkeys(variant for variants in broken.values() for variant in variants))
        place = {variant: i for i, variant in enumerate(each)}
        encoded = self._task.encode_texts(each)
        answers = [logits_of(model, encoded).double().softmax(-1) for model in self._models.values()]

        def probabilities(p, variants: list[str]) -> list[list[float]]:
            return [[round(value, 5) for value in p[place[variant]].tolist()] for variant in variants]

        return [
            {
                kind: {
                    "texts": broken[text, kind],
                    "p": [probabilities(p, broken[text, kind]) for p in answers],
                }
                for kind in KINDS
            }
            for text in texts
        ]

    # ------------------------------------------------------------------------------------------ one state

    @traitlets.validate("text")
    def _take(self, proposal) -> str:
        text = self._fitting(proposal["value"])
        if text not in self._known:
            self._known[text] = None, self._read([text])[0]
        return text

    @traitlets.validate("strength")
    def _in_tenths(self, proposal) -> float:
        return round(proposal["value"] * STEPS) / STEPS

    @traitlets.observe("text")
    def _show(self, change) -> None:
        example, ladders = self._known[change["new"]]
        with self.hold_sync():
            self.set_trait("example", example)
            self.ladders, self.problem = ladders, ""

    @traitlets.observe("kind", "strength", "ladders")
    def _sum_up(self, change=None) -> None:
        if self.ladders:
            self.summary = self._sentence()

    # ------------------------------------------------------------------------------------------ in numbers

    def probabilities(self) -> dict[str, list[float]]:
        """Return each model's probabilities of all classes, (C,), as the text stands."""
        step = round(self.strength * STEPS)
        found = self.ladders[self.kind]["p"]
        return {name: found[m][step] for m, name in enumerate(self._models)}

    def flips(self) -> dict[str, float | None]:
        """Tell at which strength each model's first guess is first another one than at 0; None if it never is."""
        found = {}
        for m, name in enumerate(self._models):
            guesses = [max(range(len(p)), key=p.__getitem__) for p in self.ladders[self.kind]["p"][m]]
            changed = [step for step, guess in enumerate(guesses) if guess != guesses[0]]
            found[name] = changed[0] / STEPS if changed else None
        return found

    def _sentence(self) -> str:
        """Write the same sentence as the browser's (`sentence` in noise_dial.js)."""
        said = []
        for (name, p), flip in zip(self.probabilities().items(), self.flips().values(), strict=True):
            best = max(range(len(p)), key=p.__getitem__)
            when = "never flips" if flip is None else f"flips first at {plots.percent(flip)}"
            said.append(f"{name} says {self._task.labels[best]} ({plots.percent(p[best])}) and {when}")
        return f"{KINDS[self.kind].capitalize()}, {plots.percent(self.strength)} of the words: {'; '.join(said)}."

    def picture(self) -> plots.Picture:
        """Draw each model's probability of what it said at first, against the strength."""
        x = [step / STEPS for step in range(STEPS + 1)]
        series = {}
        for m, name in enumerate(self._models):
            p = self.ladders[self.kind]["p"][m]
            first = max(range(len(p[0])), key=p[0].__getitem__)
            series[name] = x, [row[first] for row in p]
        short = textwrap.shorten(self.text, 70, placeholder=" …")
        picture = plots.curves(
            series, f"{KINDS[self.kind]}: share of the words", "probability of its first answer", short
        )
        return plots.describe(picture, f"{self.summary} The text: “{short}”. {picture.alt}")
