"""--report_to: a run's curves for TensorBoard, Weights & Biases and the other trackers that accelerate knows."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from kdtutor.errors import KDTutorError, nearest

Report = Callable[[Mapping[str, float], int], object]


@contextmanager
def reporting(name: str | None, output: Path, settings: Mapping[str, object]) -> Iterator[Report]:
    """Give a function that reports values at a step, the main process's alone; without a name it does nothing.

    Raises KDTutorError if accelerate knows no such tracker, or its package is not installed.
    """
    if name is None:
        yield lambda values, step: None
        return
    from accelerate import Accelerator
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    if name not in LOGGER_TYPE_TO_CLASS:
        raise KDTutorError(f"--report_to: {nearest('tracker', name, LOGGER_TYPE_TO_CLASS)}")
    with warnings.catch_warnings(action="ignore"):  # the sentence below is enough
        accelerator = Accelerator(log_with=name, project_dir=output)
    if not accelerator.log_with:
        raise KDTutorError(f"--report_to {name} needs the package {name}, which is not installed")
    plain = {
        key: value if isinstance(value, (bool, int, float)) else str(value) for key, value in settings.items()
    }
    accelerator.init_trackers("kdtutor", plain)
    try:
        yield accelerator.log
    finally:
        for tracker in accelerator.trackers:
            tracker.finish()
