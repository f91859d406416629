"""One table: what each part of an encoder is called by `transformer.Bert`, by BERT and by DistilBERT.

Whoever copies weights from one to the other, or reads the parts of either, looks them up here:

    settings, weights, names = weights_of(model)      # of a transformers model, or of a file and its configuration
    fill(bert, weights, names)                        # copied; must fit one to one

It knows names and tensors only; what the parts do is told in transformer.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from kdtutor.errors import KDTutorError


def weights_of(
    source: nn.Module | Mapping[str, Tensor], config: Any = None
) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, str]]:
    """Read a transformers BERT or DistilBERT, or its state dict as saved and its `config` (an object or a mapping).

    Returns the settings for `transformer.Config`, the weights under their own names, and for each of our parts theirs.
    Raises KDTutorError for any other architecture.
    """
    config = config or getattr(source, "config", None)
    if config is None:
        raise KDTutorError("from_pretrained takes a transformers model, or a state dict and its config")
    settings = config if isinstance(config, Mapping) else config.to_dict()
    if (kind := settings.get("model_type")) not in _COLUMNS:
        raise KDTutorError(f"this is a {kind}; Bert reads {' and '.join(_COLUMNS)}")
    weights = _cleaned(source if isinstance(source, Mapping) else source.state_dict(), kind)
    settings = _config(settings, weights)
    return settings, weights, part_names(kind, settings["layers"])


def fill(model: nn.Module, weights: Mapping[str, Tensor], names: Mapping[str, str]) -> None:
    """Copy `weights` into `model`, whose part p is called names[p] there; they must fit one to one.

    Raises KDTutorError that names, as `weights` does, what is missing, unknown or of another shape.
    """
    ours = {}  # their name → our parameter
    for name, parameter in model.state_dict().items():
        part, _, kind = name.rpartition(".")
        ours[f"{names[part]}.{kind}"] = parameter
    both = ours.keys() & weights.keys()
    faults = {
        "missing": ours.keys() - both,
        "unknown": weights.keys() - both,
        "of another shape": {name for name in both if ours[name].shape != weights[name].shape},
    }
    if said := [f"{fault}: {', '.join(sorted(culprits))}" for fault, culprits in faults.items() if culprits]:
        raise KDTutorError(f"these weights do not fit their configuration; {'; '.join(said)}")
    for name, parameter in ours.items():
        parameter.copy_(weights[name])


#: what a part is called here, in BERT, and in DistilBERT ("none": it has no such part); # is a layer's number
_NAMES = """
embeddings.tokens                    embeddings.word_embeddings                 embeddings.word_embeddings
embeddings.positions                 embeddings.position_embeddings             embeddings.position_embeddings
embeddings.token_types               embeddings.token_type_embeddings           none
embeddings.norm                      embeddings.LayerNorm                       embeddings.LayerNorm
encoder.layers.#.attention.query     encoder.layer.#.attention.self.query       transformer.layer.#.attention.q_lin
encoder.layers.#.attention.key       encoder.layer.#.attention.self.key         transformer.layer.#.attention.k_lin
encoder.layers.#.attention.value     encoder.layer.#.attention.self.value       transformer.layer.#.attention.v_lin
encoder.layers.#.attention.dropout   encoder.layer.#.attention.self.dropout     transformer.layer.#.attention.dropout
encoder.layers.#.attention.output    encoder.layer.#.attention.output.dense     transformer.layer.#.attention.out_lin
encoder.layers.#.dropout1            encoder.layer.#.attention.output.dropout   none
encoder.layers.#.norm1               encoder.layer.#.attention.output.LayerNorm transformer.layer.#.sa_layer_norm
encoder.layers.#.feed_forward.up     encoder.layer.#.intermediate.dense         transformer.layer.#.ffn.lin1
encoder.layers.#.activation          encoder.layer.#.intermediate.intermediate_act_fn transformer.layer.#.ffn.activation
encoder.layers.#.feed_forward.down   encoder.layer.#.output.dense               transformer.layer.#.ffn.lin2
encoder.layers.#.dropout2            encoder.layer.#.output.dropout             transformer.layer.#.ffn.dropout
encoder.layers.#.norm2               encoder.layer.#.output.LayerNorm           transformer.layer.#.output_layer_norm
pooler                               pooler.dense                               pre_classifier
classifier                           classifier                                 classifier
lm_head.dense                        cls.predictions.transform.dense            vocab_transform
lm_head.norm                         cls.predictions.transform.LayerNorm        vocab_layer_norm
lm_head                              cls.predictions                            vocab_projector
"""
_ROWS = [row.split() for row in _NAMES.strip().splitlines()]
_COLUMNS = {"bert": 1, "distilbert": 2}
_COPIES = {  # a model in memory has these parameters twice
    "cls.predictions.decoder.weight": "embeddings.word_embeddings.weight",
    "cls.predictions.decoder.bias": "cls.predictions.bias",
    "vocab_projector.weight": "embeddings.word_embeddings.weight",
}


def part_names(kind: str, layers: int) -> dict[str, str]:
    """Map {"pooler": "pooler.dense", …}: our parts to what each is called in a model of this kind, if it is there.

    The body's parts are named without the `bert.` or `distilbert.` that a model with a head puts before them.
    """
    present = [(row[0], row[_COLUMNS[kind]]) for row in _ROWS if row[_COLUMNS[kind]] != "none"]
    return {
        ours.replace("#", str(n)): theirs.replace("#", str(n))
        for n in range(layers)
        for ours, theirs in present
    }


def layer_names(kind: str) -> dict[str, str]:
    """Return {"attention.query": "attention.self.query", …}: each part of one layer, and what the layer calls it."""
    named = part_names(kind, 1).items()
    return {
        ours.removeprefix("encoder.layers.0."): theirs.partition(".0.")[2]
        for ours, theirs in named
        if ours.startswith("encoder.layers.")
    }


def attention_modules(model: nn.Module, part: str) -> list[nn.Module]:
    """List every layer's "query", "key" or "value" module, in order; none if layers are not named as in the table."""
    [row] = [row for row in _ROWS if row[0].endswith(f".{part}")]
    spelt = "|".join(re.escape(name).replace(r"\#", r"(\d+)") for name in row)
    found = {}
    for name, module in model.named_modules():
        if match := re.search(rf"(?:^|\.)(?:{spelt})$", name):
            found[int(next(filter(None, match.groups())))] = module
    return [found[i] for i in sorted(found)]


def _cleaned(weights: Mapping[str, Tensor], kind: str) -> dict[str, Tensor]:
    """Use today's names (files of 2018 say gamma and beta), without `bert.` before the body's, and nothing twice."""
    plain = {}
    for name, value in weights.items():
        if not name.endswith("position_ids"):  # 0, 1, 2, …: in old files only
            plain[re.sub("gamma$", "weight", re.sub("beta$", "bias", name.removeprefix(f"{kind}.")))] = value
    for copy, original in _COPIES.items():
        if copy in plain and original in plain and plain[copy].equal(plain[original]):
            del plain[copy]
    return plain


def _config(settings: Mapping, weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """Translate a transformers configuration; the weights tell which heads there are."""
    bert, distilbert = (settings["model_type"] == kind for kind in _COLUMNS)
    activation = settings["activation" if distilbert else "hidden_act"]
    if activation != "gelu" or settings.get("is_decoder"):
        raise KDTutorError(f"Bert reads encoders with the gelu activation, not a decoder or {activation}")
    pooled = any(name.startswith(("pooler.", "pre_classifier.", "classifier.")) for name in weights)
    return {
        "vocabulary": settings["vocab_size"],
        "width": settings["hidden_size" if bert else "dim"],
        "layers": settings["num_hidden_layers" if bert else "n_layers"],
        "heads": settings["num_attention_heads" if bert else "n_heads"],
        "inner": settings["intermediate_size" if bert else "hidden_dim"],
        "max_length": settings["max_position_embeddings"],
        "token_types": settings["type_vocab_size"] if bert else 0,
        "pooler": ("tanh" if bert else "relu") if pooled else None,
        "classes": len(weights.get("classifier.weight", ())),
        "masked_lm": any(name.startswith(("cls.predictions.", "vocab_")) for name in weights),
        "dropout": settings["hidden_dropout_prob" if bert else "dropout"],
        "eps": settings["layer_norm_eps"] if bert else 1e-12,
    }
