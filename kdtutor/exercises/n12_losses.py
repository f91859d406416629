"""The exercises of notebook 12 on losses at each token: the shift, the padding, the prompt, and both ends of β."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kdtutor.exercises.banks import RIGHT, Wrong
from kdtutor.exercises.definitions import Exercise, Mistake

VOCABULARY, LONGEST = 6, 8


def _texts(generator: torch.Generator, texts: int = 4) -> tuple[Tensor, Tensor]:
    """Draw ids and mask of texts of 5 to 7 tokens, padded on the right."""
    lengths = torch.randint(5, LONGEST + 1, (texts, 1), generator=generator)
    lengths[0] = LONGEST
    ids = torch.randint(VOCABULARY, (texts, LONGEST), generator=generator)
    return ids, (torch.arange(LONGEST) < lengths).long()


def _logits(generator: torch.Generator, texts: int = 4) -> Tensor:
    return 2 * torch.randn(texts, LONGEST, VOCABULARY, generator=generator)


# ------------------------------------------------------------------------------------------------ 12.1 the shift


def next_token_loss(
    logits: Tensor, input_ids: Tensor, attention_mask: Tensor, wrong: Wrong = RIGHT
) -> Tensor:
    """Cross-entropy of each next token, mean over all that are real. logits (B, L, V); ids and mask (B, L)."""
    z, y, mask = logits[:, :-1], input_ids[:, 1:], attention_mask[:, 1:]
    if "no shift" in wrong:
        z, y, mask = logits, input_ids, attention_mask
    elif "shifted the wrong way" in wrong:
        z, y, mask = logits[:, 1:], input_ids[:, :-1], attention_mask[:, :-1]
    elif "shifted the wrong way, and the mask the other" in wrong:
        z, y, mask = logits[:, 1:], input_ids[:, :-1], attention_mask[:, 1:]
    elif {"round to the first token", "round to the first token, with its mask"} & wrong:
        z, y, mask = logits, input_ids.roll(-1, 1), attention_mask
        mask = mask.roll(-1, 1) if "round to the first token" not in wrong else mask
    elif "the mask not shifted" in wrong:
        mask = attention_mask[:, :-1]
    elif "shifted twice" in wrong:
        z, y, mask = logits[:, :-2], input_ids[:, 2:], attention_mask[:, 2:]
    if "token 0 is padding" in wrong:
        mask = mask * (y != 0)
    if "zeros in place of the padding's logits" in wrong:
        return F.cross_entropy((z * mask[..., None]).flatten(0, 1), y.flatten())
    classes_second = z.transpose(1, 2)
    if "reshaped, not transposed" in wrong:
        classes_second = z.reshape(classes_second.shape)
    losses = F.cross_entropy(classes_second, y, reduction="none")  # (B, L − 1)
    if "logits for log-probabilities" in wrong:
        losses = -z.gather(-1, y[..., None]).squeeze(-1)
    if "the last token alone" in wrong:
        mask = mask * (torch.arange(mask.shape[1]) == mask.sum(1, keepdim=True) - 1)
    if "the logarithm of a mean" in wrong:
        return -(((-losses).exp() * mask).sum() / mask.sum()).log()
    if "the sign" in wrong:
        losses = -losses
    if "a sum" in wrong:
        return (losses * mask).sum()
    if "padding counted" in wrong:
        return losses.mean()
    if "padding divides" in wrong:
        return (losses * mask).mean()
    if "each text the same" in wrong:
        return ((losses * mask).sum(1) / mask.sum(1)).mean()
    if "divided by the texts" in wrong:
        return (losses * mask).sum() / len(losses)
    if "one more than there are" in wrong:
        return (losses * mask).sum() / attention_mask.sum()
    return (losses * mask).sum() / mask.sum()


NEXT_TOKEN_LOSS = Exercise(
    name="next_token_loss",
    number="12.1",
    title="The next token",
    reference=next_token_loss,
    mistakes=(
        Mistake(
            "shifted twice",
            "You ask each place for the token after the next one. How far apart are a place and the token it predicts?",
        ),
        Mistake(
            "no shift",
            "You ask each place for the token that it has just read. Place t has read tokens 0 to t: what"
            " is it asked for?",
        ),
        Mistake(
            "shifted the wrong way",
            "You ask each place for the token *before* it. Which of the two, logits or ids, loses its first place?",
            also=("shifted the wrong way, and the mask the other",),
        ),
        Mistake(
            "round to the first token",
            "`roll` brings a text's first token round to its end: the last place is asked for it, and should be asked "
            "for nothing.",
            also=("round to the first token, with its mask",),
        ),
        Mistake(
            "padding counted",
            "What stands behind the end of a text counts in your loss, as if somebody had written it.",
        ),
        Mistake("padding divides", "Padding is 0 in your sum, but it still divides it."),
        Mistake(
            "the mask not shifted",
            "Your mask says which tokens were read. It should say which of the *asked* ones exist: the last real token "
            "of a text is asked for nothing.",
        ),
        Mistake(
            "one more than there are",
            "You divide by all real tokens. The first of a text is predicted by nobody.",
        ),
        Mistake(
            "each text the same",
            "You average within each text first. A token of a short text then counts more than one of a long text.",
        ),
        Mistake(
            "the last token alone",
            "You ask for the last token of each text alone. A language model is asked at every place.",
        ),
        Mistake(
            "the logarithm of a mean",
            "You average probabilities and take the logarithm then. It is the logarithms that are averaged.",
        ),
        Mistake(
            "reshaped, not transposed",
            "The classes stand on the second axis, but a reshape has torn the rows apart: it reads on in the old order."
            " What exchanges two axes?",
        ),
        Mistake("divided by the texts", "You divide by the number of texts, not of predicted tokens."),
        Mistake("a sum", "That is the sum over all predicted tokens, and the mean was asked for."),
        Mistake(
            "token 0 is padding",
            "You leave token 0 out wherever it stands. Here it is a token like the others: who says what is padding?",
        ),
        Mistake(
            "zeros in place of the padding's logits",
            "You set the logits of padding to 0. That isn't nothing: all tokens are then equally likely there, and "
            "the loss log V counts.",
        ),
        Mistake(
            "logits for log-probabilities",
            "You take the logits for log-probabilities: nothing says that their exponentials add up to 1.",
        ),
        Mistake("the sign", "Your loss falls where the right token becomes less likely."),
    ),
    probes=lambda generator: [(_logits(generator), *_texts(generator)) for _ in range(3)],
    gradients=(0,),
)


# ------------------------------------------------------------------------------------------------ 12.2 the prompt


def word_level(
    student_logits: Tensor, teacher_logits: Tensor, attention_mask: Tensor, prompt: int, wrong: Wrong = RIGHT
) -> Tensor:
    """Average KL(teacher ‖ student) over the written tokens. Logits (B, L, V); the first `prompt` were given."""
    s, t = student_logits[:, :-1], teacher_logits[:, :-1]
    if "student and teacher swapped" in wrong:
        s, t = t, s
    asked = torch.arange(1, student_logits.shape[1])  # the token that each row is about
    counts = attention_mask[:, 1:].bool() & (asked >= prompt)
    if "the prompt in the loss" in wrong:
        counts = attention_mask[:, 1:].bool()
    elif "the first written token left out" in wrong:
        counts = counts & (asked > prompt)
    elif "one of the prompt's tokens in the loss" in wrong:
        counts = attention_mask[:, 1:].bool() & (asked >= prompt - 1)
    elif "the prompt alone" in wrong:
        counts = attention_mask[:, 1:].bool() & (asked < prompt)
    elif "the prompt's rows alone" in wrong:
        counts = attention_mask[:, :-1].bool() & (asked <= prompt)
    elif "cut off at the other end" in wrong:
        counts = attention_mask[:, 1:].bool() & (asked < student_logits.shape[1] - prompt)
    elif "padding counted" in wrong:
        counts = (asked >= prompt).expand(len(s), -1)
    elif "the mask not shifted" in wrong:
        counts = attention_mask[:, :-1].bool() & (asked >= prompt)
    elif "no shift" in wrong or "no shift, and from the prompt's last place" in wrong:
        first = prompt if "no shift" in wrong else prompt - 1
        s, t = (teacher_logits, student_logits) if s is teacher_logits else (student_logits, teacher_logits)
        counts = attention_mask.bool() & (torch.arange(len(attention_mask[0])) >= first)
    kl = F.kl_div(s.log_softmax(-1), t.log_softmax(-1), reduction="none", log_target=True)
    if "the distance of the logits" in wrong:
        kl = (s - t).square() / s.shape[-1]
    if "cross-entropy with the teacher" in wrong:
        kl = -t.softmax(-1) * s.log_softmax(-1)
    kl = kl.mean(-1) if "mean over the vocabulary" in wrong else kl.sum(-1)  # (B, L − 1)
    if "each text the same" in wrong:
        return ((kl * counts).sum(1) / counts.sum(1)).mean()
    if "divided by the texts" in wrong:
        return (kl * counts).sum() / len(kl)
    if "a sum" in wrong:
        return (kl * counts).sum()
    if "what does not count divides" in wrong:
        return (kl * counts).mean()
    if "the prompt divides" in wrong:
        return (kl * counts).sum() / attention_mask[:, 1:].sum()
    return (kl * counts).sum() / counts.sum()


WORD_LEVEL = Exercise(
    name="word_level",
    number="12.2",
    title="What was given, and what was written",
    reference=word_level,
    mistakes=(
        Mistake(
            "the prompt in the loss",
            "Rows that predict the prompt's own tokens count. Nobody wrote those: the student would learn"
            " to ask questions.",
        ),
        Mistake(
            "the prompt alone",
            "Only the prompt counts in your loss, which is what was given. What was written stands behind it.",
            also=("the prompt's rows alone",),
        ),
        Mistake(
            "the first written token left out",
            "The first token that was written does not count. The row that predicts it stands at the "
            "prompt's last place.",
        ),
        Mistake(
            "one of the prompt's tokens in the loss",
            "The prompt's last token counts, though it was given. Which row predicts the first token that was not?",
        ),
        Mistake("padding counted", "Rows that predict padding count in your loss."),
        Mistake(
            "cut off at the other end", "You leave out the last tokens. The prompt stands at the beginning."
        ),
        Mistake(
            "the distance of the logits",
            "You compare logits by their squared distance, and a divergence of probabilities was asked for.",
        ),
        Mistake(
            "the mask not shifted",
            "Your mask says which tokens were read, and not whether there is a *next* one: one row too many "
            "per text.",
        ),
        Mistake(
            "student and teacher swapped",
            "Your divergence goes the other way round: the student's probabilities stand where the teacher's "
            "should be.",
        ),
        Mistake("mean over the vocabulary", "A divergence is a sum over the vocabulary; you take its mean."),
        Mistake("each text the same", "You average within each text first; all written tokens count alike."),
        Mistake("divided by the texts", "You divide by the number of texts, not of written tokens."),
        Mistake(
            "what does not count divides",
            "Prompt and padding are 0 in your sum, but they still divide it.",
        ),
        Mistake("a sum", "That is the sum over all written tokens, and the mean was asked for."),
        Mistake(
            "cross-entropy with the teacher",
            "The gradient is right, and the value is too large by an entropy: whose?",
        ),
        Mistake("the prompt divides", "The prompt is 0 in your sum, but its tokens still divide it."),
        Mistake(
            "no shift",
            "You weigh each row by the token that it has just read. The row at place t is about token t + 1, and the "
            "last one is about none.",
            also=("no shift, and from the prompt's last place",),
        ),
    ),
    planted=("the prompt in the loss",),
    symptom="The loss changes when the models disagree about the prompt alone, of which the student writes nothing.",
    probes=lambda generator: [
        (_logits(generator), _logits(generator), _texts(generator)[1], prompt) for prompt in (3, 4, 2)
    ],
    gradients=(0,),
)


# ------------------------------------------------------------------------------------------------ 12.3 both ends


def generalised_jsd(
    student_logits: Tensor, teacher_logits: Tensor, beta: float, wrong: Wrong = RIGHT
) -> Tensor:
    """Compute β KL(p_T ‖ M) + (1 − β) KL(p_S ‖ M), M = β p_T + (1 − β) p_S, mean over the rows; KLs at both ends."""
    axis = 0 if "softmax over the rows" in wrong else -1
    log_s, log_t = student_logits.log_softmax(axis), teacher_logits.log_softmax(axis)

    def kl(log_p: Tensor, log_q: Tensor) -> Tensor:
        losses = log_p.exp() * (log_p - log_q)
        losses = losses.mean(-1) if "mean over the vocabulary" in wrong else losses.sum(-1)
        return losses.sum() if "summed over the rows" in wrong else losses.mean()

    ends = {0: (log_t, log_s), 1: (log_s, log_t)}
    if "the two ends exchanged" in wrong:
        ends = {0: ends[1], 1: ends[0]}
    if "a mean of the two KLs" in wrong:
        return (1 - beta) * kl(*ends[0]) + beta * kl(*ends[1])
    if "the Jensen-Shannon divergence" in wrong:
        log_m = (log_t.exp() / 2 + log_s.exp() / 2).log()
        return (kl(log_t, log_m) + kl(log_s, log_m)) / 2
    if "nothing at β = 0" in wrong or "nothing at β = 1" in wrong:
        ends.pop(0 if "nothing at β = 0" in wrong else 1)
    if beta in ends and "nothing at the ends" not in wrong:
        return kl(*ends[beta])
    share = 1 - beta if "the mixture the other way round" in wrong else beta
    mixture = share * log_t.exp() + (1 - share) * log_s.exp()
    if "always the middle" in wrong:
        mixture = 0.5 * log_t.exp() + 0.5 * log_s.exp()
    log_m = mixture.log()
    if "a mixture of the logits" in wrong:
        log_m = (beta * teacher_logits + (1 - beta) * student_logits).log_softmax(-1)
    if "a mixture of the logarithms" in wrong:
        log_m = beta * log_t + (1 - beta) * log_s
    first, second = (log_t, log_s) if "the weights exchanged" not in wrong else (log_s, log_t)
    if "M before the bar" in wrong:
        return beta * kl(log_m, first) + (1 - beta) * kl(log_m, second)
    if "half of each divergence" in wrong:
        beta = 0.5
    return beta * kl(first, log_m) + (1 - beta) * kl(second, log_m)


GENERALISED_JSD = Exercise(
    name="generalised_jsd",
    number="12.3",
    title="From one KL to the other",
    reference=generalised_jsd,
    mistakes=(
        Mistake(
            "nothing at the ends",
            "At β = 0 and at β = 1 your loss is 0, whatever the models say: there is no gradient and nothing is "
            "learned. What is meant at these two?",
        ),
        Mistake(
            "the two ends exchanged", "Your two ends are exchanged: β = 0 is the forward KL, teacher first."
        ),
        Mistake(
            "the mixture the other way round",
            "In your mixture the teacher has the share 1 − β. The formula gives it β.",
        ),
        Mistake("the weights exchanged", "In your sum β stands before the student's divergence."),
        Mistake("always the middle", "Your mixture has both halves alike, whatever β is."),
        Mistake(
            "a mixture of the logits",
            "You mix logits. The softmax of mixed logits is a geometric mean, and M is an arithmetic one,"
            " of probabilities.",
            also=("a mixture of the logarithms",),
        ),
        Mistake(
            "half of each divergence",
            "The mixture follows β, and before the two divergences stands 1/2. What does the formula have there?",
        ),
        Mistake(
            "the Jensen-Shannon divergence",
            "That is the Jensen-Shannon divergence, whatever β is: here it is one case of many, and not at the ends.",
        ),
        Mistake(
            "a mean of the two KLs",
            "You go from one KL to the other in a straight line. Where is the mixture M?",
        ),
        Mistake(
            "nothing at β = 1",
            "One end is right. At β = 1 your loss is 0, whatever the models say.",
        ),
        Mistake(
            "nothing at β = 0",
            "One end is right. At β = 0 your loss is 0, whatever the models say.",
        ),
        Mistake(
            "softmax over the rows",
            "Your softmax runs along the rows of the batch. Which axis is the vocabulary's?",
        ),
        Mistake("summed over the rows", "You add up the rows, and their mean was asked for."),
        Mistake("M before the bar", "The mixture stands behind the bar, in both: KL(p ‖ M)."),
        Mistake("mean over the vocabulary", "A divergence is a sum over the vocabulary; you take its mean."),
    ),
    probes=lambda generator: [
        (*(2 * torch.randn(2, 5, VOCABULARY, generator=generator)), beta) for beta in (0, 1, 0.2, 0.5)
    ],
    gradients=(0,),
)

EXERCISES = [NEXT_TOKEN_LOSS, WORD_LEVEL, GENERALISED_JSD]
