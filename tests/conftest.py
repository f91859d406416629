"""What every test relies on: no network, the same random examples each time, and the same device everywhere.

Tests run on the CPU, on a machine with a GPU too: there as elsewhere they hold what a CPU does, to the last bit. Those
marked `gpu` train on the GPU, and say that they did not where there is none: `python -m pytest -m gpu`.
"""

import os
import signal

import pytest

# Before anything imports a Hugging Face library, which reads them once.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# Accelerate's, for processes that tests start as well.
os.environ["ACCELERATE_USE_CPU"] = "true"

# A shell that starts a program in the background has it ignore Ctrl-C, which tests send to themselves.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

from hypothesis import settings

# Processors differ in speed and several tests share one: no example is failed for being slow.
settings.register_profile("kdtutor", deadline=None, derandomize=True)
settings.load_profile("kdtutor")


@pytest.fixture(autouse=True)
def _on_a_gpu(request):
    """Let tests marked `gpu` train there."""
    if not request.node.get_closest_marker("gpu"):
        yield
        return
    import torch
    from helpers import training_on

    if not torch.cuda.is_available():
        pytest.skip("NOT TESTED: this needs a CUDA GPU")
    with training_on("cuda"):
        yield
