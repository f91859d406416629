"""From a slider's move to its picture: the temperature explorer beside `interact` with matplotlib, in one JupyterLab.

    python benchmarks/slider.py                 200 moves (interact: 40), two minutes; nothing else should run
    python benchmarks/slider.py --moves 40      a quick look

Both draw the same two distributions over 25 classes. A move is one press of an arrow key on the focused slider; the
next one comes when the picture stands. The arms take turns, so that a machine that slows down slows all of them.

    nothing      a slider that draws nothing: what the browser itself takes until its next frame
    FloatSlider  ipywidgets' own, with nothing that follows it: what a notebook page adds to that
    explorer     kd.widgets.TemperatureExplorer: drawn in the browser
    interact     ipywidgets.interact, a slider of 8.x, and an inline matplotlib figure

`to paint` is from the key event to the end of the frame that shows the new picture (the first task after it). `own
work` is the time that our scripts run: the event's handlers and the drawing before that frame. "busy": another cell
computes in the kernel all the time.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "browser"))
sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))
import chromium
from playwright.sync_api import Page, sync_playwright
from servers import Notebook, jupyter, store

WORK, PAINT = 8, 33  # ms that our own work and the picture may take, at the 95th percentile
BLOCK = 20  # moves before the other arm has its turn
QUIET = 0.1  # seconds from a key to the question how long its picture took
BUSY = 6  # seconds that a busy kernel computes
ARMS = ("nothing", "FloatSlider", "explorer", "interact")
ROWS = (*ARMS, *(f"{arm}, busy" for arm in ARMS))

CELLS = [
    """import random, threading
import torch
import kdtutor as kd
from ipywidgets import interact
task = kd.load_task("supersense")
dice = random.Random(0)
z_t, z_s = ([dice.gauss(0, 2.5) for _ in task.labels] for _ in range(2))""",
    """explorer = kd.widgets.TemperatureExplorer.from_logits(z_t, z_s, task.labels, labels=3)
explorer""",
    """@interact(T=(0.1, 20.0, 0.1))
def explore(T=2.0):
    p, q = ((torch.tensor(z) / T).softmax(-1) for z in (z_t, z_s))
    return kd.plots.distributions(p, q, task.labels, top=25)""",
    """from ipywidgets import FloatSlider
FloatSlider(value=2, min=0.1, max=20, layout={"width": "600px"})""",
]
FOCUS = {
    "nothing": "#nothing",
    "FloatSlider": ".jp-OutputArea:not(:has(.widget-interact)) .widget-slider .noUi-handle",
    "explorer": '[data-kd="temperature"]',
    "interact": ".widget-slider .noUi-handle",
}
# Installed in the page: `armed(name)` waits for the next move of that slider and gives its times in ms.
WATCH = """() => {
    const nothing = Object.assign(document.createElement("input"), { type: "range", id: "nothing", max: 400 });
    nothing.dataset.lmSuppressShortcuts = "true"; // JupyterLab would take the arrow keys
    nothing.style = "position: fixed; bottom: 30px; right: 20px; z-index: 99";
    document.body.append(nothing);
    const frame = () => new Promise((done) => requestAnimationFrame(() => done(performance.now())));
    // Style, layout and paint come between a frame's callbacks and the next task; of those that wait, ours is first.
    const painted = () => new Promise((done) => {
        requestAnimationFrame(() => scheduler.postTask(() => done(performance.now()), { priority: "user-blocking" }));
    });
    window.armed = (name) => new Promise((done) => {
        let handlers = 0;
        addEventListener("keydown", (key) => {
            const start = key.timeStamp;
            if (name === "interact") {
                const areas = [...document.querySelectorAll(".jp-OutputArea")];
                const area = areas.find((one) => one.querySelector(".widget-interact"));
                const before = area.querySelector("img").src;
                const look = new MutationObserver(async () => {
                    const picture = area.querySelector("img");
                    if (!picture || picture.src === before) return;
                    look.disconnect();
                    await picture.decode();
                    done({ paint: (await painted()) - start });
                });
                look.observe(area, { childList: true, subtree: true, attributes: true });
                return;
            }
            if (name === "FloatSlider") { // its handlers come after this one, and draw at once
                painted().then((end) => done({ paint: end - start }));
                return;
            }
            const slider = document.activeElement;
            let first, last, entered;
            addEventListener("input", () => { // before all of its own handlers
                entered = performance.now();
                requestAnimationFrame(() => { first = performance.now(); });
            }, { capture: true, once: true });
            slider.addEventListener("input", () => queueMicrotask(() => { // after them
                handlers = performance.now() - entered;
                requestAnimationFrame(() => { last = performance.now(); });
                painted().then((end) => done({ paint: end - start, work: handlers + last - first }));
            }), { once: true });
        }, { capture: true, once: true });
    });
}"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--moves", type=int, default=200, help="of each slider")
    options = parser.parse_args()
    path = chromium.find()
    if path is None:
        sys.exit("no Chromium: python tools/chromium.py sets one up")
    with (
        tempfile.TemporaryDirectory() as folder,
        jupyter(Path(folder) / "notebooks", "jupyterlab") as server,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=path, args=[*chromium.FLAGS, "--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        store(server.folder / "slider.ipynb", *CELLS)
        notebook = Notebook(page, server, "slider.ipynb")
        notebook.run_all()
        page.locator(".widget-interact img").wait_for(timeout=60_000)
        page.evaluate(WATCH)
        print(f"Chromium {browser.version}, {machine()}\n")
        print(table(measure(notebook, options.moves)))
        browser.close()


def measure(notebook: Notebook, moves: int) -> dict[str, list[dict[str, float]]]:
    """Time every move, by row of the table."""
    times: dict[str, list[dict[str, float]]] = {row: [] for row in ROWS}
    for name in FOCUS:
        move(notebook.page, name, 5)  # warm up
    while len(times["explorer"]) < moves:
        for name in FOCUS:
            block = min(BLOCK, moves - len(times[name]))
            times[name] += move(notebook.page, name, max(1, block // 5) if name == "interact" else block)
    compute = f"import time; end = time.time() + {BUSY}\nwhile time.time() < end: sum(range(20_000))"
    while len(times["explorer, busy"]) < moves:
        for name in ARMS[:3]:
            row = f"{name}, busy"
            start(notebook.page, compute)
            times[row] += move(notebook.page, name, min(2 * BLOCK, moves - len(times[row])))
            notebook.idle()
    for _ in range(3):  # each move waits for the cell to end
        start(notebook.page, compute)
        times["interact, busy"] += move(notebook.page, "interact", 1)
        notebook.idle()
    return times


def start(page: Page, source: str) -> None:
    """Run `source` in the last cell without waiting for its end."""
    page.evaluate(
        """async (source) => {
            const { content } = window.jupyterapp.shell.currentWidget;
            content.activeCellIndex = content.widgets.length - 1;
            await window.jupyterapp.commands.execute("notebook:insert-cell-below");
            content.activeCell.model.sharedModel.setSource(source);
            window.jupyterapp.commands.execute("notebook:run-cell");
        }""",
        source,
    )
    page.wait_for_timeout(300)


def move(page: Page, name: str, times: int) -> list[dict[str, float]]:
    """Press an arrow key `times` times, each when the picture of the one before stands."""
    slider = page.locator(FOCUS[name]).first
    slider.scroll_into_view_if_needed()
    slider.focus()
    found = []
    for number in range(times):
        page.evaluate(f"() => {{ window.next = window.armed({name!r}); }}")
        key = "ArrowRight" if number % 8 < 4 else "ArrowLeft"
        page.keyboard.down(key)
        time.sleep(QUIET)  # who asks at once whether the picture stands takes the processor that draws it
        found.append(page.evaluate("() => window.next"))
        page.keyboard.up(key)
    return found


def table(times: dict[str, list[dict[str, float]]]) -> str:
    lines = [
        "| slider | moves | own work: median | 95 % | to paint: median | 95 % |",
        "|---|---|---|---|---|---|",
    ]
    for row, moves in times.items():
        cells = [row, str(len(moves))]
        for what in ("work", "paint"):
            values = [move[what] for move in moves if what in move]
            cells += (
                [f"{statistics.median(values):.1f} ms", f"{high(values):.1f} ms"] if values else ["–", "–"]
            )
        lines.append(f"| {' | '.join(cells)} |")
    ours = times["explorer"], times["explorer, busy"]
    work, paint = (max(high([move[what] for move in moves]) for moves in ours) for what in ("work", "paint"))
    verdicts = [
        f"own work at the 95th percentile: {work:.1f} ms, {'within' if work <= WORK else 'ABOVE'} {WORK} ms",
        f"picture at the 95th percentile: {paint:.1f} ms, {'within' if paint <= PAINT else 'ABOVE'} {PAINT} ms",
    ]
    return "\n".join([*lines, "", *verdicts])


def high(values: list[float]) -> float:
    """Compute the 95th percentile."""
    return sorted(values)[min(len(values) - 1, int(0.95 * len(values)))]


def machine() -> str:
    try:
        about = Path("/proc/cpuinfo").read_text(encoding="utf-8")
        name = re.search(r"model name\s*: (.*)", about).group(1)
    except (OSError, AttributeError):  # not Linux on x86
        name = platform.processor() or platform.machine()
    return f"{name}, {os.cpu_count()} processors, no GPU"


if __name__ == "__main__":
    main()
