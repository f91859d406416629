"""One table: which of transformers' model types are supported here, and what has to be known of each.

Every type in it is built from a tiny configuration, halved, trained, saved and loaded by the tests. Other types with a
head for classes may be trained and teach too; whether padding changes their answers is looked at when they are loaded.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from transformers import PretrainedConfig, PreTrainedModel

from kdtutor.errors import KDTutorError


class Family(NamedTuple):
    """What is known of a model type.

    layers: where the list of layers lies in its body, or, with a hyphen before it, why there is none to cut.
    reads: "types", two kinds of text where its configuration has them; "words", token types looked up in the table of
    words, so it never gets any. starts: the position of a text's first token: a number, or "pad" for behind padding's.
    """

    layers: str
    reads: str = "types"
    starts: str = "0"


#: model types, then the fields of a `Family`
_TABLE = """
bert                  encoder.layer
distilbert            transformer.layer
roberta               encoder.layer        types   pad
xlm-roberta           encoder.layer        types   pad
camembert             encoder.layer        types   pad
xlm-roberta-xl        encoder.layer        types   pad
roberta-prelayernorm  encoder.layer        types   pad
data2vec-text         encoder.layer        types   pad
xmod                  encoder.layer        types   pad
ibert                 encoder.layer        types   pad
luke                  encoder.layer        types   pad
longformer            encoder.layer        types   pad
mpnet                 encoder.layer        types   2
electra               encoder.layer
ernie                 encoder.layer
modernbert            layers
eurobert              layers
nomic_bert            layers
gte                   layers
jina_embeddings_v3    layers
deberta               encoder.layer
deberta-v2            encoder.layer
rembert               encoder.layer
roformer              encoder.layer
megatron-bert         encoder.layer
mobilebert            encoder.layer
big_bird              encoder.layer
squeezebert           encoder.layers
roc_bert              encoder.layer
albert                -shared
xlm                   -split               words
flaubert              -split               words
funnel                -blocks
gpt2                  h                    words
gptj                  h                    words
gpt_neo               -paired              words
openai-gpt            h                    words
gpt_neox              layers
opt                   decoder.layers
bloom                 h
falcon                h
biogpt                layers
llama                 layers
mistral               layers
qwen2                 layers
qwen3                 layers
gemma                 layers
gemma2                layers
gemma3_text           layers
phi                   layers
phi3                  layers
olmo2                 layers
smollm3               layers
stablelm              layers
starcoder2            layers
modernbert-decoder    layers
"""
FAMILIES = {kind: Family(*fields) for kind, *fields in (line.split() for line in _TABLE.strip().splitlines())}
#: why there is no list of layers that could be cut
UNCUT = {
    "-shared": "all its layers are one, with the same weights: fewer of them save no parameter",
    "-split": "its layers are taken apart, into one list for each of their parts",
    "-blocks": "its layers stand in blocks of different lengths of the text",
    "-paired": "its configuration gives layers their kinds of attention in groups",
}
ROBERTAS = ("roberta", "xlm-roberta", "camembert")
#: Architectures whose answers are known not to depend on what a text is padded to: they need not be tried.
PADDED = ("bert", "distilbert", *ROBERTAS)
#: Encoders whose layers mix softmax(Q Kᵀ / √d) V of what three linear modules make, called as BERT's or DistilBERT's
#: are (names.py), with nothing added to Q Kᵀ and nothing turned in Q or K: their relations can be compared.
PLAIN_ATTENTION = (
    "bert", "distilbert", *ROBERTAS, "xlm-roberta-xl", "roberta-prelayernorm", "data2vec-text", "electra", "ernie",
    "megatron-bert", "rembert", "roc_bert",
)  # fmt: skip
#: Encoder–decoders, and where the layers of both sides lie in their body.
TWO_STACKS = {
    "bart": ("encoder.layers", "decoder.layers"),
    "mbart": ("encoder.layers", "decoder.layers"),
    "marian": ("encoder.layers", "decoder.layers"),
    "pegasus": ("encoder.layers", "decoder.layers"),
    "t5": ("encoder.block", "decoder.block"),
}
#: Language models whose logits are one matrix times the last vectors of their body, and nothing else.
PLAIN_HEADS = (
    "gpt2", "gpt_neo", "gpt_neox", "opt", "llama", "mistral", "qwen2", "qwen3", "bart", "mbart", "marian", "pegasus",
)  # fmt: skip
#: Encoder–decoders, where nothing is to be written, and what answers otherwise when a text is padded.
REFUSED = {
    "t5, mt5, umt5, bart, mbart, plbart, mvp": "encoder–decoders, which are for seq2seq tasks alone",
    "fnet": "has no mask, so its answers depend on what a text is padded to",
    "xlnet": "answers from the last place, where a shorter text has padding",
    "convbert": "its convolutions see the padding, so its answers depend on it",
}


def family(config: PretrainedConfig | None) -> Family:
    """Return what is known of a model's family; of an unknown one, that it reads and counts as BERT does."""
    return FAMILIES.get(getattr(config, "model_type", ""), Family("-unknown"))


def has_token_types(config: PretrainedConfig | None) -> bool:
    """Tell whether a model may be told which of two texts a token belongs to, if it asks for it."""
    # RoBERTa has one type for all texts; GPT-2 would look types up in its table of words.
    return getattr(config, "type_vocab_size", 2) > 1 and family(config).reads == "types"


def token_limit(config: PretrainedConfig) -> float:
    """Tell how many tokens a text may have, infinite where there is no table of positions."""
    found = getattr(config, "max_position_embeddings", None) or math.inf
    if found < 0:  # XLNet's way to say so
        return math.inf
    starts = family(config).starts
    if starts == "pad":
        return found - (1 if config.pad_token_id is None else config.pad_token_id) - 1
    return found - int(starts)


def supported() -> str:
    """Write the table as text: what each model type can be used for, and whether `half_depth` cuts it."""
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    )

    rows = [("model type", "fine-tuned, as teacher, as student", "half depth")]
    for kind, known in FAMILIES.items():
        tasks = "classes, numbers"
        if kind in MODEL_FOR_MASKED_LM_MAPPING_NAMES:
            tasks += ", masked LM"
        elif kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
            tasks += ", causal LM"
        half = f"no: {UNCUT[known.layers]}" if known.layers in UNCUT else f"a shallower {kind}"
        rows.append((kind, tasks, "a DistilBERT" if kind == "bert" else half))
    rows += [(kind, "texts to be written", f"a shallower {kind}") for kind in TWO_STACKS]
    rows.append(("any other", "tried when it is loaded", "no: where its layers lie is not known"))
    width = max(len(kind) for kind, _, _ in rows) + 2
    lines = [f"{kind:<{width}}{tasks:<36}{half}" for kind, tasks, half in rows]
    return "\n".join([*lines, "", "Refused:", *(f"  {kinds}: {why}" for kinds, why in REFUSED.items())])


def refuse_whole_numbers(model: PreTrainedModel, what: str, instead: str) -> None:
    """Raise KDTutorError if layers of a model hold PyTorch's int8: `what` can't be done with it, `instead` can."""
    if any(type(module).__module__.startswith("torch.ao.nn.quantized") for module in model.modules()):
        raise KDTutorError(f"{what} is quantised, and whole numbers {instead}")
