"""The exercises of notebook 13 on what is measured of a model that leaves, and on what has to go with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import mean, median, median_high, median_low

import torch

from kdtutor.exercises.banks import RIGHT
from kdtutor.exercises.comparing import RESULT
from kdtutor.exercises.definitions import Exercise, Mistake
from kdtutor.exercises.toys import TinyClassifier

# ------------------------------------------------------------------------------------- 13.4 the clock stopped too early


class Device:
    """An accelerator with its own clock: `start` returns at once, and the answer is there when it is waited for.

    It works on one text after the other: whoever does not wait has a text in front of the next one.
    """

    def __init__(self, first: float, costs: Sequence[float]) -> None:
        self.now, self.first, self.costs, self.calls = 0.0, first, list(costs), 0
        self.was_asked = False  # for the time
        self.texts: list[str] = []  # that were handed over
        self.free = 0.0  # the time at which it is through with everything handed over

    def clock(self) -> float:
        """Return the time, in seconds."""
        self.was_asked = True
        return self.now

    def start(self, text: str) -> Pending:
        """Hand a text over; what that takes does not depend on the text."""
        self.now += 0.0001
        self.texts.append(text)
        cost = self.first if self.calls == 0 else self.costs[len(text) % len(self.costs)]
        self.calls += 1
        self.free = max(self.free, self.now) + cost
        return Pending(self, self.free)


class Pending:
    """An answer on its way."""

    def __init__(self, device: Device, ready: float) -> None:
        self.device, self.ready = device, ready

    def wait(self) -> int:
        """Wait until the answer is there, and return it."""
        self.device.now = max(self.device.now, self.ready)
        return 1


def median_latency(device: Device, texts: Sequence[str], wrong: frozenset[str] = RIGHT) -> float:
    """Warm up with the first text, then time each text alone, until its answer is there: the median, milliseconds."""
    if not {"the first call counts", "the first call counts, with the others"} & wrong:
        warm_up = device.start(texts[0])
        if "the warm-up is not waited for" not in wrong:
            warm_up.wait()
    times = []
    begin = device.clock()
    if "all handed over at once" in wrong:
        under_way = [(device.clock(), device.start(text)) for text in texts]
        for begin, pending in under_way:
            pending.wait()
            times.append(device.clock() - begin)
        texts = []
    if "all handed over at once, and timed from there" in wrong:
        begin = device.clock()
        for pending in [device.start(text) for text in texts]:
            pending.wait()
            times.append(device.clock() - begin)
        texts = []
    if "always the first text" in wrong:
        texts = [texts[0]] * len(texts)
    if "the first text is not timed" in wrong:
        texts = texts[1:]
    if "the first call counts, with the others" in wrong:
        texts = [texts[0], *texts]
    for text in texts:
        if "the clock started once" not in wrong:
            begin = device.clock()
        pending = device.start(text)
        if "the clock stopped too early" in wrong:
            times.append(device.clock() - begin)
            pending.wait()
        else:
            if "the clock started too late" in wrong:
                begin = device.clock()
            pending.wait()
            times.append(device.clock() - begin)
    averages = {"the mean": mean, "the slowest": max, "the fastest": min}
    averages |= {
        "one of the two in the middle": median_high,
        "the lower of the two in the middle": median_low,
        "the sum": sum,
        "the last": lambda times: times[-1],
        "the middle of the list": lambda times: times[len(times) // 2],
    }
    average = next((other for name, other in averages.items() if name in wrong), median)
    return average(times) * (1 if "seconds" in wrong else 1e6 if "microseconds" in wrong else 1000)


def _observe_latency(function: Callable, device: Device, texts: Sequence[str]) -> dict:
    device.was_asked, device.texts = False, []
    found = function(device, texts)
    return {
        "whether device.clock() is asked for the time": device.was_asked,
        "whether the first text is the first to be handed over": device.texts[:1] == [texts[0]],
        RESULT: found,
    }


def _latency_probes(generator: torch.Generator) -> list[tuple]:
    probes = []
    for n in (7, 9, 8):
        costs = (0.002 + 0.01 * torch.rand(5, generator=generator)).tolist()
        device = Device(0.5, [*costs, 0.2])
        probes.append(
            (device, ["x" * int(k) for k in torch.randint(1, 60, (n,), generator=generator)] + ["x" * 5, "x"])
        )
    # Of two texts the median is the mean: it tells what the first of them had to wait for.
    probes.append((Device(0.5, [0.004, 0.007, 0.009]), ["xx", "xxx"]))
    return probes


MEDIAN_LATENCY = Exercise(
    name="median_latency",
    number="13.4",
    title="How long does it take?",
    reference=median_latency,
    mistakes=(
        Mistake(
            "the clock stopped too early",
            "What you time is how long it takes to ask. When is the answer there?",
        ),
        Mistake(
            "the clock started too late",
            "Your clock starts when the text has been handed over. Whoever waits for an answer waits for that too.",
        ),
        Mistake(
            "the first call counts",
            "Among your times is that of a device which had nothing prepared. It is worth measuring, but by itself.",
            also=("the first call counts, with the others",),
        ),
        Mistake(
            "the first text is not timed",
            "The text that warmed the device up is missing among those you time. It is a text like the others.",
        ),
        Mistake(
            "all handed over at once",
            "All texts are under way before you wait for one: each then waits behind those in front. Each was to be "
            "timed alone.",
            also=("all handed over at once, and timed from there",),
        ),
        Mistake("always the first text", "You time the first text again and again."),
        Mistake(
            "the middle of the list",
            "You take the time in the middle of the list, in the order in which they came. Of which list is the middle "
            "the median?",
        ),
        Mistake(
            "the warm-up is not waited for",
            "Your first text is handed over while the device still warms up, and its time holds the rest of that. When "
            "is a device warm?",
        ),
        Mistake(
            "the clock started once", "Your times grow from text to text: each begins where the first began."
        ),
        Mistake("the mean", "One slow text moves your figure. Which average does not follow a single one?"),
        Mistake("the slowest", "That is the worst text, and the median was asked for."),
        Mistake("the sum", "That is what all texts take together, and the median was asked for."),
        Mistake("the last", "That is the last text's time, and the median was asked for."),
        Mistake("the fastest", "That is the best text, and the median was asked for."),
        Mistake(
            "one of the two in the middle",
            "Of an even number of times two lie in the middle. You take one of them: what does a median do?",
            also=("the lower of the two in the middle",),
        ),
        Mistake("microseconds", "Your figure is in microseconds; milliseconds were asked for."),
        Mistake("seconds", "Your figure is in seconds; milliseconds were asked for."),
    ),
    planted=("the clock stopped too early",),
    symptom="Every model takes the same tenth of a millisecond, the teacher too.",
    probes=_latency_probes,
    observe=_observe_latency,
)

# ----------------------------------------------------------------------------------------- 13.5 a tokenizer left out


class WordTokenizer:
    """A table of words as it was trained with; called with a text, it gives its numbers. 0 is padding.

    As with BERT each text begins with a number of its own, 1. What has a capital letter behind the first word is a
    name, and no name is in the table: it has the number of an unknown word, 2.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self.numbers = {word: i + 3 for i, word in enumerate(words)}

    def __call__(self, text: str) -> list[int]:
        first, *others = text.split()
        return [1, *(self.numbers.get(word, 2) for word in (first.lower(), *others))]


def answer_texts(
    model: TinyClassifier, tokenizer: WordTokenizer, texts: Sequence[str], wrong: frozenset[str] = RIGHT
) -> list[int]:
    """Answer texts with the number of a class each, in one batch, padded with 0."""
    rows = [tokenizer(text) for text in texts]
    if "words numbered as they come" in wrong:
        numbers: dict[str, int] = {}
        rows = [
            [numbers.setdefault(word, len(numbers) + 1) for word in text.lower().split()] for text in texts
        ]
    if "words numbered by the alphabet" in wrong:
        table = sorted({word for text in texts for word in text.lower().split()})
        rows = [[table.index(word) + 1 for word in text.lower().split()] for text in texts]
    if "word by word" in wrong:
        rows = [[i for word in text.split() for i in tokenizer(word)] for text in texts]
    if "all in small letters" in wrong:
        rows = [tokenizer(text.lower()) for text in texts]
    if "word by word, in small letters" in wrong:
        rows = [[i for word in text.lower().split() for i in tokenizer(word)] for text in texts]
    longest = max(map(len, rows))
    if "cut to the shortest" in wrong:
        longest = min(map(len, rows))
    rows = [row[:longest] for row in rows]
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
    if "padded on the left, masked on the right" in wrong:
        ids = torch.tensor([[0] * (longest - len(row)) + row for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    if "a word stands for padding" in wrong:
        ids = ids.masked_fill(mask == 0, 1)
        mask = (ids != 1).long()
    if "the last word is not read" in wrong:
        mask = torch.tensor([[1] * (len(row) - 1) + [0] * (longest - len(row) + 1) for row in rows])
    if "padding is read" in wrong:
        mask = torch.ones_like(mask)
    model.train("in train mode" in wrong)
    with torch.no_grad():
        logits = model(input_ids=ids, attention_mask=mask).logits
    if "the least likely" in wrong:
        logits = -logits
    return logits.argmax(-1).tolist()


def _observe_answers(function: Callable, model: TinyClassifier, *rest: object) -> dict:
    model.train()
    masks = []
    hook = model.register_forward_pre_hook(
        lambda model, args, named: masks.append(
            torch.as_tensor(named.get("attention_mask", args[-1] if args else 1))
        ),
        with_kwargs=True,
    )
    found = function(model, *rest)
    hook.remove()
    return {
        "whether the attention mask holds nothing but 0 and 1": all(
            bool(((m == 0) | (m == 1)).all()) for m in masks
        ),
        "whether the model answers in eval mode": not any(model.in_train_mode),
        "the list of answers": torch.tensor([int(i) for i in found], dtype=torch.float64),
    }


def _text_probes(generator: torch.Generator) -> list[tuple]:
    words = ["an", "old", "film", "with", "great", "actors", "and", "no", "plot", "ever"]
    probes = []
    for n in (12, 16, 14):
        model = TinyClassifier(width=5, dropout=0.3, generator=generator, words=len(words) + 3)
        # no class is the likeliest whatever is read
        torch.nn.init.zeros_(model.head.bias)
        order = torch.randperm(len(words), generator=generator).tolist()
        tokenizer = WordTokenizer([words[i] for i in order])
        lengths = torch.randint(1, 7, (n,), generator=generator).tolist()
        texts = [
            " ".join(words[i] for i in torch.randint(len(words), (k,), generator=generator)) for k in lengths
        ]
        # "Great actors" as a sentence begins, and "no Great actors" as a name has it
        named = [f"{text} {words[i % len(words)].capitalize()}" for i, text in enumerate(texts)]
        chosen = [
            name if i % 2 else text.capitalize()
            for i, (text, name) in enumerate(zip(texts, named, strict=True))
        ]
        probes.append((model, tokenizer, chosen))
    return probes


ANSWER_TEXTS = Exercise(
    name="answer_texts",
    number="13.5",
    title="What was left behind",
    reference=answer_texts,
    mistakes=(
        Mistake(
            "words numbered as they come",
            "The model gets a number for each word, but who chose it? It has learned with one table; yours is another.",
        ),
        Mistake(
            "words numbered by the alphabet",
            "A word's number no longer depends on the order of the texts, but still on which words they have. The "
            "model has learned with one table: who has it?",
        ),
        Mistake(
            "word by word",
            "Your tokenizer gets single words. What it puts before a text, and what it makes of a word among others, "
            "is known only to who gives it the whole text.",
            also=("word by word, in small letters",),
        ),
        Mistake(
            "all in small letters",
            "You change the text before the tokenizer sees it. What it does about capital letters belongs to it.",
        ),
        Mistake(
            "the last word is not read",
            "Your mask ends a place too early: each text's last word is not read.",
        ),
        Mistake(
            "a word stands for padding",
            "You fill up with 1, and 1 is a word: wherever a text has that word, it is masked, too.",
        ),
        Mistake("padding is read", "The places behind a short text are read as if they were words."),
        Mistake("cut to the shortest", "All texts end where the shortest does: what stood behind is lost."),
        Mistake(
            "padded on the left, masked on the right",
            "The mask hides words and shows padding: which side of a text did you fill?",
        ),
        Mistake("in train mode", "The model answers with dropout on: its answers are drawn by lot."),
        Mistake("the least likely", "You return the class that the model thinks least likely."),
    ),
    planted=("words numbered as they come",),
    symptom="The server answers every request without an error, and its answers have nothing to do with the texts.",
    probes=_text_probes,
    observe=_observe_answers,
)

EXERCISES = [MEDIAN_LATENCY, ANSWER_TEXTS]
