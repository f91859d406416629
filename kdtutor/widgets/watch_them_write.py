"""Watch them write: a teacher and its students write side by side, and the teacher judges every token of theirs.

    board = WatchThemWrite({"teacher": teacher, "distilled": distilled, "hard": hard}, task, ["xylophone", "weight"])
    board.step = 3                 # the fourth token
    board.text = "knowledge"       # they write once more
    board.numbers()                # the divergence at every token, at T and β

Each model takes its likeliest token and goes on from its own text. So at each of a student's tokens the teacher reads
what the *student* wrote before: that is what on-policy distillation minimises, and here one sees it.

The browser has both models' log-probabilities at every token and computes the rest itself (static/watch_them_write.js);
the same formulas are here, from kdtutor.objectives, for cells, tests and the plain picture.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence

import torch
import traitlets
from torch import Tensor
from transformers import PreTrainedModel

from kdtutor import objectives, plots
from kdtutor.data.load import as_task
from kdtutor.data.task import Task
from kdtutor.data.tokens import end_of_text
from kdtutor.models.forward import evaluating, forward
from kdtutor.models.load import check_fits
from kdtutor.models.writing import generated_ids, prompts
from kdtutor.training.on_policy import with_rows, with_written
from kdtutor.widgets.base import Number, SettingError, WithExamples

KEPT = 400  # tokens of a larger vocabulary that the browser gets: the likeliest of all steps, and the rest as one
SCALE, LOWEST = 1000, -32.0  # log-probabilities go as whole thousandths in 16 bits
REST = "all others"


class WatchThemWrite(WithExamples):
    """Let models write to the same texts, and show at each token what else they thought of.

    models: by name, the teacher first; two or more, of one task. texts: what they are given, all different; by default
    six of the test split, `max_new_tokens` at most to each. Settings, which the browser shares:

    temperature, 0.1 to 10: of the probabilities that are shown, and of the divergence; which token is written it leaves
    alone. beta, 0 to 1: KL(teacher ‖ student) at 0, KL(student ‖ teacher) at 1, the generalised JSD between, all
    without T². example: a place in `examples`, or None for another text. step: the token looked at, 0 for the first.
    text: what they are given; set it, and they write to it.

    Raises SettingError if there are fewer than two models or no text, KDTutorError if one does not fit the task or
    can't write.
    """

    _script, _style = "watch_them_write.js", "watch_them_write.css"

    temperature = Number(1.0, 0.1, 10, "a temperature").tag(sync=True)
    beta = Number(0.0, 0, 1, "β").tag(sync=True)
    step = traitlets.Integer(0).tag(sync=True)
    shown = traitlets.Dict().tag(sync=True)  # what was written to the text
    names = traitlets.List(traitlets.Unicode()).tag(sync=True, told=True)

    def __init__(
        self,
        models: Mapping[str, PreTrainedModel],
        task: Task | str,
        texts: Sequence[str] | None = None,
        *,
        max_new_tokens: int = 24,
        **settings,
    ) -> None:
        self.models, self.task, self.most = dict(models), as_task(task), max_new_tokens
        if len(self.models) < 2:
            raise SettingError(f"there are {len(self.models)} models: a teacher and a student are the fewest")
        for name, model in self.models.items():
            check_fits(model, self.task, name)
        texts = self.task.split("test").sample(6).texts[0] if texts is None else texts
        if not len(texts) or isinstance(texts, str) or len({*texts}) < len(texts):
            raise SettingError("texts must be a list of one or more, all different")
        self._references = self._find_references()
        self._known = {text: self._write(text) | {"example": i} for i, text in enumerate(texts)}
        super().__init__(names=[*self.models], examples=[_public(entry) for entry in self._known.values()])
        self.on_msg(self._hear)
        self.example = 0
        for name, value in settings.items():
            if name not in ("temperature", "beta", "example", "step", "text"):
                raise SettingError(f"{name!r} is no setting of this instrument")
            setattr(self, name, value)

    # ------------------------------------------------------------------------------------------ writing

    def _find_references(self) -> dict[str, str]:
        """Look up what should be written, where the task says it."""
        if not self.task.rules.writes:
            return {}
        splits = [self.task.split(name).texts for name in self.task.split_names]
        return {read: target for texts in splits for read, target in zip(*texts, strict=True)}

    def _write(self, text: str) -> dict:
        """Let every model write to a text, and the teacher judge it."""
        teacher, *_ = self.models.values()
        writers, rows = [], []
        for name, model in self.models.items():
            given = prompts(model, self.task, [text]).batch(torch.tensor([0]))
            ids, mask = generated_ids(model, self.task, given, max_new_tokens=self.most)
            batch = with_rows(self.task, with_written(self.task, given, ids.cpu(), mask.cpu()))
            judges = {"own": model} if model is teacher else {"own": model, "teacher": teacher}
            writers.append({"name": name, "ids": ids[mask].tolist()})
            rows.append({who: _log_probabilities(judge, batch) for who, judge in judges.items()})
        kept, rows = _fewer(rows, [i for writer in writers for i in writer["ids"]])
        place = {token: i for i, token in enumerate(kept)}
        return {
            "text": text,
            "reference": self._references.get(text, ""),
            "pieces": self._pieces(kept, rows),
            "writers": [
                {"name": w["name"], "tokens": [place[i] for i in w["ids"]], **_as_bytes(r)}
                for w, r in zip(writers, rows, strict=True)
            ],
            "rows": rows,
            "example": None,
        }

    def _pieces(self, kept: list[int], rows: list[dict]) -> list[str]:
        """Call tokens by their names, and the end of text by what it is."""
        end, tokenizer = end_of_text(self.task.tokenizer), self.task.tokenizer
        named = [
            "end" if token == end else str(tokenizer.convert_ids_to_tokens(token)).replace("Ġ", "")
            for token in kept
        ]
        return named + [REST] * (rows[0]["own"].shape[1] > len(kept))

    # ------------------------------------------------------------------------------------------ one state

    @traitlets.validate("text")
    def _read(self, proposal) -> str:
        text = proposal["value"].strip()
        if not text:
            raise SettingError("the text is empty: they need something to go on from")
        if text not in self._known:
            self._known[text] = self._write(text)
        return text

    @traitlets.validate("step")
    def _is_step(self, proposal) -> int:
        if proposal["value"] < 0:
            raise SettingError(f"step = {proposal['value']}: tokens are counted from 0")
        return proposal["value"]

    @traitlets.observe("text")
    def _show(self, change) -> None:
        entry = self._known[change["new"]]
        with self.hold_sync():
            self.set_trait("example", entry["example"])
            self.shown, self.step, self.problem = _public(entry), 0, ""

    @traitlets.observe("temperature", "beta", "step", "shown")
    def _sum_up(self, change=None) -> None:
        if self.shown:
            self.summary = self._sentence()

    # ------------------------------------------------------------------------------------------ in numbers

    def numbers(self) -> dict[str, list[float]]:
        """Compute each writer's divergence from the teacher at every token that it wrote, in nats, at T and β.

        The teacher's own list is its entropy.
        """
        found = {}
        for name, rows in zip(self.names, self._known[self.text]["rows"], strict=True):
            own, judge = rows["own"].double(), rows.get("teacher")
            if judge is None:
                values = objectives.entropy(own, self.temperature, reduction="none")
            else:
                how = self.beta, self.temperature
                values = objectives.generalised_jsd(own, judge.double(), *how, reduction="none")
                values = values / self.temperature**2
            found[name] = values.tolist()
        return found

    def written(self) -> dict[str, list[str]]:
        """List the tokens that each model wrote, the end of text among them."""
        pieces = self.shown["pieces"]
        return {writer["name"]: [pieces[i] for i in writer["tokens"]] for writer in self.shown["writers"]}

    def _sentence(self) -> str:
        """Write the same sentence as the browser's (`words` in watch_them_write.js)."""
        said, numbers, entry = [], self.numbers(), self._known[self.text]
        steps = max(map(len, self.written().values()))
        step = min(self.step, steps - 1)
        for number, (name, tokens) in enumerate(self.written().items()):
            if step >= len(tokens):
                said.append(f"{name} has ended")
                continue
            p = (entry["rows"][number]["own"][step].double() / self.temperature).softmax(-1)
            chance = plots.percent(float(p[entry["writers"][number]["tokens"][step]]))
            nats = f", {numbers[name][step]:.2f} nats" if number else ""
            said.append(f"{name} writes {tokens[step]} ({chance}{nats})")
        measure = {0.0: "KL(teacher ‖ student)", 1.0: "KL(student ‖ teacher)"}.get(
            self.beta, f"JSD at β = {round(self.beta, 2):g}"
        )
        short = self.text if len(self.text) <= 60 else f"{self.text[:59]}…"
        return (
            f"Token {step + 1} after “{short}”: {'; '.join(said)}; {measure} at T = {self.temperature:.3g}."
        )

    def picture(self) -> plots.Picture:
        """Draw what each student wrote, and how far it was from the teacher at every token."""
        numbers, written = self.numbers(), self.written()
        students = {name: (written[name], numbers[name]) for name in self.names[1:]}
        teacher = " ".join(token for token in written[self.names[0]] if token != "end")
        picture = plots.divergence_along(students, f"“{self.text}”: {self.names[0]} writes {teacher}")
        return plots.describe(picture, f"{self.summary} {picture.alt}")


def _public(entry: Mapping) -> dict:
    """Return what the browser gets of an entry."""
    return {name: entry[name] for name in ("text", "reference", "pieces", "writers")}


@torch.no_grad()
def _log_probabilities(model: PreTrainedModel, batch: dict[str, Tensor]) -> Tensor:
    """Compute log p of every token at each place that was written: float32 (n, V) on the host, in eval mode."""
    batch = {name: value.to(model.device) for name, value in batch.items()}
    with evaluating(model):
        return forward(model, batch, rows=batch["rows"]).logits.float().log_softmax(-1).cpu()


def _fewer(rows: list[dict[str, Tensor]], needed: list[int]) -> tuple[list[int], list[dict[str, Tensor]]]:
    """Keep a large vocabulary's likeliest tokens and those that were written; all others are one column, the last.

    Returns the tokens kept and the rows (n, kept + 1), or all (n, V). Merged, tokens are told apart no more: at T = 1 a
    divergence can only become smaller; at another T it is an approximation.
    """
    every = [table for each in rows for table in each.values()]
    size = min(table.shape[1] for table in every)
    rows = [{who: table[:, :size] for who, table in each.items()} for each in rows]
    if size <= KEPT:
        return [*range(size)], rows
    highest = torch.stack([table[:, :size].amax(0) for table in every]).amax(0)
    kept = torch.tensor([*dict.fromkeys([*needed, *highest.topk(KEPT).indices.tolist()])][:KEPT])
    others = torch.ones(size, dtype=torch.bool).index_fill_(0, kept, False)

    def merged(table: Tensor) -> Tensor:
        return torch.cat([table[:, kept], table[:, others].logsumexp(1, keepdim=True)], 1)

    return kept.tolist(), [{who: merged(table) for who, table in each.items()} for each in rows]


def _as_bytes(rows: Mapping[str, Tensor]) -> dict[str, str]:
    """Write log-probabilities as base64 of int16, little end first."""
    return {
        who: base64.b64encode(
            (SCALE * table.clamp(min=LOWEST)).round().numpy().astype("<i2").tobytes()
        ).decode("ascii")
        for who, table in rows.items()
    }
