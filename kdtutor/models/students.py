"""Students: half of a teacher's layers, copied, or a small BERT with random weights; and the register of them.

    @register("my-lstm")
    def my_lstm(teacher, task, width=64, seed=None): ...

Then `make_student("my-lstm", teacher, task, width=128)` makes one, and so does `kdtutor distill --student my-lstm`.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from collections import defaultdict
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path

import torch
import transformers
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForMaskedLM,
    DistilBertForSequenceClassification,
    PretrainedConfig,
    PreTrainedModel,
)

from kdtutor.data.load import as_task
from kdtutor.data.task import Task
from kdtutor.errors import FRACTION, KDTutorError, nearest
from kdtutor.models.load import label_config, load_model
from kdtutor.models.names import part_names

_REGISTER: dict[str, Callable[..., PreTrainedModel]] = {}


def register(name: str) -> Callable:
    """Decorate a function `(teacher, task, **options)` that makes a student: from now on `name` stands for it.

    Its options are its keywords. On the command line, --layers, --width, --token_types and --seed are passed on to it.
    """

    def add(make: Callable[..., PreTrainedModel]) -> Callable[..., PreTrainedModel]:
        _REGISTER[name] = make
        return make

    return add


def student_names() -> list[str]:
    """Return the names in the register; a file in this folder that registers one is found by itself."""
    package = importlib.import_module(__package__)
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{__package__}.{module.name}")
    return [*_REGISTER]


def make_student(
    name: str, teacher: PreTrainedModel | None, task: Task, seed: int | None = None, **options
) -> PreTrainedModel:
    """Make a new student by its name in the register, or a model from a folder or the Hub.

    Options that are None are left at their defaults. Raises KDTutorError for an option that the student doesn't take.
    """
    names, options = student_names(), {k: value for k, value in options.items() if value is not None}
    close = not Path(name).is_dir() and get_close_matches(name, names, cutoff=0.8)
    if close and name not in names:
        raise KDTutorError(nearest("student", name, names))
    make = _REGISTER.get(name, lambda teacher, task: load_model(name, task))

    known = inspect.signature(make).parameters
    if unknown := options.keys() - known.keys():
        takes = ", ".join([*known][2:]) or "none"
        raise KDTutorError(f"the student {name} has no option {min(unknown)}; those it has: {takes}")
    return make(teacher, task, **options | ({"seed": seed} if "seed" in known else {}))


#: what BERT and DistilBERT call it in their configurations
DROPOUTS = (
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "dropout",
    "attention_dropout",
    "seq_classif_dropout",
)


def set_dropout(model: PreTrainedModel, probability: float) -> PreTrainedModel:
    """Set the same dropout everywhere, in the modules and in the configuration that is saved. Returns the model."""
    probability = FRACTION("dropout", probability)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = probability
    for name in DROPOUTS:
        if hasattr(model.config, name):
            setattr(model.config, name, probability)
    return model


def small_bert(
    task: Task | str,
    layers: int = 2,
    width: int = 128,
    heads: int | None = None,
    dropout: float = 0.1,
    seed: int | None = None,
) -> PreTrainedModel:
    """Make a BERT with random weights for `task`: feed-forward 4 × width, heads of 32 (64 from width 512 on)."""
    task = as_task(task)
    dropout = FRACTION("dropout", dropout)
    if layers < 1 or width < 1:
        raise KDTutorError(f"a BERT of {layers} layers × {width}: both must be at least 1")
    heads = heads or max(1, width // (64 if width >= 512 else 32))
    if width % heads:
        raise KDTutorError(f"width {width} is not divisible by {heads} heads")
    config = BertConfig(
        vocab_size=len(task.tokenizer),
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=4 * width,
        max_position_embeddings=task.max_length,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        pad_token_id=task.tokenizer.pad_token_id,
        **label_config(task),
    )
    with torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        return getattr(transformers, f"BertFor{task.rules.head}")(config)


def layer_choice(n: int, m: int) -> list[int]:
    """Tell which `m` of a teacher's `n` layers a student keeps: evenly spread, first and last included.

    `round(linspace(0, n - 1, m))`, halves to even: 12 → 6 gives DistilBERT's 0, 2, 4, 7, 9, 11; 6 → 3 gives 0, 2, 5.
    """
    if not 1 <= m <= n:
        raise KDTutorError(f"a student of {m} layers can't be cut from a teacher of {n}: choose 1 to {n}")
    return [round(i * (n - 1) / (m - 1)) for i in range(m)] if m > 1 else [0]


def half_depth(
    teacher: PreTrainedModel, depth: int | None = None, seed: int | None = None, token_types: str = "fold"
) -> PreTrainedModel:
    """Make a DistilBERT of half the layers of `teacher` (BERT or DistilBERT), copied, never shared (Sanh et al. 2019).

    Same width, vocabulary and dropout. The pooler is left out, so the classification head starts fresh (at `seed`, if
    given) except for its last layer. `depth` chooses another number of layers. Gradients on, train mode.

    token_types: a DistilBERT has none. "fold" adds the vector of the first token type, which every token of a single
    text gets, to the positions: all layers copied then give the teacher's own answers. Of a pair of texts, the second
    is no longer marked by its own vector; only [SEP] divides it from the first. "drop", DistilBERT's own way, leaves
    both vectors out. Raises KDTutorError for a teacher that no DistilBERT can copy exactly.
    """
    if token_types not in TOKEN_TYPES:
        raise KDTutorError(nearest("token_types", token_types, TOKEN_TYPES))
    _check_copyable(teacher)
    config = teacher.config
    total = config.num_hidden_layers
    layers = layer_choice(total, depth if depth is not None else max(1, total // 2))
    student_config = DistilBertConfig(
        vocab_size=config.vocab_size,
        dim=config.hidden_size,
        n_layers=len(layers),
        n_heads=config.num_attention_heads,
        max_position_embeddings=config.max_position_embeddings,
        pad_token_id=config.pad_token_id,
        tie_word_embeddings=config.tie_word_embeddings,
        id2label=config.id2label,
        label2id=config.label2id,
        problem_type=config.problem_type,
        **_sizes_and_dropout(config),
    )
    masked_lm = isinstance(teacher, (BertForMaskedLM, DistilBertForMaskedLM))
    kind = DistilBertForMaskedLM if masked_lm else DistilBertForSequenceClassification
    with torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        student = kind(student_config)

    weights = _distilbert_weights(teacher, layers, fold=token_types == "fold")
    missing, unexpected = student.load_state_dict(weights, strict=False)  # which copies the values
    fresh = {"pre_classifier.weight", "pre_classifier.bias"}
    if unexpected or set(missing) - fresh:
        raise KDTutorError(
            f"this teacher's weights fit no DistilBERT: missing {missing}, unexpected {unexpected}"
        )
    student.tie_weights()
    student.reads_with = getattr(teacher, "reads_with", None)  # it has the teacher's vocabulary
    return student.train()


TOKEN_TYPES = ("fold", "drop")
_COPIED = (
    BertForSequenceClassification,
    BertForMaskedLM,
    DistilBertForSequenceClassification,
    DistilBertForMaskedLM,
)
_EPS = 1e-12  # of every LayerNorm in a DistilBERT, whatever its configuration says


def _check_copyable(teacher: PreTrainedModel) -> None:
    """Refuse what would not compute the same in a DistilBERT."""
    config = teacher.config
    if not isinstance(teacher, _COPIED):
        kinds = ", ".join(kind.__name__ for kind in _COPIED)
        raise KDTutorError(
            f"half_depth copies {kinds}, but this is a {type(teacher).__name__}; take small_bert(task)"
        )
    activation = config.hidden_act if config.model_type == "bert" else config.activation
    if activation != "gelu" or getattr(config, "is_decoder", False):
        raise KDTutorError(
            f"half_depth copies encoders with the gelu activation, not a decoder or {activation}"
        )
    eps = getattr(config, "layer_norm_eps", _EPS)
    if eps != _EPS:
        raise KDTutorError(
            f"the teacher's layer_norm_eps is {eps:g}, and a DistilBERT's is always {_EPS:g}: a copy would compute "
            "something else; take small_bert(task)"
        )


def _sizes_and_dropout(config: PretrainedConfig) -> dict[str, float]:
    """Tell what BERT and DistilBERT call by different names in their configurations."""
    if config.model_type == "distilbert":
        names = ("hidden_dim", "dropout", "attention_dropout", "seq_classif_dropout")
        return {name: getattr(config, name) for name in names}
    head = config.classifier_dropout
    return {
        "hidden_dim": config.intermediate_size,
        "dropout": config.hidden_dropout_prob,
        "attention_dropout": config.attention_probs_dropout_prob,
        "seq_classif_dropout": config.hidden_dropout_prob if head is None else head,
    }


def _distilbert_weights(teacher: PreTrainedModel, layers: list[int], fold: bool) -> dict[str, Tensor]:
    """Return the chosen layers and everything around them, under DistilBERT's names."""
    kind = teacher.config.model_type
    theirs = part_names(kind, teacher.config.num_hidden_layers)
    ours = part_names("distilbert", len(layers))
    if kind == "bert":
        del ours["pooler"]  # which has another activation there

    weights, chosen = _by_part(teacher), {}
    for part, name in ours.items():
        source = re.sub(r"(?<=layers\.)\d+", lambda new: str(layers[int(new[0])]), part)
        in_body = "distilbert." if part.startswith(("embeddings.", "encoder.")) else ""
        for parameter, value in weights.get(theirs.get(source), {}).items():
            chosen[f"{in_body}{name}.{parameter}"] = value

    if kind == "bert" and fold:
        places = "distilbert.embeddings.position_embeddings.weight"
        chosen[places] = chosen[places] + weights[theirs["embeddings.token_types"]]["weight"][0]
    return chosen


def _by_part(model: PreTrainedModel) -> dict[str, dict[str, Tensor]]:
    """Return {"pooler.dense": {"weight": …, "bias": …}, …}: the model's weights by the part that has them."""
    parts: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for name, value in model.state_dict().items():
        # BERT's last matrix is a part of a part, whose bias it has a second time: its own, if it isn't tied.
        plain = name.removeprefix(f"{model.base_model_prefix}.").replace(".decoder.", ".")
        part, _, parameter = plain.rpartition(".")
        parts[part][parameter] = value
    return parts


# ------------------------------------------------------------------------------------------- the register's own


@register("half-depth")
def _half_depth(teacher, task, layers=None, token_types="fold", seed=None):
    return half_depth(teacher, layers, seed, token_types)


@register("small-bert")
def _small_bert(teacher, task, layers=2, width=128, dropout=0.1, seed=None):
    return small_bert(task, layers, width, dropout=dropout, seed=seed)
