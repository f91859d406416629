"""The files that set the project up agree with each other, and the package imports little and says what it finds."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import jedi
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import kdtutor as kd

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
    assert conda == {
        name: requirement.specifier for name, requirement in declared("lab", "search", "deploy").items()
    }


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
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "notebooks").glob("*.ipynb")]
    for path in pages:
        for found in re.findall(hosts + r"([\w.-]+/kdtutor)\b", path.read_text(encoding="utf-8")):
            assert found == slug, f"{path.name} says {found}, pyproject.toml says {slug}"


def test_what_the_documents_say_to_make_can_be_made():
    targets = set(re.findall(r"^([a-z]+):", MAKEFILE, re.MULTILINE))
    pages = ["README.md", "CONTRIBUTING.md", *(f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md"))]
    told = "".join(map(read, pages))
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
        command = ["make", "--no-print-directory", "-n", "-o", ".venv/.installed", target]
        said = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
        return [line.replace(".venv/bin/", "") for line in said.splitlines()]

    return commands


@pytest.mark.slow
def test_no_question_about_news_lies_over_the_first_page(make, tmp_path):
    disable, start = make("lab")
    words = disable.replace("2>/dev/null", "").split()
    assert words[:4] == ["jupyter", "labextension", "disable", "--level=sys_prefix"]
    assert start.startswith("jupyter lab ") and words[4] in read("binder/postBuild")
    jupyter = [sys.executable, "-m", "jupyter", "labextension", "disable", "--level=user", words[4]]
    where = os.environ | {
        "JUPYTER_CONFIG_DIR": str(tmp_path),
        "JUPYTERLAB_SETTINGS_DIR": str(tmp_path / "settings"),
    }
    subprocess.run(jupyter, env=where, check=True, capture_output=True)
    said = json.loads((tmp_path / "labconfig" / "page_config.json").read_text())
    assert said == {"disabledExtensions": {words[4]: True}}


def test_make_test_runs_what_make_check_runs_then_every_test_and_nbval_over_all_notebooks(make):
    *lint, some = make("check")
    assert lint == ["ruff check .", "ruff format --check .", "lint-imports --no-logo", "mypy"]
    assert some.endswith('-m "not browser and not slow"')
    assert make("test") == [
        *lint,
        "python tools/chromium.py",
        some,
        'python -m pytest -m "browser or slow"',
        "python -m pytest --nbval-lax --nbval-current-env --nbval-cell-timeout=600 notebooks",
    ]


def test_ci_runs_make_test():
    assert re.search(r"^make test\b", read(".ci/run"), re.MULTILINE)
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


def test_make_assets_makes_every_model_that_ships_and_installs_it():
    assets = re.search(r"^assets:.*\n((?:\t.*\n)+)", MAKEFILE, re.MULTILINE).group(1)
    for model in sorted((ROOT / "kdtutor/assets/models").iterdir()):
        assert f"kdtutor/assets/recipes/{model.name}.yaml\n" in assets
        assert re.search(rf"install .*runs/{model.name}\b", assets)


def test_make_help_has_a_line_for_every_target_and_none_of_them_is_a_file():
    targets = re.search(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE).group(1).split()
    command = ["make", "--no-print-directory", "help"]
    said = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
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


def test_neither_a_shipped_task_nor_its_teacher_needs_pandas():
    """It takes 40 MB of every notebook, and pyarrow's shorter functions import it."""
    load = "import sys, kdtutor as kd; kd.load_teacher(kd.load_task('supersense')); print('pandas' in sys.modules)"
    assert python(load).split()[-1] == "False"


def test_no_garbage_is_looked_for_while_torch_and_transformers_come_in():
    """And both are set aside, once; whoever has switched the search off finds it so."""
    searched = """
import gc, sys
found = []
gc.callbacks.append(lambda phase, info: found.append(info["generation"]))
import kdtutor as kd
kd.load_task, kd.load_teacher, kd.Distillation
assert 2 not in found, found
assert gc.isenabled()
before = gc.get_freeze_count()
assert before > 200_000
gc.disable()
kd.widgets.LayerMap, kd.studies
print(gc.get_freeze_count() <= before, gc.isenabled())
"""
    assert python(searched).split()[-2:] == ["True", "False"]


@pytest.mark.parametrize(
    ("first", "kept"),
    [("", "None"), ("import ipykernel", "64"), ("import ipykernel; os.environ[NAME] = '9'", "9")],
)
def test_a_notebook_keeps_few_programs_of_onednn_and_a_script_all_of_them(first, kept):
    """With 1,024 of them a notebook would need more than 1.5 GB; with 64 a step in bf16 takes an eighth longer."""
    lines = f"import os; NAME = 'ONEDNN_PRIMITIVE_CACHE_CAPACITY'; os.environ.pop(NAME, None); {first}\n"
    lines += "import kdtutor.hardware; print(os.environ.get(NAME))"
    assert python(lines).split()[-1] == kept


def test_a_search_that_was_switched_off_stays_off():
    off = "import gc; gc.disable(); import kdtutor as kd; kd.load_teacher; print(gc.isenabled(), gc.get_freeze_count())"
    assert python(off).split()[-2:] == ["False", "0"]


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


def test_no_module_imports_a_name_with_an_underscore_from_another():
    for path in (ROOT / "kdtutor").rglob("*.py"):
        nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        imports = [
            node for node in nodes if isinstance(node, ast.ImportFrom) and "kdtutor" in str(node.module)
        ]
        names = [name.name for node in imports for name in node.names]
        assert not [name for name in names if re.match("_[^_]", name)], path


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


# What is added to a file, and what the contract must say of it.
AGAINST_THE_CONTRACT = {
    "models/sizes.py": ("import kdtutor.training.plan", "kdtutor.models.sizes -> kdtutor.training.plan"),
    "data/masking.py": ("def f():\n    import kdtutor.models", "kdtutor.data.masking -> kdtutor.models"),
    "doctor.py": ("from kdtutor.studies import stored", "kdtutor.doctor -> kdtutor.studies.stored"),
    "data/tokens.py": ("from kdtutor.data.load import load_task", "No cycles are allowed in kdtutor.data."),
    "new/__init__.py": ("", "- kdtutor.new"),
}


def test_the_contract_of_imports_is_kept_and_would_notice(tmp_path):
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for source in (ROOT / "kdtutor").rglob("*.py"):
        copy = tmp_path / source.relative_to(ROOT)
        copy.parent.mkdir(exist_ok=True)
        shutil.copy(source, copy)
    program = "from importlinter.cli import lint_imports_command as lint; lint(['--no-logo', '--no-cache'])"

    def lint() -> subprocess.CompletedProcess:
        command, environment = [sys.executable, "-c", program], os.environ | {"PYTHONPATH": str(tmp_path)}
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)

    kept = lint()
    assert kept.returncode == 0, kept.stdout
    for file, (imports, _) in AGAINST_THE_CONTRACT.items():
        changed = tmp_path / "kdtutor" / file
        changed.parent.mkdir(exist_ok=True)
        with open(changed, "a", encoding="utf-8") as end:
            end.write(f"\n{imports}\n")
    broken = lint()
    assert broken.returncode == 1
    for contract in ("a folder imports only what stands before it", "no circles within a folder"):
        assert f"{contract} BROKEN" in broken.stdout
    for _, said in AGAINST_THE_CONTRACT.values():
        assert said in broken.stdout, broken.stdout
