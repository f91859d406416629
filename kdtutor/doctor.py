"""`kdtutor doctor`: what this machine has, and what each finding means for the course.

In a notebook: `print(kd.doctor.report())`. For programs: `kd.doctor.doctor()` gives the same as a list of `Check`s.
"""

from __future__ import annotations

import importlib.metadata as metadata
import os
import platform
import shutil
import sys
import textwrap
import time
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

from kdtutor import hardware
from kdtutor.errors import Flags

GIB = 1024**3
NOTEBOOK_MEMORY = 1.5 * GIB  # what one notebook may take at most
HUB = "https://huggingface.co"
WORK_SECONDS = 5.0  # of training, to see how fast this machine is
# A step of that in a thread of the processor that the course's times were taken with (an AMD EPYC with AVX-512).
STEP_SECONDS = 0.07


@dataclass(frozen=True)
class Check:
    """One finding. `status` is "ok", "note" (the course runs, but know this) or "problem" (it does not)."""

    name: str
    value: str
    status: str
    meaning: str

    def __str__(self) -> str:
        indent = " " * 9
        finding = textwrap.fill(f"{self.status:<8} {self.name}: {self.value}", 100, subsequent_indent=indent)
        return (
            f"{finding}\n{textwrap.fill(self.meaning, 100, initial_indent=indent, subsequent_indent=indent)}"
        )


def doctor(hub_timeout: float = 3.0) -> list[Check]:
    """Look at versions, device, threads, memory, disk, assets and network, and train for five seconds; changes nothing.

    `hub_timeout` is how many seconds the Hub has to answer. Nothing is asked when HF_HUB_OFFLINE is set.
    """
    checks, hub = [_python(), *_packages()], []
    try:
        import torch
    except (ImportError, OSError) as error:  # OSError: a shared library of torch is missing
        checks.append(
            Check("torch", "does not import", "problem", f"Nothing can be computed without it: {error}")
        )
    else:
        checks += [_device(torch), _bf16(torch), _threads(torch), _speed(torch)]
        hub = [_hub(hub_timeout)]
    return [*checks, _memory(), _disk(), _assets(), *hub]


def report(checks: Iterable[Check] | None = None) -> str:
    """Write the checks as text, each with what it means, and a last line that sums up."""
    checks = doctor() if checks is None else list(checks)
    problems = [check.name for check in checks if check.status == "problem"]
    verdict = (
        f"The course will not run until this is fixed: {', '.join(problems)}."
        if problems
        else "The course runs here."
    )
    return "\n".join([*map(str, checks), "", verdict])


def main(arguments: list[str] | None = None) -> int:
    """Print the report, or the table of model types. Returns 1 if there is a problem, else 0."""
    parser = Flags(prog="kdtutor doctor", description=(__doc__ or "").partition("\n")[0])
    timeout = "seconds that the Hub has to answer (default: %(default)g)"
    parser.add_argument("--hub-timeout", type=float, default=3.0, help=timeout)
    parser.add_argument("--models", action="store_true", help="print which types of models are supported")
    asked = parser.parse_args(arguments)
    if asked.models:
        from kdtutor.models.families import supported

        print(supported())
        return 0
    checks = doctor(asked.hub_timeout)
    print(report(checks))
    return int(any(check.status == "problem" for check in checks))


# ------------------------------------------------------------------------------------------------- the checks


def _python() -> Check:
    value = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    if sys.version_info < (3, 11):  # noqa: UP036 - pip refuses it, a PYTHONPATH does not
        return Check("Python", value, "problem", "kdtutor needs Python 3.11 or newer.")
    if sys.version_info >= (3, 14):
        return Check("Python", value, "note", "Newer than the course was made for (3.11 to 3.13).")
    return Check("Python", value, "ok", "One of the versions that the course is made for (3.11 to 3.13).")


def _packages() -> list[Check]:
    """Compare the installed versions with what kdtutor itself declares: core and notebooks apart."""
    try:
        version, declared = metadata.version("kdtutor"), metadata.requires("kdtutor") or []
        from packaging.requirements import Requirement
    except ImportError as error:  # PackageNotFoundError is one
        from kdtutor import __version__

        advice = "Install it, so that versions can be compared: python -m pip install -e '.[lab]'"
        return [Check("kdtutor", f"{__version__}, not installed ({error})", "note", advice)]

    requirements = [Requirement(line) for line in declared]
    core = [r for r in requirements if r.marker is None]
    lab = [
        r
        for r in requirements
        if r.marker and not r.marker.evaluate() and r.marker.evaluate({"extra": "lab"})
    ]
    return [
        Check("kdtutor", version, "ok", "The course's own package."),
        _versions(
            "training core", core, "problem", "the training loop needs", "python -m pip install kdtutor"
        ),
        _versions("notebooks", lab, "note", "the notebooks need", "python -m pip install 'kdtutor[lab]'"),
    ]


def _versions(name: str, requirements: list, if_missing: str, who: str, command: str) -> Check:
    found, missing, other = [], [], []
    for requirement in requirements:
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            missing.append(requirement.name)
            continue
        found.append(f"{requirement.name} {version}")
        if not requirement.specifier.contains(version, prereleases=True):
            other.append(f"{requirement.name} {version} (declared: {requirement.specifier})")
    value = ", ".join(found) or "nothing installed"
    if missing:
        return Check(
            name, value, if_missing, f"Missing, though {who} it: {', '.join(missing)}. Install: {command}"
        )
    if other:
        return Check(name, value, "note", f"Not a version that kdtutor was made for: {', '.join(other)}.")
    return Check(name, value, "ok", "Everything is there, in the versions that kdtutor declares.")


def _device(torch) -> Check:
    if torch.cuda.is_available():
        value = ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
        return Check(
            "device",
            f"CUDA: {value}",
            "ok",
            "Used by itself; the course's times are for a CPU, so expect less.",
        )
    if torch.backends.mps.is_available():
        return Check(
            "device", "Apple GPU (MPS)", "note", "Used by itself, but the course was not tested on one."
        )
    if shutil.which("nvidia-smi"):
        advice = "There is an NVIDIA driver, but this torch cannot use it: a CUDA build would. All runs on the CPU."
        return Check("device", "CPU", "note", advice)
    return Check(
        "device",
        "CPU, no GPU",
        "ok",
        "Enough: everything in the course runs on two processors, in the time it states.",
    )


def _bf16(torch) -> Check:
    if hardware.has_bf16(torch.device("cuda" if torch.cuda.is_available() else "cpu")):
        return Check(
            "bf16",
            "in hardware",
            "ok",
            "Training uses it and is faster for it; last digits differ from float32.",
        )
    return Check("bf16", "not in hardware", "ok", "Training computes in float32: nothing is lost but speed.")


def _threads(torch) -> Check:
    threads, processors = torch.get_num_threads(), hardware.processors()
    value = f"{threads} for torch, on {processors:g} processor{'s' if processors != 1 else ''}"
    if threads > max(1, processors):
        fix = f"set OMP_NUM_THREADS={max(1, int(processors))} before Python starts"
        return Check("threads", value, "note", f"More threads than processors slow training down: {fix}.")
    if processors < 2:
        return Check(
            "threads", value, "note", "Times are stated for two processors: expect about twice as long."
        )
    if threads < min(2, processors):
        return Check(
            "threads", value, "note", "OMP_NUM_THREADS keeps torch from using what is there: unset it."
        )
    return Check("threads", value, "ok", "At least the two processors that times are stated for.")


def _speed(torch) -> Check:
    """Train a small Transformer in one thread, and compare with the machine whose times the course states."""
    each, used = _work(torch, WORK_SECONDS)
    taken, steps = sum(each), len(each)
    now, alone = taken / steps / STEP_SECONDS, used / steps / STEP_SECONDS
    fast, slow = (1000 * sorted(each)[int(share * (steps - 1))] for share in (0.1, 0.9))
    value = (
        f"{steps} steps in {taken:.1f} s, most of them in {fast:.0f} to {slow:.0f} ms: {now:.1f} times as long as where"
        " the course's times were taken"
    )
    takes = f"{round(90 * now, -1):.0f} seconds" if now < 2 else f"{1.5 * now:.0f} minutes"
    here = f"what takes 90 seconds there takes about {takes} here"
    if now > 1.5 * alone:
        busy = f"Other programs use this machine as well ({alone:.1f} times without them). As long as they do, {here}."
        return Check("speed", value, "note", f"{busy} Run it again when the machine is quiet.")
    if now > 2:
        return Check("speed", value, "note", f"Slower, but all of it runs: {here}.")
    return Check("speed", value, "ok", f"Cells take about as long as the course says: {here}.")


def _work(torch, seconds: float) -> tuple[list[float], float]:
    """Train in one thread for so long: the seconds of each step, and those of a processor in all."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            layer = torch.nn.TransformerEncoderLayer(256, 4, 1024, dropout=0.0, batch_first=True)
            model, texts = (
                torch.nn.TransformerEncoder(layer, 2, enable_nested_tensor=False),
                torch.randn(16, 32, 256),
            )
        model(texts).square().mean().backward()  # the first one is slow anywhere
        busy, ends = time.process_time(), [time.perf_counter()]
        while len(ends) < 2 or ends[-1] - ends[0] < seconds:
            model(texts).square().mean().backward()
            ends.append(time.perf_counter())
        return [end - start for start, end in pairwise(ends)], time.process_time() - busy
    finally:
        torch.set_num_threads(threads)


def _memory() -> Check:
    try:
        total, free = hardware.memory()
    except ImportError:
        return Check("memory", "not known", "note", "psutil, which comes with accelerate, is not installed.")
    value = f"{free / GIB:.1f} of {total / GIB:.1f} GiB free"
    if total < NOTEBOOK_MEMORY:
        return Check("memory", value, "problem", "A notebook may take 1.5 GiB: this machine has less in all.")
    if free < NOTEBOOK_MEMORY:
        return Check(
            "memory",
            value,
            "note",
            "A notebook may take 1.5 GiB: close something first, such as other kernels.",
        )
    return Check(
        "memory",
        value,
        "ok",
        f"A notebook takes at most 1.5 GiB: {int(free // NOTEBOOK_MEMORY)} could be open.",
    )


def _disk() -> Check:
    free = shutil.disk_usage(".").free
    value = f"{free / GIB:.1f} GiB free here"
    if free < GIB:
        return Check(
            "disk", value, "note", "Checkpoints of the small models fit, a model from the Hub may not."
        )
    return Check("disk", value, "ok", "Enough for checkpoints and for a model or two from the Hub.")


def _assets() -> Check:
    from kdtutor import assets
    from kdtutor.errors import KDTutorError

    try:
        states = assets.verify_all()
    except KDTutorError as error:
        return Check("assets", "not verified", "problem", str(error))
    bad = [state for state in states.values() if state != "ok"]
    if bad:
        return Check("assets", f"{len(bad)} of {len(states)} files are damaged", "problem", " ".join(bad))
    size = sum(entry["bytes"] for entry in assets.manifest().values()) / 1e6
    meaning = "Data, tokenizer and teachers are what was shipped, so all runs without a network."
    return Check("assets", f"{len(states)} files, {size:.0f} MB, all verified", "ok", meaning)


def _hub(timeout: float) -> Check:
    own = "The course itself needs no network; names from the Hub (bert-base-uncased, sst2)"
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}:
        return Check(
            "Hub", "not asked, as HF_HUB_OFFLINE is set", "note", f"{own} work only if they are in the cache."
        )

    from kdtutor.data.hub import ask

    value = ask(os.environ.get("HF_ENDPOINT") or HUB, timeout).said
    if value == "reachable":
        return Check(
            "Hub",
            value,
            "ok",
            "Names from the Hub (bert-base-uncased, sst2) work too; the course needs none of them.",
        )
    return Check("Hub", value, "note", f"{own} work only from the cache, or from a local folder.")


if __name__ == "__main__":
    sys.exit(main())
