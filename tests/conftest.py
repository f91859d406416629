"""What every test relies on: no network, and the same random examples each time."""

import os

# Before anything imports a Hugging Face library, which reads them once.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

from hypothesis import settings

# Processors differ in speed and several tests share one: no example is failed for being slow.
settings.register_profile("kdtutor", deadline=None, derandomize=True)
settings.load_profile("kdtutor")
