"""What PyTorch's and Python's commonest complaints mean, and what to look for: a sentence for an exception's words."""

from __future__ import annotations

import re

# The first that is found in an exception's words.
MEANINGS = {
    r"name '(F|nn|np|torch|math|copy|random|itertools|statistics)' is not": "Is an import missing above? F is "
    "torch.nn.functional, nn is torch.nn, and np is numpy.",
    r"mat1 and mat2 shapes cannot be multiplied|size mismatch, got|inner dimension": "In a product the second size of "
    "the left has to be the first of the right: is one of the two to be transposed, or another tensor meant?",
    r"Expected target size|Expected input batch_size": "cross_entropy wants logits (N, C) with labels (N), or (N, C, "
    "L) with (N, L): the classes stand on the second axis, and all others are the labels'.",
    r"does not require grad and does not have a grad_fn": "The loss has no graph to go back through: it was computed "
    "under no_grad, or from something detached, or made a number on the way.",
    r"backward through the graph a second time": "The graph is gone after a backward pass: something from an earlier "
    "step is still in this loss.",
    r"modified by an inplace operation": "A value was overwritten that the backward pass still needs.",
    r"Boolean value of Tensor with more than one": "`and`, `or`, `not`, `if` and chained comparisons want one True or "
    "False. For each entry there are & and | and ~, with every comparison in brackets of its own.",
    r"could not infer output dtype|Input dtype must be either a floating": "A mean is not taken of whole numbers or of "
    "True and False: .float() first.",
    r"generator' and '|'generator' object is not": "A generator, such as parameters(), has no + and no index: a list "
    "made of it has, as in [*a, *b].",
    r"index \S+ is out of bounds|index out of range": "Places are counted from 0, so that the last of n has the number "
    "n − 1.",
    r"must match the size of tensor|cannot be broadcast|shape mismatch": "Two shapes do not go together. Print both: "
    "an axis is missing or in another place, or something was selected from one of them only.",
    r"shape of the mask": "What selects has to have the shape of what it selects from, axis by axis.",
    r"tensors used as indices must be|only integer tensors": "Places are whole numbers: were values taken for places?",
    r"only one element tensors can be converted|can only be converted to Python scalars": "Only one number becomes a "
    "float or an int: a sum or a mean over the rest is missing.",
    r"must be sorted in decreasing order": "Texts are expected from the longest to the shortest, unless "
    "enforce_sorted=False is said.",
    r"expected scalar type|same dtype|to have the same dtype|dtype mismatch": "Two types of numbers meet: convert one "
    "of them.",
    r"Dimension out of range": "There are fewer axes than that.",
    r"referenced before assignment|not associated with a value": "The name gets its value only on another way through "
    "the function, or later.",
    r"has no attribute 'logits'|'\w*Output\w*' object": "A model returns an object; its logits are one of its parts.",
    r"'float' object has no attribute|'int' object has no attribute|'list' object has no attribute": "That is a plain "
    "Python value by then, no tensor.",
    r"unsupported operand type\(s\) for .*'NoneType'|'NoneType' object": "Something there is None: a function without "
    "a return, or one that changes its argument in place?",
    r"unhashable type": "A key has to be a plain number or text; .item() makes one of a tensor.",
    r"not enough values to unpack|too many values to unpack": "Another number of values comes than there are names.",
}  # fmt: skip


def meaning(words: str) -> str:
    """Say what an exception means and what to look for; empty where nothing is known of it."""
    return next((text for pattern, text in MEANINGS.items() if re.search(pattern, words)), "")
