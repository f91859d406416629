"""What loading one's own file takes, beside pyarrow's own reading of it: time, and memory as a multiple of the file.

    python benchmarks/loading.py --rows 1000000

Each is read in a process of its own, whose peak is measured. The aim: 15 s for a million rows, 3 times the file. On a
busy machine the processor's seconds tell more than those that passed.
pyarrow stops at a table; load_task goes on to Python's texts, labels as they are written, a hash of each, three
parts.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import tempfile
import time
from pathlib import Path

READERS = ("kdtutor", "pyarrow")


def write(file: Path, rows: int) -> None:
    """Write a CSV file of texts of twelve words or so, all different, in five classes."""
    draw = random.Random(0)
    words = [f"word{n}" for n in range(5000)]
    with open(file, "w", encoding="utf-8") as out:
        out.write("text,label\n")
        for n in range(rows):
            out.write(f"{' '.join(draw.choices(words, k=12))} {n},{n % 5}\n")


def measure(reader: str, file: Path, results) -> None:
    """Read the file once, and put (seconds, the processor's, bytes at the peak beyond those before) into the queue."""
    import resource
    from contextlib import redirect_stdout
    from io import StringIO

    from pyarrow import csv

    from kdtutor.data.load import load_task

    # Imports are not what is measured.
    with redirect_stdout(StringIO()):
        load_task([(f"a text {n}", str(n % 2)) for n in range(99)])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start, busy = time.perf_counter(), time.process_time()
    with redirect_stdout(StringIO()):
        kept = csv.read_csv(file) if reader == "pyarrow" else load_task(file, text="text", label="label")
    seconds, busy = time.perf_counter() - start, time.process_time() - busy
    results.put((seconds, busy, 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)))
    del kept


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    given = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "rows.csv")
        write(file, given.rows)
        size = file.stat().st_size
        print(f"{given.rows:,} rows, {size / 1e6:.1f} MB")
        for reader in READERS:
            results = context.Queue()
            process = context.Process(target=measure, args=(reader, file, results))
            process.start()
            seconds, busy, peak = results.get()
            process.join()
            print(
                f"{reader:<10}{seconds:>8.1f} s{busy:>8.1f} s of a processor{peak / size:>8.1f} times the file"
            )


if __name__ == "__main__":
    main()
