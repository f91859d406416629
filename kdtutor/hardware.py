"""What this machine has: bf16 units, processors and memory that a process may really use (containers limit both)."""

from __future__ import annotations

import math
import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from kdtutor.errors import KDTutorError

NARROW = 192  # the width from which on a CPU without AMX trains a classifier faster in bf16
BANDWIDTH = 12.5  # gigabytes a second from one process to the next, where nobody tells: 100 Gbit/s
POWERCAP = Path("/sys/class/powercap")  # where Linux tells what energy an Intel or AMD processor has used
CPUINFO = Path("/proc/cpuinfo")  # where Linux tells which processor this is
ZEN_5 = 26  # AMD's number for the family
CGROUP = Path("/sys/fs/cgroup")  # where Linux mounts the limits of the container that this process is in

# oneDNN keeps a program for each shape of product that it has met, the last 1,024 of them, at half a megabyte each. Of
# 64, enough for all layers of one batch, a step in bf16 makes a quarter anew and takes an eighth longer; but a notebook
# must do with 1.5 GB (benchmarks/README.md).
if "ipykernel" in sys.modules:
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")


def has_bf16(device) -> bool:
    """Tell whether the hardware multiplies bf16 faster than float32: CUDA from Ampere on; x86 with AMX or AVX512-BF16.

    `device` is a torch.device. Emulated bf16 does not count: it is slower than float32.
    """
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type == "cpu" and (_cpu_has("amx_tile") or _cpu_has("avx512_bf16"))


def gains_by_bf16(device, width: float) -> bool:
    """Tell whether a classifier of this width learns faster in bf16 on a torch.device.

    A narrow one does not where oneDNN keeps few programs, as in notebooks; with AMX it may (benchmarks/README.md).
    """
    return has_bf16(device) and (width >= NARROW or device.type != "cpu" or _cpu_has("amx_tile"))


@contextmanager
def fast_float32(device) -> Iterator[None]:
    """Multiply in float32 as fast as a torch.device can: on AMD's processors from Zen 5 on with oneDNN in place of MKL.

    MKL uses AVX-512 on Intel's processors alone. torch asks oneDNN only where that may round to bf16; oneDNN does so
    with AMX, which these do not have, so the products are float32's (benchmarks/README.md). New shapes cost it time:
    for batches in the order of their lengths, not for training.
    """
    import torch

    try:
        gains = device.type == "cpu" and _is_zen_5() and torch.get_float32_matmul_precision() == "highest"
    except RuntimeError:  # somebody has chosen backend by backend
        gains = False
    if not gains:
        yield
        return
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision("highest")


@lru_cache
def _is_zen_5(cpuinfo: Path = CPUINFO) -> bool:
    """Tell whether this is a processor of AMD's with AVX-512 whose units are as wide, and without AMX."""
    found = dict(re.findall(r"^(vendor_id|cpu family)\s*: (\S+)$", _read(cpuinfo), re.MULTILINE))
    is_new = found.get("vendor_id") == "AuthenticAMD" and int(found.get("cpu family", 0)) >= ZEN_5
    return is_new and _cpu_has("avx512_bf16") and not _cpu_has("amx_tile")


def _cpu_has(units: str) -> bool:
    import torch

    # ATEN_CPU_CAPABILITY=avx2 does without them. What asks for the units is private, but the only test there is;
    # a torch without it is taken to have none.
    is_allowed = "AVX512" in torch.backends.cpu.get_cpu_capability()
    return is_allowed and getattr(torch.cpu, f"_is_{units}_supported", lambda: False)()


def processors(cgroup: Path = CGROUP) -> float:
    """Count the processors this process may use: those it may run on, or its container's share if that is less."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, _, period = _read(cgroup / "cpu.max").partition(" ")  # cgroup v2: "200000 100000" or "max 100000"
    if not quota:  # v1
        quota, period = _read(cgroup / "cpu/cpu.cfs_quota_us"), _read(cgroup / "cpu/cpu.cfs_period_us")
    share = int(quota) / int(period) if quota.isdigit() and period.isdigit() else math.inf
    return min(allowed, share)


def own_and_idle() -> float:
    """Sum the seconds that this process has computed, over its threads, and those that its processors were idle."""
    import psutil  # comes with accelerate

    times = psutil.cpu_times(percpu=True)
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(len(times))
    return time.process_time() + sum(times[i].idle for i in allowed if i < len(times))


def memory(cgroup: Path = CGROUP) -> tuple[int, int]:
    """Measure (total, free) bytes of memory for this process: the machine's, or its container's if that is less."""
    import psutil  # comes with accelerate

    machine = psutil.virtual_memory()
    total, free = machine.total, machine.available
    for limit, usage, folder in (
        ("memory.max", "memory.current", cgroup),  # cgroup v2
        ("memory.limit_in_bytes", "memory.usage_in_bytes", cgroup / "memory"),  # v1
    ):
        allowed = _read(folder / limit)
        if allowed.isdigit() and int(allowed) < machine.total:
            statistics = dict(line.split() for line in _read(folder / "memory.stat").splitlines())
            cache = int(statistics.get("inactive_file", 0))  # counted as used, but given back on demand
            total = int(allowed)
            free = min(free, total - int(_read(folder / usage) or 0) + cache)
    if (limit := _limit_of_addresses()) < total:
        total, free = limit, min(free, limit - psutil.Process().memory_info().vms)
    return total, free


def _limit_of_addresses() -> int:
    """Return what `ulimit -v` allows a process, as on many clusters; where there is no such thing, no limit."""
    try:
        import resource
    except ImportError:  # Windows
        return sys.maxsize
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return sys.maxsize if limit == resource.RLIM_INFINITY else limit


def room(device=None) -> int:
    """Count the bytes that this process could hold, free ones and its own: on a torch.device (None: main memory)."""
    if device is not None and device.type == "cuda":
        import torch

        return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    import psutil  # comes with accelerate

    return memory()[1] + psutil.Process().memory_info().rss


class MemoryFull(KDTutorError):
    """There was no memory. What was there before is as it was."""


def is_full(error: BaseException) -> bool:
    """Tell whether this is how Python, pyarrow or torch say that there is no memory, a GPU's or the machine's."""
    said = ("can't allocate memory", "not enough memory", "out of memory", "bad_alloc")
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in said)
    )


@contextmanager
def within_memory(what: str, cure: str, device=None) -> Iterator[None]:
    """Raise MemoryFull, with a `cure`, where there is no memory for `what` on a torch.device (None: main memory)."""
    try:
        yield
    except Exception as error:
        if not is_full(error):
            raise
        free = format_bytes(room(device))
        raise MemoryFull(f"{what} found no memory; {free} are there for this process. {cure}") from error


def format_bytes(count: float) -> str:
    """Write 12,345,678 as "12.3 MB"."""
    unit, name = next((u, n) for u, n in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")) if count >= u or u == 1e3)
    return f"{count / unit:,.1f} {name}"


def peak_memory(device=None) -> int:
    """Measure the most bytes held so far: on a CUDA `device` torch's own, else resident in main memory."""
    if device is not None and device.type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated(device)
    # Linux: getrusage would begin with what the process had that started this one.
    if found := re.search(r"VmHWM:\s+(\d+) kB", _read(Path("/proc/self/status"))):
        return 1024 * int(found[1])
    try:
        import resource
    except ImportError:  # Windows
        import psutil

        return psutil.Process().memory_info().peak_wset
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def joules(powercap: Path = POWERCAP) -> float | None:
    """Read the energy that the processor has used so far, in joules; None where the machine doesn't tell (RAPL)."""
    counters = [
        _read(package / "energy_uj")
        for package in powercap.glob("intel-rapl:[0-9]*")
        if package.name.count(":") == 1
    ]
    return sum(map(int, counters)) / 1e6 if counters and all(text.isdigit() for text in counters) else None


def release_freed_memory() -> None:
    """Return to the system what the C library holds for later use; does nothing where it is not glibc.

    Tensors of ever new sizes leave gaps in glibc's heap that the next ones don't fit into, so it would grow and grow.
    """
    import ctypes

    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)


class FreedMemory:
    """Gives freed memory back before a run, after every 50 steps or 2 seconds of it, and at its end: 10 to 30 ms each.

    Small steps follow each other fast, and leave small gaps; large ones leave hundreds of megabytes in seconds.
    """

    EVERY_STEPS, EVERY_SECONDS = 50, 2.0

    def __init__(self) -> None:
        self._release()

    def after(self, step: int, is_last: bool) -> None:
        is_late = time.monotonic() >= self._released + self.EVERY_SECONDS
        if step % self.EVERY_STEPS == 0 or is_late or is_last:
            self._release()

    def _release(self) -> None:
        release_freed_memory()
        self._released = time.monotonic()


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError:
        return ""
