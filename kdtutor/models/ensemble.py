"""Several teachers as one.

    teacher = Ensemble([a, b, c], weights=[2, 1, 1])            # the mean of their probabilities, at any temperature
    run = Distillation(student, teacher, task, blend(0.1, 4))   # each is asked once, and its answers kept for itself

Hinton et al. 2015 (arXiv:1503.02531, §3) distil an ensemble by either mean, of probabilities or of logits: pools.py.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from kdtutor.errors import KDTutorError, nearest, number, one_of
from kdtutor.files import write_atomically
from kdtutor.models.families import token_limit
from kdtutor.models.fingerprint import fingerprint
from kdtutor.models.forward import forward
from kdtutor.models.outputs import first_five, is_unnamed, output_names
from kdtutor.models.pools import WEIGHTINGS, Pool

COMBINE = one_of("probabilities", "logits")
WEIGHT = number("a number, 0 or more", lambda value: 0 <= value < float("inf"))
LISTED = "ensemble.json"  # in a folder that holds an ensemble: who belongs to it

Weights = Sequence[float] | str | Callable[[Tensor], Tensor] | None


class EnsembleConfig(PretrainedConfig):
    """What an ensemble says of itself as a model: its outputs, and what its teachers can read."""

    model_type = "kdtutor-ensemble"
    vocab_size: int = 0
    combine: str = "probabilities"
    weighting: str = ""


def config_of(members: Sequence[PreTrainedModel]) -> EnsembleConfig:
    """Make the configuration of what answers for some models that answer alike."""
    # One whose outputs have names, if there is one.
    first = next((m.config for m in members if not is_unnamed(output_names(m.config))), members[0].config)
    lengths = [token_limit(member.config) for member in members]
    limit = {} if min(lengths) == float("inf") else {"max_position_embeddings": int(min(lengths))}
    return EnsembleConfig(
        vocab_size=max(member.config.vocab_size for member in members),
        id2label=dict(first.id2label),
        label2id=dict(first.label2id),
        problem_type="regression" if first.num_labels == 1 else first.problem_type,
        **limit,
    )


class Ensemble(PreTrainedModel):
    """Several teachers of the same classes, read with the same tokenizer, that answer as one.

    weights: one for each, 0 or more, scaled to a sum of 1 (default: all alike); or "agreement" or "confidence", by
    which each text decides (pools.py); or a function of the logits (M, B, C) that gives weights (M, B), adding up to 1
    over the teachers. combine: "probabilities" or "logits", whose mean is taken; a term's temperature divides the
    logits first. As a model it answers at temperature 1. `LogitsMSE` learns from the mean logits in either case.

    It has no hidden states: terms that read them are refused. Raises KDTutorError, naming the teacher, where two are
    the same, or differ in classes, their order, or vocabulary.
    """

    config_class = EnsembleConfig
    gives = frozenset({"logits"})

    def __init__(
        self, members: Sequence[PreTrainedModel], weights: Weights = None, combine: str = "probabilities"
    ):
        members = list(members)
        _check_members(members)
        config = config_of(members)
        config.combine = COMBINE("combine", combine)
        super().__init__(config)
        self.members = nn.ModuleList(members)
        self.reads_with = getattr(members[0], "reads_with", None)
        self.weights = weights
        self.eval()

    @property
    def weights(self) -> Weights:
        """Return the weights as they are used: one for each teacher, or what decides them for each text."""
        return self._weights

    @weights.setter
    def weights(self, given: Weights) -> None:
        self._weights = _checked(given, len(self.members), self.config.problem_type)
        # A checkpoint of a run belongs to its teacher's configuration.
        self.config.weighting = _told(self._weights)

    def pool(self, logits: Tensor) -> Pool:
        """Make a pool of the teachers' logits, (M, B, C)."""
        if isinstance(self._weights, list):
            weights = torch.tensor(self._weights, dtype=logits.dtype, device=logits.device)[:, None]
        else:
            by_text = WEIGHTINGS[self._weights] if isinstance(self._weights, str) else self._weights
            weights = by_text(logits)
            _check_by_text(weights, logits)
        return Pool(logits, weights, self.config.combine, self.config.problem_type)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
    ) -> SequenceClassifierOutput:
        """Compute the logits (B, C) of all teachers together, at temperature 1."""
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        batch = {"input_ids": input_ids, "attention_mask": mask}
        if token_type_ids is not None:
            batch["token_type_ids"] = token_type_ids
        logits = torch.stack([forward(member, batch).logits.float() for member in self.members])
        return SequenceClassifierOutput(logits=self.pool(logits).at(1.0))

    def get_input_embeddings(self) -> nn.Module:
        return self.members[0].get_input_embeddings()

    def save_pretrained(self, save_directory: str | os.PathLike, **options) -> None:
        """Save each teacher in a folder of its own, teacher-1, teacher-2, …, and ensemble.json, which lists them.

        Raises KDTutorError for weights that are a function: no file can hold it.
        """
        if callable(self._weights):
            raise KDTutorError(
                "weights that are a function can't be saved: numbers, or one of " + ", ".join(WEIGHTINGS)
            )
        folder = Path(save_directory)
        names = [f"teacher-{which}" for which in range(1, len(self.members) + 1)]
        for name, member in zip(names, self.members, strict=True):
            member.save_pretrained(folder / name, **options)
        listed = {"teachers": names, "weights": self._weights, "combine": self.config.combine}
        write_atomically(folder / LISTED, json.dumps(listed, indent=2) + "\n")


def is_ensemble(folder: str | os.PathLike) -> bool:
    """Tell whether a saved ensemble lies in a folder."""
    return os.path.isfile(os.path.join(folder, LISTED))


def read_listed(folder: Path) -> dict:
    """Read who belongs to a saved ensemble. KDTutorError if that can't be read, or a teacher's folder is missing."""
    try:
        listed = json.loads((folder / LISTED).read_text(encoding="utf-8"))
        names = [str(name) for name in listed["teachers"]]
        listed = {"teachers": names, "weights": listed["weights"], "combine": listed["combine"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise KDTutorError(f"{folder} holds no ensemble: its {LISTED} can't be read ({error})") from error
    for name in names:
        if not (folder / name).is_dir():
            raise KDTutorError(
                f"the ensemble in {folder} lists {len(names)} teachers, and the folder of {name} is missing: put it "
                f"back, or take {name} and its weight out of {LISTED}"
            )
    return listed


def _checked(
    given: Weights, members: int, problem: str | None
) -> list[float] | str | Callable[[Tensor], Tensor]:
    """Return weights as they are kept: numbers with a sum of 1, a name in WEIGHTINGS, or a function."""
    if callable(given):
        return given
    if isinstance(given, str):
        if given not in WEIGHTINGS:
            raise KDTutorError(nearest("weighting of teachers", given, WEIGHTINGS))
        if problem not in (None, "single_label_classification"):
            raise KDTutorError(f'weights="{given}" compare probabilities of classes, and this is {problem}')
        return given
    values = [1.0] * members if given is None else list(given)
    if len(values) != members:
        raise KDTutorError(f"{members} teachers want {members} weights, and there are {len(values)}")
    values = [WEIGHT(f"the weight of teacher {i}", value) for i, value in enumerate(values, start=1)]
    if not sum(values):
        raise KDTutorError("every teacher's weight is 0: at least one has to be heard")
    return [value / sum(values) for value in values]


def _check_by_text(weights: Tensor, logits: Tensor) -> None:
    """Refuse what a function gives that are no weights of teachers."""
    wanted = logits.shape[:2]
    if not isinstance(weights, Tensor) or weights.shape != wanted:
        got = tuple(weights.shape) if isinstance(weights, Tensor) else type(weights).__name__
        raise KDTutorError(
            f"the weights of teachers by text are (teachers, texts), {tuple(wanted)}, not {got}"
        )
    if (weights < 0).any() or not torch.allclose(weights.sum(0), torch.ones_like(weights[0]), atol=1e-4):
        raise KDTutorError("the weights of teachers by text must be 0 or more, and add up to 1 for each text")


def _told(weights: list[float] | str | Callable[[Tensor], Tensor]) -> str:
    """Write weights down."""
    if isinstance(weights, list):
        return ", ".join(f"{weight:.6g}" for weight in weights)
    return weights if isinstance(weights, str) else getattr(weights, "__name__", repr(weights))


def _check_members(members: list[PreTrainedModel]) -> None:
    """Refuse teachers that can't answer as one, naming the one at fault."""
    if not members:
        raise KDTutorError("an ensemble needs teachers, and the list is empty")
    for which, member in enumerate(members, start=1):
        if isinstance(member, Ensemble):
            raise KDTutorError(
                f"teacher {which} is an ensemble: name its teachers themselves, with their weights"
            )
        if not isinstance(member, PreTrainedModel):
            raise KDTutorError(f"teacher {which} is a {type(member).__name__}, not a model of transformers")
        if "ForSequenceClassification" not in type(member).__name__:
            raise KDTutorError(
                f"teacher {which} is a {type(member).__name__}: an ensemble answers with classes or one number per text"
            )
    for which, member in enumerate(members[1:], start=2):
        _check_alike(members[0], member, which)

    # The same weights under two names would count double in silence.
    seen: dict[str, int] = {}
    for which, member in enumerate(members, start=1):
        known = seen.setdefault(fingerprint(member), which)
        if known != which:
            raise KDTutorError(
                f"teachers {known} and {which} are the same model: a weight of 2 says that it counts double"
            )


def _check_alike(first: PreTrainedModel, other: PreTrainedModel, which: int) -> None:
    """Refuse a teacher whose answers don't stand beside the first one's."""
    a, b = first.config, other.config
    who = f"teachers 1 and {which}"
    if a.num_labels != b.num_labels:
        raise KDTutorError(f"{who} have {a.num_labels} and {b.num_labels} outputs: they can't answer as one")
    names, theirs = output_names(a), output_names(b)
    named = not (is_unnamed(names) or is_unnamed(theirs))
    if named and [name.lower() for name in names] != [name.lower() for name in theirs]:
        raise KDTutorError(
            f"{who} have the classes {first_five(names)} and {first_five(theirs)}: load_teacher(task, …) brings each "
            "into the task's order, and label_map says which is which where names differ"
        )
    kinds = {kind for kind in (a.problem_type, b.problem_type) if kind}
    if len(kinds) > 1:
        raise KDTutorError(f"{who} answer differently: {a.problem_type} and {b.problem_type}")
    readers = getattr(first, "reads_with", None), getattr(other, "reads_with", None)
    # Some models round their vocabulary up.
    if abs(a.vocab_size - b.vocab_size) > 128 or readers[0] != readers[1]:
        raise KDTutorError(
            f"{who} know {a.vocab_size} and {b.vocab_size} tokens or read with other tokenizers: an ensemble reads a "
            "text once, with one vocabulary"
        )
