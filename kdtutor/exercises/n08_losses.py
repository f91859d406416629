"""The exercises of notebook 08 on what is learned: masks on rare words, and the triple loss."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from kdtutor.data.tokens import IGNORED
from kdtutor.exercises.banks import RIGHT, SOFT, Wrong, soft_loss
from kdtutor.exercises.definitions import Exercise, Mistake
from kdtutor.exercises.masking import CLS, MASK, MASKING, PAD, SEP, SPARING, UNK, masked, spared, special_ids

# ------------------------------------------------------------------------------------------------ 8.3 masking


def mask_rare_words(
    input_ids: Tensor, special_ids: Tensor, counts: Tensor,
    chance: Tensor, action: Tensor, random_ids: Tensor, wrong: Wrong = RIGHT,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Mask as DistilBERT does, with the random draws given: the corrupted ids and the labels, both (B, L)."""
    special = spared(input_ids, special_ids, wrong)
    exponent = (
        -0.5
        if "the root of the count" in wrong
        else 0.7
        if "common words more often" in wrong
        else 1.0
        if "as often as they occur" in wrong
        else -1.0
        if "one over the count" in wrong
        else -0.7
    )
    rings = -torch.log1p(-chance) / counts[input_ids].float() ** exponent
    if "a uniform number for the clock" in wrong:
        rings = chance / counts[input_ids].float() ** exponent
    if "log u for log(1 − u)" in wrong:
        rings = -torch.log(chance) / counts[input_ids].float() ** exponent
    if "the counts not used" in wrong:
        rings = chance
    if "chance times weight, the smallest first" in wrong:
        rings = chance * counts[input_ids].float() ** exponent
    if "chance times weight" in wrong:
        rings = -chance * counts[input_ids].float() ** exponent
    if "the last to ring" in wrong:
        rings = -rings
    rings = rings.masked_fill(special, math.inf)
    real = torch.ones_like(special) if "15 % of the padded batch" in wrong else ~special
    if "special tokens in the draw" in wrong:
        rings = torch.where(special, -torch.log1p(-chance) / counts[input_ids].float() ** exponent, rings)
    chosen = torch.zeros_like(special)
    up = {"rounded down": int, "rounded to the nearest": round}
    for part in range(len(input_ids)) if "15 % of each text" in wrong else [slice(None)]:
        share = 0.15 * int(real[part].sum())
        first = (
            rings[part]
            .flatten()
            .topk(next((up[name] for name in up if name in wrong), math.ceil)(share), largest=False)
        )
        here = torch.zeros(rings[part].numel(), dtype=torch.bool)
        here[first.indices] = True
        chosen[part] = here.view_as(rings[part])
    if "all words alike" in wrong:
        chosen = (chance < 0.15) & ~special
    return masked(input_ids, special_ids, chosen, action, random_ids, wrong)


def _draws(generator: torch.Generator) -> list[tuple]:
    """Draw padded texts whose words are of very different frequency."""
    probes = []
    while len(probes) < 2:
        texts, longest = 10, 60
        counts = torch.exp(7 * torch.rand(200, generator=generator)).long() + 1  # 2 to 1,097
        counts[[PAD, UNK, MASK]], counts[[CLS, SEP]] = 1, 10  # in a corpus of ten texts
        ids = torch.randint(5, 100, (texts, longest), generator=generator)
        lengths = torch.randint(longest // 4, longest + 1, (texts,), generator=generator)
        ids = torch.where(torch.arange(longest) < lengths[:, None], ids, PAD)
        ids[:, 0] = CLS
        ids[torch.arange(texts), lengths - 1] = SEP
        chance, action = torch.rand(2, texts, longest, generator=generator)
        others = 100 + torch.randint(0, 100, (texts, longest), generator=generator)  # never what stood there
        ids[:4, 2], counts[7] = 7, 1  # special, though it is no token that every vocabulary has
        probe = ids, special_ids(generator), counts, chance, action, others
        if _is_clear(*probe[:4], below_half=not probes):
            probes.append(probe)
    return probes


def _is_clear(ids: Tensor, special_ids: Tensor, counts: Tensor, chance: Tensor, below_half: bool) -> bool:
    """Tell whether no rounding of times or of 15 % could decide who is chosen, and how far 15 % are above a whole."""
    real = ~torch.isin(ids, special_ids)
    n = int(real.sum())
    rings = (-torch.log1p(-chance) * counts[ids] ** 0.7)[real].sort().values
    last, next_one = rings[math.ceil(0.15 * n) - 1 :][:2]
    return 0.05 < 0.15 * n % 1 < 0.95 and (0.15 * n % 1 < 0.5) == below_half and bool(next_one > 1.001 * last)


# ------------------------------------------------------------------------------------------------ 8.5 triple loss


def triple_loss(
    student_logits: Tensor, teacher_logits: Tensor, student_hidden: Tensor, teacher_hidden: Tensor,
    labels: Tensor, attention_mask: Tensor, wrong: Wrong = RIGHT,
) -> Tensor:  # fmt: skip
    """Sum 5 · T² KL(p_T ‖ p_S) + 2 · masked LM + 1 · (1 − cos), T = 2, each a mean over the tokens it is about."""
    T = 2.0
    real, predicted = attention_mask.bool(), labels != IGNORED
    asked = predicted if "soft loss on the masked tokens alone" in wrong else real
    everywhere = "no mask at all" in wrong
    unmasked = everywhere or "the padding in, divided by the texts" in wrong
    asked = torch.ones_like(real) if unmasked or "padding in the soft loss" in wrong else asked
    soft = soft_loss(student_logits[asked], teacher_logits[asked], T, wrong)
    soft = soft * asked.sum() / len(labels) if unmasked or "divided by the texts" in wrong else soft
    if "each text's soft loss the same" in wrong:
        each = [
            soft_loss(s[m], t[m], T) for s, t, m in zip(student_logits, teacher_logits, real, strict=True)
        ]
        soft = torch.stack(each).mean()
    soft = soft * real.sum() / real.numel() if "soft loss divided by the padding too" in wrong else soft
    z = student_logits[predicted] / (T if "temperature in the masked LM" in wrong else 1)
    hard = F.cross_entropy(z, labels[predicted])
    if "−100 read as token 0" in wrong:
        hard = F.cross_entropy(student_logits[real], labels[real].clamp(min=0))
    if "masked LM summed" in wrong:
        hard = hard * predicted.sum()
    if "masked LM over all tokens" in wrong:
        hard = hard * predicted.sum() / real.sum()
    there = torch.ones_like(real) if everywhere or "cosine over padding" in wrong else real
    there = predicted if "cosine at the masked tokens alone" in wrong else there
    cosine = F.cosine_similarity(student_hidden[there], teacher_hidden[there], dim=-1)
    count = len(cosine)
    cosine = cosine.sum() if "cosine summed" in wrong else cosine.mean()
    if "one cosine of everything" in wrong:
        cosine = F.cosine_similarity(student_hidden[there].flatten(), teacher_hidden[there].flatten(), dim=0)
    if "cosine along the tokens" in wrong:
        cosine = F.cosine_similarity(student_hidden[there], teacher_hidden[there], dim=0).mean()
    if "cosine along the padded tokens" in wrong:
        cosine = F.cosine_similarity(student_hidden, teacher_hidden, dim=1).mean()
    if "cosine of the logits" in wrong:
        cosine = F.cosine_similarity(student_logits[there], teacher_logits[there], dim=-1).mean()
    if "cosine at [CLS] alone" in wrong:
        cosine = F.cosine_similarity(student_hidden[:, 0], teacher_hidden[:, 0], dim=-1).mean()
    away = cosine if "cosine rewarded for being far" in wrong else 1 - cosine
    if "distances summed" in wrong:
        away = away * count
    if "cosine divided by the padding too" in wrong:
        away = away * count / real.numel()
    if "a dot product for the cosine" in wrong:
        away = 1 - (student_hidden[there] * teacher_hidden[there]).sum(-1).mean()
    if "squared differences for the cosine" in wrong:
        away = F.mse_loss(student_hidden[there], teacher_hidden[there])
    if "weights as shares" in wrong:
        soft, hard, away = soft / 8, hard / 8, away / 8
    weights = {
        "weights exchanged": (2, 5, 1),
        "no weights": (1, 1, 1),
        "2 on the cosine": (5, 1, 2),
        "5 on the cosine": (1, 2, 5),
    }
    five, two, one = next((weights[name] for name in weights if name in wrong), (5, 2, 1))
    return five * soft + two * hard + (0 if "no cosine" in wrong else one * away)


def _outputs(generator: torch.Generator, texts: int = 4) -> tuple:
    """Draw random logits and hidden states, as large at the padding as elsewhere."""
    longest, vocabulary, width = 9, 12, 6
    z_s, z_t = 2 * torch.randn(2, texts, longest, vocabulary, generator=generator)
    h_s, h_t = torch.randn(2, texts, longest, width, generator=generator)
    lengths = torch.randint(4, longest, (texts, 1), generator=generator)  # the last column is padding
    column = torch.arange(longest)
    masked = (torch.rand(texts, longest, generator=generator) < 0.3) & (column < lengths)
    masked[:, 1] = True
    ids = torch.randint(0, vocabulary, (texts, longest), generator=generator)
    h_s, h_t = h_s + 0.5, h_t + 0.5  # so that they agree a little
    return z_s, z_t, h_s, h_t, torch.where(masked, ids, IGNORED), (column < lengths).long()


def _large_logits(generator: torch.Generator) -> list[tuple]:
    z_s, z_t, *rest = _outputs(generator)
    return [(1000 * z_s, 1000 * z_t, *rest)]


EXERCISES = [
    Exercise(
        name="mask_rare_words",
        number="8.3",
        title="Masking rare words more often",
        reference=mask_rare_words,
        mistakes=(
            Mistake(
                "all words alike",
                "Your choice does not look at `counts`: this is BERT's plain masking, with one threshold for all.",
            ),
            Mistake(
                "common words more often",
                "Your choice prefers common words, and there are many more of them anyway. Which sign has the "
                "exponent?",
                also=("as often as they occur",),
            ),
            Mistake(
                "the counts not used",
                "You choose the right number of tokens, and all words alike. What are `counts` for?",
            ),
            Mistake(
                "one over the count",
                "You weigh words by one over their count, which is the exponent −1. Then almost nothing but rare "
                "words is chosen.",
            ),
            Mistake(
                "the last to ring",
                "Your choice falls on those whose time is longest. A large weight means a fast clock: who rings "
                "first?",
            ),
            Mistake(
                "15 % of the padded batch",
                "You choose the right kind of token, but too many of them. Of what are they to be 15 %?",
            ),
            Mistake(
                "15 % of each text",
                "You choose within each text by itself. Then a text of common words gives as many as one of rare "
                "words; the draw is over the whole batch.",
            ),
            *SPARING,
            *MASKING,
            Mistake(
                "the root of the count",
                "Your exponent is −0.5. The paper's is −0.7.",
            ),
            Mistake(
                "a uniform number for the clock",
                "Your clocks ring after a uniform time. The trick needs exponential ones: what is done to the "
                "uniform number first?",
            ),
            Mistake(
                "rounded down",
                "You choose one token too few: 15 % are rounded up.",
                also=("rounded to the nearest",),
            ),
            Mistake(
                "special tokens in the draw",
                "Your number of tokens is right, but special ones take part in the draw. How can a clock be kept from "
                "ringing?",
            ),
            Mistake(
                "log u for log(1 − u)",
                "Your clocks ring after −log(u), and the rule says −log(1 − u). Both are exponential, but with the "
                "given numbers other tokens are chosen.",
            ),
            Mistake(
                "chance times weight",
                "You weigh the uniform number itself and take the largest. That prefers rare words, but not in "
                "proportion to their weights: the clocks do.",
            ),
            Mistake(
                "chance times weight, the smallest first",
                "You multiply the uniform number by the weight and take the smallest, which prefers common words. A "
                "large weight is to make a clock ring early: the time is divided by it, and it is exponential.",
            ),
        ),
        probes=_draws,
    ),
    Exercise(
        name="triple_loss",
        number="8.5",
        title="The triple loss",
        reference=triple_loss,
        mistakes=(
            Mistake(
                "soft loss on the masked tokens alone",
                "Your soft loss asks the teacher at the masked tokens only. It has an opinion about every token, and "
                "DistilBERT listens to all that are not padding.",
            ),
            Mistake(
                "padding in the soft loss",
                "Your soft loss includes the padding, where neither model was ever asked to say something sensible.",
            ),
            Mistake(
                "no mask at all",
                "Your soft loss and your cosine include the padding, and batchmean on three axes divides by the number "
                "of texts. Select the real tokens first: then it divides by them.",
            ),
            Mistake(
                "cosine over padding",
                "Your cosine includes the hidden states at the padding, which no token of the text ever reads.",
            ),
            Mistake(
                "divided by the texts",
                "Your soft loss is divided by the number of texts, not of tokens: batchmean on three axes does that. "
                "The longer the texts, the louder the teacher.",
                also=("the padding in, divided by the texts",),
            ),
            Mistake(
                "each text's soft loss the same",
                "You average within each text first, so that a token of a short text weighs more. All tokens count the "
                "same.",
            ),
            Mistake(
                "cosine of the logits",
                "Your cosine compares logits. The third term is about the hidden states.",
            ),
            Mistake(
                "weights exchanged",
                "Two of your weights are exchanged: 5 is the soft targets', 2 the masked tokens', and "
                "1 the hidden states'.",
                also=("2 on the cosine", "5 on the cosine"),
            ),
            Mistake(
                "temperature in the masked LM",
                "Your masked-LM loss has a temperature. It compares with a label, and labels are not softened.",
            ),
            Mistake(
                "cosine rewarded for being far",
                "Your third term is smallest where the hidden states point in opposite directions. It is to be 0 where "
                "they agree.",
            ),
            *(mistake for mistake in SOFT if mistake.name != "2T instead of T²"),  # at T = 2 no mistake
            Mistake(
                "masked LM summed",
                "Your masked-LM loss is a sum over the masked tokens. A mean is asked for.",
            ),
            Mistake(
                "masked LM over all tokens",
                "Your masked-LM loss is divided by all real tokens, and only some of them are asked for.",
            ),
            Mistake(
                "cosine at the masked tokens alone",
                "Your cosine looks at the masked tokens only. The hidden states of all real tokens are compared.",
            ),
            Mistake(
                "cosine summed",
                "Your cosines are summed, not averaged.",
                also=("distances summed",),
            ),
            Mistake(
                "a dot product for the cosine",
                "Your third term is a dot product: it grows with the size of the vectors, and a cosine does not.",
            ),
            Mistake(
                "squared differences for the cosine",
                "Your third term is a squared distance. DistilBERT compares directions.",
            ),
            Mistake(
                "no weights",
                "Your three terms all weigh the same. They are 5, 2 and 1.",
            ),
            Mistake(
                "no cosine",
                "Your loss has two terms, and there are three.",
            ),
            Mistake(
                "soft loss divided by the padding too",
                "Padding adds nothing to your soft loss, but the divisor counts it. The mean is over real tokens.",
            ),
            Mistake(
                "cosine divided by the padding too",
                "Padding adds nothing to your cosine term, but the divisor counts it. The mean is over real tokens.",
            ),
            Mistake(
                "weights as shares",
                "Your loss is divided by the sum of the weights. DistilBERT's are no shares: 5, 2 and 1 as they are.",
            ),
            Mistake(
                "−100 read as token 0",
                "Your masked-LM loss asks for token 0 where nobody is asked.",
            ),
            Mistake(
                "one cosine of everything",
                "You take one cosine of all numbers in a row. Each token has one of its own.",
            ),
            Mistake(
                "cosine along the tokens",
                "Your cosine runs over the tokens. It compares the two vectors of *one* token: which axis is that?",
                also=("cosine along the padded tokens",),
            ),
            Mistake(
                "cosine at [CLS] alone",
                "Your cosine looks at the first token only. The hidden states of all real tokens are compared.",
            ),
        ),
        probes=lambda generator: [_outputs(generator), _outputs(generator, texts=3)],
        gradients=(0, 2),
        stress=_large_logits,
        growth=lambda n: _outputs(torch.Generator().manual_seed(0), texts=n),
    ),
]
