"""Jupyter in a real browser: a server with its own folders, and a notebook open in a page of it."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import nbformat
import psutil
from playwright.sync_api import Page, expect

SECONDS = 1000  # in Playwright's milliseconds
START = 90  # seconds that a server may take
RUN = 120 * SECONDS  # what a cell may take, with other programs on the processors

IDLE = "window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'"


def free_port() -> int:
    with socket.socket() as asked:
        asked.bind(("127.0.0.1", 0))
        return asked.getsockname()[1]


def wait_for(address: str, process: subprocess.Popen, log: Path) -> None:
    """Until the server answers. Raises RuntimeError with the end of its log if it does not."""
    until = time.monotonic() + START
    while time.monotonic() < until and process.poll() is None:
        with contextlib.suppress(OSError):
            urllib.request.build_opener(urllib.request.ProxyHandler({})).open(address, timeout=5).close()
            return
        time.sleep(0.2)
    raise RuntimeError(f"the server did not start:\n{log.read_text(encoding='utf-8')[-2000:]}")


@contextlib.contextmanager
def jupyter(folder: Path, module: str) -> Iterator[Server]:
    """`python -m MODULE` (jupyterlab, notebook or voila) over the notebooks in `folder`.

    It is ended with all its kernels, whatever happens. It shares no setting, no runtime file and no port with any other
    Jupyter of this machine, and opens no browser.
    """
    home = folder.parent / f"{folder.name}-home"
    settings = home / "settings" / "@jupyterlab" / "apputils-extension"
    config = home / "config" / "labconfig"
    for path in (settings, config, folder):
        path.mkdir(parents=True, exist_ok=True)
    # It would ask the network for news of Jupyter.
    disabled = {"@jupyterlab/apputils-extension:announcements": True}
    (config / "page_config.json").write_text(json.dumps({"disabledExtensions": disabled}))
    environment = os.environ | {
        "JUPYTER_CONFIG_DIR": str(home / "config"),
        "JUPYTER_DATA_DIR": str(home / "data"),
        "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
        "JUPYTERLAB_SETTINGS_DIR": str(home / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"),
        "IPYTHONDIR": str(home / "ipython"),
        "OMP_NUM_THREADS": "1",  # the browser needs the other processor
    }
    port, token = free_port(), secrets.token_hex(16)
    flags = [
        "--no-browser",
        f"--ServerApp.port={port}",
        "--ServerApp.port_retries=0",
        f"--IdentityProvider.token={token}",
        f"--ServerApp.root_dir={folder}",
        "--ServerApp.allow_root=True",
        "--LabApp.expose_app_in_browser=True",
        "--JupyterNotebookApp.expose_app_in_browser=True",
    ]
    if module == "voila":
        flags = [str(folder), "--no-browser", f"--port={port}", "--Voila.ip=127.0.0.1"]
    log = home / "log.txt"
    with open(log, "w", encoding="utf-8") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", module, *flags],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
        )
    try:
        address = f"http://127.0.0.1:{port}"
        wait_for(f"{address}/" if module == "voila" else f"{address}/api", process, log)
        yield Server(address, token, folder, process)
    finally:
        end(process)


def end(process: subprocess.Popen) -> None:
    """End a process and all that it started."""
    with contextlib.suppress(psutil.NoSuchProcess):
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        process.terminate()
        _, left = psutil.wait_procs(family, timeout=10)
        for one in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
    process.wait(10)


class Server:
    def __init__(self, address: str, token: str, folder: Path, process: subprocess.Popen) -> None:
        self.address, self.token, self.folder, self.process = address, token, folder, process

    def url(self, path: str) -> str:
        return f"{self.address}/{path}?token={self.token}"


def store(path: Path, *cells: str) -> Path:
    """A notebook of these cells; what starts with # and a space is Markdown."""
    made = nbformat.v4.new_notebook()
    made.metadata.kernelspec = {"display_name": "Python 3", "language": "python", "name": "python3"}
    for cell in cells:
        kind = nbformat.v4.new_markdown_cell if cell.startswith("# ") else nbformat.v4.new_code_cell
        made.cells.append(kind(cell))
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(made, path)
    return path


class Notebook:
    """A notebook that is open in JupyterLab, or in Notebook 7, which is made of the same parts."""

    def __init__(self, page: Page, server: Server, name: str, path: str = "lab/workspaces/{}/tree") -> None:
        self.page = page
        # A workspace of its own: JupyterLab opens again what was open in the last one.
        page.goto(server.url(f"{path.format(secrets.token_hex(4))}/{name}"))
        page.wait_for_function(
            IDLE,
            timeout=RUN,
        )

    def run_all(self) -> None:
        """By the menu, as a reader does it."""
        self.page.get_by_role("menuitem", name="Run", exact=True).click()
        self.page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        self.idle()

    def idle(self) -> None:
        """Until no cell is waiting or running."""
        prompts = self.page.locator(".jp-CodeCell .jp-InputPrompt")
        expect(prompts.filter(has_text="[*]")).to_have_count(0, timeout=RUN)
        self.page.wait_for_function(
            IDLE,
            timeout=RUN,
        )

    def run(self, source: str, keep: bool = False) -> str:
        """Run `source` in a new last cell, which is taken away again unless `keep`; what it printed, or the error."""
        return self.page.evaluate(
            """async ([source, keep]) => {
                const { content } = window.jupyterapp.shell.currentWidget;
                const say = (command) => window.jupyterapp.commands.execute(`notebook:${command}`);
                content.activeCellIndex = content.widgets.length - 1;
                await say("insert-cell-below");
                const cell = content.activeCell;
                cell.model.sharedModel.setSource(source);
                await say("run-cell");
                const said = cell.model.outputs.toJSON()
                    .map((o) => o.text ?? o.data?.["text/plain"] ?? `${o.ename}: ${o.evalue}`).flat().join("").trim();
                if (!keep) await say("delete-cell");
                return said;
            }""",
            [source, keep],
        )
