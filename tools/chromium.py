"""Find a Chromium for the browser tests, or set one up: a step of `make test`.

    python tools/chromium.py

In this order: one that is there; Debian's package, as root on Debian; Playwright's own. Where none can be had, it says
so and the browser tests are skipped.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
# Nothing that a browser does on its own: no updates, no reports, no service of its maker.
FLAGS = [
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-gpu",
    "--disable-sync",
    "--no-first-run",
]


def find() -> str | None:
    """Find the path of a Chromium: KDTUTOR_CHROMIUM, one in PATH, or Playwright's own; None if there is none."""
    named = os.environ.get("KDTUTOR_CHROMIUM")
    if named:
        return named
    for name in NAMES:
        if found := shutil.which(name):
            return found
    own = playwrights_own()
    return str(own) if own and own.is_file() else None


def playwrights_own() -> Path | None:
    """Find where `playwright install chromium` puts it; None without Playwright."""
    code = (
        "from playwright.sync_api import sync_playwright\n"
        "with sync_playwright() as playwright: print(playwright.chromium.executable_path)"
    )
    asked = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    return Path(asked.stdout.strip()) if asked.returncode == 0 else None


def main() -> int:
    as_root = hasattr(os, "geteuid") and os.geteuid() == 0
    if not find() and as_root and shutil.which("apt-get"):
        print("installing Debian's Chromium for the browser tests", flush=True)
        quiet = {"env": os.environ | {"DEBIAN_FRONTEND": "noninteractive"}, "stdout": subprocess.DEVNULL}
        subprocess.run(["apt-get", "update"], **quiet)
        subprocess.run(["apt-get", "install", "-y", "--no-install-recommends", "chromium"], **quiet)
    if not find():
        print("installing Playwright's Chromium for the browser tests", flush=True)
        subprocess.run([sys.executable, "-m", "playwright", "install", "chromium"])
    print(f"browser tests: {find() or 'NO CHROMIUM COULD BE HAD, THEY ARE SKIPPED'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
