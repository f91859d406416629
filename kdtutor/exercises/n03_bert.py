"""Exercises of notebook 03: WordPiece, masked language modelling, `[CLS]`, fine-tuning, and BERT's parameters."""

from __future__ import annotations

import string
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdtutor.exercises.definitions import Exercise, Mistake

Wrong = frozenset[str]  # names of mistakes; each switches a line below
NONE: Wrong = frozenset()
PAD, UNK, CLS, SEP, MASK = range(5)  # the course's special tokens
IGNORED = -100

# ------------------------------------------------------------------------------------------------ 3.1 WordPiece


def wordpiece(word: str, vocabulary: dict[str, int], wrong: Wrong = NONE) -> list[str]:
    """The pieces of one word, greedily the longest first; ["[UNK]"] if that fails at any place."""
    if "any split will do" in wrong:
        return _first_split(word, vocabulary) or ["[UNK]"]
    pieces, start = [], 0
    while start < len(word):
        prefix = "##" if start and "looked up without ##" not in wrong else ""
        shortest = start + 1 + ("no piece of one letter" in wrong)
        ends = range(len(word), shortest - 1, -1)
        if "shortest first" in wrong:
            ends = ends[::-1]
        end = next((end for end in ends if prefix + word[start:end] in vocabulary), None)
        if end is None and "unknown letters skipped" in wrong:
            end = start + 1
        elif end is None:
            return [*pieces, "[UNK]"] if "[UNK] for the rest" in wrong else ["[UNK]"]
        else:
            pieces.append(("" if "## left out of the result" in wrong else prefix) + word[start:end])
        start = end
    return pieces


def _first_split(word: str, vocabulary: dict[str, int], prefix: str = "") -> list[str] | None:
    """Some split into known pieces, going back where the longest first piece leads nowhere; None if there is none."""
    if not word:
        return []
    for end in range(len(word), 0, -1):
        if prefix + word[:end] in vocabulary:
            rest = _first_split(word[end:], vocabulary, "##")
            if rest is not None:
                return [prefix + word[:end], *rest]
    return None


def _words(generator: torch.Generator) -> list[tuple]:
    """Words over six random letters, and a vocabulary in which each mistake shows."""
    a, b, c, d, e, f = (string.ascii_lowercase[i] for i in torch.randperm(26, generator=generator)[:6])
    first = [a, a + b, a + b + c, d, e, f]
    later = [a, b, c, d, c + e, a + b, d + a + b]  # no letter e by itself, and f nowhere
    pieces = ["[UNK]", *first, *(f"##{piece}" for piece in later)]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    words = [
        a + b,  # known as a whole
        a + b + c + d,  # ends in a piece of one letter
        d + a + b + c,  # the longest second piece is not the first that fits
        a + b + c + d + a + b,
        a + b + e,  # e begins a word, but never continues one
        a + b + c + e,  # greed leads to abc and an unknown e, though ab + ##ce would do
        a + f + b,  # unknown in the middle
    ]
    return [(word, vocabulary) for word in words]


# ------------------------------------------------------------------------------------------------ 3.2 masking


def mask_tokens(
    input_ids: Tensor, special_ids: Tensor, chance: Tensor, action: Tensor, random_ids: Tensor, wrong: Wrong = NONE
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """BERT's masking with the random draws given: the corrupted ids and the labels, both (B, L)."""
    spared = torch.isin(input_ids, special_ids)
    if "[CLS] and [SEP] masked" in wrong:
        spared = spared & (input_ids != CLS) & (input_ids != SEP)
    if "padding masked" in wrong:
        spared = spared & (input_ids != PAD)
    chosen = (chance < 0.15) & ~spared
    hidden, swapped = chosen & (action < 0.8), chosen & (action >= 0.9)
    if "always [MASK]" in wrong:
        hidden, swapped = chosen, torch.zeros_like(chosen)
    if "80 % of all tokens" in wrong:
        hidden = ~spared & (action < 0.8)
    if "random tokens anywhere" in wrong:
        swapped = ~spared & (action >= 0.9)
    corrupted = torch.where(hidden, MASK, torch.where(swapped, random_ids, input_ids))
    if "kept tokens get no label" in wrong:
        chosen = hidden | swapped
    if "labels everywhere" in wrong:
        chosen = torch.ones_like(chosen)
    return corrupted, torch.where(
        chosen, corrupted if "labels after masking" in wrong else input_ids, IGNORED
    )


def _draws(generator: torch.Generator) -> list[tuple]:
    probes = []
    for texts, longest in ((8, 60), (12, 40)):
        shape = (texts, longest)
        ids = torch.randint(5, 100, shape, generator=generator)
        lengths = torch.randint(longest // 2, longest + 1, (texts,), generator=generator)
        column = torch.arange(longest)
        ids = torch.where(column < lengths[:, None], ids, PAD)
        ids[:, 0] = CLS
        ids[torch.arange(texts), lengths - 1] = SEP
        chance, action = torch.rand(2, *shape, generator=generator)
        others = 100 + torch.randint(0, 100, shape, generator=generator)  # never what stood there before
        probes.append((ids, torch.tensor([PAD, UNK, CLS, SEP, MASK]), chance, action, others))
    return probes


# ------------------------------------------------------------------------------------------------ 3.3 its loss


def masked_lm_loss(logits: Tensor, labels: Tensor, wrong: Wrong = NONE) -> Tensor:
    """−log p of the true token, mean over the tokens to predict. logits (B, L, V); labels (B, L), else −100."""
    if "softmax twice" in wrong:
        logits = logits.softmax(-1)
    log_p = logits.log_softmax(1 if "softmax over the positions" in wrong else -1)
    chosen = labels != IGNORED
    if "−100 read as token 0" in wrong:
        chosen, labels = torch.ones_like(chosen), labels.clamp(min=0)
    each = torch.where(chosen, -log_p.gather(-1, labels.clamp(min=0)[..., None])[..., 0], 0.0)  # (B, L)
    if "no minus" in wrong:
        each = -each
    if "summed" in wrong:
        return each.sum()
    if "mean of the texts' means" in wrong:
        return (each.sum(1) / chosen.sum(1)).mean()
    return each.sum() / (labels.numel() if "mean over all tokens" in wrong else chosen.sum())


def _predictions(generator: torch.Generator, texts: int = 5) -> tuple:
    logits = 2 * torch.randn(texts, 9, 12, generator=generator)
    labels = torch.randint(0, 12, (texts, 9), generator=generator)
    to_predict = torch.randint(1, 7, (texts, 1), generator=generator)  # another number in each text
    to_predict[0], to_predict[-1] = 1, 6
    place = torch.rand(texts, 9, generator=generator).argsort(1)
    return logits, torch.where(place < to_predict, labels, IGNORED)


# ------------------------------------------------------------------------------------------------ 3.4 [CLS]


def cls_classifier(
    last_hidden_state: Tensor, attention_mask: Tensor,
    pooler_weight: Tensor, pooler_bias: Tensor, weight: Tensor, bias: Tensor, wrong: Wrong = NONE,
) -> Tensor:  # fmt: skip
    """BERT's classification head: `[CLS]`, a tanh layer (the pooler), a linear layer. (B, L, D) to (B, C)."""
    h = last_hidden_state[:, 0]  # (B, D)
    if "the last position" in wrong:
        h = last_hidden_state[:, -1]
    if "mean over the padding too" in wrong:
        h = last_hidden_state.mean(1)
    if "mean over the tokens" in wrong:
        real = attention_mask[..., None].float()
        h = (last_hidden_state * real).sum(1) / real.sum(1)
    if "no head" in wrong:
        return h
    if "no pooler" not in wrong:
        h = h @ (pooler_weight if "pooler not transposed" in wrong else pooler_weight.T) + pooler_bias
        h = h if "no tanh" in wrong else h.tanh()
    logits = h @ weight.T + bias
    return logits.softmax(-1) if "probabilities" in wrong else logits


def _hidden_states(generator: torch.Generator, texts: int = 4, classes: int = 6) -> tuple:
    width, longest = 6, 7
    lengths = torch.randint(
        3, longest, (texts,), generator=generator
    )  # the last column is padding throughout
    mask = (torch.arange(longest) < lengths[:, None]).long()
    shapes = (texts, longest, width), (width, width), (width,), (classes, width), (classes,)
    h, *head = (torch.randn(shape, generator=generator) for shape in shapes)
    return (h, mask, *head)


# ------------------------------------------------------------------------------------------------ 3.5 fine-tuning


def fine_tune(
    model: nn.Module, train: dict[str, Tensor], validation: dict[str, Tensor],
    optimizer: torch.optim.Optimizer, batch_size: int, wrong: Wrong = NONE,
) -> float:  # fmt: skip
    """One pass over `train` in order, the learning rate falling linearly to 0; the accuracy on `validation`."""
    n = len(train) if "as long as the dictionary" in wrong else len(train["labels"])
    starts = range(0, n - batch_size + 1 if "last batch dropped" in wrong else n, batch_size)
    peak = optimizer.param_groups[0]["lr"]
    model.train("trained in eval mode" not in wrong)
    for k, start in enumerate(starts):
        done = k + ("schedule one step ahead" in wrong)
        share = 0 if "learning rate 0" in wrong else 1 - done / len(starts)
        optimizer.param_groups[0]["lr"] = peak if "constant learning rate" in wrong else peak * share
        batch = {name: value[start : start + batch_size] for name, value in train.items()}
        loss = model(**batch).loss
        if "gradients pile up" not in wrong:
            optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.train("evaluated in train mode" in wrong)
    with torch.set_grad_enabled("evaluated with gradients" in wrong):
        right = model(**validation).logits.argmax(-1) == validation["labels"]
    if "mean of the batches' accuracies" in wrong:
        return torch.stack([part.float().mean() for part in right.split(batch_size)]).mean().item()
    return right.float().mean().item()


class _TinyClassifier(nn.Module):
    """Called like a transformers model; notes how. From token 50 on, what it reads is validation data."""

    def __init__(self, generator: torch.Generator):
        super().__init__()
        self.words = nn.Parameter(torch.randn(100, 6, generator=generator))
        self.classifier = nn.Parameter(torch.randn(6, 4, generator=generator))
        self.seen = {
            "training": [],
            "validation": [],
        }  # (examples, train mode?, gradients?) of each forward pass

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor | None = None
    ) -> SimpleNamespace:
        part = "validation" if input_ids.max() >= 50 else "training"
        self.seen[part].append((len(input_ids), self.training, torch.is_grad_enabled()))
        real = attention_mask[..., None].float()
        hidden = (self.words[input_ids] * real).sum(1) / real.sum(1)  # (B, 6)
        logits = hidden @ self.classifier
        return SimpleNamespace(
            logits=logits, loss=None if labels is None else F.cross_entropy(logits, labels)
        )


def _observe_fine_tuning(
    function, seed: int, train: dict, validation: dict, peak: float, batch_size: int
) -> dict:
    model = _TinyClassifier(torch.Generator().manual_seed(seed))
    optimizer = torch.optim.SGD(model.parameters(), lr=peak)
    rates = []
    optimizer.register_step_pre_hook(lambda it, *_: rates.append(it.param_groups[0]["lr"]))
    accuracy = function(model, train, validation, optimizer, batch_size)
    training, evaluating = model.seen["training"], model.seen["validation"]
    return {
        "the list of batch sizes": [examples for examples, _, _ in training],
        "the list of learning rates": rates,
        "dropout is on while training": all(mode for _, mode, _ in training),
        "the weights after training": torch.cat([p.detach().flatten() for p in model.parameters()]),
        "dropout is on while evaluating": any(mode for _, mode, _ in evaluating),
        "a graph is kept while evaluating": any(graph for _, _, graph in evaluating),
        "the accuracy": accuracy,
    }


def _small_data(generator: torch.Generator) -> list[tuple]:
    def data(texts: int, first: int) -> dict[str, Tensor]:
        ids = torch.randint(first, first + 50, (texts, 5), generator=generator)
        lengths = torch.randint(1, 6, (texts, 1), generator=generator)
        labels = torch.randint(0, 4, (texts,), generator=generator)
        return {"input_ids": ids, "attention_mask": (torch.arange(5) < lengths).long(), "labels": labels}

    first, second = torch.randint(0, 10**6, (2,), generator=generator).tolist()
    return [(first, data(14, 0), data(13, 50), 0.5, 4), (second, data(17, 0), data(13, 50), 0.4, 5)]


# ------------------------------------------------------------------------------------------------ 3.6 parameters


def masked_lm_parameters(
    layers: int, width: int, vocabulary: int, positions: int, wrong: Wrong = NONE
) -> int:
    """Parameters of BertForMaskedLM with feed-forward 4 × width and two token types, each counted once."""
    bias = "biases left out" not in wrong
    norm = 0 if "LayerNorms left out" in wrong else width * (1 + bias)

    def linear(columns: int, rows: int) -> int:
        return columns * rows + bias * rows

    attention = (3 if "no output projection" in wrong else 4) * linear(width, width)
    feed_forward = linear(width, 4 * width) + (
        0 if "feed-forward one way" in wrong else linear(4 * width, width)
    )
    types = 0 if "no token types" in wrong else 2
    body = (vocabulary + positions + types) * width + norm + layers * (attention + feed_forward + 2 * norm)
    head = 0 if "no transform" in wrong else linear(width, width) + norm
    head += vocabulary if bias else 0
    if "tied weights counted twice" in wrong:
        head += vocabulary * width
    if "pooler counted" in wrong:
        body += linear(width, width)
    return body + head


def _shapes(generator: torch.Generator) -> list[tuple]:
    def between(low: int, high: int) -> int:
        return int(torch.randint(low, high, (), generator=generator))

    return [(between(2, 24), 32 * between(2, 33), between(5000, 40_000), between(100, 600)) for _ in range(3)]


# ------------------------------------------------------------------------------------------------ the exercises

EXERCISES = [
    Exercise(
        name="wordpiece",
        number="3.1",
        title="WordPiece, with its rule for unknown words",
        reference=wordpiece,
        mistakes=(
            Mistake(
                "shortest first",
                "Your pieces are the shortest that fit, where WordPiece takes the longest. From which end do you try?",
            ),
            Mistake(
                "looked up without ##",
                "Your later pieces are looked up as if they began a word. A piece that continues a word has another "
                "entry in the vocabulary.",
            ),
            Mistake(
                "## left out of the result",
                "Your pieces are the right ones, but those that continue a word have lost their mark. Without it, "
                "who could put the words together again?",
            ),
            Mistake(
                "[UNK] for the rest",
                "Your function keeps the pieces that it found before it met something unknown. What does the library "
                "do with the *whole* word in that case?",
            ),
            Mistake(
                "unknown letters skipped",
                "Your function leaves out what it does not know and goes on. A model could not tell such a word from "
                "another.",
            ),
            Mistake(
                "no piece of one letter",
                "Your function never tries a piece of a single letter, so words that need one become unknown. Where "
                "does your range end?",
            ),
            Mistake(
                "any split will do",
                "Your function finds a split where WordPiece finds none: it takes back a piece that led nowhere. "
                "Greedy means that it never does.",
            ),
        ),
        probes=_words,
    ),
    Exercise(
        name="mask_tokens",
        number="3.2",
        title="Masking, exactly",
        reference=mask_tokens,
        mistakes=(
            Mistake(
                "[CLS] and [SEP] masked",
                "Your choice falls on [CLS] and [SEP] too. They stand in every text, so there is nothing to learn "
                "from predicting them.",
            ),
            Mistake(
                "padding masked",
                "Your choice falls on padding too, which is no part of any text.",
            ),
            Mistake(
                "labels everywhere",
                "Your labels hold a token at every position. Then the model is also paid for repeating what it can "
                "see.",
            ),
            Mistake(
                "labels after masking",
                "Your labels are read from the ids after they were changed, so the model is to predict [MASK] and "
                "random tokens.",
            ),
            Mistake(
                "always [MASK]",
                "Every chosen token becomes [MASK] with you. What is `action` for?",
            ),
            Mistake(
                "80 % of all tokens",
                "You hide some 80 % of all tokens: `action` decides there, and nobody asked whether the token was "
                "chosen.",
            ),
            Mistake(
                "random tokens anywhere",
                "Random tokens appear at positions that were not chosen. Which of the two draws decides first?",
            ),
            Mistake(
                "kept tokens get no label",
                "The chosen tokens that stay as they are have no label with you. They are to be predicted like the "
                "others; otherwise a model could trust every word that it sees.",
            ),
        ),
        probes=_draws,
    ),
    Exercise(
        name="masked_lm_loss",
        number="3.3",
        title="The loss of the masked tokens",
        reference=masked_lm_loss,
        mistakes=(
            Mistake(
                "mean over all tokens",
                "Your loss has the right sum, but is divided by all tokens, also those that nobody has to predict.",
            ),
            Mistake(
                "−100 read as token 0",
                "Your loss counts the positions labelled −100, as if token 0 had stood there.",
            ),
            Mistake("summed", "Your loss is a sum. A batch with more masks would get a larger gradient."),
            Mistake(
                "mean of the texts' means",
                "Your loss averages within each text first. So a token in a text with few masks weighs more than "
                "one in a text with many.",
            ),
            Mistake(
                "softmax over the positions",
                "Your softmax runs over the positions of a text. Which axis holds the words to choose from?",
            ),
            Mistake(
                "softmax twice",
                "Your loss applies softmax to what is softmaxed already. What does `F.cross_entropy` expect?",
            ),
            Mistake(
                "no minus", "Your loss has the wrong sign: training would make the true tokens less likely."
            ),
        ),
        probes=lambda generator: [_predictions(generator) for _ in range(4)],
        gradients=(0,),
        stress=lambda generator: [(200 * logits, labels) for logits, labels in [_predictions(generator)]],
        growth=lambda n: _predictions(torch.Generator().manual_seed(n), n),
    ),
    Exercise(
        name="cls_classifier",
        number="3.4",
        title="From [CLS] to a class",
        reference=cls_classifier,
        mistakes=(
            Mistake(
                "no head",
                "Your result is a hidden state. It has as many numbers as the encoder is wide, and none of them "
                "stands for a class: where is the classification head?",
            ),
            Mistake(
                "the last position",
                "Your function reads the last position. In a batch that is mostly padding; where does [CLS] stand?",
            ),
            Mistake(
                "mean over the padding too",
                "Your function averages over all positions, padding included, so that a text's classes depend on "
                "its neighbours in the batch. BERT does not average at all.",
            ),
            Mistake(
                "mean over the tokens",
                "Your function averages over the tokens. That can be a good summary, but it is not the one with "
                "which BERT's pooler was trained.",
            ),
            Mistake(
                "no pooler", "Your function goes from [CLS] to the classes directly; a layer is missing."
            ),
            Mistake("no tanh", "Your pooler is linear. Two linear layers in a row are no more than one."),
            Mistake(
                "pooler not transposed",
                "Your pooler's matrix is used the other way round. torch stores (outputs, inputs); since this one "
                "is square, no error tells you.",
            ),
            Mistake(
                "probabilities",
                "Your function returns probabilities. The loss, and every soft target of this course, wants logits.",
            ),
        ),
        probes=lambda generator: [_hidden_states(generator) for _ in range(3)],
        gradients=(0, 2, 4),
        growth=lambda n: _hidden_states(torch.Generator().manual_seed(n), n),
    ),
    Exercise(
        name="fine_tune",
        number="3.5",
        title="Fine-tuning by hand",
        reference=fine_tune,
        mistakes=(
            Mistake(
                "as long as the dictionary",
                "Your loop takes len() of a dictionary for the number of texts. It is the number of its keys.",
            ),
            Mistake(
                "learning rate 0",
                "Your learning rate is 0 from the first step on, so nothing is learned. How many steps does your "
                "schedule think there are?",
            ),
            Mistake(
                "constant learning rate",
                "Your learning rate stays at its peak. Who tells the optimiser that a step is done?",
            ),
            Mistake(
                "schedule one step ahead",
                "Your learning rate is one step ahead: the first step should have the peak, and the last one more "
                "than 0.",
            ),
            Mistake(
                "gradients pile up",
                "Your gradients are never cleared, so each step repeats those before it.",
            ),
            Mistake(
                "trained in eval mode",
                "Your model trains in eval mode, as from_pretrained returned it: its dropout is off.",
            ),
            Mistake(
                "evaluated in train mode",
                "Your model is evaluated in train mode: with dropout on, its accuracy would be lower, and another "
                "one each time.",
            ),
            Mistake(
                "evaluated with gradients",
                "Your evaluation keeps a graph for a backward pass that never comes. It costs memory.",
            ),
            Mistake(
                "last batch dropped",
                "Your loop leaves out the last texts, which do not fill a batch.",
            ),
            Mistake(
                "mean of the batches' accuracies",
                "Your accuracy is a mean over batches, in which a text of the small last batch weighs more than "
                "the others.",
            ),
        ),
        probes=_small_data,
        observe=_observe_fine_tuning,
    ),
    Exercise(
        name="masked_lm_parameters",
        number="3.6",
        title="The parameters of a masked language model",
        reference=masked_lm_parameters,
        mistakes=(
            Mistake(
                "tied weights counted twice",
                "Your number has one whole word table too many. The matrix that scores the vocabulary *is* the "
                "embedding table.",
            ),
            Mistake(
                "pooler counted",
                "Your number includes a pooler. A masked language model looks at every position, and has none.",
            ),
            Mistake(
                "no transform",
                "Your number lacks the layer between the last hidden state and the word table.",
            ),
            Mistake("no token types", "Your number lacks the two token-type vectors."),
            Mistake(
                "no output projection",
                "Your attention has three matrices. What happens after the heads are joined?",
            ),
            Mistake("feed-forward one way", "Your feed-forward part leads to 4 × width, but not back again."),
            Mistake(
                "biases left out",
                "Your number has all matrices and no bias, neither in a layer nor in a LayerNorm.",
            ),
            Mistake(
                "LayerNorms left out",
                "Your number lacks the LayerNorms: two a layer, and two more elsewhere.",
            ),
        ),
        probes=_shapes,
    ),
]
