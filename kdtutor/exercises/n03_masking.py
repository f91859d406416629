"""Exercises of notebook 03: masked language modelling."""

from __future__ import annotations

import torch
from torch import Tensor

from kdtutor.data.tokens import IGNORED
from kdtutor.exercises.banks import RIGHT, Wrong
from kdtutor.exercises.definitions import Exercise, Mistake
from kdtutor.exercises.masking import ANYWHERE, CLS, MASKING, PAD, SEP, SPARING, masked, spared, special_ids

# ------------------------------------------------------------------------------------------------ 3.2 masking


def mask_tokens(
    input_ids: Tensor, special_ids: Tensor, chance: Tensor, action: Tensor, random_ids: Tensor, wrong: Wrong = RIGHT
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Mask as BERT does, with the random draws given: the corrupted ids and the labels, both (B, L)."""
    special = spared(input_ids, special_ids, wrong)
    chosen = (chance < (0.8 if "80 % chosen" in wrong else 0.15)) & ~special
    if "the other 85 % chosen" in wrong:
        chosen = (chance >= 0.15) & ~special
    return masked(input_ids, special_ids, chosen, action, random_ids, wrong)


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
        ids[:4, 2], chance[:4, 2] = 7, 0.1  # special, though it is no token that every vocabulary has
        probes.append((ids, special_ids(generator), chance, action, others))
    return probes


# ------------------------------------------------------------------------------------------------ 3.4 its loss


def masked_lm_loss(logits: Tensor, labels: Tensor, wrong: Wrong = RIGHT) -> Tensor:
    """Compute −log p of the true token, mean over the tokens to predict. logits (B, L, V); labels (B, L), else −100."""
    if "softmax twice" in wrong:
        logits = logits.softmax(-1)
    if "texts and positions turned" in wrong:
        logits = logits.transpose(0, 1).reshape(logits.shape)
    if "shifted by one" in wrong:
        logits, labels = logits[:, :-1], labels[:, 1:]
    log_p = logits.log_softmax(1 if "softmax over the positions" in wrong else -1)
    if "logits for log-probabilities" in wrong:
        log_p = logits
    if "probabilities without a logarithm" in wrong:
        log_p = logits.softmax(-1)
    chosen = labels != IGNORED
    if "token 0 ignored instead of −100" in wrong:
        chosen = chosen & (labels != 0)
    if "−100 read as token 0" in wrong:
        chosen, labels = torch.ones_like(chosen), labels.clamp(min=0)
    each = torch.where(chosen, -log_p.gather(-1, labels.clamp(min=0)[..., None])[..., 0], 0.0)  # (B, L)
    if "no minus" in wrong:
        each = -each
    if "summed" in wrong:
        return each.sum()
    if "divided by the texts" in wrong:
        return each.sum() / len(labels)
    if "mean of the texts' means" in wrong:
        return (each.sum(1) / chosen.sum(1)).mean()
    loss = each.sum() / (labels.numel() if "mean over all tokens" in wrong else chosen.sum())
    return loss.exp() if "a perplexity" in wrong else loss


def _predictions(generator: torch.Generator, texts: int = 5) -> tuple:
    logits = 2 * torch.randn(texts, 9, 12, generator=generator)
    labels = torch.randint(0, 12, (texts, 9), generator=generator)
    to_predict = torch.randint(1, 7, (texts, 1), generator=generator)  # another number in each text
    to_predict[0], to_predict[-1] = 1, 6
    place = torch.rand(texts, 9, generator=generator).argsort(1)
    return logits, torch.where(place < to_predict, labels, IGNORED)


EXERCISES = [
    Exercise(
        name="mask_tokens",
        number="3.2",
        title="Masking, exactly",
        reference=mask_tokens,
        mistakes=(
            *SPARING,
            *MASKING,
            *ANYWHERE,
            Mistake(
                "the other 85 % chosen",
                "Your choice falls on the 85 % that should be left alone. Which side of the threshold is it?",
            ),
            Mistake(
                "80 % chosen",
                "You choose four tokens in five. The share of chosen tokens is one number, and what becomes of them"
                " another.",
            ),
        ),
        probes=_draws,
    ),
    Exercise(
        name="masked_lm_loss",
        number="3.4",
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
            Mistake(
                "logits for log-probabilities",
                "You pick the logits of the true tokens, where their log-probabilities should be.",
            ),
            Mistake(
                "probabilities without a logarithm",
                "You pick the probabilities of the true tokens, and take no logarithm of them.",
            ),
            Mistake(
                "token 0 ignored instead of −100",
                "Your loss leaves out token 0 as well. Only −100 says that nobody is asked.",
            ),
            Mistake(
                "divided by the texts",
                "Your sum is divided by the number of texts. The mean is over what is predicted, and that is tokens.",
            ),
            Mistake(
                "texts and positions turned",
                "Your logits are flattened in another order than your labels: each label meets the scores of another "
                "place.",
            ),
            Mistake(
                "shifted by one",
                "Your logits are compared with the labels of the next place, as in a model that writes from left to "
                "right. A masked token is asked for where it stands.",
            ),
            Mistake("a perplexity", "Your result is the exponential of the loss, a perplexity."),
        ),
        probes=lambda generator: [_predictions(generator) for _ in range(4)],
        gradients=(0,),
        stress=lambda generator: [(200 * logits, labels) for logits, labels in [_predictions(generator)]],
        growth=lambda n: _predictions(torch.Generator().manual_seed(n), n),
    ),
]
