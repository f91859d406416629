"""The Transformer in one file, to read from top to bottom: attention, layers, encoder–decoder, BERT.

    output, weights = attention(query, key, value, causal_mask(5))     # one formula
    model = Transformer(vocabulary=100, width=64, heads=4, layers=2)   # Vaswani et al. 2017
    bert = Bert.from_pretrained(kd.load_teacher(task))                 # Devlin et al. 2019; DistilBERT too
    bert(input_ids, attention_mask).attentions[0]                      # (B, H, L, L): who looks where in layer 0

Written for learners, and tested to agree to 1e-5 with `torch.nn.Transformer` and with the BERT and DistilBERT of
transformers, whose weights it loads. Shapes: B texts, L tokens (Lq that look, Lk that are looked at), D width, H heads,
V words. A mask is boolean, True where a query may look, and broadcasts to (B, H, Lq, Lk); so masks combine with `&`.
(`torch.nn.Transformer` has it the other way round: there True means "ignore".)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdtutor.errors import KDTutorError
from kdtutor.models.names import fill, weights_of

# ------------------------------------------------------------------------------------------------ attention


def attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, dropout: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Compute softmax(Q Kᵀ / √d_k) V, and the weights alone: Vaswani et al. 2017 (arXiv:1706.03762), §3.2.1.

    query: (…, Lq, d_k). key: (…, Lk, d_k). value: (…, Lk, d_v). mask: boolean, broadcasts to (…, Lq, Lk). Returns the
    output (…, Lq, d_v) and the weights (…, Lq, Lk), whose rows sum to 1; `dropout` changes the output only. A query
    that may look at nothing gets weights and output 0. Raises KDTutorError for a mask that does not fit.
    """
    scores = query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])  # (…, Lq, Lk)
    if mask is None:
        weights = scores.softmax(-1)
    else:
        _check_mask(mask, scores.shape)
        # The lowest number does what −∞ does, except in a row that has nothing else, where −∞ would give NaN.
        weights = scores.masked_fill(~mask, torch.finfo(scores.dtype).min).softmax(-1).masked_fill(~mask, 0)
    return F.dropout(weights, dropout) @ value, weights


def causal_mask(length: int, device: torch.device | str | None = None) -> Tensor:
    """Make a mask (L, L): token i may look at itself and at what comes before it, at nothing later."""
    return torch.ones(length, length, dtype=torch.bool, device=device).tril()


def padding_mask(ids: Tensor, pad: int = 0) -> Tensor:
    """Make a mask (B, 1, 1, L) from token ids (B, L): nobody may look at padding, in any head."""
    return (ids != pad)[:, None, None, :]


class MultiHeadAttention(nn.Module):
    """H attentions side by side, each on its own D/H numbers of every token, and a matrix that mixes their outputs."""

    def __init__(self, width: int, heads: int, dropout: float = 0.0):
        super().__init__()
        if width % heads:
            raise KDTutorError(f"width {width} is not divisible by {heads} heads")
        self.heads, self.dropout = heads, dropout
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.output = nn.Linear(width, width)

    def forward(self, x: Tensor, memory: Tensor | None = None, mask: Tensor | None = None):
        """Let x (B, Lq, D) look at memory (B, Lk, D): at x itself by default; anything else is cross-attention.

        Returns the output (B, Lq, D) and the weights of every head (B, H, Lq, Lk).
        """
        memory = x if memory is None else memory
        query = self.split(self.query(x))  # (B, H, Lq, D/H)
        key, value = self.split(self.key(memory)), self.split(self.value(memory))  # (B, H, Lk, D/H)
        mixed, weights = attention(query, key, value, mask, self.dropout if self.training else 0.0)
        return self.output(self.merge(mixed)), weights

    def split(self, x: Tensor) -> Tensor:
        x = x.unflatten(-1, (self.heads, -1))  # (B, L, D) → (B, L, H, D/H)
        return x.transpose(1, 2)  # (B, H, L, D/H)

    def merge(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2).flatten(2)  # (B, H, L, D/H) → (B, L, H, D/H) → (B, L, D)


# ------------------------------------------------------------------------------------------------ layers


class FeedForward(nn.Module):
    """Two matrices with an activation between them, applied to each token by itself: D → inner → D."""

    def __init__(self, width: int, inner: int, activation: Callable[[Tensor], Tensor] = F.relu):
        super().__init__()
        self.up, self.down = nn.Linear(width, inner), nn.Linear(inner, width)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.activation(self.up(x)))


class EncoderLayer(nn.Module):
    """Self-attention, then feed-forward; each adds a change to x, and LayerNorm keeps the sum within bounds.

    The paper and BERT normalise after the addition; with `norm_first`, as in GPT-2, it is done before each sublayer.
    """

    def __init__(
        self, width: int, heads: int, inner: int, dropout: float = 0.1,
        activation: Callable[[Tensor], Tensor] = F.relu, norm_first: bool = False, eps: float = 1e-5,
    ):  # fmt: skip
        super().__init__()
        self.attention = MultiHeadAttention(width, heads, dropout)
        self.feed_forward = FeedForward(width, inner, activation)
        self.norm1, self.norm2 = (nn.LayerNorm(width, eps) for _ in range(2))
        self.dropout, self.norm_first = nn.Dropout(dropout), norm_first

    def forward(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map x (B, L, D) to (B, L, D); also return the attention weights (B, H, L, L)."""
        if self.norm_first:
            change, weights = self.attention(self.norm1(x), mask=mask)
            x = x + self.dropout(change)
            x = x + self.dropout(self.feed_forward(self.norm2(x)))
        else:
            change, weights = self.attention(x, mask=mask)
            x = self.norm1(x + self.dropout(change))
            x = self.norm2(x + self.dropout(self.feed_forward(x)))
        return x, weights


class DecoderLayer(nn.Module):
    """An encoder layer that, between its two other steps, also looks at the encoder's output."""

    def __init__(
        self, width: int, heads: int, inner: int, dropout: float = 0.1,
        activation: Callable[[Tensor], Tensor] = F.relu, norm_first: bool = False, eps: float = 1e-5,
    ):  # fmt: skip
        super().__init__()
        self.attention = MultiHeadAttention(width, heads, dropout)
        self.cross_attention = MultiHeadAttention(width, heads, dropout)
        self.feed_forward = FeedForward(width, inner, activation)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width, eps) for _ in range(3))
        self.dropout, self.norm_first = nn.Dropout(dropout), norm_first

    def forward(
        self, x: Tensor, memory: Tensor, mask: Tensor | None = None, memory_mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Map x (B, Lq, D), memory (B, Lk, D) to (B, Lq, D), weights (B, H, Lq, Lq), cross-weights (B, H, Lq, Lk)."""
        if self.norm_first:
            change, weights = self.attention(self.norm1(x), mask=mask)
            x = x + self.dropout(change)
            change, cross_weights = self.cross_attention(self.norm2(x), memory, memory_mask)
            x = x + self.dropout(change)
            x = x + self.dropout(self.feed_forward(self.norm3(x)))
        else:
            change, weights = self.attention(x, mask=mask)
            x = self.norm1(x + self.dropout(change))
            change, cross_weights = self.cross_attention(x, memory, memory_mask)
            x = self.norm2(x + self.dropout(change))
            x = self.norm3(x + self.dropout(self.feed_forward(x)))
        return x, weights, cross_weights


@dataclass
class Output:
    """What a forward pass returns: everything on the way, layer by layer, under the names that transformers uses.

    last_hidden_state: (B, L, D). hidden_states: embeddings, then every layer, each (B, L, D). attentions: every layer,
    (B, H, L, L). cross_attentions: every decoder layer, (B, H, Lq, Lk). logits: (B, L, V), or (B, classes).
    """

    last_hidden_state: Tensor
    hidden_states: tuple[Tensor, ...]
    attentions: tuple[Tensor, ...]
    cross_attentions: tuple[Tensor, ...] = ()
    logits: Tensor | None = None


class Encoder(nn.Module):
    """Layers one after another. `norm`: a last LayerNorm, which `norm_first` layers need (torch always adds one)."""

    def __init__(self, layers: Iterable[EncoderLayer], norm: nn.LayerNorm | None = None):
        super().__init__()
        self.layers, self.norm = nn.ModuleList(layers), norm

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Output:
        """Apply all layers. x: embeddings (B, L, D). mask: broadcasts to (B, H, L, L)."""
        hidden_states, attentions = [x], []
        for layer in self.layers:
            x, weights = layer(x, mask)
            hidden_states.append(x)
            attentions.append(weights)
        return Output(self.norm(x) if self.norm else x, tuple(hidden_states), tuple(attentions))


class Decoder(nn.Module):
    """Layers one after another, each looking at the same memory: the encoder's output. `norm`: as in Encoder."""

    def __init__(self, layers: Iterable[DecoderLayer], norm: nn.LayerNorm | None = None):
        super().__init__()
        self.layers, self.norm = nn.ModuleList(layers), norm

    def forward(
        self, x: Tensor, memory: Tensor, mask: Tensor | None = None, memory_mask: Tensor | None = None
    ) -> Output:
        """Apply all layers. x: embeddings (B, Lq, D). memory: (B, Lk, D). Masks: as in DecoderLayer."""
        hidden_states, attentions, cross_attentions = [x], [], []
        for layer in self.layers:
            x, weights, cross_weights = layer(x, memory, mask, memory_mask)
            hidden_states.append(x)
            attentions.append(weights)
            cross_attentions.append(cross_weights)
        last = self.norm(x) if self.norm else x
        return Output(last, tuple(hidden_states), tuple(attentions), tuple(cross_attentions))


# ------------------------------------------------------------------------------------------------ encoder–decoder


def positions(length: int, width: int) -> Tensor:
    """Compute the sinusoids of places, (L, D): sin and cos of place / 10000^(2i / D) in columns 2i and 2i + 1.

    Vaswani et al. 2017, §3.5.
    """
    rates = 10000 ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)  # (D/2,)
    angles = torch.arange(length)[:, None] * rates  # (L, D/2)
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(1)[:, :width].float()


class Embeddings(nn.Module):
    """A learned vector for each token, times √D so that the sinusoid added to it does not drown it (§3.4)."""

    def __init__(self, vocabulary: int, width: int, max_length: int = 512, dropout: float = 0.1):
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        nn.init.normal_(self.tokens.weight, std=width**-0.5)
        self.register_buffer("positions", positions(max_length, width), persistent=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, ids: Tensor) -> Tensor:
        """Look up ids (B, L), add their places → (B, L, D)."""
        _check_length(ids, len(self.positions))
        scale = math.sqrt(self.tokens.embedding_dim)
        return self.dropout(self.tokens(ids) * scale + self.positions[: ids.shape[1]])


class Transformer(nn.Module):
    """The encoder–decoder of Vaswani et al. 2017, whose output layer is the embedding table again (§3.4).

    One vocabulary for source and target, unless `target_vocabulary` gives the target its own.
    """

    def __init__(
        self, vocabulary: int, width: int = 512, heads: int = 8, layers: int = 6, inner: int | None = None,
        dropout: float = 0.1, norm_first: bool = False,
        max_length: int = 512, pad: int = 0, target_vocabulary: int | None = None,
    ):  # fmt: skip
        super().__init__()
        self.pad, self.max_length = pad, max_length
        sizes = (width, heads, inner or 4 * width, dropout, F.relu, norm_first)
        norms = (nn.LayerNorm(width) if norm_first else None for _ in range(2))
        self.encoder = Encoder((EncoderLayer(*sizes) for _ in range(layers)), next(norms))
        self.decoder = Decoder((DecoderLayer(*sizes) for _ in range(layers)), next(norms))
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
        self.source = self.target = Embeddings(vocabulary, width, max_length, dropout)
        if target_vocabulary:
            self.target = Embeddings(target_vocabulary, width, max_length, dropout)

    def forward(self, source: Tensor, target: Tensor) -> Output:
        """Map ids, source (B, Ls) and target (B, Lt), to logits (B, Lt, V): at each place, of the *next* token."""
        return self.decode(target, self.encode(source).last_hidden_state, source)

    def encode(self, source: Tensor) -> Output:
        return self.encoder(self.source(source), padding_mask(source, self.pad))

    def decode(self, target: Tensor, memory: Tensor, source: Tensor) -> Output:
        mask = causal_mask(target.shape[1], target.device) & padding_mask(target, self.pad)  # (B, 1, Lt, Lt)
        output = self.decoder(self.target(target), memory, mask, padding_mask(source, self.pad))
        output.logits = F.linear(output.last_hidden_state, self.target.tokens.weight)  # (B, Lt, V)
        return output

    @torch.no_grad()
    def generate(self, source: Tensor, start: int, end: int, max_length: int | None = None) -> Tensor:
        """Decode greedily: append the likeliest next token until every text has its `end`.

        source (B, Ls) → ids (B, ≤ max_length) without `start`; whatever follows an `end` is padding.
        Runs in eval mode and restores the mode.
        """
        most = max_length or self.max_length - 1
        was_training = self.training
        memory = self.eval().encode(source).last_hidden_state
        target = source.new_full((len(source), 1), start)
        finished = torch.zeros_like(target[:, 0], dtype=torch.bool)
        for _ in range(most):
            logits = self.decode(target, memory, source).logits[:, -1]
            logits[:, self.pad] = -torch.inf  # padding is no answer
            token = logits.argmax(-1).masked_fill(finished, self.pad)
            target = torch.cat([target, token[:, None]], 1)
            finished |= token == end
            if finished.all():
                break
        self.train(was_training)
        return target[:, 1:]


def from_torch(model: nn.Transformer) -> tuple[Encoder, Decoder]:
    """Rebuild encoder and decoder of a `torch.nn.Transformer` from the parts above, weights copied; in eval mode.

    Ours is batch-first, with masks that are True where theirs are False.
    """
    weights = {}
    for name, value in model.state_dict().items():
        for theirs, ours in _TORCH_NAMES.items():
            name = name.replace(theirs, ours)
        parts = ("query.", "key.", "value.") if "in_proj_" in name else ("",)  # torch stacks the three
        for part, rows in zip(parts, value.chunk(len(parts)), strict=True):
            weights[name.replace("in_proj_", part)] = rows
    like, width = model.encoder.layers[0], model.d_model
    options = (width, model.nhead, like.linear1.out_features, like.dropout.p)
    options += (like.activation, like.norm_first, like.norm1.eps)
    both = nn.ModuleDict(
        {
            "encoder": Encoder((EncoderLayer(*options) for _ in model.encoder.layers), nn.LayerNorm(width)),
            "decoder": Decoder((DecoderLayer(*options) for _ in model.decoder.layers), nn.LayerNorm(width)),
        }
    ).eval()
    both["encoder"].norm.eps = both["decoder"].norm.eps = model.encoder.norm.eps
    both.load_state_dict(weights)
    return both["encoder"], both["decoder"]


_TORCH_NAMES = {
    "self_attn": "attention",
    "multihead_attn": "cross_attention",
    "out_proj": "output",
    "linear1": "feed_forward.up",
    "linear2": "feed_forward.down",
}

# ------------------------------------------------------------------------------------------------ BERT


@dataclass(frozen=True)
class Config:
    """What a BERT is made of; the defaults are BERT-base-uncased. DistilBERT: token_types=0, pooler="relu".

    inner: the feed-forward's width. token_types: 0 omits their embeddings. pooler: the activation after the matrix
    that `[CLS]` goes through ("tanh" in BERT, "relu" before DistilBERT's classifier), or None. At most one head: a
    classifier with that many `classes`; or `masked_lm`, a score for every word at every place. eps: LayerNorm's.
    """

    vocabulary: int = 30522
    width: int = 768
    layers: int = 12
    heads: int = 12
    inner: int = 3072
    max_length: int = 512
    token_types: int = 2
    pooler: str | None = "tanh"
    classes: int = 0
    masked_lm: bool = False
    dropout: float = 0.1
    eps: float = 1e-12


class BertEmbeddings(nn.Module):
    """Word + position + token type (first or second sentence), all learned, then LayerNorm."""

    def __init__(self, config: Config):
        super().__init__()
        self.tokens = nn.Embedding(config.vocabulary, config.width)
        self.positions = nn.Embedding(config.max_length, config.width)
        self.token_types = nn.Embedding(config.token_types, config.width) if config.token_types else None
        self.norm, self.dropout = nn.LayerNorm(config.width, config.eps), nn.Dropout(config.dropout)

    def forward(self, ids: Tensor, token_types: Tensor | None = None) -> Tensor:
        """Look up ids (B, L) and token types (B, L), by default all 0, and add → (B, L, D)."""
        _check_length(ids, self.positions.num_embeddings)
        x = self.tokens(ids) + self.positions.weight[: ids.shape[1]]
        if self.token_types:
            x = x + self.token_types(torch.zeros_like(ids) if token_types is None else token_types)
        return self.dropout(self.norm(x))


class MaskedLMHead(nn.Module):
    """From a hidden state to a score for each word: how well it matches the word's own embedding, plus a bias."""

    def __init__(self, config: Config):
        super().__init__()
        self.dense, self.norm = nn.Linear(config.width, config.width), nn.LayerNorm(config.width, config.eps)
        self.bias = nn.Parameter(torch.zeros(config.vocabulary))

    def forward(self, hidden: Tensor, embeddings: Tensor) -> Tensor:
        """Map hidden (B, L, D), with the input's embeddings (V, D), to (B, L, V)."""
        return F.linear(self.norm(F.gelu(self.dense(hidden))), embeddings, self.bias)


class Bert(nn.Module):
    """BERT (Devlin et al. 2019, arXiv:1810.04805) or DistilBERT (Sanh et al. 2019, arXiv:1910.01108), random weights.

    An encoder as above with the exact GELU, LayerNorm after each addition and learned positions; on top of it nothing,
    a classifier of `[CLS]`, or the masked-language-model head.
    """

    def __init__(self, config: Config):
        super().__init__()
        if config.classes and (config.masked_lm or not config.pooler):
            raise KDTutorError("a classifier needs a pooler before it and no other head beside it")
        self.config = config
        self.embeddings = BertEmbeddings(config)
        self.encoder = Encoder(
            EncoderLayer(config.width, config.heads, config.inner, config.dropout, F.gelu, eps=config.eps)
            for _ in range(config.layers)
        )
        self.pooler = nn.Linear(config.width, config.width) if config.pooler else None
        self.classifier = nn.Linear(config.width, config.classes) if config.classes else None
        self.lm_head = MaskedLMHead(config) if config.masked_lm else None
        self.dropout = nn.Dropout(config.dropout)
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, token_type_ids: Tensor | None = None
    ) -> Output:
        """Read ids (B, L), with attention_mask 1 for text, 0 for padding. logits: (B, classes), (B, L, V) or None."""
        if attention_mask is not None and attention_mask.shape != input_ids.shape:
            shapes = f"{tuple(attention_mask.shape)}, but the ids {tuple(input_ids.shape)}"
            raise KDTutorError(f"the attention mask has the shape {shapes}: one number per token is expected")
        mask = None if attention_mask is None else attention_mask.bool()[:, None, None, :]
        output = self.encoder(self.embeddings(input_ids, token_type_ids), mask)
        if self.classifier:
            output.logits = self.classifier(self.dropout(self.pooled(output.last_hidden_state)))
        elif self.lm_head:
            output.logits = self.lm_head(output.last_hidden_state, self.embeddings.tokens.weight)
        return output

    def pooled(self, hidden: Tensor) -> Tensor:
        """Compute the vector that stands for the whole text, `[CLS]`'s through one more matrix: (B, L, D) → (B, D)."""
        return getattr(torch, self.config.pooler)(self.pooler(hidden[:, 0]))

    @classmethod
    def from_pretrained(cls, source: nn.Module | Mapping[str, Tensor], config: object | None = None) -> Bert:
        """Rebuild transformers' BERT or DistilBERT from the parts above; float32, eval mode, weights copied.

        source: the model; or its state dict as it was saved, with `config` (transformers' own, or the mapping in
        config.json). The hidden states' dropout is used throughout. Raises KDTutorError for another architecture, and
        for parameters that are missing, unknown or of another shape, naming them.
        """
        settings, weights, names = weights_of(source, config)
        bert = cls(Config(**settings))
        fill(bert, weights, names)
        return bert.eval()


# ------------------------------------------------------------------------------------------------ checks


def _check_mask(mask: Tensor, shape: torch.Size) -> None:
    if mask.dtype != torch.bool:
        raise KDTutorError(f"the mask is {mask.dtype}; it must be torch.bool, True where a query may look")
    padded = (1,) * (len(shape) - mask.dim()) + tuple(mask.shape)
    if len(padded) != len(shape) or any(m not in (1, s) for m, s in zip(padded, shape, strict=True)):
        raise KDTutorError(
            f"a mask of shape {tuple(mask.shape)} does not fit scores of shape {tuple(shape)}: (…, queries, keys)"
        )


def _check_length(ids: Tensor, most: int) -> None:
    if ids.shape[1] > most:
        raise KDTutorError(f"{ids.shape[1]} tokens are too many for this model, which has {most} positions")
