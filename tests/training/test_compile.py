"""`compile=True`: torch.compile on the student gives the same training."""

from __future__ import annotations

import pytest
import torch
from helpers import distance, make_run, make_task, weights
from torch._inductor import exc
from torch._inductor.cpp_builder import get_cpp_compiler

from kdtutor.objectives import parse_objective

FORMULA = "0.5 * HardLabels() + 0.5 * SoftTargets(2)"
RELATIONS = FORMULA + " + QueryRelations() + KeyRelations() + ValueRelations() + AttentionRelations()"


@pytest.mark.slow
@pytest.mark.parametrize("formula", [FORMULA, RELATIONS], ids=["logits", "queries, keys and values"])
def test_a_compiled_student_learns_what_a_plain_one_learns(formula):
    try:
        get_cpp_compiler()
    except exc.InvalidCxxCompiler as missing:
        pytest.skip(f"torch.compile needs a C++ compiler, and there is none: {missing}")
    torch._dynamo.utils.counters.clear()
    runs = [
        make_run(make_task(rows=16), parse_objective(formula), compile=compile) for compile in (False, True)
    ]
    for run in runs:
        run.run()
    plain, compiled = runs
    assert [row["loss"] for row in compiled.history] == pytest.approx(
        [row["loss"] for row in plain.history], rel=1e-4
    )
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    assert distance(weights(compiled.student), weights(plain.student)) < 1e-5
