"""The files that set the project up agree with each other, and the package imports little and says what it finds."""

from __future__ import annotations

import http.server
import importlib
import inspect
import json
import math
import os
import re
import shutil
import subprocess
import sys
import threading
import tomllib
from pathlib import Path

import jedi
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import kdtutor as kd
from kdtutor import doctor, hardware

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
# Where conda-forge's name is another one.
CONDA_NAMES = {"pytorch-cpu": "torch", "matplotlib-base": "matplotlib"}
NOT_IN_THE_CORE = {
    "datasets",
    "ipywidgets",
    "anywidget",
    "matplotlib",
    "IPython",
    "ipykernel",
    "jupyter_core",
}


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def declared(*extras: str) -> dict[str, Requirement]:
    """The core's requirements and those of the extras, by name, without kdtutor itself."""
    lines = [*PROJECT["dependencies"], *(line for extra in extras for line in EXTRAS[extra])]
    requirements = [Requirement(line) for line in lines]
    return {canonicalize_name(r.name): r for r in requirements if r.name != PROJECT["name"]}


def python(code: str) -> str:
    """What `code` prints in a fresh interpreter."""
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


# ------------------------------------------------------------------------------------------------ the files


def test_every_requirement_has_one_tested_version_and_it_is_in_range():
    lines = [line for line in read("constraints.txt").splitlines() if line and not line.startswith("#")]
    tested = {}
    for line in lines:
        name, version = line.split("==")
        assert canonicalize_name(name) not in tested, name
        tested[canonicalize_name(name)] = Version(version)
    for name, requirement in declared(*EXTRAS).items():
        assert name in tested, f"{name} is not in constraints.txt: make constraints"
        assert tested[name] in requirement.specifier, f"{name} {tested[name]} is not {requirement.specifier}"


def test_the_tested_torch_names_no_build_so_that_every_platform_has_it():
    assert re.search(r"^torch==[\d.]+$", read("constraints.txt"), re.MULTILINE)
    assert "+" not in "".join(
        line for line in read("constraints.txt").splitlines() if not line.startswith("#")
    )


def test_conda_gets_the_same_requirements_as_pip():
    names = [item for item in yaml.safe_load(read("environment.yml"))["dependencies"] if item != "pip"]
    requirements = [Requirement(name) for name in names if not name.startswith("python=")]
    conda = {CONDA_NAMES.get(r.name, r.name): r.specifier for r in requirements}
    assert conda == {name: requirement.specifier for name, requirement in declared("lab").items()}


def test_conda_gets_one_of_the_supported_pythons():
    [line] = [
        item for item in yaml.safe_load(read("environment.yml"))["dependencies"] if item.startswith("python=")
    ]
    from packaging.specifiers import SpecifierSet

    assert line.removeprefix("python=") + ".0" in SpecifierSet(PROJECT["requires-python"])


def test_binder_reads_the_same_environment():
    link = ROOT / "binder" / "environment.yml"
    assert link.is_symlink()
    assert os.readlink(link) == "../environment.yml"
    assert os.access(ROOT / "binder" / "postBuild", os.X_OK)
    assert not (ROOT / "binder" / "environment.yaml").exists()  # repo2docker would not read it


def test_the_public_address_is_the_same_wherever_it_is_used():
    url = PROJECT["urls"]["Repository"]
    assert re.fullmatch(r"https://github\.com/[\w.-]+/[\w.-]+", url)
    slug = url.removeprefix("https://github.com/")
    hosts = r"(?:github\.com/|/gh/|/github/|raw\.githubusercontent\.com/)"
    for path in [ROOT / "README.md", *sorted((ROOT / "notebooks").glob("*.ipynb"))]:
        for found in re.findall(hosts + r"([\w.-]+/kdtutor)\b", path.read_text(encoding="utf-8")):
            assert found == slug, f"{path.name} says {found}, pyproject.toml says {slug}"


def test_what_the_documents_say_to_make_can_be_made():
    targets = set(re.findall(r"^([a-z]+):", MAKEFILE, re.MULTILINE))
    told = read("README.md") + read("CONTRIBUTING.md")
    named = set(re.findall(r"(?:^|`) *make ([a-z]+)\b", told, re.MULTILINE))
    assert named <= targets, named - targets
    assert {"lab", "check", "test"} <= named
    assert set(re.findall(r"`make ([a-z]+)`", read("benchmarks/README.md"))) <= targets


@pytest.fixture
def make():
    """What a target would run: its commands, without those that set up the environment."""
    if shutil.which("make") is None:
        pytest.skip("there is no make here")

    def commands(target: str) -> list[str]:
        command = ["make", "-n", "-o", ".venv/.installed", target]
        said = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
        return [line.replace(".venv/bin/", "") for line in said.splitlines()]

    return commands


def test_make_test_runs_what_make_check_runs_then_every_test_and_nbval_over_all_notebooks(make):
    *lint, some = make("check")
    assert lint == ["ruff check .", "ruff format --check .", "lint-imports --no-logo", "mypy"]
    assert some.endswith('-m "not browser and not slow"')
    assert make("test") == [
        *lint,
        "python tools/chromium.py",
        "python -m pytest",
        "python -m pytest --nbval-lax --nbval-current-env --nbval-cell-timeout=600 notebooks",
    ]


def test_ci_runs_make_test():
    assert re.search(r"^make test\b", read(".ci/run"), re.MULTILINE)
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


def test_make_help_has_a_line_for_every_target_and_none_of_them_is_a_file():
    targets = re.search(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE).group(1).split()
    said = subprocess.run(["make", "help"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert [line.split()[:2] for line in said.splitlines()] == [["make", target] for target in targets]


def test_everything_in_the_package_is_packaged():
    script = """
from setuptools import Distribution
here = Distribution({"script_name": "-"})
here.parse_config_files()
command = here.get_command_obj("build_py")
command.build_lib = ""
command.ensure_finalized()
print(*command.get_outputs(include_bytecode=False), sep="\\n")
"""
    command = [sys.executable, "-W", "ignore", "-c", script]
    packaged = subprocess.run(
        command, cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.splitlines()
    files = (path.relative_to(ROOT) for path in (ROOT / "kdtutor").rglob("*") if path.is_file())
    assert {Path(name) for name in packaged} == {path for path in files if "__pycache__" not in path.parts}
    assert {"kdtutor/py.typed", "kdtutor/__init__.pyi"} <= set(packaged)


# ------------------------------------------------------------------------------------------------ the imports


def test_importing_kdtutor_is_instant():
    # Processor time, the best of several: what else runs on this machine does not count.
    code = "import time; start = time.process_time(); import kdtutor; print(time.process_time() - start)"
    assert min(float(python(code)) for _ in range(5)) < 0.2


def test_importing_kdtutor_imports_nothing_heavy():
    loaded = python(
        "import sys; before = set(sys.modules); import kdtutor; print(*(set(sys.modules) - before))"
    ).split()
    assert not {"torch", "transformers", "numpy", "pyarrow"} & set(loaded)


def test_the_training_core_imports_nothing_of_jupyter_nor_datasets_nor_matplotlib():
    core = ("data", "models", "objectives", "training.distillation", "evaluation", "cli")
    imports = "; ".join(f"import kdtutor.{module}" for module in core)
    loaded = json.loads(python(f"import json, sys; {imports}; print(json.dumps(list(sys.modules)))"))
    assert "kdtutor.training.distillation" in loaded
    assert not NOT_IN_THE_CORE & {name.partition(".")[0] for name in loaded}


def test_the_training_core_runs_without_them(tmp_path):
    """The README's lines, on a few examples, in an interpreter that does not find any of them."""
    script = f"""
import sys
from importlib.machinery import PathFinder

class Without(PathFinder):
    @classmethod
    def find_spec(cls, name, *where):
        return None if name.partition(".")[0] in {NOT_IN_THE_CORE} else super().find_spec(name, *where)

sys.meta_path[:] = [Without if finder is PathFinder else finder for finder in sys.meta_path]
import kdtutor as kd
task = kd.load_task("sentiment").subset(16)
student = kd.small_bert(task, layers=1, width=32)
run = kd.Distillation(student, None, task, kd.HardLabels(), epochs=1, batch_size=8, folder={str(tmp_path)!r})
print(len([step for step in run]))
student.save_pretrained({str(tmp_path / "student")!r})
"""
    assert python(script).split()[-1] == "2"


def test_every_name_that_kdtutor_offers_is_there():
    for name in dir(kd):
        assert getattr(kd, name) is not None


def test_modules_are_reached_through_the_package():
    assert kd.objectives.soft_targets is importlib.import_module("kdtutor.objectives").soft_targets


@pytest.mark.parametrize("name", ["load_task", "Distillation", "objectives"])
def test_an_editor_finds_where_a_name_is_defined(name):
    offered = getattr(kd, name)
    [found] = jedi.Script(f"import kdtutor as kd\nkd.{name}", project=jedi.Project(ROOT)).goto(
        2, 4, follow_imports=True
    )
    assert str(found.module_path) == inspect.getsourcefile(offered)


@pytest.mark.parametrize(
    ("misspelt", "nearest"), [("load_tusk", "load_task"), ("objctives", "objectives"), ("study", "studies")]
)
def test_an_unknown_name_is_an_attribute_error_that_lists_the_nearest_first(misspelt, nearest):
    with pytest.raises(AttributeError, match=f'unknown name in kdtutor "{misspelt}"; there are: {nearest}, '):
        getattr(kd, misspelt)
    assert not hasattr(kd, misspelt)


@pytest.mark.parametrize(
    ("statement", "nearest"),
    [
        ("import kdtutor.distillation", "kdtutor.training.distillation"),
        ("from kdtutor import distillation", "kdtutor.training.distillation"),
        ("from kdtutor.study_distilbert import Results", "kdtutor.studies.distilbert"),
        ("import kdtutor.data.tokns", "kdtutor.data.tokens"),
        ("from kdtutor import load_tusk", "kdtutor.load_task"),
    ],
)
def test_an_unknown_module_is_an_import_error_that_lists_the_nearest_first(statement, nearest):
    with pytest.raises(ModuleNotFoundError, match=rf'unknown module "kdtutor\.[\w.]+"; nearest: {nearest}, '):
        exec(statement)


def lint_imports(folder: Path) -> subprocess.CompletedProcess:
    program = "from importlinter.cli import lint_imports_command as lint; lint(['--no-logo', '--no-cache'])"
    command = [sys.executable, "-c", program]
    environment = os.environ | {"PYTHONPATH": str(folder)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("file", "imports", "broken"),
    [
        (None, None, None),
        ("models/sizes.py", "import kdtutor.training.plan", "a folder imports only what stands before it"),
        (
            "data/masking.py",
            "def f():\n    import kdtutor.models",
            "a folder imports only what stands before it",
        ),
        ("doctor.py", "from kdtutor.studies import stored", "a folder imports only what stands before it"),
        ("data/tokens.py", "from kdtutor.data.load import load_task", "no circles within a folder"),
        ("new/__init__.py", "", "a folder imports only what stands before it"),
    ],
)
def test_the_contract_of_imports_is_kept_and_would_notice(tmp_path, file, imports, broken):
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for source in (ROOT / "kdtutor").rglob("*.py"):
        copy = tmp_path / source.relative_to(ROOT)
        copy.parent.mkdir(exist_ok=True)
        shutil.copy(source, copy)
    if file is not None:
        changed = tmp_path / "kdtutor" / file
        changed.parent.mkdir(exist_ok=True)
        with open(changed, "a", encoding="utf-8") as end:
            end.write(f"\n{imports}\n")
    result = lint_imports(tmp_path)
    assert result.returncode == (broken is not None), result.stdout
    assert broken is None or f"{broken} BROKEN" in result.stdout


# ------------------------------------------------------------------------------------------------ the doctor


@pytest.fixture
def offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture
def online(monkeypatch):
    """Lets the doctor ask; set HF_ENDPOINT to a local address."""
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    return monkeypatch


def found(name: str, checks=None) -> doctor.Check:
    [check] = [check for check in (doctor.doctor() if checks is None else checks) if check.name == name]
    return check


def test_the_doctor_finds_what_the_course_depends_on_and_says_what_it_means(offline):
    checks = doctor.doctor()
    names = [check.name for check in checks]
    for name in ("Python", "kdtutor", "device", "bf16", "threads", "memory", "disk", "assets", "Hub"):
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


def test_bf16_is_used_only_where_the_hardware_multiplies_it(monkeypatch):
    import torch

    for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: False, raising=False)
    assert not hardware.has_bf16(torch.device("cpu"))
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True, raising=False)
    assert hardware.has_bf16(torch.device("cpu"))
    assert not hardware.has_bf16(torch.device("mps"))
    for capability, expected in (((7, 5), False), ((8, 0), True)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _, c=capability: c)
        assert hardware.has_bf16(torch.device("cuda")) is expected
