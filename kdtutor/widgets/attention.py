"""The attention viewer: who looks where, in the teacher and beside it in a student.

    viewer = AttentionViewer(teacher, student, task=task, text="a bird that is roasted and eaten")
    viewer.layer, viewer.head, viewer.token = 0, 2, 3       # moves the picture, as a slider does
    viewer.weights("teacher")[0, 2, 3]                      # that token's row: what is on the screen, (L,)

The models read a text once, in Python; all weights go to the browser, which does the rest.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
import traitlets
from torch import Tensor, nn

from kdtutor import plots
from kdtutor.data.task import Task
from kdtutor.errors import KDTutorError
from kdtutor.models.names import attention_modules
from kdtutor.widgets.base import Instrument, OneOf, SettingError

WHOLE = 65535  # weights travel as integers of 16 bits: this many parts are 100 %
MEAN = -1  # as a head: the mean of all heads
EXAMPLE = "a bird that is roasted and eaten on feast days"


class AttentionViewer(Instrument):
    """Attention weights of `teacher` and, if there is one, `student` (BERT or DistilBERT, or kdtutor's own) on a text.

    max_tokens: what is longer is cut, since L tokens have L² weights. padding: how many [PAD] to put behind the text,
    to see that nobody looks at them.

    Layers, heads and tokens count from 0; head −1 is the mean of all heads. side: which models are shown. together: a
    student's layer moves the teacher's to the one that it was copied from, and heads move together, where that is
    known (`sources`). Whatever does not fit raises SettingError, and the last good picture stays.
    """

    _script = "attention.js"
    _style = "attention.css"

    text = traitlets.Unicode().tag(sync=True)
    layer = traitlets.Int(0).tag(sync=True)
    head = traitlets.Int(0).tag(sync=True)
    student_layer = traitlets.Int(0).tag(sync=True)
    student_head = traitlets.Int(0).tag(sync=True)
    token = traitlets.Int(0).tag(sync=True)
    side = OneOf("both", ("both", "teacher", "student")).tag(sync=True)
    together = traitlets.Bool(False).tag(sync=True)
    data = traitlets.Dict().tag(sync=True, told=True)  # tokens and weights: see _read

    def __init__(
        self,
        teacher: nn.Module,
        student: nn.Module | None = None,
        *,
        task: Task,
        text: str = EXAMPLE,
        max_tokens: int = 32,
        padding: int = 0,
        **settings,
    ) -> None:
        if not (max_tokens >= 3 and padding >= 0):
            raise SettingError(f"max_tokens = {max_tokens}, padding = {padding}: expected at least 3 and 0")
        self.task, self.max_tokens, self.padding = task, max_tokens, padding
        self.models = {"teacher": teacher} | ({} if student is None else {"student": student})
        for name, model in self.models.items():
            if not isinstance(model, nn.Module):
                raise SettingError(f"the {name} must be a model, not {type(model).__name__}")
        self.sources = [] if student is None else copied_layers(teacher, student)
        self._weights: dict[str, Tensor] = {}
        self._reading = None
        super().__init__()
        with self.hold_sync():
            self.text = text
            if student is not None:
                self.side = "both"
                self.student_layer = len(self._weights["student"]) - 1
                self.together = self.sources[-1] is not None
                self.layer = self.sources[-1] if self.together else len(self._weights["teacher"]) - 1
            for name, value in settings.items():
                if not self.has_trait(name):
                    raise KDTutorError(f"AttentionViewer has no setting {name}")
                setattr(self, name, value)
        self.on_msg(self._hear)

    def weights(self, side: str = "teacher") -> Tensor:
        """Return one model's attention weights for the present text, as the model gave them: (layers, heads, L, L)."""
        if side not in self._weights:
            raise SettingError(f'there is no "{side}", only {" and ".join(self._weights)}')
        return self._weights[side]

    def shown(self, side: str = "teacher") -> Tensor:
        """Return the map on the screen, for the chosen layer and head or mean of heads: (L, L), its rows sum to 1."""
        layer, head = self._chosen(side)
        maps = self.weights(side)[layer]
        return maps.mean(0) if head == MEAN else maps[head]

    @property
    def tokens(self) -> list[str]:
        return list(self.data["tokens"])

    # ------------------------------------------------------------------------------------------ settings

    @traitlets.validate("text")
    def _check_text(self, proposal) -> str:
        if proposal.value != self.text or not self._weights:
            self._reading = self._read(proposal.value)  # raises, and the last good text stays
        return proposal.value

    @traitlets.validate("layer", "head", "student_layer", "student_head")
    def _check_place(self, proposal) -> int:
        name, value = proposal.trait.name, proposal.value
        if isinstance(value, bool):
            raise SettingError(f"{name} = {value}: it is a number")
        side = "student" if name.startswith("student") else "teacher"
        if side not in self._weights:
            if value == 0:
                return value
            raise SettingError(f"{name} = {value}: there is no {side}")
        layers, heads = self._weights[side].shape[:2]
        if name.endswith("head"):
            if not MEAN <= value < heads:
                raise SettingError(
                    f"{name} = {value}: the {side} has the heads 0 to {heads - 1}, and −1 for their mean"
                )
        elif not 0 <= value < layers:
            raise SettingError(f"{name} = {value}: the {side} has the layers 0 to {layers - 1}")
        return value

    @traitlets.validate("token")
    def _check_token(self, proposal) -> int:
        last = len(self.data.get("tokens", [0])) - 1
        if not 0 <= proposal.value <= last:
            raise SettingError(f"token = {proposal.value}: the text has the tokens 0 to {last}")
        return proposal.value

    @traitlets.validate("side")
    def _check_side(self, proposal) -> str:
        if proposal.value == "student" and "student" not in self.models:
            raise SettingError('side = "student": there is no student')
        return proposal.value

    @traitlets.observe("text")
    def _show_text(self, change) -> None:
        self._weights, data = self._reading
        with self.hold_sync():
            self.token = min(self.token, len(data["tokens"]) - 1)
            self.data, self.problem = data, ""
        self._summarise()

    @traitlets.observe("layer", "head", "student_layer", "student_head", "token", "side")
    def _summarise(self, change=None) -> None:
        if self.data:
            self.summary = " ".join(self._sentence(name) for name in self._sides())

    # ------------------------------------------------------------------------------------------ reading a text

    def _read(self, text: str) -> tuple[dict[str, Tensor], dict]:
        """Read all weights for `text`, and what the browser gets: tokens, what each is, the weights as base64."""
        if not text.strip():
            raise SettingError("the text is empty: give at least one word")
        tokenizer = self.task.tokenizer
        length = min(self.max_tokens, self.task.max_length - self.padding)
        ids = tokenizer(text, truncation=True, max_length=length)["input_ids"]
        total = len(tokenizer(text, truncation=False, verbose=False)["input_ids"])
        real = [True] * len(ids) + [False] * self.padding
        ids = ids + [tokenizer.pad_token_id] * self.padding
        batch = {"input_ids": torch.tensor([ids]), "attention_mask": torch.tensor([real]).long()}
        weights = {name: attention_weights(model, batch) for name, model in self.models.items()}
        for name, w in weights.items():
            if not w.isfinite().all():
                raise SettingError(
                    f"the {name}'s attention weights are not finite, so there is nothing to show"
                )
        special = {*tokenizer.all_special_ids} - {tokenizer.unk_token_id}
        kinds = [
            "padding" if not there else "special" if i in special else "unknown" if i == tokenizer.unk_token_id
            else "word"
            for i, there in zip(ids, real, strict=True)
        ]  # fmt: skip
        data = {
            "tokens": tokenizer.convert_ids_to_tokens(ids),
            "kinds": kinds,
            "total": total,
            "read": sum(real),
            "models": [self._packed(name, w) for name, w in weights.items()],
        }
        return weights, data

    def _packed(self, name: str, weights: Tensor) -> dict:
        layers, heads = weights.shape[:2]
        packed = base64.b64encode(as_parts(weights).astype("<u2").tobytes()).decode("ascii")
        sources = self.sources if name == "student" else []
        return {"name": name, "layers": layers, "heads": heads, "weights": packed, "sources": sources}

    # ------------------------------------------------------------------------------------------ in words, and plain

    def _sides(self) -> list[str]:
        return [name for name in self.models if self.side in ("both", name)] or ["teacher"]

    def _chosen(self, side: str) -> tuple[int, int]:
        return (self.student_layer, self.student_head) if side == "student" else (self.layer, self.head)

    def _name(self, side: str) -> str:
        layer, head = self._chosen(side)
        heads = self.weights(side).shape[1]
        return f"{side}, layer {layer}, " + (f"mean of {heads} heads" if head == MEAN else f"head {head}")

    def _sentence(self, side: str) -> str:
        row = self.shown(side)[self.token]
        most = row.topk(min(3, len(row)))
        said = ", ".join(
            f"{plots.percent(w)} from {'itself' if i == self.token else self.tokens[i]}"
            for w, i in zip(*map(Tensor.tolist, most), strict=True)
            if w >= 0.005
        )
        return f"{self._name(side).capitalize()}: {self.tokens[self.token]} draws {said}."

    def picture(self) -> plots.Picture:
        """Draw the heat maps of the chosen layers and heads."""
        maps = {self._name(side): self.shown(side) for side in self._sides()}
        return plots.attention_maps(maps, self.tokens)


# ------------------------------------------------------------------------------------------------ any model's weights


def attention_weights(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Read the attention weights of one text: (layers, heads, L, L), float32, on the host. The model stays as it was.

    model: of transformers, or kdtutor.transformer.Bert. batch: input_ids and attention_mask, (1, L).
    """
    device = next(model.parameters()).device
    inputs = {name: value.to(device) for name, value in batch.items()}
    with _looking(model), torch.no_grad():
        flags = {"output_attentions": True} if hasattr(model, "set_attn_implementation") else {}
        output = model(**inputs, **flags)
    if not getattr(output, "attentions", None):
        raise KDTutorError(f"{type(model).__name__} gives no attention weights, so there is nothing to show")
    return torch.stack([layer[0].float().cpu() for layer in output.attentions])


@contextmanager
def _looking(model: nn.Module) -> Iterator[None]:
    """Switch to eval mode and to the attention that keeps its weights; afterwards as before, module by module.

    The fused kernels (SDPA, Flash) never hold a row of weights, so that they can't give it away.
    """
    modes = {module: module.training for module in model.modules()}
    before = getattr(model.config, "_attn_implementation", None)
    changes = hasattr(model, "set_attn_implementation") and before != "eager"
    try:
        model.eval()
        if changes:
            model.set_attn_implementation("eager")
        yield
    finally:
        if changes:
            model.set_attn_implementation(before)
        for module, training in modes.items():
            module.training = training


def as_parts(weights: Tensor) -> np.ndarray:
    """Write weights (…, L), rows that sum to 1, in parts of 1/65535: uint16, rows that sum to *exactly* 65535.

    Each is rounded down, and those that lost most get one part back (the method of largest remainders), so that each
    is off by less than 1/65535 = 0.000015.
    """
    exact = weights.double().numpy()
    exact = exact / exact.sum(-1, keepdims=True) * WHOLE
    parts = np.floor(exact)
    missing = WHOLE - parts.sum(-1, keepdims=True)  # of each row
    rank = (parts - exact).argsort(-1, kind="stable").argsort(-1, kind="stable")  # 0: lost most
    return (parts + (rank < missing)).astype(np.uint16)


def copied_layers(teacher: nn.Module, student: nn.Module, least: float = 0.5) -> list[int | None]:
    """Find for each layer of the student the teacher's layer that it was copied from, or None.

    Told from the weights themselves: the query matrices of the two layers still point the same way (a cosine above
    `least`, also after training), where those of unrelated layers have a cosine of about 0.
    """
    theirs, ours = (
        [part.weight.detach().flatten().float().cpu() for part in attention_modules(model, "query")]
        for model in (teacher, student)
    )
    if not ours:
        config = student.config
        depth = getattr(config, "num_hidden_layers", None) or getattr(config, "layers", 1)
        return [None] * depth
    sources = []
    for mine in ours:
        cosines = [
            float(nn.functional.cosine_similarity(mine, other, dim=0)) if mine.shape == other.shape else 0.0
            for other in theirs
        ]
        best = int(np.argmax(cosines)) if cosines else 0
        sources.append(best if cosines and cosines[best] > least else None)
    return sources
