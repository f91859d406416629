"""`kdtutor doctor`: what this machine has, and what each finding means for the course.

In a notebook: `print(kd.doctor.report())`. For programs: `kd.doctor.doctor()` gives the same as a list of `Finding`s.
"""

from __future__ import annotations

import importlib.metadata as metadata
import os
import platform
import shutil
import sys
import textwrap
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import wraps
from itertools import pairwise

from kdtutor import hardware
from kdtutor.errors import Flags

GIB = 1024**3
NOTEBOOK_MEMORY = 1.5 * GIB  # what one notebook may take at most
HUB_ADDRESS = "https://huggingface.co"
WORK_SECONDS = 5.0  # of training, to see how fast this machine is
# A step of that in a thread of the processor that the course's times were taken with (an AMD EPYC with AVX-512).
STEP_SECONDS = 0.07


@dataclass(frozen=True)
class Finding:
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


def doctor(hub_timeout: float = 3.0) -> list[Finding]:
    """Look at versions, device, threads, memory, disk, assets and network, and train for five seconds; changes nothing.

    `hub_timeout` is how many seconds the Hub has to answer. Nothing is asked when HF_HUB_OFFLINE is set.
    """
    findings, hub = [_python(), *_packages()], []
    try:
        import torch
    except (ImportError, OSError) as error:  # OSError: a shared library of torch is missing
        findings.append(
            Finding("torch", "does not import", "problem", f"Nothing can be computed without it: {error}")
        )
    else:
        findings += [_device(torch), _bf16(torch), _threads(torch), _speed(torch)]
        hub = [_hub(hub_timeout)]
    return [*findings, _memory(), _disk(), _assets(), *hub]


def report(findings: Iterable[Finding] | None = None) -> str:
    """Write the findings as text, each with what it means, and a last line that sums up."""
    findings = doctor() if findings is None else list(findings)
    problems = [each.name for each in findings if each.status == "problem"]
    verdict = (
        f"The course will not run until this is fixed: {', '.join(problems)}."
        if problems
        else "The course runs here."
    )
    return "\n".join([*map(str, findings), "", verdict])


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
    findings = doctor(asked.hub_timeout)
    print(report(findings))
    return int(any(each.status == "problem" for each in findings))


# ------------------------------------------------------------------------------------------------- the findings

Found = tuple[str, str, str]  # value, status, meaning


def _finding(name: str) -> Callable[[Callable[..., Found]], Callable[..., Finding]]:
    """Decorate what looks at one thing of the machine: what it returns becomes the finding of this name."""

    def decorate(look: Callable[..., Found]) -> Callable[..., Finding]:
        return wraps(look)(lambda *given: Finding(name, *look(*given)))

    return decorate


@_finding("Python")
def _python() -> Found:
    value = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    if sys.version_info < (3, 11):  # noqa: UP036 - pip refuses it, a PYTHONPATH does not
        return value, "problem", "kdtutor needs Python 3.11 or newer."
    if sys.version_info >= (3, 14):
        return value, "note", "Newer than the course was made for (3.11 to 3.13)."
    return value, "ok", "One of the versions that the course is made for (3.11 to 3.13)."


def _packages() -> list[Finding]:
    """Compare the installed versions with what kdtutor itself declares: core and notebooks apart."""
    try:
        version, declared = metadata.version("kdtutor"), metadata.requires("kdtutor") or []
        from packaging.requirements import Requirement
    except ImportError as error:  # PackageNotFoundError is one
        from kdtutor import __version__

        advice = "Install it, so that versions can be compared: python -m pip install -e '.[lab]'"
        return [Finding("kdtutor", f"{__version__}, not installed ({error})", "note", advice)]

    requirements = [Requirement(line) for line in declared]
    core = [r for r in requirements if r.marker is None]
    lab = [
        r
        for r in requirements
        if r.marker and not r.marker.evaluate() and r.marker.evaluate({"extra": "lab"})
    ]
    return [
        Finding("kdtutor", version, "ok", "The course's own package."),
        _versions(
            "training core", core, "problem", "the training loop needs", "python -m pip install kdtutor"
        ),
        _versions("notebooks", lab, "note", "the notebooks need", "python -m pip install 'kdtutor[lab]'"),
    ]


def _versions(name: str, requirements: list, if_missing: str, who: str, command: str) -> Finding:
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
        return Finding(
            name, value, if_missing, f"Missing, though {who} it: {', '.join(missing)}. Install: {command}"
        )
    if other:
        return Finding(name, value, "note", f"Not a version that kdtutor was made for: {', '.join(other)}.")
    return Finding(name, value, "ok", "Everything is there, in the versions that kdtutor declares.")


@_finding("device")
def _device(torch) -> Found:
    if torch.cuda.is_available():
        value = ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
        return f"CUDA: {value}", "ok", "Used by itself; the course's times are for a CPU, so expect less."
    if torch.backends.mps.is_available():
        return "Apple GPU (MPS)", "note", "Used by itself, but the course was not tested on one."
    if shutil.which("nvidia-smi"):
        advice = "There is an NVIDIA driver, but this torch cannot use it: a CUDA build would. All runs on the CPU."
        return "CPU", "note", advice
    advice = "Enough: everything in the course runs on two processors, in the time it states."
    return "CPU, no GPU", "ok", advice


@_finding("bf16")
def _bf16(torch) -> Found:
    if hardware.has_bf16(torch.device("cuda" if torch.cuda.is_available() else "cpu")):
        return "in hardware", "ok", "Training uses it and is faster for it; last digits differ from float32."
    return "not in hardware", "ok", "Training computes in float32: nothing is lost but speed."


@_finding("threads")
def _threads(torch) -> Found:
    threads, processors = torch.get_num_threads(), hardware.processors()
    value = f"{threads} for torch, on {processors:g} processor{'s' if processors != 1 else ''}"
    if threads > max(1, processors):
        fix = f"set OMP_NUM_THREADS={max(1, int(processors))} before Python starts"
        return value, "note", f"More threads than processors slow training down: {fix}."
    if processors < 2:
        return value, "note", "Times are stated for two processors: expect about twice as long."
    if threads < min(2, processors):
        return value, "note", "OMP_NUM_THREADS keeps torch from using what is there: unset it."
    return value, "ok", "At least the two processors that times are stated for."


@_finding("speed")
def _speed(torch) -> Found:
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
        return value, "note", f"{busy} Run it again when the machine is quiet."
    if now > 2:
        return value, "note", f"Slower, but all of it runs: {here}."
    return value, "ok", f"Cells take about as long as the course says: {here}."


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


@_finding("memory")
def _memory() -> Found:
    try:
        total, free = hardware.memory()
    except ImportError:
        return "not known", "note", "psutil, which comes with accelerate, is not installed."
    value = f"{free / GIB:.1f} of {total / GIB:.1f} GiB free"
    if total < NOTEBOOK_MEMORY:
        return value, "problem", "A notebook may take 1.5 GiB: this machine has less in all."
    if free < NOTEBOOK_MEMORY:
        return value, "note", "A notebook may take 1.5 GiB: close something first, such as other kernels."
    return value, "ok", f"A notebook takes at most 1.5 GiB: {int(free // NOTEBOOK_MEMORY)} could be open."


@_finding("disk")
def _disk() -> Found:
    free = shutil.disk_usage(".").free
    value = f"{free / GIB:.1f} GiB free here"
    if free < GIB:
        return value, "note", "Checkpoints of the small models fit, a model from the Hub may not."
    return value, "ok", "Enough for checkpoints and for a model or two from the Hub."


@_finding("assets")
def _assets() -> Found:
    from kdtutor import assets
    from kdtutor.errors import KDTutorError

    try:
        states = assets.verify_all()
    except KDTutorError as error:
        return "not verified", "problem", str(error)
    if bad := [state for state in states.values() if state != "ok"]:
        return f"{len(bad)} of {len(states)} files are damaged", "problem", " ".join(bad)
    size = sum(entry["bytes"] for entry in assets.manifest().values()) / 1e6
    meaning = "Data, tokenizer and teachers are what was shipped, so all runs without a network."
    return f"{len(states)} files, {size:.0f} MB, all verified", "ok", meaning


@_finding("Hub")
def _hub(timeout: float) -> Found:
    own = "The course itself needs no network; names from the Hub (bert-base-uncased, sst2)"
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}:
        return "not asked, as HF_HUB_OFFLINE is set", "note", f"{own} work only if they are in the cache."

    from kdtutor.data.hub import ask

    value = ask(os.environ.get("HF_ENDPOINT") or HUB_ADDRESS, timeout).said
    if value == "reachable":
        advice = "Names from the Hub (bert-base-uncased, sst2) work too; the course needs none of them."
        return value, "ok", advice
    return value, "note", f"{own} work only from the cache, or from a local folder."


if __name__ == "__main__":
    sys.exit(main())
