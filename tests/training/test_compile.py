"""`compile=True`: torch.compile on the student gives the same training."""

from __future__ import annotations

import pytest
import torch
from helpers import distance, make_run, make_task, weights
from torch._inductor import exc
from torch._inductor.cpp_builder import get_cpp_compiler


@pytest.mark.slow
def test_a_compiled_student_learns_what_a_plain_one_learns():
    try:
        get_cpp_compiler()
    except exc.InvalidCxxCompiler as missing:
        pytest.skip(f"torch.compile needs a C++ compiler, and there is none: {missing}")
    torch._dynamo.utils.counters.clear()
    runs = [make_run(make_task(rows=16), compile=compile) for compile in (False, True)]
    for run in runs:
        run.run()
    plain, compiled = runs
    assert [row["loss"] for row in compiled.history] == pytest.approx(
        [row["loss"] for row in plain.history], rel=1e-4
    )
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    assert distance(weights(compiled.student), weights(plain.student)) < 1e-5
