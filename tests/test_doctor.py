"""The doctor and hardware.py say what the machine has, also inside a container."""

from __future__ import annotations

import http.server
import importlib.metadata
import math
import os
import re
import subprocess
import sys
import threading

import pytest
import torch
from packaging.requirements import Requirement

from kdtutor import doctor, hardware


@pytest.fixture(autouse=True)
def hasty(monkeypatch):
    monkeypatch.setattr(doctor, "WORK_SECONDS", 0.0)


@pytest.fixture
def offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture
def online(monkeypatch):
    """Lets the doctor ask; set HF_ENDPOINT to a local address."""
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    return monkeypatch


def found(name: str, checks=None) -> doctor.Finding:
    [check] = [check for check in (doctor.doctor() if checks is None else checks) if check.name == name]
    return check


def test_the_doctor_finds_what_the_course_depends_on_and_says_what_it_means(offline):
    checks = doctor.doctor()
    names = [check.name for check in checks]
    for name in (
        "Python",
        "kdtutor",
        "device",
        "bf16",
        "threads",
        "speed",
        "memory",
        "disk",
        "assets",
        "Hub",
    ):
        assert name in names
    for check in checks:
        assert check.status in {"ok", "note", "problem"}
        assert check.value
        assert len(check.meaning.split()) > 3
    assert f"torch {importlib.metadata.version('torch')}" in found("training core", checks).value


def test_the_doctor_says_each_status_in_a_word(offline, capsys):
    status = doctor.main([])
    text = capsys.readouterr().out
    assert status == 0, text
    assert re.search(r"^ok +Python: 3\.", text, re.MULTILINE)
    assert "\x1b" not in text
    assert text.rstrip().endswith("The course runs here.")


def test_the_doctor_fails_when_an_asset_is_damaged(offline, monkeypatch, capsys):
    damage = {
        "tokenizer/tokenizer.json": "ok",
        "data/glosses/test.parquet": "asset data/glosses/test.parquet is missing",
    }
    monkeypatch.setattr("kdtutor.assets.verify_all", lambda: damage)
    assert doctor.main([]) == 1
    text = capsys.readouterr().out
    assert re.search(r"^problem +assets: 1 of 2 files are damaged", text, re.MULTILINE)
    assert "data/glosses/test.parquet is missing" in text
    assert text.rstrip().endswith("The course will not run until this is fixed: assets.")


def test_a_missing_package_of_the_core_is_a_problem_and_one_of_the_notebooks_a_note():
    missing = [Requirement("numpy"), Requirement("no-such-package-at-all")]
    core = doctor._versions(
        "training core", missing, "problem", "the training loop needs", "pip install kdtutor"
    )
    assert core.status == "problem"
    assert "no-such-package-at-all" in core.meaning
    assert "pip install kdtutor" in core.meaning
    assert doctor._versions("notebooks", missing, "note", "the notebooks need", "pip …").status == "note"


def test_a_version_out_of_range_is_a_note_that_names_both():
    check = doctor._versions("training core", [Requirement("numpy<1")], "problem", "", "")
    assert check.status == "note"
    assert f"numpy {importlib.metadata.version('numpy')} (declared: <1)" in check.meaning


def test_the_doctor_reports_also_where_torch_does_not_import():
    code = "import sys; sys.modules['torch'] = None; from kdtutor import doctor; print(doctor.report())"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert re.search(r"^problem +torch: does not import", result.stdout, re.MULTILINE)
    assert "will not run until this is fixed: torch" in result.stdout


def test_the_hub_is_not_asked_when_hf_hub_offline_is_set(offline, monkeypatch):
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: pytest.fail("asked"))
    assert "HF_HUB_OFFLINE" in doctor._hub(3.0).value


def test_a_hub_that_refuses_is_a_note(online):
    online.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    check = doctor._hub(3.0)
    assert check.status == "note"
    assert check.value.startswith("not reachable")
    assert "needs no network" in check.meaning


def test_a_hub_that_does_not_answer_is_waited_for_no_longer_than_said(online):
    tested = threading.Event()

    def never(*_, **__):
        tested.wait(60)
        raise OSError

    online.setattr("urllib.request.urlopen", never)
    check = doctor._hub(0.05)
    tested.set()
    assert check.status == "note"
    assert check.value == "no answer in 0.05 s"


@pytest.mark.parametrize(
    ("code", "status", "value"), [(200, "ok", "reachable"), (403, "note", "answered 403")]
)
def test_a_hub_that_answers_is_reachable_if_it_lets_us_in(online, code, status, value):
    class Answer(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_response(code)
            self.end_headers()

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        online.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        online.setenv("no_proxy", "127.0.0.1")
        check = doctor._hub(30.0)
    assert (check.status, check.value) == (status, value)


# ------------------------------------------------------------------------------- what a container lets us have


def test_without_a_container_the_machine_is_what_there_is(tmp_path):
    import psutil

    assert 1 <= hardware.processors(tmp_path) <= (os.cpu_count() or math.inf)
    total, free = hardware.memory(tmp_path)
    assert total == psutil.virtual_memory().total
    assert 0 < free <= total


@pytest.mark.parametrize(
    "files",
    [
        {"cpu.max": "50000 100000"},
        {"cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "100000"},
    ],
    ids=["v2", "v1"],
)
def test_a_container_with_half_a_processor(tmp_path, files):
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content + "\n")
    assert hardware.processors(tmp_path) == 0.5


@pytest.mark.parametrize("content", ["max 100000", "-1"])
def test_a_container_without_a_limit_on_processors(tmp_path, content):
    (tmp_path / "cpu.max").write_text(content)
    assert hardware.processors(tmp_path) == hardware.processors(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("limit", "usage", "folder"),
    [("memory.max", "memory.current", "."), ("memory.limit_in_bytes", "memory.usage_in_bytes", "memory")],
    ids=["v2", "v1"],
)
def test_a_container_with_a_limit_on_memory_whose_file_cache_counts_as_free(tmp_path, limit, usage, folder):
    (tmp_path / folder).mkdir(exist_ok=True)
    (tmp_path / folder / limit).write_text("50000000\n")
    (tmp_path / folder / usage).write_text("40000000\n")
    (tmp_path / folder / "memory.stat").write_text("anon 30000000\ninactive_file 7000000\n")
    assert hardware.memory(tmp_path) == (50_000_000, 17_000_000)


def test_a_container_without_a_limit_on_memory(tmp_path):
    (tmp_path / "memory.max").write_text("max\n")
    assert hardware.memory(tmp_path)[0] == hardware.memory(tmp_path / "nothing")[0]


def test_too_little_memory_is_a_problem_and_too_little_left_a_note(monkeypatch):
    gib = 1024**3
    for total, free, status in ((gib, gib // 2, "problem"), (4 * gib, gib, "note"), (8 * gib, 6 * gib, "ok")):
        monkeypatch.setattr(hardware, "memory", lambda total=total, free=free: (total, free))
        assert doctor._memory().status == status


@pytest.mark.parametrize(
    ("threads", "processors", "status"),
    [(2, 2, "ok"), (8, 2, "note"), (1, 1, "note"), (1, 4, "note"), (1, 0.5, "note")],
)
def test_threads_are_compared_with_the_processors_that_may_be_used(monkeypatch, threads, processors, status):
    class Torch:
        get_num_threads = staticmethod(lambda: threads)

    monkeypatch.setattr(hardware, "processors", lambda: processors)
    check = doctor._threads(Torch)
    assert check.status == status
    if threads > max(1, processors):
        assert "OMP_NUM_THREADS=2" in check.meaning


@pytest.mark.parametrize(
    ("taken", "used", "status", "said"),
    [
        (1.0, 1.0, "ok", "takes about 90 seconds here"),
        (1.2, 1.1, "ok", "takes about 110 seconds here"),
        (
            4.0,
            3.9,
            "note",
            "Slower, but all of it runs: what takes 90 seconds there takes about 6 minutes here",
        ),
        (8.0, 1.3, "note", "Other programs use this machine as well (1.3 times without them)"),
        (8.0, 1.3, "note", "Run it again when the machine is quiet."),
    ],
)
def test_real_work_says_what_cells_take_here_on_a_busy_machine_too(monkeypatch, taken, used, status, said):
    unit = doctor.STEP_SECONDS
    # Two steps of 20 in half of the time, two in one and a half.
    each = [unit * taken * factor for factor in (0.5, 0.5, *[1] * 16, 1.5, 1.5)]
    monkeypatch.setattr(doctor, "_work", lambda torch, seconds: (each, 20 * used * unit))
    check = doctor._speed(torch)
    assert check.status == status and said in check.meaning
    assert f"{taken:.1f} times as long" in check.value
    fast, slow = 500 * unit * taken, 1000 * unit * taken
    assert (
        f"20 steps in {20 * unit * taken:.1f} s, most of them in {fast:.0f} to {slow:.0f} ms" in check.value
    )


def test_the_work_is_training_in_one_thread_and_leaves_the_settings_alone():
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    each, used = doctor._work(torch, 0.2)
    assert sum(each) >= 0.2 and min(each) > 0
    assert used > 0 and torch.get_num_threads() == threads and torch.equal(torch.get_rng_state(), state)


def test_bf16_is_used_only_where_the_hardware_multiplies_it(monkeypatch):
    import torch

    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: False, raising=False)
    assert not hardware.has_bf16(torch.device("cpu"))
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True, raising=False)
    assert hardware.has_bf16(torch.device("cpu"))
    assert not hardware.has_bf16(torch.device("mps"))
    for capability, expected in (((7, 5), False), ((8, 0), True)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _, c=capability: c)
        assert hardware.has_bf16(torch.device("cuda")) is expected
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")  # as told to be
    assert not hardware.has_bf16(torch.device("cpu"))


def test_a_narrow_student_gains_by_bf16_only_where_the_processor_has_amx(monkeypatch):
    import torch

    cpu, narrow = torch.device("cpu"), hardware.NARROW - 1
    units = {"amx_tile": False, "avx512_bf16": True}
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    for name in units:
        monkeypatch.setattr(torch.cpu, f"_is_{name}_supported", lambda name=name: units[name], raising=False)
    assert not hardware.gains_by_bf16(cpu, narrow) and hardware.gains_by_bf16(cpu, hardware.NARROW)
    units["amx_tile"] = True
    assert hardware.gains_by_bf16(cpu, narrow)
    units.update(amx_tile=False, avx512_bf16=False)
    assert not hardware.gains_by_bf16(cpu, 1024)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 0))
    assert hardware.gains_by_bf16(torch.device("cuda"), narrow)


@pytest.fixture
def as_zen_5(monkeypatch):
    monkeypatch.setattr(hardware, "_is_zen_5", lambda: True)


def test_amd_s_processors_are_told_apart_by_their_family(tmp_path, monkeypatch):
    monkeypatch.setattr(hardware, "_cpu_has", lambda units: units == "avx512_bf16")
    for vendor, family, expected in (
        ("AuthenticAMD", 26, True),
        ("AuthenticAMD", 25, False),
        ("GenuineIntel", 26, False),
    ):
        file = tmp_path / f"{vendor}-{family}"
        file.write_text(f"processor\t: 0\nvendor_id\t: {vendor}\ncpu family\t: {family}\nmodel\t\t: 2\n")
        assert hardware._is_zen_5(file) is expected
    assert not hardware._is_zen_5(tmp_path / "nothing")
    monkeypatch.setattr(hardware, "_cpu_has", lambda units: True)  # AMX, too, which would round to bf16
    hardware._is_zen_5.cache_clear()
    assert not hardware._is_zen_5(tmp_path / "AuthenticAMD-26")
    hardware._is_zen_5.cache_clear()


def test_float32_by_onednn_is_put_back_even_after_an_error(as_zen_5):
    cpu, chosen = torch.device("cpu"), torch.get_float32_matmul_precision
    assert chosen() == "highest"
    with pytest.raises(ZeroDivisionError), hardware.fast_float32(cpu):
        assert chosen() == "medium"
        1 / 0  # noqa: B018
    assert chosen() == "highest"
    with hardware.fast_float32(torch.device("cuda")):
        assert chosen() == "highest"


def test_what_somebody_chose_for_float32_is_left_alone(as_zen_5):
    torch.set_float32_matmul_precision("high")
    try:
        with hardware.fast_float32(torch.device("cpu")):
            assert torch.get_float32_matmul_precision() == "high"
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_who_chose_backend_by_backend_is_left_alone(as_zen_5):
    onednn = torch.backends.mkldnn.matmul
    before, onednn.fp32_precision = onednn.fp32_precision, "bf16"
    try:
        with hardware.fast_float32(torch.device("cpu")):
            assert onednn.fp32_precision == "bf16"
        assert onednn.fp32_precision == "bf16"
    finally:
        onednn.fp32_precision = before


def test_full_batches_alone_are_evaluated_so(as_zen_5, monkeypatch):
    """Others have shapes of their own, and a program would be kept for each."""
    from importlib import import_module

    from helpers import make_task, model

    forward = import_module("kdtutor.models.forward")
    task, seen, plain = make_task(rows=40), [], forward.forward
    monkeypatch.setattr(
        forward,
        "forward",
        lambda *a, **k: (seen.append(torch.get_float32_matmul_precision()), plain(*a, **k))[1],
    )
    forward.logits_of(model(task), task.encode("train"), 32)
    assert sorted(seen) == ["highest", "medium"]


def test_fast_float32_is_float32():
    """Rounded to bf16, the same products are off by more than ten times as much."""
    torch.manual_seed(0)
    a, b = torch.randn(544, 384), torch.randn(384, 1536)
    with hardware.fast_float32(torch.device("cpu")):
        product = a @ b
    exact = a.double() @ b.double()
    assert (product - exact).abs().max() < 1e-3 < (a.bfloat16() @ b.bfloat16() - exact).abs().max() / 10
