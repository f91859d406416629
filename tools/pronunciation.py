"""The task `pronunciation`, spelling → phonemes, from the CMU Pronouncing Dictionary; and its tokenizer.

A word's first pronunciation, without stress. Of several words of one family ("run", "runs", "running") all are in one
split, so that none is known from its neighbour.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

# Endings that are taken off, one after the other, while what stays has three letters or more and a vowel among them.
ENDINGS = ("ations", "ation", "ments", "ment", "ness", "less", "ings", "ing", "ers", "ies", "ied", "ier", "iest",
           "est", "ed", "er", "es", "ly", "s")  # fmt: skip
FAMILY = 5  # letters of a stem that families are told apart by
LONGEST = 20  # letters, or phonemes


def entries(dictionary: str) -> list[tuple[str, str]]:
    """Read each word of letters (an apostrophe may be among them) and its first pronunciation: ("cat", "K AE T")."""
    found = []
    for line in dictionary.splitlines():
        word, *phonemes = line.partition("#")[0].split()
        phonemes = [re.sub(r"\d", "", phoneme) for phoneme in phonemes]
        # Another pronunciation of the same word is written "word(2)".
        if re.fullmatch(r"[a-z']*[a-z][a-z']*", word) and max(len(word), len(phonemes)) <= LONGEST:
            found.append((word, " ".join(phonemes)))
    return found


def family(word: str) -> str:
    """Name the family of a word: the first five letters of its stem.

    >>> [family(word) for word in ("run", "runs", "runner's", "running", "nation", "nationalities", "making", "make")]
    ['run', 'run', 'run', 'run', 'natio', 'natio', 'mak', 'mak']
    """
    stem = word.replace("'", "")
    shorter = _without_ending(stem)
    while shorter != stem:
        stem, shorter = shorter, _without_ending(shorter)
    stem = re.sub(r"([^aeiou])\1$", r"\1", stem)  # runn → run
    stem = re.sub(r"(?<=..)[eiy]+$", "", stem)  # make → mak, happi → happ
    return re.sub(r"([^aeiou])\1$", r"\1", stem)[:FAMILY]


def _without_ending(stem: str) -> str:
    for ending in ENDINGS:
        rest = stem.removesuffix(ending)
        if rest != stem and len(rest) >= 3 and re.search("[aeiouy]", rest):
            return rest
    return stem


def build_tokenizer(phonemes: set[str], folder: Path) -> None:
    """Write a tokenizer whose tokens are lower-case letters and upper-case phonemes; each text ends with [EOS]."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors

    special = ["[PAD]", "[UNK]", "[BOS]", "[EOS]"]
    tokens = [*special, "'", *"abcdefghijklmnopqrstuvwxyz", *sorted(phonemes)]
    tokenizer = Tokenizer(models.WordLevel({token: i for i, token in enumerate(tokens)}, unk_token="[UNK]"))
    # A run of capitals is one phoneme, any other character stands for itself.
    split = pre_tokenizers.Split(Regex("[A-Z]+|[^A-Z ]"), "removed", invert=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A [EOS]", special_tokens=[("[EOS]", tokens.index("[EOS]"))]
    )
    tokenizer.add_special_tokens(special)
    tokenizer.save(str(folder / "tokenizer.json"))
    about = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **{f"{name.lower()}_token": f"[{name}]" for name in ("PAD", "UNK", "BOS", "EOS")},
        "model_max_length": 32,
        "clean_up_tokenization_spaces": False,
        # In what is read: see tokenize_both().
        "reads_lower_case": True,
        "model_input_names": ["input_ids", "attention_mask"],
    }
    text = json.dumps(about, indent=2) + "\n"
    (folder / "tokenizer_config.json").write_text(text, encoding="utf-8", newline="\n")
