"""The command line, `kdtutor COMMAND …`: pretrain, finetune, distill, search, evaluate, predict, label,
export, serve, study, class or doctor.

    kdtutor finetune --task supersense --model bert-glosses --epochs 4 --output runs/teacher
    kdtutor export runs/latest --precision int8 # ONNX, for machines without PyTorch
    kdtutor distill recipe.yaml --seed 3        # a YAML file holds the same fields; flags beside it win

Each run writes its model (safetensors, loads with from_pretrained), its checkpoints (`--resume` goes on from the
newest) and a card.json with the command, the seed, the data's hash, the scores and the time. `kdtutor distill --help`
lists every field.
"""

from __future__ import annotations

import shlex
import sys

from kdtutor.cli.commands import COMMANDS, parse
from kdtutor.errors import KDTutorError, nearest


def main(argv: list[str] | None = None) -> int:
    """Run one command. Returns the exit status: 0, 1 for an error that is the user's to fix, 130 for Ctrl-C."""
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help"):
        print(__doc__)
        return 0
    command, *rest = argv
    try:
        if command == "doctor":
            from kdtutor.doctor import main as doctor

            return doctor(rest) or 0
        if command == "study":
            from kdtutor.cli.study import main as study

            return study(rest) or 0
        if command == "search":
            from kdtutor.cli.search import main as search

            return search(rest)
        if command == "class":
            from kdtutor.exercises.classroom import main as classroom

            return classroom(rest)
        if command not in COMMANDS:
            raise KDTutorError(nearest("command", command, [*COMMANDS, "search", "study", "class", "doctor"]))
        kind, run = COMMANDS[command]
        arguments = parse(kind, rest, f"kdtutor {command}")
        return run(arguments, " ".join(["kdtutor", *map(shlex.quote, argv)])) or 0
    except KDTutorError as error:
        print(f"kdtutor: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        how = (
            "the same command goes on"
            if command in ("study", "search")
            else "--resume goes on from the newest checkpoint"
        )
        print(f"kdtutor: interrupted; {how}", file=sys.stderr)
        return 130
