"""Exercises of notebook 08: DistilBERT's choice of layers, copying, its masking of rare words, the triple loss."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdtutor.exercises.definitions import Exercise, Mistake

Wrong = frozenset[str]  # names of mistakes; each switches a line below
NONE: Wrong = frozenset()
PAD, UNK, CLS, SEP, MASK = range(5)  # the course's special tokens
IGNORED = -100

# ------------------------------------------------------------------------------------------------ 8.1 layer choice


def kept_layers(n: int, m: int, wrong: Wrong = NONE) -> list[int]:
    """Which m of a teacher's n layers a student keeps, counted from 0: round(linspace(0, n − 1, m)), halves to even."""
    places = [i * (n - 1) / (m - 1) if m > 1 else 0 for i in range(m)]
    if "without the last" in wrong:
        places = [i * n / m for i in range(m)]
    if "without the first" in wrong:
        places = [(i + 1) * n / m - 1 for i in range(m)]
    if "the first ones" in wrong:
        places = list(range(m))
    if "the last ones" in wrong:
        places = list(range(n - m, n))
    if "cut off, not rounded" in wrong:
        chosen = [int(place) for place in places]
    elif "halves rounded up" in wrong:
        chosen = [math.floor(place + 0.5) for place in places]
    else:
        chosen = [round(place) for place in places]
    return [layer + ("counted from 1" in wrong) for layer in chosen]


def _depths(generator: torch.Generator) -> list[tuple]:
    """DistilBERT's own pair, the course's, another with a half between layers, one layer, all of them; random ones.

    n is a multiple of m, so that every way to write "each n/m-th" is the same mistake; and the random pairs have no
    halves, at which the rounding of linspace would decide.
    """
    pairs = [(12, 6), (6, 3), (10, 5), (24, 8), (6, 1), (4, 4)]
    while len(pairs) < 8:
        m, times = (int(torch.randint(low, 9, (), generator=generator)) for low in (3, 2))
        n = m * times
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
    student: _TinyEncoder, teacher: _TinyEncoder, layers: Sequence[int], wrong: Wrong = NONE
) -> nn.Module:
    """The student with the teacher's embeddings, head and chosen layers, copied; the teacher stays as it is."""

    def copied(part: nn.Module) -> nn.Module:
        part = copy.deepcopy(part)
        if "frozen along with the teacher" not in wrong:
            part.requires_grad_(True)
        return part if "left in eval mode" in wrong else part.train()

    chosen = [teacher.layers[i] for i in (range(len(layers)) if "the first layers" in wrong else layers)]
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
    return student


def _observe_copying(function, seed: int, depth: int, layers: list[int], frozen: bool) -> dict:
    generator = torch.Generator().manual_seed(seed)
    teacher, student = _TinyEncoder(depth, generator).eval(), _TinyEncoder(len(layers), generator).train()
    teacher.requires_grad_(not frozen)
    texts = torch.randint(0, 10, (4, 5), generator=generator)
    student = function(student, teacher, layers)
    seen = {"the student's answer before its first step": student(texts).detach()}
    seen["how many layers the teacher has afterwards"] = len(teacher.layers)
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
    seen["whether the teacher's weights are frozen"] = not any(p.requires_grad for p in teacher.parameters())
    seen["whether the teacher is in eval mode"] = not any(part.training for part in teacher.modules())
    return seen


def _teachers(generator: torch.Generator) -> list[tuple]:
    first, second = torch.randint(0, 10**6, (2,), generator=generator).tolist()
    return [(first, 6, [0, 2, 5], False), (second, 5, [0, 4], True)]


# ------------------------------------------------------------------------------------------------ 8.3 masking


def mask_rare_words(
    input_ids: Tensor, special_ids: Tensor, counts: Tensor,
    chance: Tensor, action: Tensor, random_ids: Tensor, wrong: Wrong = NONE,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """DistilBERT's masking with the random draws given: the corrupted ids and the labels, both (B, L)."""
    spared = torch.isin(input_ids, special_ids)
    if "[CLS] and [SEP] masked" in wrong:
        spared = spared & (input_ids != CLS) & (input_ids != SEP)
    if "padding masked" in wrong:
        spared = spared & (input_ids != PAD)
    exponent = 0.7 if "common words more often" in wrong else -1.0 if "one over the count" in wrong else -0.7
    rings = -torch.log1p(-chance) / counts[input_ids].float() ** exponent
    if "the last to ring" in wrong:
        rings = -rings
    rings = rings.masked_fill(spared, math.inf)
    real = torch.ones_like(spared) if "15 % of the padded batch" in wrong else ~spared
    parts = list(range(len(input_ids))) if "15 % of each text" in wrong else [slice(None)]
    chosen = torch.zeros_like(spared)
    for part in parts:
        first = rings[part].flatten().topk(math.ceil(0.15 * int(real[part].sum())), largest=False).indices
        here = torch.zeros(rings[part].numel(), dtype=torch.bool)
        here[first] = True
        chosen[part] = here.view_as(rings[part])
    if "all words alike" in wrong:
        chosen = (chance < 0.15) & ~spared
    hidden, swapped = chosen & (action < 0.8), chosen & (action >= 0.9)
    if "always [MASK]" in wrong:
        hidden, swapped = chosen, torch.zeros_like(chosen)
    corrupted = torch.where(hidden, MASK, torch.where(swapped, random_ids, input_ids))
    if "kept tokens get no label" in wrong:
        chosen = hidden | swapped
    if "labels everywhere" in wrong:
        chosen = torch.ones_like(chosen)
    return corrupted, torch.where(
        chosen, corrupted if "labels after masking" in wrong else input_ids, IGNORED
    )


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
        probe = ids, torch.tensor([PAD, UNK, CLS, SEP, MASK]), counts, chance, action, others
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
    labels: Tensor, attention_mask: Tensor, wrong: Wrong = NONE,
) -> Tensor:  # fmt: skip
    """5 · T² KL(p_T ‖ p_S) + 2 · masked LM + 1 · (1 − cos), T = 2, each a mean over the tokens that it is about."""
    T = 2.0
    real, masked = attention_mask.bool(), labels != IGNORED
    asked = masked if "soft loss on the masked tokens alone" in wrong else real
    asked = torch.ones_like(real) if "padding in the soft loss" in wrong else asked
    p, q = teacher_logits[asked], student_logits[asked]
    if "KL the other way round" in wrong:
        p, q = q, p
    log_p, log_q = (p / T).log_softmax(-1), (q / T).log_softmax(-1)
    kl = (log_p.exp() * (log_p - log_q)).sum()
    soft = (1 if "no T²" in wrong else T**2) * kl
    soft = soft / (len(labels) if "divided by the texts" in wrong else asked.sum())
    z = student_logits[masked] / (T if "temperature in the masked LM" in wrong else 1)
    hard = F.cross_entropy(z, labels[masked])
    there = torch.ones_like(real) if "cosine over padding" in wrong else real
    cosine = F.cosine_similarity(student_hidden[there], teacher_hidden[there], dim=-1).mean()
    away = cosine if "cosine rewarded for being far" in wrong else 1 - cosine
    five, two = (2, 5) if "weights exchanged" in wrong else (5, 2)
    return five * soft + two * hard + away


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
                "without the last",
                "Your layers are evenly spread from 0, but the last one of the teacher is not among them. What does "
                "the head of the teacher expect to read?",
            ),
            Mistake(
                "without the first",
                "Your layers end with the teacher's last one, but do not begin with its first. Which layer knows what "
                "to do with bare embeddings?",
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
        ),
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
                "[CLS] and [SEP] masked",
                "Your choice falls on [CLS] and [SEP] too. They look rare, for they stand in each text only once.",
            ),
            Mistake(
                "padding masked",
                "Your choice falls on padding too: in the corpus it never occurs, which makes it look like the rarest "
                "word of all.",
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
                "kept tokens get no label",
                "The chosen tokens that stay as they are have no label with you. They are to be predicted like the "
                "others.",
            ),
        ),
        probes=_draws,
    ),
    Exercise(
        name="triple_loss",
        number="8.4",
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
                "no T²",
                "Your soft loss is four times too small. By what does dividing the logits by T shrink its gradient?",
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
                "KL the other way round",
                "Your KL divergence has student and teacher exchanged. Whose probabilities weigh the differences?",
            ),
            Mistake(
                "cosine rewarded for being far",
                "Your third term is smallest where the hidden states point in opposite directions. It is to be 0 where "
                "they agree.",
            ),
        ),
        probes=lambda generator: [_outputs(generator), _outputs(generator, texts=3)],
        gradients=(0, 2),
        stress=_large_logits,
        growth=lambda n: _outputs(torch.Generator().manual_seed(0), texts=n),
    ),
]
