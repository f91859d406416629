"""A student of half its teacher's layers, copied: DistilBERT's idea, for any family whose layers are a plain stack."""

from __future__ import annotations

import copy
import re
from collections import defaultdict

from torch import Tensor
from transformers import (
    BertForMaskedLM,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForMaskedLM,
    DistilBertForSequenceClassification,
    PretrainedConfig,
    PreTrainedModel,
)

from kdtutor.errors import KDTutorError, nearest
from kdtutor.models.families import TWO_STACKS, UNCUT, family
from kdtutor.models.names import part_names
from kdtutor.models.seeds import drawn_by

TOKEN_TYPES = ("fold", "drop")


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
    """Make a student of half the layers of `teacher`, copied, never shared (Sanh et al. 2019).

    `depth` chooses another number of layers. Same width, vocabulary and dropout; gradients on, train mode. Of a BERT it
    is a DistilBERT, without the pooler, so the classification head starts fresh (at `seed`, if given) except for its
    last layer. Of any other family in the table of families, and of a BERT that no DistilBERT can compute like (another
    activation or layer_norm_eps), it is the same kind of model with fewer layers: nothing in it is fresh. An
    encoder–decoder loses layers on both sides.

    token_types: a DistilBERT has none. "fold" adds the vector of the first token type, which every token of a single
    text gets, to the positions: all layers copied then give the teacher's own answers. Of a pair of texts, the second
    is no longer marked by its own vector; only [SEP] divides it from the first. "drop", DistilBERT's own way, leaves
    both vectors out. Raises KDTutorError for a teacher whose layers can't be cut.
    """
    if token_types not in TOKEN_TYPES:
        raise KDTutorError(nearest("token_types", token_types, TOKEN_TYPES))
    if not isinstance(getattr(teacher, "config", None), PretrainedConfig):
        what = type(teacher).__name__
        raise KDTutorError(
            f"the teacher is a {what}, not a model of transformers: load_teacher(task, …) makes one"
        )
    places = TWO_STACKS.get(teacher.config.model_type, (family(teacher.config).layers,))
    if places[0].startswith("-"):
        why = UNCUT.get(places[0], "where its layers lie is not known here")
        raise KDTutorError(f"half_depth can't cut a {type(teacher).__name__}: {why}; {OTHERWISE}")
    totals = {place: len(teacher.base_model.get_submodule(place)) for place in places}
    chosen = {
        place: layer_choice(total, depth if depth is not None else max(1, total // 2))
        for place, total in totals.items()
    }

    with drawn_by(seed):
        if _is_like_distilbert(teacher):
            [layers] = chosen.values()
            student = _distilbert(teacher, layers, fold=token_types == "fold")
        elif token_types == "drop" and teacher.config.model_type != "distilbert":
            kind = type(teacher).__name__
            raise KDTutorError(f'token_types="drop" is for a DistilBERT; half of this teacher is a {kind}')
        else:
            student = _shallower(teacher, chosen)
    student.tie_weights()
    student.reads_with = getattr(teacher, "reads_with", None)  # it has the teacher's vocabulary
    return student.train()


OTHERWISE = "take small_bert(task) (--student small-bert), or a smaller model of its kind"
_PER_LAYER = ("layer_types", "no_rope_layers", "attention_window")  # lists with an entry for each layer


def _shallower(teacher: PreTrainedModel, chosen: dict[str, list[int]]) -> PreTrainedModel:
    """Make a model of the teacher's own class with these of its layers, and all that is around them.

    chosen: which layers, for each list of them: encoder–decoders have two.
    """
    config, (layers, *decoder) = copy.deepcopy(teacher.config), chosen.values()
    for name in _PER_LAYER:
        if isinstance(values := getattr(config, name, None), list):
            setattr(config, name, [values[old] for old in layers])
    config.num_hidden_layers = len(layers)
    for kept in decoder:
        setattr(
            config, "decoder_layers" if hasattr(config, "decoder_layers") else "num_decoder_layers", len(kept)
        )
    student = type(teacher)(config)

    weights = dict(teacher.state_dict())
    for place, kept in chosen.items():
        weights = _renumbered(weights, teacher, place, kept)
    student.load_state_dict(weights)  # which copies the values
    return student


def _renumbered(
    weights: dict[str, Tensor], teacher: PreTrainedModel, place: str, layers: list[int]
) -> dict[str, Tensor]:
    """Keep of the list of layers at `place` the chosen ones, numbered anew."""
    stack = teacher.base_model.get_submodule(place)
    place = next(name for name, module in teacher.named_modules() if module is stack)
    number = re.compile(re.escape(place) + r"\.(\d+)\.")
    new_number, kept = {old: new for new, old in enumerate(layers)}, {}
    for name, value in weights.items():
        if found := number.match(name):
            if int(found[1]) not in new_number:
                continue
            name = f"{place}.{new_number[int(found[1])]}.{name[found.end() :]}"
        kept[name] = value
    return kept


# ----------------------------------------------------------------------- from a BERT to a DistilBERT


def _is_like_distilbert(teacher: PreTrainedModel) -> bool:
    """Tell whether a DistilBERT computes what this BERT does, but for its pooler and its token types."""
    config = teacher.config
    return (
        type(teacher) in (BertForSequenceClassification, BertForMaskedLM)
        and not config.is_decoder
        and config.hidden_act == "gelu"
        and config.layer_norm_eps == 1e-12  # a DistilBERT's, whatever its configuration says
    )


def _distilbert(teacher: PreTrainedModel, layers: list[int], fold: bool) -> PreTrainedModel:
    masked_lm = isinstance(teacher, BertForMaskedLM)
    kind = DistilBertForMaskedLM if masked_lm else DistilBertForSequenceClassification
    student = kind(_distilbert_config(teacher.config, len(layers)))
    missing, unexpected = student.load_state_dict(_distilbert_weights(teacher, layers, fold), strict=False)
    fresh = {"pre_classifier.weight", "pre_classifier.bias"}
    if unexpected or set(missing) - fresh:
        raise KDTutorError(
            f"this teacher's weights fit no DistilBERT: missing {missing}, unexpected {unexpected}"
        )
    return student


def _distilbert_config(config: PretrainedConfig, layers: int) -> DistilBertConfig:
    """Translate a BERT's configuration."""
    head = config.classifier_dropout
    return DistilBertConfig(
        vocab_size=config.vocab_size,
        dim=config.hidden_size,
        hidden_dim=config.intermediate_size,
        n_layers=layers,
        n_heads=config.num_attention_heads,
        max_position_embeddings=config.max_position_embeddings,
        dropout=config.hidden_dropout_prob,
        attention_dropout=config.attention_probs_dropout_prob,
        seq_classif_dropout=config.hidden_dropout_prob if head is None else head,
        pad_token_id=config.pad_token_id,
        tie_word_embeddings=config.tie_word_embeddings,
        id2label=config.id2label,
        label2id=config.label2id,
        problem_type=config.problem_type,
    )


def _distilbert_weights(teacher: PreTrainedModel, layers: list[int], fold: bool) -> dict[str, Tensor]:
    """Return the chosen layers and everything around them, under DistilBERT's names."""
    theirs = part_names("bert", teacher.config.num_hidden_layers)
    ours = part_names("distilbert", len(layers))
    del ours["pooler"]  # which has another activation there

    weights, chosen = _by_part(teacher), {}
    for part, name in ours.items():
        source = re.sub(r"(?<=layers\.)\d+", lambda new: str(layers[int(new[0])]), part)
        in_body = "distilbert." if part.startswith(("embeddings.", "encoder.")) else ""
        for parameter, value in weights.get(theirs.get(source), {}).items():
            chosen[f"{in_body}{name}.{parameter}"] = value

    if fold:
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
