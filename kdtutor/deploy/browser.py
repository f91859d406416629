"""A student in a browser page: text in, classes out, on the reader's own machine, without Python and without a network.

    browser_page("my-student", "page")        # the folder of `kdtutor export` → page/index.html and all that it loads
    python -m http.server --directory page    # any server of plain files will do
    LocalPage("page/index.html")              # in a notebook: the page below the cell

In the page, onnxruntime-web computes (WebAssembly, one thread), and static/wordpiece.js reads as the tokenizer does.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tarfile
import tempfile
import threading
from collections.abc import Mapping, Sequence
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from os import PathLike
from pathlib import Path

from kdtutor.errors import KDTutorError
from kdtutor.files import sha256, write_atomically

STATIC = Path(__file__).resolve().parent / "static"
SCRIPTS = ("page.js", "student.js", "wordpiece.js", "page.css")
TEXTS = ("a sour fruit of a tree that grows in warm countries",)
# What computes, and the SHA-256 of what is taken from it. It comes from npm, and is never part of kdtutor.
PACKAGE = "onnxruntime-web@1.30.0"
RUNTIME = {
    "ort.wasm.bundle.min.mjs": "11e64bd8ffe11bd1a2a2f0d6275fdfbbba7262f0b76b99b53d228a8a22ef3d90",
    "ort-wasm-simd-threaded.wasm": "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
}


def browser_page(
    student: str | PathLike,
    folder: str | PathLike,
    teacher: str | PathLike | None = None,
    texts: Sequence[str] = TEXTS,
    npm: Sequence[str] = ("npm",),
    environment: Mapping[str, str] | None = None,
) -> Path:
    """Write a page that runs an exported student, beside its teacher if one is given, and return its index.html.

    student, teacher: folders that `kdtutor export` made. texts: what the page offers to try. npm: the command that
    fetches onnxruntime-web, unless `folder` has it already. Raises KDTutorError if that can't be had, or if a folder
    holds no exported classifier.
    """
    folder, student = Path(folder), Path(student)
    models = [_about(student, "student")]
    if teacher is not None:
        models.append(_about(Path(teacher), "teacher"))
        if models[1]["labels"] != models[0]["labels"]:
            raise KDTutorError(f"{teacher} answers with other classes than {student}: they can't be compared")
    fetch_runtime(folder, npm, environment)
    for name in SCRIPTS:
        shutil.copyfile(STATIC / name, folder / name)
    for origin, about in zip((student, teacher), models, strict=False):
        for name, copy in (("model.onnx", about["model"]), ("tokenizer.json", about["tokenizer"])):
            shutil.copyfile(Path(origin, name), folder / copy)
    page = {"runtime": (folder / "ort-wasm-simd-threaded.wasm").stat().st_size, "models": models}
    write_atomically(folder / "page.json", json.dumps(page | {"texts": [*texts]}, indent=1))
    shell = (STATIC / "index.html").read_text(encoding="utf-8")
    write_atomically(folder / "index.html", shell.replace("<!-- the student -->", fragment(".")))
    return folder / "index.html"


class LocalPage:
    """A page served to this machine's own browser (127.0.0.1) while the process runs: `LocalPage(index.html)`.

    address: where. In a notebook the page shows below the cell, if kernel and browser are on the same machine; later,
    or elsewhere, a sentence stands there. Raises KDTutorError if there is no such file.
    """

    def __init__(self, page: str | PathLike):
        page = Path(page)
        if not page.is_file():
            raise KDTutorError(f"{page} is no page: browser_page(…) returns the index.html that it wrote")
        handler = partial(_Silent, directory=page.parent)
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}/{page.name}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """End serving it, and give back the port."""
        self.server.shutdown()
        self.server.server_close()

    def __repr__(self) -> str:
        return "a page for the browser of this machine, while this kernel runs"

    def _repr_html_(self) -> str:
        otherwise = f"<p>Here stands {self!r}.</p>"
        look = "width: 100%; height: 36rem; border: 0"
        return f'<object data="{self.address}" type="text/html" title="the student" style="{look}">{otherwise}</object>'


class _Silent(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Write no line for each file."""


def fragment(address: str) -> str:
    """Write the HTML that stands for the student in a page; `address` leads from there to the folder of its files."""
    disk = (
        "A browser lets no page from a disk load a model: start “python -m http.server” where this page is."
    )
    return (
        '<div class="kd-browser"><noscript>This needs JavaScript.</noscript></div>\n'
        f'<script>if (location.protocol !== "file:") import("{address}/page.js");\n'
        f'else document.querySelector(".kd-browser").textContent = "{disk}";</script>'
    )


def fetch_runtime(
    folder: Path, npm: Sequence[str] = ("npm",), environment: Mapping[str, str] | None = None
) -> None:
    """Put onnxruntime-web's two files into `folder`, from npm. Raises KDTutorError if they can't be had."""
    if all((folder / name).is_file() and sha256(folder / name) == RUNTIME[name] for name in RUNTIME):
        return
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        command = [*npm, "pack", PACKAGE, "--silent", "--pack-destination", temporary]
        try:
            subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
        except (OSError, subprocess.CalledProcessError) as error:
            why = (getattr(error, "stderr", "") or str(error)).strip().splitlines()
            raise KDTutorError(
                f"{PACKAGE}, which computes in the page, comes from npm, and could not be had: install Node.js, and be "
                f"connected ({why[0] if why else 'npm failed'})"
            ) from error
        with tarfile.open(next(Path(temporary).glob("*.tgz"))) as package:
            for name in RUNTIME:
                (folder / name).write_bytes(package.extractfile(f"package/dist/{name}").read())
    for name, expected in RUNTIME.items():
        if sha256(folder / name) != expected:
            (folder / name).unlink()
            raise KDTutorError(
                f"{name} of {PACKAGE} is not the file that was published: nothing was kept of it"
            )


def _about(export: Path, name: str) -> dict:
    """Read what page.json says of an exported model. Raises KDTutorError if the folder holds none."""
    try:
        config = json.loads((export / "config.json").read_text(encoding="utf-8"))
        made = json.loads((export / "export.json").read_text(encoding="utf-8"))
        labels = [config["id2label"][str(i)] for i in range(len(config["id2label"]))]
        size = (export / "model.onnx").stat().st_size
    except (OSError, ValueError, KeyError) as error:
        raise KDTutorError(
            f"{export} holds no exported classifier ({error}): kdtutor export makes one"
        ) from error
    tokenizer = sha256(export / "tokenizer.json")[:16]
    return {
        "name": name,
        "model": f"{name}.onnx",
        "bytes": size,
        "tokenizer": f"tokenizer-{tokenizer}.json",
        "max_length": made.get("max_length") or config.get("max_position_embeddings", 128),
        "labels": labels,
    }
