"""Execute notebooks from top to bottom in one fresh kernel each, and store their outputs: `make notebooks`.

    python tools/execute_notebooks.py                        every notebook of the course, in place
    python tools/execute_notebooks.py notebooks/00_*.ipynb   some of them
    python tools/execute_notebooks.py --check                execute only, write nothing

A cell that raises, or that writes to stderr, stops the run, and that notebook stays as it was. What is stored is
normalised (`clean`), so that executing again changes nothing but what was computed anew.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import queue
import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"
CELL_TIMEOUT = 1800  # seconds, so many since other programs may use the machine too
SECONDS, MEGABYTES = 90, 1500  # what one notebook may take, on two processors
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
WIDGET_STATE = "application/vnd.jupyter.widget-state+json"
KEPT_METADATA = ("tags", "jupyter")  # of a cell; the rest is how some editor showed it, or when it ran


class NotebookError(Exception):
    """A notebook did not run as a reader expects it to."""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Execute notebooks and store their outputs.")
    parser.add_argument("notebooks", nargs="*", type=Path, help="default: every notebook of the course")
    parser.add_argument("--check", action="store_true", help="execute only, write nothing")
    options = parser.parse_args(arguments)
    failed = []
    for path in options.notebooks or sorted(NOTEBOOKS.glob("*.ipynb")):
        try:
            notebook = run(path)
        except NotebookError as error:
            print(error, file=sys.stderr)
            failed.append(path.name)
        else:
            if not options.check:
                write(path, notebook)
    if failed:
        print(f"not executed to the end: {', '.join(failed)}", file=sys.stderr)
    return bool(failed)


def run(path: Path, live: bool = False) -> nbformat.NotebookNode:
    """Execute the notebook at `path` in a fresh kernel and in its own folder; print what it took.

    Returns it with new outputs, cleaned. `live`: with the views of its widgets, and their state in its metadata, for a
    page that draws them. Raises NotebookError, naming the cell, for an error or output on stderr.
    """
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=CELL_TIMEOUT,
        kernel_name="python3",
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(path.parent)}},
    )
    print(f"{path.name} ... ", end="", flush=True)
    start = time.perf_counter()
    with client.setup_kernel():
        client.reset_execution_trackers()
        client.kc.shell_channel.get_msg = looking_every_second(client.kc.shell_channel.get_msg)
        if live:
            client.kc.iopub_channel.get_msg = hearing_of_widgets(
                client.kc.iopub_channel.get_msg, client.widget_state
            )
        for number, cell in enumerate(notebook.cells):
            if cell.cell_type == "code":
                cell.outputs, cell.execution_count = [], None
                try:
                    client.execute_cell(cell, number)
                except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
                    print("failed")
                    raise NotebookError(f"{path.name}, cell {number}: {error}") from error
                for output in cell.outputs:
                    if output.get("name") == "stderr":
                        print("failed")
                        raise NotebookError(f"{path.name}, cell {number} writes to stderr:\n{output.text}")
        if live:
            client.set_widgets_metadata()
        megabytes = peak_megabytes(client.km.provisioner.pid)
    seconds = time.perf_counter() - start
    over = " OVER BUDGET" if seconds > SECONDS or (megabytes or 0) > MEGABYTES else ""
    print(f"{seconds:.0f} s, {megabytes or '?'} MB at most{over}")
    return clean(notebook, live)


def looking_every_second(get_msg: Callable) -> Callable:
    """Make a channel's get_msg that does not sleep through a reply until its time is over.

    While nbclient waits for a cell's reply it also answers the cell's Output widgets on the same socket, and ZeroMQ
    tells only one of the two that something has arrived.
    """

    async def get(timeout: float | None = None) -> dict:
        until = float("inf") if timeout is None else time.monotonic() + timeout
        while True:
            try:
                return await get_msg(timeout=max(0, min(1, until - time.monotonic())))
            except queue.Empty:
                if time.monotonic() >= until:
                    raise

    return get


def hearing_of_widgets(get_msg: Callable, states: dict[str, dict]) -> Callable:
    """Make a channel's get_msg that keeps each widget's state in `states`, whichever cell changes it.

    nbclient hears of the running cell's own changes only; a training in the background belongs to the cell that
    started it.
    """

    async def get(timeout: float | None = None) -> dict:
        message = await get_msg(timeout=timeout)
        content = message["content"]
        if message["msg_type"] == "comm_msg" and "state" in content["data"]:
            states.setdefault(content["comm_id"], {}).update(content["data"]["state"])
        return message

    return get


def clean(notebook: nbformat.NotebookNode, live: bool = False) -> nbformat.NotebookNode:
    """Leave nothing in the notebook that tells when, where or in which editor it ran. Works in place.

    `live`: what belongs to its widgets stays.
    """
    widgets = notebook.metadata.get("widgets") if live else None
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        }
    )
    if widgets:
        notebook.metadata["widgets"] = widgets
    ids = unique_ids(notebook.cells)
    for cell in notebook.cells:
        cell.id = next(ids)
        cell.metadata = {key: cell.metadata[key] for key in KEPT_METADATA if key in cell.metadata}
        for output in cell.get("outputs", ()):
            # A view of a widget whose state is not stored shows an error; its plain picture or text shows.
            if not live:
                output.get("data", {}).pop(WIDGET_VIEW, None)
    return notebook


def unique_ids(cells: list[nbformat.NotebookNode]) -> Iterator[str]:
    """Give each cell its own id if it has one that no cell before it has, else one made from its text."""
    taken = set()
    for cell in cells:
        name, repeat = cell.get("id", ""), 0
        while not re.fullmatch(r"[\w-]{1,64}", name, re.ASCII) or name in taken:
            name = hashlib.sha256(f"{repeat} {cell.source}".encode()).hexdigest()[:8]
            repeat += 1
        taken.add(name)
        yield name


def write(path: Path, notebook: nbformat.NotebookNode) -> None:
    """Replace the file at once, so that nobody ever reads half a notebook."""
    unfinished = path.with_suffix(".ipynb.new")
    unfinished.write_text(nbformat.writes(notebook) + "\n", encoding="utf-8", newline="\n")
    os.replace(unfinished, path)


def peak_megabytes(process: int) -> int | None:
    """Measure the most memory that a running process ever had resident; None where the system does not tell."""
    try:
        status = Path(f"/proc/{process}/status").read_text(encoding="ascii")
    except OSError:
        return None
    return int(re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE).group(1)) // 1000


if __name__ == "__main__":
    sys.exit(main())
