"""The exercises of notebook 07 on reading a text step by step, and on where it ends."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor, nn

from kdtutor.exercises.banks import RIGHT
from kdtutor.exercises.definitions import Exercise, Mistake

# ---------------------------------------------------------------------------------------- 7.1 one step of an LSTM


# all orders of the four parts but the right one, and two that have names of their own
ORDERS = frozenset(map("".join, itertools.permutations("ifgo"))) - {"ifgo", "figo", "ifog"}


def lstm_step(
    x: Tensor, h: Tensor, c: Tensor, W: Tensor, U: Tensor, b: Tensor, wrong: frozenset[str] = RIGHT
) -> tuple[Tensor, Tensor]:
    """Take a step of an LSTM: h and c (B, H) after x (B, D). W (4H, D), U (4H, H), b (4H): gates i, f, g, o."""
    gates = x @ W.T + (0 if "the biases left out" in wrong else b)
    if "what was read before is ignored" not in wrong:
        gates = gates + h @ U.T
    i, f, g, o = gates.chunk(4, dim=-1)
    if "every fourth number" in wrong:
        i, f, g, o = gates.reshape(len(x), -1, 4).unbind(-1)
    if order := (ORDERS | {"the parts in another order"}) & wrong:
        parts = dict(zip("ifgo", (i, f, g, o), strict=True))
        i, f, g, o = (parts[name] for name in min(order - {"the parts in another order"}, default="fgio"))
    if "forget and input exchanged" in wrong:
        i, f = f, i
    if "candidate and output exchanged" in wrong:
        g, o = o, g
    if "the candidate as it is" not in wrong:
        squash = torch.sigmoid if "a sigmoid on the candidate" in wrong else torch.tanh
        g = g.relu() if "a ReLU on the candidate" in wrong else squash(g)
    if "gates by tanh" in wrong:
        i, f, o = i.tanh(), f.tanh(), o.tanh()
    elif "gates without sigmoid" not in wrong:
        gates = {"input": i, "forget": f, "output": o}
        i, f, o = (
            z if f"the {name} gate without sigmoid" in wrong else z.sigmoid() for name, z in gates.items()
        )
    f = 1 - f if "the forget gate turned round" in wrong else f
    kept = c if "nothing is forgotten" in wrong else f * (h if "the state for the cell" in wrong else c)
    new = i * g
    if "nothing is kept" in wrong:
        kept = torch.zeros_like(c)
    if "one gate for both" in wrong:
        new = (1 - f) * g
    after = kept * new if "a product for the sum" in wrong else kept + new
    shown = c if "the old cell is shown" in wrong else after
    h = o * (shown if "no tanh of the cell" in wrong else shown.tanh())
    return (after, h) if "c before h" in wrong else (h, after)


def _observe_step(function: Callable, *arguments: Tensor) -> dict:
    h, c = function(*arguments)
    return {"the new cell c": c, "the new state h": h}


def _step_probes(generator: torch.Generator) -> list[tuple]:
    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    return [
        (draw(B, D), draw(B, H).tanh(), draw(B, H), draw(4 * H, D), draw(4 * H, H), draw(4 * H))
        for B, D, H in ((3, 4, 5), (1, 2, 3), (2, 3, 3))
    ]


LSTM_STEP = Exercise(
    name="lstm_step",
    number="7.1",
    title="One step of an LSTM",
    reference=lstm_step,
    mistakes=(
        Mistake(
            "forget and input exchanged",
            "The gate that should let the new in decides what is kept of the old, and the other way round. In which "
            "order do the four parts come?",
        ),
        Mistake(
            "candidate and output exchanged",
            "The third part is the candidate and the fourth the output gate. You took them the other way round.",
        ),
        Mistake(
            "a sigmoid on the candidate",
            "Your candidate lies between 0 and 1, so that a cell can only ever grow. It has another activation than "
            "the three gates.",
        ),
        Mistake(
            "a ReLU on the candidate",
            "Your candidate is never negative and has no upper end: a cell can only ever grow. Which activation lies "
            "between −1 and 1?",
        ),
        Mistake(
            "the parts in another order",
            "You take the four parts in another order. They stand as input gate, forget gate, candidate, output gate.",
            also=tuple(sorted(ORDERS - {"fgio"})),
        ),
        Mistake(
            "a product for the sum",
            "You multiply what is kept and what is new. The cell adds them, which lets gradients reach far back.",
        ),
        Mistake(
            "the state for the cell", "Your forget gate keeps a share of h. What is kept is the cell, c."
        ),
        Mistake(
            "gates without sigmoid",
            "Your gates are not between 0 and 1: a gate says which share passes.",
            also=("gates by tanh",),
        ),
        *(
            Mistake(
                f"the {gate} gate without sigmoid",
                f"Your {gate} gate is not between 0 and 1, as the others are: a gate says which share passes.",
            )
            for gate in ("input", "forget", "output")
        ),
        Mistake(
            "the candidate as it is",
            "Your candidate can be as large as it likes. It passes through a function of its own, which keeps it "
            "between −1 and 1.",
        ),
        Mistake(
            "the forget gate turned round",
            "Your cell keeps what it should forget: the forget gate says which share *stays*.",
        ),
        Mistake(
            "what was read before is ignored",
            "Your gates look at the new token alone, and not at what was read before.",
        ),
        Mistake(
            "nothing is forgotten", "Your cell keeps all of its old content: the forget gate is not used."
        ),
        Mistake("nothing is kept", "Your cell forgets everything at each step: where is the old cell?"),
        Mistake(
            "one gate for both",
            "In your cell what is forgotten makes room for what is new, by one gate. That is the idea of a GRU; an "
            "LSTM has a gate for each.",
        ),
        Mistake(
            "no tanh of the cell",
            "The cell is right. What is shown of it is not: it passes through one more function before the output "
            "gate.",
        ),
        Mistake("the old cell is shown", "The cell is right, but the state shows the old one."),
        Mistake("the biases left out", "Your gates have no bias: where is b?"),
        Mistake(
            "every fourth number",
            "You take every fourth number for a part. The parts stand one below the other, each of them H numbers in a "
            "row.",
        ),
        Mistake("c before h", "You return the cell first, and the state second."),
    ),
    probes=_step_probes,
    observe=_observe_step,
)


# ------------------------------------------------------------------------------------------ 7.2 what is read last


def last_state(
    lstm: nn.LSTM, embedded: Tensor, attention_mask: Tensor, wrong: frozenset[str] = RIGHT
) -> Tensor:
    """Tell what an LSTM of one direction has after each text's last real token: (B, H).

    embedded: (B, L, D), padded on the right. attention_mask: (B, L), 1 at real tokens.
    """
    if "zeros read after the text" in wrong:
        embedded = embedded * attention_mask[..., None]
        return lstm(embedded)[0][:, -1]
    out, _ = lstm(embedded)  # (B, L, H)
    rows, lengths = torch.arange(len(out)), attention_mask.sum(1)
    if "the last place of the batch" in wrong:
        return out[:, -1]
    if "one step too far" in wrong:
        return out[rows, lengths.clamp(max=out.shape[1] - 1)]
    if "one step too early" in wrong:
        return out[rows, (lengths - 2).clamp(min=0)]
    if "the first state" in wrong:
        return out[:, 0]
    if "the padding multiplied away" in wrong:
        return (out * attention_mask[..., None])[:, -1]
    if "the mean over all places" in wrong:
        return out.mean(1)
    if "the largest over the text" in wrong:
        return out.masked_fill(attention_mask[..., None] == 0, -torch.inf).amax(1)
    if "the largest over all places" in wrong:
        return out.amax(1)
    if "the sum over the text" in wrong:
        return (out * attention_mask[..., None]).sum(1)
    if "all real tokens" in wrong:
        return out[attention_mask.bool()]
    if "the place of the longest text after packing" in wrong:
        return (out * attention_mask[..., None])[:, int(lengths.max()) - 1]
    if "the cell" in wrong:
        texts = [row[:length] for row, length in zip(embedded, lengths, strict=True)]
        return torch.stack([lstm(text)[1][1][-1] for text in texts])
    if "read from the end" in wrong:
        return lstm(embedded.flip(1))[0][:, -1]
    if "the batch turned round, not the text" in wrong:
        return lstm(embedded.flip(1))[0][rows, lengths - 1]
    if "the mean over the text" in wrong:
        return (out * attention_mask[..., None]).sum(1) / lengths[:, None]
    if "the longest text's end for all" in wrong:
        return out[:, int(lengths.max()) - 1]
    if "every text's end in every text" in wrong:
        return out[:, lengths - 1]
    if "what is read, not what is kept" in wrong:
        return embedded[rows, lengths - 1]
    if "the shortest text's end for all" in wrong:
        return out[:, int(lengths.min()) - 1]
    return out[rows, lengths - 1]


def _text_probes(generator: torch.Generator) -> list[tuple]:
    probes = []
    for lengths in ((3, 5, 2), (1, 4), (6, 2, 4, 3)):
        lstm = nn.LSTM(3, 4, batch_first=True)
        for weights in lstm.parameters():
            nn.init.normal_(weights, generator=generator)
        # As where batches are padded to a few lengths: nobody fills the last place.
        longest = max(lengths) + 1
        mask = (torch.arange(longest) < torch.tensor(lengths)[:, None]).long()
        probes.append((lstm, torch.randn(len(lengths), longest, 3, generator=generator), mask))
    return probes


LAST_STATE = Exercise(
    name="last_state",
    number="7.2",
    title="What was read last",
    reference=last_state,
    mistakes=(
        Mistake(
            "zeros read after the text",
            "Your padding is zeros now, and the LSTM still reads them: its gates go on at every place, whatever comes "
            "in.",
        ),
        Mistake(
            "the last place of the batch",
            "You take the last place of the batch. What stands there for a text that is shorter than the longest?",
        ),
        Mistake(
            "the padding multiplied away",
            "You set the states at padding to 0, and take the last place all the same: of shorter texts that is 0.",
        ),
        Mistake(
            "one step too far",
            "You are one step too far: that is the state after the first padding. At which place does a text of n "
            "tokens end, when the first has the number 0?",
        ),
        Mistake("one step too early", "You are one step too early: the last token is not read yet."),
        Mistake(
            "the largest over the text",
            "Of each feature you take the largest over the text. The state after the last token was asked for.",
            also=("the largest over all places",),
        ),
        Mistake(
            "the sum over the text",
            "You add up the states of the text. The state after the last token was asked for.",
        ),
        Mistake(
            "all real tokens",
            "You select the states of all real tokens. Of each text one is asked for, the last.",
        ),
        Mistake(
            "the place of the longest text after packing",
            "Packing is right, but of what comes out of it you take the last place, where shorter texts have zeros. "
            "The LSTM returns the state after each text's end beside it.",
        ),
        Mistake("the cell", "You return what the LSTM keeps, the cell. Its state h is what it shows."),
        Mistake(
            "read from the end",
            "Your LSTM reads the text from its end, and the padding first. It was to read as the text stands.",
            also=("the batch turned round, not the text",),
        ),
        Mistake("the first state", "That is the state after the first token."),
        Mistake(
            "the mean over all places",
            "Your states are averaged, and over the padding as well. The state after the last token was asked for.",
        ),
        Mistake(
            "the mean over the text",
            "Your states are averaged over the text, which no padding changes. Here the state after the last token was "
            "asked for.",
        ),
        Mistake(
            "the shortest text's end for all",
            "You take the same place for all texts: where the shortest one ends.",
        ),
        Mistake(
            "the longest text's end for all",
            "You take the same place for all texts, where the longest one ends: for the others that is padding.",
        ),
        Mistake(
            "every text's end in every text",
            "A colon takes all rows, and from each of them the ends of all texts. Which row goes with which place?",
        ),
        Mistake(
            "what is read, not what is kept",
            "That is the last token's own vector. What the LSTM has made of the text until there was asked for.",
        ),
    ),
    planted=("the last place of the batch",),
    symptom="The same text gets another answer when a longer one stands beside it in the batch.",
    probes=_text_probes,
)


EXERCISES = [LSTM_STEP, LAST_STATE]
