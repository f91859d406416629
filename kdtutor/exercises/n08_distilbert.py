"""Exercises of notebook 08: DistilBERT's choice of layers, copying, its masking of rare words, the triple loss."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdtutor.data.tokens import IGNORED
from kdtutor.exercises.banks import (
    CLS,
    MASK,
    MASKING,
    PAD,
    RIGHT,
    SEP,
    SOFT,
    SPARING,
    UNK,
    Wrong,
    masked,
    soft_loss,
    spared,
    special_ids,
)
from kdtutor.exercises.definitions import Exercise, Mistake

# ------------------------------------------------------------------------------------------------ 8.1 layer choice


def kept_layers(n: int, m: int, wrong: Wrong = RIGHT) -> list[int]:
    """Which m of a teacher's n layers a student keeps, counted from 0: round(linspace(0, n − 1, m)), halves to even."""
    places = [i * (n - 1) / (m - 1) if m > 1 else 0 for i in range(m)]
    if "without the last" in wrong:
        places = [i * n / m for i in range(m)]
    if "without the first" in wrong:
        places = [(i + 1) * n / m - 1 for i in range(m)]
    if "every n/m-th, and the last" in wrong:
        return [*range(0, n, n // m)[: m - 1], n - 1]
    if "every n/m-th" in wrong:
        return [*range(0, n, n // m)]
    if "up to the last, counted back" in wrong:
        return [*range(n - 1, -1, -(n // m))][::-1]
    if "spread over n" in wrong:
        places = [i * n / max(1, m - 1) for i in range(m)]
    if "the first ones" in wrong:
        places = list(range(m))
    if "the last ones" in wrong:
        places = list(range(n - m, n))
    if "rounded up" in wrong:
        return [math.ceil(place) for place in places]
    if "not rounded" in wrong:
        return places
    if "cut off, not rounded" in wrong:
        chosen = [int(place) for place in places]
    elif "halves rounded up" in wrong:
        chosen = [math.floor(place + 0.5) for place in places]
    else:
        chosen = [round(place) for place in places]
    return [layer + ("counted from 1" in wrong) for layer in chosen]


def _depths(generator: torch.Generator) -> list[tuple]:
    """DistilBERT's own pair, the course's, another with a half between layers, one layer, all of them; random ones.

    The random pairs have no halves, at which the rounding of linspace would decide.
    """
    pairs = [(12, 6), (6, 3), (10, 5), (24, 8), (6, 1), (4, 4), (7, 3), (11, 4)]
    while len(pairs) < 11:
        m, more = (int(torch.randint(low, 12, (), generator=generator)) for low in (3, 2))
        n = m + more
        if not any(2 * i * (n - 1) / (m - 1) % 2 == 1 for i in range(m)):
            pairs.append((n, m))
    return pairs


# ------------------------------------------------------------------------------------------------ 8.2 copying


class _TinyEncoder(nn.Module):
    """As much of a BERT as matters here: `embeddings`, `layers` in a ModuleList, `head`."""

    def __init__(self, depth: int, generator: torch.Generator, width: int = 6, words: int = 10):
        super().__init__()
        self.embeddings = nn.Embedding(words, width)
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.head = nn.Linear(width, words)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator) / 2

    def forward(self, input_ids: Tensor) -> Tensor:
        hidden = self.embeddings(input_ids)
        for layer in self.layers:
            hidden = hidden + layer(hidden).tanh()
        return self.head(hidden)


def copy_layers(
    student: _TinyEncoder, teacher: _TinyEncoder, layers: Sequence[int], wrong: Wrong = RIGHT
) -> nn.Module:
    """The student with the teacher's embeddings, head and chosen layers, copied; the teacher stays as it is."""

    def copied(part: nn.Module) -> nn.Module:
        part = copy.deepcopy(part)
        if "frozen along with the teacher" not in wrong:
            part.requires_grad_(True)
        return part if "left in eval mode" in wrong else part.train()

    if "in the teacher's order" in wrong:
        layers = sorted(layers)
    if "turned round" in wrong:
        layers = layers[::-1]
    chosen = [teacher.layers[i] for i in (range(len(layers)) if "the first layers" in wrong else layers)]
    if "counted from 1" in wrong:
        chosen = [teacher.layers[i - 1] for i in layers]
    if "the last layers" in wrong:
        chosen = [*teacher.layers[-len(layers) :]]
    if "a shallow copy" in wrong:
        student = copy.copy(teacher)  # its dictionary of modules is the teacher's own
        student.layers = nn.ModuleList(chosen)
        return student
    if "nothing copied" in wrong:
        student.embeddings, student.layers, student.head = (
            teacher.embeddings,
            nn.ModuleList(chosen),
            teacher.head,
        )
        return student
    if "the teacher cut down" in wrong:
        teacher.layers = nn.ModuleList(chosen)
    student.layers = nn.ModuleList(chosen if "layers shared" in wrong else map(copied, chosen))
    if "embeddings left random" not in wrong:
        student.embeddings = (
            teacher.embeddings if "embeddings shared" in wrong else copied(teacher.embeddings)
        )
    if "head left random" not in wrong:
        student.head = copied(teacher.head)
    if "the teacher set free" in wrong:
        teacher.requires_grad_(True)
    if "the teacher frozen" in wrong:
        teacher.requires_grad_(False)
    if "the teacher in train mode" in wrong:
        teacher.train()
    return student


def _observe_copying(function, seed: int, depth: int, layers: list[int], frozen: bool) -> dict:
    generator = torch.Generator().manual_seed(seed)
    teacher, student = _TinyEncoder(depth, generator).eval(), _TinyEncoder(len(layers), generator).train()
    teacher.requires_grad_(not frozen)
    texts = torch.randint(0, 10, (4, 5), generator=generator)
    before, free, shown = teacher(texts).detach(), _free(teacher), repr(teacher)
    student = function(student, teacher, layers)
    seen = {"the student's answer before its first step": student(texts).detach()}
    seen["how many layers the teacher has afterwards"] = len(teacher.layers)
    seen["whether the teacher is made of the same parts as before"] = repr(teacher) == shown
    seen["whether the teacher answers as it did"] = torch.equal(teacher(texts), before)
    trained = [p for p in student.parameters() if p.requires_grad]
    loss = F.cross_entropy(student(texts).flatten(0, 1), texts.flatten())
    if trained:
        for parameter, gradient in zip(
            trained, torch.autograd.grad(loss, trained, allow_unused=True), strict=True
        ):
            if gradient is not None:
                parameter.data -= 0.5 * gradient
    seen["the student's answer after a step"] = student(texts).detach()
    seen["the teacher's answer after the student's step"] = teacher(texts).detach()
    seen["whether all of the student's weights can be trained"] = len(trained) == len([*student.parameters()])
    seen["whether the student is in train mode throughout"] = all(part.training for part in student.modules())
    seen["whether the teacher's weights are frozen, or free, as they were"] = _free(teacher) == free
    seen["whether the teacher is in eval mode"] = not any(part.training for part in teacher.modules())
    return seen


def _free(model: nn.Module) -> list[bool]:
    return [parameter.requires_grad for parameter in model.parameters()]


def _teachers(generator: torch.Generator) -> list[tuple]:
    first, second = torch.randint(0, 10**6, (2,), generator=generator).tolist()
    return [(first, 6, [0, 2, 5], False), (second, 5, [4, 0, 3], True)]


# ------------------------------------------------------------------------------------------------ 8.3 masking


def mask_rare_words(
    input_ids: Tensor, special_ids: Tensor, counts: Tensor,
    chance: Tensor, action: Tensor, random_ids: Tensor, wrong: Wrong = RIGHT,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """DistilBERT's masking with the random draws given: the corrupted ids and the labels, both (B, L)."""
    special = spared(input_ids, special_ids, wrong)
    exponent = (
        -0.5
        if "the root of the count" in wrong
        else 0.7
        if "common words more often" in wrong
        else -1.0
        if "one over the count" in wrong
        else -0.7
    )
    rings = -torch.log1p(-chance) / counts[input_ids].float() ** exponent
    if "a uniform number for the clock" in wrong:
        rings = chance / counts[input_ids].float() ** exponent
    if "the last to ring" in wrong:
        rings = -rings
    rings = rings.masked_fill(special, math.inf)
    real = torch.ones_like(special) if "15 % of the padded batch" in wrong else ~special
    chosen = torch.zeros_like(special)
    for part in range(len(input_ids)) if "15 % of each text" in wrong else [slice(None)]:
        share = 0.15 * int(real[part].sum())
        first = (
            rings[part]
            .flatten()
            .topk(int(share) if "rounded down" in wrong else math.ceil(share), largest=False)
        )
        here = torch.zeros(rings[part].numel(), dtype=torch.bool)
        here[first.indices] = True
        chosen[part] = here.view_as(rings[part])
    if "all words alike" in wrong:
        chosen = (chance < 0.15) & ~special
    return masked(input_ids, chosen, special, action, random_ids, wrong)


def _draws(generator: torch.Generator) -> list[tuple]:
    """Padded texts whose words are of very different frequency."""
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
        if _is_clear(*probe[:4]):
            probes.append(probe)
    return probes


def _is_clear(ids: Tensor, special_ids: Tensor, counts: Tensor, chance: Tensor) -> bool:
    """Whether no rounding, of times or of 15 %, could decide who is chosen."""
    real = ~torch.isin(ids, special_ids)
    n = int(real.sum())
    rings = (-torch.log1p(-chance) * counts[ids] ** 0.7)[real].sort().values
    last, next_one = rings[math.ceil(0.15 * n) - 1 :][:2]
    return n % 20 != 0 and bool(next_one > 1.001 * last)


# ------------------------------------------------------------------------------------------------ 8.4 triple loss


def triple_loss(
    student_logits: Tensor, teacher_logits: Tensor, student_hidden: Tensor, teacher_hidden: Tensor,
    labels: Tensor, attention_mask: Tensor, wrong: Wrong = RIGHT,
) -> Tensor:  # fmt: skip
    """5 · T² KL(p_T ‖ p_S) + 2 · masked LM + 1 · (1 − cos), T = 2, each a mean over the tokens that it is about."""
    T = 2.0
    real, predicted = attention_mask.bool(), labels != IGNORED
    asked = predicted if "soft loss on the masked tokens alone" in wrong else real
    asked = torch.ones_like(real) if "padding in the soft loss" in wrong else asked
    soft = soft_loss(student_logits[asked], teacher_logits[asked], T, wrong)
    soft = soft * asked.sum() / len(labels) if "divided by the texts" in wrong else soft
    z = student_logits[predicted] / (T if "temperature in the masked LM" in wrong else 1)
    hard = F.cross_entropy(z, labels[predicted])
    if "masked LM summed" in wrong:
        hard = hard * predicted.sum()
    if "masked LM over all tokens" in wrong:
        hard = hard * predicted.sum() / real.sum()
    there = torch.ones_like(real) if "cosine over padding" in wrong else real
    there = predicted if "cosine at the masked tokens alone" in wrong else there
    cosine = F.cosine_similarity(student_hidden[there], teacher_hidden[there], dim=-1)
    cosine = cosine.sum() if "cosine summed" in wrong else cosine.mean()
    away = cosine if "cosine rewarded for being far" in wrong else 1 - cosine
    if "a dot product for the cosine" in wrong:
        away = 1 - (student_hidden[there] * teacher_hidden[there]).sum(-1).mean()
    if "squared differences for the cosine" in wrong:
        away = F.mse_loss(student_hidden[there], teacher_hidden[there])
    five, two = (2, 5) if "weights exchanged" in wrong else (1, 1) if "no weights" in wrong else (5, 2)
    return five * soft + two * hard + (0 if "no cosine" in wrong else away)


def _outputs(generator: torch.Generator, texts: int = 4) -> tuple:
    """Random logits and hidden states, as large at the padding as elsewhere."""
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


# ------------------------------------------------------------------------------------------------ the exercises

EXERCISES = [
    Exercise(
        name="kept_layers",
        number="8.1",
        title="Which layers to keep",
        reference=kept_layers,
        mistakes=(
            Mistake(
                "the first ones",
                "You keep the lowest layers, one after the other. The student would lose everything that the upper "
                "half of its teacher does.",
            ),
            Mistake(
                "the last ones",
                "You keep the uppermost layers. Their input was made by the layers below, which the student does not "
                "have.",
            ),
            Mistake(
                "counted from 1",
                "Your layers are the right ones, each with a number too large by one. How does a list count?",
            ),
            Mistake(
                "cut off, not rounded",
                "Your places are right and lie between layers, but then you take the layer below instead of the "
                "nearest one.",
            ),
            Mistake(
                "halves rounded up",
                "You agree with the paper's layers, but not where a place lies in the middle between two layers. "
                "What do Python's and torch's own round do with 2.5?",
            ),
            Mistake(
                "without the last",
                "Your layers are evenly spread from 0, but the last one of the teacher is not among them. What does"
                " the head of the teacher expect to read?",
                also=("every n/m-th",),
            ),
            Mistake(
                "without the first",
                "Your layers end with the teacher's last one, but do not begin with its first. Which layer knows "
                "what to do with bare embeddings?",
                also=("up to the last, counted back",),
            ),
            Mistake(
                "every n/m-th, and the last",
                "You take every n/m-th layer, and put the last one in the place of your last. Evenly spread layers "
                "have their gap elsewhere.",
            ),
            Mistake(
                "rounded up",
                "Your places are right and lie between layers, but then you take the layer above instead of the "
                "nearest one.",
            ),
            Mistake(
                "not rounded",
                "Your places lie between layers. A list is asked for numbers of layers.",
            ),
            Mistake(
                "spread over n",
                "Your last layer has a number that the teacher does not have: between n layers there are n − 1 "
                "steps.",
            ),
        ),
        probes=_depths,
    ),
    Exercise(
        name="copy_layers",
        number="8.2",
        title="Copied, not shared",
        reference=copy_layers,
        mistakes=(
            Mistake(
                "layers shared",
                "The student's layers are the teacher's own, not copies: what is done to one of them is done to "
                "both. An assignment copies nothing.",
            ),
            Mistake(
                "nothing copied",
                "All of the student's parts are the teacher's own: this is one model under two names. An assignment "
                "copies nothing.",
            ),
            Mistake(
                "embeddings shared",
                "The layers are copies, but the table of embeddings belongs to both models. What is done to it is "
                "done to both.",
            ),
            Mistake(
                "a shallow copy",
                "Your student is a shallow copy, so the two models share one list of parts. Who changes the "
                "student's layers also takes them away from the teacher.",
            ),
            Mistake(
                "the teacher cut down",
                "The student is right, but the teacher has lost the layers that the student does not need. It needs "
                "them to teach.",
            ),
            Mistake(
                "the first layers",
                "The student has the teacher's lowest layers instead of those in `layers`. That is what "
                "load_state_dict with strict off gives: it goes by names, and a name contains a layer's number.",
            ),
            Mistake(
                "embeddings left random",
                "The layers are the teacher's, but they stand on random embeddings. What were they trained to read?",
            ),
            Mistake(
                "head left random",
                "Embeddings and layers are the teacher's, but the head is still random. The teacher's own could "
                "read these hidden states.",
            ),
            Mistake(
                "frozen along with the teacher",
                "Some of the student's weights can't be trained: a deep copy of something frozen is frozen too.",
            ),
            Mistake(
                "left in eval mode",
                "Part of the student is in eval mode, as the teacher was: a deep copy keeps the mode. Dropout would "
                "be off without anybody having said so.",
            ),
            Mistake(
                "the teacher set free",
                "The teacher's weights can be trained now, although nobody will train it. Undo the freezing on the "
                "student alone.",
            ),
            Mistake(
                "in the teacher's order",
                "The layers are the right ones, but they stand in the teacher's order. The order of `layers` was "
                "asked for.",
            ),
            Mistake(
                "turned round",
                "The layers are the right ones, in reverse.",
            ),
            Mistake(
                "counted from 1",
                "Each of your layers is the one below the right one. From which number does a list count?",
            ),
            Mistake(
                "the last layers",
                "The student has the teacher's uppermost layers instead of those in `layers`.",
            ),
            Mistake(
                "the teacher frozen",
                "The teacher's weights are frozen now, and they were not. It was to be left as it was.",
            ),
            Mistake(
                "the teacher in train mode",
                "The teacher is in train mode afterwards. It was to be left as it was.",
            ),
        ),
        planted=("layers shared",),
        symptom="After a training step of the student, the teacher gives other answers.",
        probes=_teachers,
        observe=_observe_copying,
    ),
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
                "cosine over padding",
                "Your cosine includes the hidden states at the padding, which no token of the text ever reads.",
            ),
            Mistake(
                "divided by the texts",
                "Your soft loss is divided by the number of texts, not of tokens: batchmean on three axes does that. "
                "The longer the texts, the louder the teacher.",
            ),
            Mistake(
                "weights exchanged",
                "Two of your weights are exchanged: the teacher's soft targets have the largest of the three.",
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
            *SOFT,
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
        ),
        probes=lambda generator: [_outputs(generator), _outputs(generator, texts=3)],
        gradients=(0, 2),
        stress=_large_logits,
        growth=lambda n: _outputs(torch.Generator().manual_seed(0), texts=n),
    ),
]
