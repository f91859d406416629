"""What a kind of task decides: labels, head, targets, scores. Whoever needs to know asks `task.rules`.

A kind of your own is a subclass of `Kind` and an entry in `KINDS`; nothing else has to change:

    class Ordinal(Classification):
        scores = ("off_by", "accuracy")             # names of functions in kdtutor.evaluation.SCORES

    KINDS["ordinal"] = Ordinal()
    task = Task("stars", "ordinal", ("1", "2", "3"), splits)
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kdtutor.data.masking import mask_tokens
from kdtutor.data.tokens import IGNORED, Encoded, end_of_text, tokenize, tokenize_both, with_end
from kdtutor.errors import KDTutorError

Batch = dict[str, Tensor]


class Kind:
    """A kind of task whose model gives one row of outputs for each text. Subclasses say what differs.

    answer: what a model's output is: "classes" (logits of a softmax), "value" (numbers as they are) or "token" (logits
    over the vocabulary). head: the model's class, as in BertFor…, AutoModelFor…. problem_type: what transformers calls
    the kind in a model's configuration, or None if outputs have no names of their own. dtype: of the targets.
    masks: whether inputs are masked anew at each step. writes: whether a text's last column is what the model is to
    write, and its first what it reads. hard: the formula that learns from the labels alone. soft: the term that learns
    from a teacher's probabilities.
    scores: names in `kdtutor.evaluation.SCORES`, the main one first; score_name: the main one's, for people;
    is_fraction: whether it runs from 0 to 1.
    """

    answer = "value"
    head = "SequenceClassification"
    problem_type: str | None = None
    dtype = torch.float32
    masks = False
    writes = False
    hard = "HardLabels()"
    soft = "SoftTargets"
    scores: tuple[str, ...] = ()
    score_name = ""
    is_fraction = True

    @property
    def per_token(self) -> bool:
        """Tell whether labels and logits belong to tokens, and are made from the text."""
        return self.answer == "token"

    @property
    def named(self) -> bool:
        """Tell whether each output stands for a class or a label with a name of its own."""
        return self.problem_type not in (None, "regression")

    def tokenize(
        self, tokenizer, texts: tuple[Sequence[str], ...], max_length: int, split_long: bool = False
    ) -> Encoded:
        """Tokenize the columns of a split as the models of this kind read them: see `tokens.tokenize`."""
        return tokenize(tokenizer, texts, max_length, split_long)

    def with_labels(self, batch: Batch, tokenizer, masking: float, generator, weights=None) -> Batch:
        """Add labels to the batch, where they are made from the text."""
        return batch

    def counted(self, batch: Batch, which: str) -> Tensor | None:
        """Say which tokens' logits count, "valid" or only "masked" ones: bool (B, L). None: each text has one row."""
        return None

    def wrong(self, targets: Tensor, outputs: int) -> Tensor:
        """Find the targets (N, …) that no model can learn: bool (N,)."""
        return ~targets.isfinite().reshape(len(targets), -1).all(1)

    def expected(self, outputs: int) -> str:
        """Say what targets must be: the end of a sentence that begins with the task's name."""
        return "needs finite numbers"

    def check(self, targets: Tensor | None, outputs: int, where: str, who: str) -> None:
        """Raise KDTutorError, naming the first example of `where`, if a target is not what the task `who` needs."""
        if self.per_token:
            return  # labels are made from the text
        if targets is None:
            raise KDTutorError(f"the {where} split of {who} has no labels")
        if (wrong := self.wrong(targets, outputs)).any():
            row = int(wrong.nonzero()[0, 0])
            value = ", ".join(f"{number:g}" for number in targets[row].flatten().tolist())
            raise KDTutorError(f"{where} example {row} has label {value}, but {who} {self.expected(outputs)}")

    def text_of(self, target: Tensor, names: Sequence[str]) -> str:
        """Write one target as people read it."""
        return ", ".join(f"{number:.2f}" for number in target.flatten().tolist())


class Classification(Kind):
    """One of several classes for each text. Targets: class indices, -100 where unlabelled."""

    answer = "classes"
    problem_type = "single_label_classification"
    dtype = torch.int64
    scores = ("accuracy", "macro_f1", "ece")
    score_name = "accuracy"

    def wrong(self, targets: Tensor, outputs: int) -> Tensor:
        return ((targets < 0) | (targets >= outputs)) & (targets != IGNORED)

    def expected(self, outputs: int) -> str:
        return f"has classes 0 to {outputs - 1}"

    def text_of(self, target: Tensor, names: Sequence[str]) -> str:
        return names[int(target)]


class MultiLabel(Kind):
    """Any number of the labels for each text. Targets: 0 or 1 for each label, or -100 for all where unlabelled."""

    problem_type = "multi_label_classification"
    soft = "BinarySoftTargets"
    scores = ("micro_f1", "macro_f1", "mean_average_precision")
    score_name = "micro F1"

    def wrong(self, targets: Tensor, outputs: int) -> Tensor:
        if targets.dim() != 2 or targets.shape[1] != outputs:
            return torch.ones(len(targets), dtype=torch.bool)
        known = (targets == 0) | (targets == 1)
        return ~(known.all(1) | (targets == IGNORED).all(1))

    def expected(self, outputs: int) -> str:
        return f"needs 0 or 1 for each of {outputs} labels"

    def text_of(self, target: Tensor, names: Sequence[str]) -> str:
        given = [name for name, value in zip(names, target.tolist(), strict=True) if value > 0]
        return " and ".join(given) or "no label"


class Regression(Kind):
    """A number for each text."""

    problem_type = "regression"
    scores = ("spearman", "mean_squared_error")
    score_name = "rank correlation (Spearman)"
    is_fraction = False


class MaskedLM(Kind):
    """Hidden tokens of raw text. There are no targets: the labels are what the masks hide."""

    answer = "token"
    head = "MaskedLM"
    masks = True
    hard = "MaskedLM()"
    scores = ("accuracy", "loss", "perplexity", "masked_tokens")
    score_name = "accuracy at masked tokens"

    def with_labels(self, batch: Batch, tokenizer, masking: float, generator, weights=None) -> Batch:
        return mask_tokens(batch, tokenizer, masking, generator, weights)

    def counted(self, batch: Batch, which: str) -> Tensor:
        return batch["labels"] != IGNORED if which == "masked" else batch["attention_mask"].bool()


class CausalLM(Kind):
    """Each token of raw text, from those before it. There are no targets: the labels are the text's own next tokens.

    Place t of a text has the label t + 1, and its last place none; so nobody shifts anything later on.
    """

    answer = "token"
    head = "CausalLM"
    scores: tuple[str, ...] = ("accuracy", "loss", "perplexity", "tokens")
    score_name = "accuracy at the next token"

    def tokenize(
        self, tokenizer, texts: tuple[Sequence[str], ...], max_length: int, split_long: bool = False
    ) -> Encoded:
        # A BERT's tokenizer ends each text, GPT-2's and Llama's none: a model that never saw an end writes on for ever.
        return with_end(
            tokenize(tokenizer, texts, max_length, split_long), end_of_text(tokenizer), max_length
        )

    def with_labels(self, batch: Batch, tokenizer, masking: float, generator, weights=None) -> Batch:
        ids, real = batch["input_ids"], batch["attention_mask"].bool()
        labels = torch.full_like(ids, IGNORED)
        # By the mask: the token that pads may be the one that ends a text, and that is to be learned.
        labels[:, :-1] = ids[:, 1:].where(real[:, 1:], IGNORED)
        return {**batch, "labels": labels}

    def counted(self, batch: Batch, which: str) -> Tensor:
        return batch["labels"] != IGNORED


class Seq2Seq(CausalLM):
    """A text that is to be written, token by token, after another one was read: encoder and decoder.

    The labels are the written text's tokens, the end of text among them. What the decoder reads is made of them by
    whoever knows the model (`inputs_of`): a start, and all but the last.
    """

    head = "Seq2SeqLM"
    writes = True
    scores = (*CausalLM.scores, "error_rate", "error_rate_half_width", "exact")

    def tokenize(
        self, tokenizer, texts: tuple[Sequence[str], ...], max_length: int, split_long: bool = False
    ) -> Encoded:
        return tokenize_both(tokenizer, texts, max_length)

    def with_labels(self, batch: Batch, tokenizer, masking: float, generator, weights=None) -> Batch:
        written = batch["target_mask"].bool()
        return {**batch, "labels": batch["target_ids"].where(written, IGNORED)}


KINDS: dict[str, Kind] = {
    "classification": Classification(),
    "multi-label": MultiLabel(),
    "regression": Regression(),
    "masked-lm": MaskedLM(),
    "causal-lm": CausalLM(),
    "seq2seq": Seq2Seq(),
}
