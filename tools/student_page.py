"""The site's page with a student that runs in it: the student distilled, exported with its teacher, and laid out.

    markdown = make(folder of the site's static files, folder of what is built, npm's command and environment)

Distilling takes a few minutes on two cores, so the student is kept in `built`, by its recipe. Nothing of this is
committed: the models come from `kdtutor export`, the program that computes them from npm.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from kdtutor.errors import KDTutorError
from kdtutor.files import sha256

RECIPE = Path(__file__).resolve().parent / "site" / "student.yaml"
TEMPLATE = "in-your-browser.md"
PRECISION = "int8"
COMPARED = 500  # validation texts on which the exported model is compared with PyTorch
TEXTS = (
    "a sour fruit of a tree that grows in warm countries",
    "the act of putting something off to a future time",
    "a person who looks on but takes no part",
    "an insect that lives on the skin of a dog",
)


def make(
    static: Path, built: Path, npm: Sequence[str], environment: Mapping[str, str], recipe: Path = RECIPE
) -> dict[str, str]:
    """Lay the student's files into `static`/student, and return what stands for the page's comments.

    Raises KDTutorError, in one sentence, where npm or the extra `deploy` is missing.
    """
    from kdtutor.deploy.browser import browser_page, fetch_runtime, fragment

    runtime = built / "onnxruntime-web"
    fetch_runtime(runtime, npm, environment)  # first, since it may fail, and distilling takes minutes
    folder = built / "student" / sha256(recipe)[:16]
    student, card = distilled(recipe, folder / "distilled")
    exports = exported(student, card, folder)
    target = static / "student"
    target.mkdir(parents=True)
    for file in runtime.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    browser_page(exports["student"], target, teacher=exports["teacher"], texts=TEXTS)
    first, *lines = recipe.read_text(encoding="utf-8").rstrip().splitlines()
    # What other comments say, the page says.
    lines = "\n".join([first, *(line for line in lines if not line.startswith("#"))])
    return {
        "the student": fragment("./_static/student"),
        "its card": table(card, exports),
        "its recipe": f"```yaml\n{lines}\n```",
    }


def distilled(recipe: Path, folder: Path) -> tuple[Path, dict]:
    """Distil by the recipe, unless that was done; the folder of the student, and its card."""
    card = folder / "card.json"
    if not card.is_file():
        print(f"distilling the student of {TEMPLATE} ...", flush=True)
        command = [sys.executable, "-m", "kdtutor", "distill", str(recipe), "--output", str(folder)]
        found = subprocess.run(command, capture_output=True, text=True)
        if found.returncode:
            raise KDTutorError(f"the student could not be distilled: {found.stderr.strip()[-300:]}")
    return folder, json.loads(card.read_text(encoding="utf-8"))


def exported(student: Path, card: dict, folder: Path) -> dict[str, Path]:
    """Export the student and the task's own teacher, unless that was done: their folders, by name."""
    import kdtutor as kd
    from kdtutor.deploy.onnx import export

    exports = {name: folder / name for name in ("student", "teacher")}
    if all((export_folder / "export.json").is_file() for export_folder in exports.values()):
        return exports
    task = kd.load_task(card["settings"]["task"], max_length=card["max_length"])
    models = {"student": kd.freeze(kd.load_model(student, task)), "teacher": kd.load_teacher(task)}
    for name, model in models.items():
        export(model, task, exports[name], precision=PRECISION, texts=COMPARED)
    return exports


def table(card: dict, exports: dict[str, Path]) -> str:
    """Write what student and teacher are and score as a table in Markdown."""
    from kdtutor.assets import verified

    name = f"bert-{card['settings']['task']}"
    cards = [card, json.loads(verified(f"models/{name}/card.json").read_text(encoding="utf-8"))]
    shapes, made = ([read(exports[who], file) for who in exports] for file in ("config.json", "export.json"))
    tests = [one["scores"]["test"] for one in cards]
    rows = {
        "layers × width": [f"{depth(shape)} × {width(shape)}" for shape in shapes],
        "parameters, millions": [f"{test['parameters'] / 1e6:.1f}" for test in tests],
        f"loaded by this page, {PRECISION}": [f"{one['bytes'] / 1e6:.1f} MB" for one in made],
        f"right on {tests[0]['examples']:,} test texts, in float32": [right(test) for test in tests],
        f"the same answer in {PRECISION}, of {made[0]['texts']:,} validation texts": [
            f"{one['agreement']:.1%}".replace("%", " %") for one in made
        ],
    }
    lines = ["| | student | teacher |", "|---|---|---|"]
    return "\n".join([*lines, *(f"| {what} | {' | '.join(values)} |" for what, values in rows.items())])


def right(test: dict) -> str:
    """Write an accuracy with the 95 % interval that so many texts allow."""
    p, n = test["accuracy"], test["examples"]
    return f"{100 * p:.1f} ± {196 * (p * (1 - p) / n) ** 0.5:.1f} %"


def depth(config: dict) -> int:
    return config.get("num_hidden_layers") or config["n_layers"]


def width(config: dict) -> int:
    return config.get("hidden_size") or config["dim"]


def read(folder: Path, file: str) -> dict:
    return json.loads((folder / file).read_text(encoding="utf-8"))
