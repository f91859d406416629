"""Exercises of notebook 03: fine-tuning, and BERT's parameters."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from kdtutor.exercises.banks import RIGHT, Wrong
from kdtutor.exercises.definitions import Exercise, Mistake
from kdtutor.exercises.stepping import STEPPING, take_step
from kdtutor.exercises.toys import CLASSES, TinyClassifier, between, labels_with_gaps, weights_of

# ------------------------------------------------------------------------------------------------ 3.6 fine-tuning


def fine_tune(
    model: nn.Module, train: dict[str, Tensor], validation: dict[str, Tensor],
    optimizer: torch.optim.Optimizer, batch_size: int, wrong: Wrong = RIGHT,
) -> float:  # fmt: skip
    """Make one pass over `train` in order, the rate falling linearly to 0; return the accuracy on `validation`."""
    n = len(train) if "as long as the dictionary" in wrong else len(train["labels"])
    dropped = {"last batch dropped", "last batch dropped, schedule for all"} & wrong
    starts = range(0, n - batch_size + 1 if dropped else n, batch_size)
    if "a last batch of one text dropped" in wrong:
        starts = range(0, n - 1, batch_size)
    steps = len(range(0, n, batch_size)) if "last batch dropped, schedule for all" in wrong else len(starts)
    if "steps counted in texts" in wrong:
        steps = n
    if "the shorter batch not in the schedule" in wrong:
        steps = n // batch_size
    if "one step too many in the schedule" in wrong:
        steps += 1
    if "one step too many where nothing is left" in wrong:
        steps = n // batch_size + 1
    peak = optimizer.param_groups[0]["lr"]
    before = _accuracy(model, validation, batch_size, wrong)
    model.train("trained in eval mode" not in wrong)
    for k, start in enumerate(starts):
        done = k + ("schedule one step ahead" in wrong)
        share = 0 if "learning rate 0" in wrong else 1 - done / steps
        share = 1 - done / max(1, steps - 1) if "0 at the last step" in wrong else share
        share = (done + 1) / steps if "the rate rises" in wrong else share
        if "the rate multiplied again and again" in wrong:
            peak = optimizer.param_groups[0]["lr"]
        optimizer.param_groups[0]["lr"] = peak if "constant learning rate" in wrong else peak * share
        batch = {name: value[start : start + batch_size] for name, value in train.items()}
        loss = model(**batch).loss
        take_step(model, optimizer, loss, wrong)
    if "measured before the training" in wrong:
        return before
    return _accuracy(
        model, train if "measured on the training texts" in wrong else validation, batch_size, wrong
    )


def _accuracy(model: nn.Module, data: dict[str, Tensor], batch_size: int, wrong: Wrong) -> float:
    calls = len(model.calls)
    model.train("evaluated in train mode" in wrong)
    with torch.set_grad_enabled("evaluated with gradients" in wrong):
        right = model(**data).logits.argmax(-1) == data["labels"]
    if "measured before the training" not in wrong and not any(call.largest_id < 50 for call in model.calls):
        del model.calls[calls:]  # nobody asked yet
    if "mean of the batches' accuracies" in wrong:
        return torch.stack([part.float().mean() for part in right.split(batch_size)]).mean().item()
    share = right.float().sum() if "a number, not a share" in wrong else right.float().mean()
    return (100 * share if "in per cent" in wrong else share).item()


def _observe_fine_tuning(
    function, seed: int, train: dict, validation: dict, peak: float, batch_size: int
) -> dict:
    """Watch one pass over texts of the ids below 50, and an evaluation on texts of the ids from 50 on."""
    model = TinyClassifier(6, generator=torch.Generator().manual_seed(seed), words=100).eval()
    optimizer = torch.optim.SGD(model.parameters(), lr=peak)
    rates = []
    optimizer.register_step_pre_hook(lambda it, *_: rates.append(it.param_groups[0]["lr"]))
    accuracy = function(model, train, validation, optimizer, batch_size)
    training = [call for call in model.calls if call.largest_id < 50]
    evaluating = [call for call in model.calls if call.largest_id >= 50]
    return {
        "the list of batch sizes": [call.texts for call in training],
        "the list of learning rates": rates,
        "dropout is on while training": all(call.in_train_mode for call in training),
        "the weights after training": weights_of(model),
        "dropout is on while evaluating": any(call.in_train_mode for call in evaluating),
        "a graph is kept while evaluating": any(call.with_graph for call in evaluating),
        "the evaluation comes after the training": not model.calls or model.calls[-1].largest_id >= 50,
        "the accuracy": accuracy,
    }


def _small_data(generator: torch.Generator) -> list[tuple]:
    """Draw sets of texts, on whose validation part the accuracy before the training is not the one afterwards.

    Two texts are left over for the last batch, one, and none.
    """

    def data(texts: int, first: int) -> dict[str, Tensor]:
        ids = torch.randint(first, first + 50, (texts, 5), generator=generator)
        ids[:, 0] = first + torch.arange(texts) % 50
        lengths = torch.randint(1, 6, (texts, 1), generator=generator)
        labels = labels_with_gaps(generator, texts, CLASSES, last=True)
        parts = {"labels": labels, "attention_mask": (torch.arange(5) < lengths).long(), "input_ids": ids}
        return parts if first else dict(reversed(parts.items()))  # no function may rely on their order

    probes = []
    while len(probes) < 3:
        texts, peak, batch_size = ((14, 0.5, 4), (16, 0.4, 5), (15, 0.5, 5))[len(probes)]
        seed = int(torch.randint(0, 10**6, (), generator=generator))
        probe = seed, data(texts, 0), data(13, 50), peak, batch_size
        ways = (
            "measured before the training",
            "mean of the batches' accuracies",
            "measured on the training texts",
        )
        accuracies = {round(_measured(probe, frozenset(way)), 6) for way in ((), *((way,) for way in ways))}
        if len(accuracies) == 4:
            probes.append(probe)
    return probes


def _measured(probe: tuple, wrong: Wrong) -> float:
    return _observe_fine_tuning(lambda *args: fine_tune(*args, wrong=wrong), *probe)["the accuracy"]


# ------------------------------------------------------------------------------------------------ 3.7 parameters


def masked_lm_parameters(
    layers: int, width: int, vocabulary: int, positions: int, wrong: Wrong = RIGHT
) -> int:
    """Count those of BertForMaskedLM with feed-forward 4 × width and two token types, each once."""
    bias = "biases left out" not in wrong
    norm = 0 if "LayerNorms left out" in wrong else width * (1 + bias)

    def linear(columns: int, rows: int) -> int:
        return columns * rows + bias * rows

    attention = (3 if "no output projection" in wrong else 4) * linear(width, width)
    feed_forward = linear(width, 4 * width) + (
        0 if "feed-forward one way" in wrong else linear(4 * width, width)
    )
    types = 0 if {"no token types", "two vectors forgotten"} & wrong else 2
    body = (vocabulary + positions + types) * width + norm + layers * (attention + feed_forward + 2 * norm)
    head = 0 if "no transform" in wrong else linear(width, width) + norm
    head += vocabulary if bias and "no bias of the output" not in wrong else 0
    if "no LayerNorm at the embeddings" in wrong:
        body -= norm
    if "no LayerNorm in the transform" in wrong:
        head -= norm
    if "one LayerNorm a layer" in wrong:
        body -= layers * norm
    if "no LayerNorms in the layers" in wrong:
        body -= 2 * layers * norm
    if "matrices alone in the layers" in wrong:
        body -= layers * (13 * width if bias else 0)
    if "an output bias of the width" in wrong:
        head += width - vocabulary
    if "no head" in wrong:
        head = 0
    if "no positions" in wrong:
        body -= positions * width
    if "tied weights counted twice" in wrong:
        head += vocabulary * width
    if "pooler counted" in wrong:
        body += linear(width, width)
    return body + head


def _shapes(generator: torch.Generator) -> list[tuple]:
    one = partial(between, generator)
    return [(one(2, 24), 32 * one(2, 33), one(5000, 40_000), one(100, 600)) for _ in range(4)]


EXERCISES = [
    Exercise(
        name="fine_tune",
        number="3.6",
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
                "the rate rises",
                "Your learning rate is lowest at the first step and reaches its peak at the last. It was to fall.",
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
            *STEPPING,
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
                "mean of the batches' accuracies",
                "Your accuracy is a mean over batches, in which a text of the small last batch weighs more than "
                "the others.",
            ),
            Mistake(
                "last batch dropped",
                "Your loop leaves out the last texts, which do not fill a batch.",
                also=("last batch dropped, schedule for all", "a last batch of one text dropped"),
            ),
            Mistake(
                "0 at the last step",
                "Your learning rate is 0 at the last step, which then does nothing. With n steps, the last one has "
                "1/n of the peak.",
            ),
            Mistake(
                "measured before the training",
                "Your accuracy is the one of the model as it came. What it has learned was asked for.",
            ),
            Mistake(
                "measured on the training texts",
                "Your accuracy is measured on the very texts that the model was trained on.",
            ),
            Mistake(
                "a number, not a share",
                "You return how many texts are right. Of how many?",
            ),
            Mistake(
                "in per cent",
                "Your accuracy is a hundred times too large: it is a fraction in this course.",
            ),
            Mistake(
                "steps counted in texts",
                "Your schedule expects as many steps as there are texts, and the rate hardly falls. How often does "
                "the optimiser step?",
            ),
            Mistake(
                "the shorter batch not in the schedule",
                "Your schedule does not count the last, shorter batch, whose step then has a learning rate of 0: // "
                "rounds down.",
            ),
            Mistake(
                "one step too many in the schedule",
                "Your schedule expects one step more than there are.",
                also=("one step too many where nothing is left",),
            ),
            Mistake(
                "the rate multiplied again and again",
                "Your rate is multiplied by 1 − k/n at every step, and what was multiplied before is multiplied "
                "again. It is the *given* rate that has the factor.",
            ),
        ),
        planted=("learning rate 0",),
        symptom="There are gradients, and the optimiser takes its steps, but no weight moves.",
        probes=_small_data,
        observe=_observe_fine_tuning,
    ),
    Exercise(
        name="masked_lm_parameters",
        number="3.7",
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
                "Your number lacks the LayerNorms: two per layer, and two more elsewhere.",
            ),
            Mistake(
                "no bias of the output",
                "Your number lacks the bias of the output, one number for each token.",
            ),
            Mistake(
                "two vectors forgotten",
                "Your number is short by 2 × width. That can be the two token types, the LayerNorm behind the "
                "embeddings, or that of the head: which of the three did you leave out?",
                also=(
                    "no token types",
                    "no LayerNorm at the embeddings",
                    "no LayerNorm in the transform",
                ),
            ),
            Mistake(
                "one LayerNorm a layer",
                "Your layers have one LayerNorm each; there is one behind each of the two sublayers.",
            ),
            Mistake(
                "no LayerNorms in the layers",
                "Your layers have no LayerNorms: there is one behind each of their two sublayers.",
            ),
            Mistake(
                "no head",
                "Your number is that of the body alone. What turns a hidden state into a word?",
            ),
            Mistake(
                "no positions",
                "Your number lacks the vectors of the positions.",
            ),
            Mistake(
                "matrices alone in the layers",
                "Your layers have their matrices, 12 D², and neither biases nor LayerNorms.",
            ),
            Mistake(
                "an output bias of the width",
                "Your output has a bias of D numbers. It has one for each *word*.",
            ),
        ),
        probes=_shapes,
        terms={
            "width · vocabulary": "one table of the vocabulary",
            "width · positions": "the vectors of the positions",
            "vocabulary": "the bias of the output",
            "width": "one vector",
            "width²": "one D × D matrix",
            "layers · width": "one vector in every layer",
            "layers · width²": "one D × D matrix in every layer",
        },
    ),
]
