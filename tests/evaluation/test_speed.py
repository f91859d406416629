"""Speeds are of the models that were given, percentiles of the times that were taken, and energy is not made up."""

from __future__ import annotations

import io

import torch
from helpers import make_task, model, refusal

from kdtutor.evaluation import speed
from kdtutor.evaluation.speed import speeds, stored_bytes
from kdtutor.hardware import joules


class Exported:
    bytes = 1234

    def __init__(self):
        self.seen = []

    def run(self, batch):
        self.seen.append(tuple(batch["input_ids"].shape))


def test_median_percentile_and_throughput_are_of_the_times_taken(monkeypatch):
    clock, ticks = [0.0], iter(range(10**6))
    exported = Exported()

    # Texts alone take 1, 2, 3 … 20 ms and again; batches of 20 take 40 ms.
    def run(batch):
        alone = len(batch["input_ids"]) == 1
        clock[0] += (next(ticks) % 20 + 1) / 1000 if alone else 0.04

    monkeypatch.setattr(exported, "run", run)
    monkeypatch.setattr(speed.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(speed, "joules", lambda: None)
    measured = speeds({"x": exported}, make_task(rows=44), "train", texts=20, rounds=20, batch_size=20)["x"]
    assert measured.first_ms == 1
    assert abs(measured.median_ms - 10.5) < 0.6
    assert abs(measured.p95_ms - 19) < 0.6
    assert abs(measured.throughput - 20 / 0.04) < 1e-6
    assert measured.joules is None


def test_energy_is_per_text(monkeypatch):
    spent = iter(range(0, 1000, 6))
    monkeypatch.setattr(speed, "joules", lambda: float(next(spent)))
    found = speeds({"x": Exported()}, make_task(), "test", texts=12, rounds=2)
    assert found["x"].joules == 0.5 and str(found).splitlines()[1].endswith("500.0 mJ")
    monkeypatch.setattr(speed, "joules", lambda: None)
    found = speeds({"x": Exported()}, make_task(), "test", texts=12, rounds=2)
    assert str(found).splitlines()[1].endswith("unknown"), (
        "where the machine does not tell, nothing is made up"
    )


def test_models_of_both_kinds_stand_in_one_table_and_keep_their_mode():
    task = make_task()
    student = model(task).train()
    exported = Exported()
    found = speeds({"torch": student, "onnx": exported}, task, texts=4, rounds=1, batch_size=2)
    assert student.training
    assert found["onnx"].bytes == 1234
    file = io.BytesIO()
    torch.save(student.state_dict(), file)
    assert stored_bytes(student) == file.tell() > 4 * student.num_parameters()
    assert "4 texts one by one, then in batches of 2" in str(found)
    assert {shape[0] for shape in exported.seen} == {1, 2}


def test_too_few_texts_are_refused():
    assert "2 to 12 texts" in refusal(speeds, {"x": Exported()}, make_task(), texts=13)
    assert "not 1" in refusal(speeds, {"x": Exported()}, make_task(), texts=1)


def test_the_processors_counters_are_summed_and_their_parts_left_out(tmp_path):
    assert joules(tmp_path) is None
    for name, value in (("intel-rapl:0", 5_000_000), ("intel-rapl:1", 2_500_000), ("intel-rapl:0:0", 9)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "energy_uj").write_text(f"{value}\n", encoding="ascii")
    assert joules(tmp_path) == 7.5
    (tmp_path / "intel-rapl:1" / "energy_uj").unlink()
    assert joules(tmp_path) is None
