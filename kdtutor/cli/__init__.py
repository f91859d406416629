"""The command line, `kdtutor COMMAND …`; `kdtutor COMMAND --help` lists its fields.

    kdtutor finetune --task supersense --model bert-glosses --epochs 4 --output runs/teacher
    kdtutor export runs/latest --precision int8 # ONNX, for machines without PyTorch
    kdtutor distill recipe.yaml --seed 3        # a YAML file holds the same fields; flags beside it win

Each run writes its model (safetensors, loads with from_pretrained), its checkpoints (`--resume` goes on from the
newest) and a card.json with the command, the seed, the data's hash, the scores and the time.
"""

from __future__ import annotations

import io
import shlex
import sys
from importlib import import_module

from kdtutor.cli.arguments import SearchArguments, TrainArguments
from kdtutor.cli.commands import COMMANDS, parse
from kdtutor.errors import KDTutorError, did_you_mean
from kdtutor.hardware import within_memory

#: Commands that read their flags themselves: whose `main` that is, and what they do.
OTHERS = {
    "search": ("kdtutor.cli.search", SearchArguments.__doc__),
    "study": ("kdtutor.cli.study", "Make the runs of a stored study that its file lacks."),
    "class": (
        "kdtutor.exercises.classroom",
        "Hand out notebooks without solutions, and report what learners solved.",
    ),
    "doctor": ("kdtutor.doctor", "Say what this machine has, and what that means for the course."),
}


def _commands() -> str:
    """List the commands, a line each."""
    does = {name: kind.__doc__ for name, (kind, _) in COMMANDS.items()}
    does |= {name: about for name, (_, about) in OTHERS.items()}
    return "\n".join(f"  {name:<10}{about.splitlines()[0]}" for name, about in does.items())


def main(argv: list[str] | None = None) -> int:
    """Run one command. Returns the exit status: 0, 1 for an error that is the user's to fix, 130 for Ctrl-C."""
    argv = sys.argv[1:] if argv is None else argv
    for stream in (sys.stdout, sys.stderr):
        # A letter that a terminal's encoding lacks (Windows' cp1252, say) is no reason to stop.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if not argv or argv[0] in ("-h", "--help"):
        print(f"{__doc__}\n{_commands()}")
        return 0
    command, *rest = argv
    try:
        with within_memory(
            f"kdtutor {command}", "A smaller model, batch_size, max_length or file takes less"
        ):
            return _run(command, rest, " ".join(["kdtutor", *map(shlex.quote, argv)]))
    except KDTutorError as error:
        print(f"kdtutor: {error}", file=sys.stderr)
        return 1
    except OSError as error:  # a full disk, a folder that may not be written to
        print(f"kdtutor: {error.filename or command}: {error.strerror or error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        how = (
            "the same command goes on"
            if command in ("study", "search")
            else "--resume goes on from the newest checkpoint"
        )
        print(f"kdtutor: interrupted; {how}", file=sys.stderr)
        return 130


def _run(command: str, rest: list[str], line: str) -> int:
    """Run one command; line: as it was typed."""
    if command in OTHERS:
        module, _ = OTHERS[command]
        return import_module(module).main(rest)
    if command not in COMMANDS:
        raise KDTutorError(did_you_mean("command", command, [*COMMANDS, *OTHERS]))
    kind, run = COMMANDS[command]
    arguments = parse(kind, rest, f"kdtutor {command}", asks_for_task=issubclass(kind, TrainArguments))
    return run(arguments, line) or 0
