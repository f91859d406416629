"""What a model can read of a text: its pieces, and a warning where they say that its answer is worth nothing."""

from __future__ import annotations

from kdtutor.data.task import Task

UNKNOWN = 0.2  # from this share of unknown pieces on there is a warning
SHATTERED = 0.5  # from this share of pieces that only continue a word on, too
SHOWN = 60  # pieces that are shown


def pieces_of(task: Task, text: str) -> list[dict]:
    """Cut a text as the task's tokenizer does: [{"text": what stands there, "known": is it in the vocabulary?}, …]."""
    tokenizer = task.tokenizer
    options = {"add_special_tokens": False, "truncation": True, "max_length": task.max_length}
    encoded = tokenizer(text, return_offsets_mapping=tokenizer.is_fast, verbose=False, **options)
    ids = encoded["input_ids"]
    names = tokenizer.convert_ids_to_tokens(ids)
    if tokenizer.is_fast:  # an unknown piece is called [UNK], whatever stands there
        names = [
            text[start:end] if id == tokenizer.unk_token_id else name
            for name, id, (start, end) in zip(names, ids, encoded["offset_mapping"], strict=True)
        ]
    return [
        {"text": name, "known": id != tokenizer.unk_token_id} for name, id in zip(names, ids, strict=True)
    ]


def doubtful(pieces: list[dict]) -> str:
    """Write one sentence where a model can't have read these pieces, else ""."""
    if not pieces:
        return ""
    unknown = sum(not piece["known"] for piece in pieces)
    bits = sum(piece["text"].startswith("##") for piece in pieces)
    if unknown >= UNKNOWN * len(pieces):
        verb = "is" if unknown == 1 else "are"
        return (
            f"{unknown} of its {len(pieces)} pieces {verb} unknown to the models (dashed below): however sure the bars "
            "look, do not believe them."
        )
    if bits >= max(3, SHATTERED * len(pieces)):
        return (
            "Its words fall into bits, as below: no language that the models know. Do not believe the bars."
        )
    return ""


def warning(task: Task, text: str) -> tuple[str, list[dict]]:
    """Give the sentence and the pieces to show with it; "" and none for a text that can be read."""
    pieces = pieces_of(task, text)
    said = doubtful(pieces)
    return said, pieces[:SHOWN] if said else []
