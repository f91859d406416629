# What can be done here: `make help`. Each recipe is a plain command; README.md has the same for machines without make.

# Any Python from 3.11 to 3.13; name another with `make lab PYTHON=/path/to/python`.
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null && echo $$python && break; done)

BIN := .venv/bin
READY := .venv/.installed

# PyTorch's own index of CPU wheels keeps gigabytes of CUDA libraries away from a Linux machine without an NVIDIA GPU:
# pip prefers its "2.13.0+cpu" to the "2.13.0" of PyPI. Asked for within 5 seconds, since pip would wait for minutes;
# where it cannot be reached, pip takes the wheel that it finds elsewhere.
TORCH_INDEX := https://download.pytorch.org/whl/cpu
torch_index = $$(test "$$(uname)" = Linux && ! command -v nvidia-smi >/dev/null \
	&& timeout 5 $(1) -c "import urllib.request; urllib.request.urlopen('$(TORCH_INDEX)/torch/', timeout=4)" 2>/dev/null \
	&& echo "--extra-index-url $(TORCH_INDEX)")

# $(call install,PYTHON OF THE ENVIRONMENT,CONSTRAINTS): torch first and alone, so that only torch may come from that index
define install
	$(1) -m pip install $(2) --no-deps $(call torch_index,$(1)) torch
	$(1) -m pip install $(2) -e '.[test]'
endef

# As root (in a container) Jupyter wants to be told; without a screen it prints the address instead of opening a browser.
LAB_FLAGS = $(if $(filter 0,$(shell id -u)),--allow-root) \
	$(if $(DISPLAY)$(WAYLAND_DISPLAY)$(filter Darwin,$(shell uname)),,--no-browser)

NEWS := @jupyterlab/apputils-extension:announcements

# What needs no test to be run: style, the order of imports, and the types of the core (pyproject.toml).
define lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo
	$(BIN)/mypy
endef

.PHONY: help lab notebooks course slides check test colab bench assets fuzz constraints clean

help: ## this list
	@sed -nE 's/^([a-z]+):[^#]*## (.*)/make \1\t\2/p' Makefile | expand -t 20

# Notebooks train on the processor, also beside a GPU: their cells mix what they make with what was trained.
lab notebooks course test: export ACCELERATE_USE_CPU = true

# Without its question whether it may fetch news: it would lie over the first page, and the course asks no network.
lab: $(READY) ## set up what is missing, then open JupyterLab at notebook 00
	@$(BIN)/jupyter labextension disable --level=sys_prefix $(NEWS) 2>/dev/null
	$(BIN)/jupyter lab $(LAB_FLAGS) --LabApp.default_url=/lab/tree/$(wildcard notebooks/00_*.ipynb)

notebooks: $(READY) ## execute every notebook in place, top to bottom, and store its outputs
	$(BIN)/python tools/execute_notebooks.py

course: $(READY) ## execute every notebook without a screen and make build/site: pages whose widgets live without Python
	$(BIN)/python tools/build_site.py build/site

slides: $(READY) ## make build/slides: each notebook as slides, with its stored outputs, that need no network to be shown
	$(BIN)/python tools/build_slides.py build/slides

# Two processes side by side; the tests of a file stay together, since they share what they make.
SIDE_BY_SIDE := -n 2 --dist loadscope

check: $(READY) ## before a commit, in minutes: style, types, imports and the unit tests without browser and notebooks
	$(lint)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(SIDE_BY_SIDE) -m "not browser and not slow"

test: $(READY) ## everything: that, a real browser, and every notebook against its stored outputs
	$(lint)
	$(BIN)/python tools/chromium.py
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(SIDE_BY_SIDE) -m "not browser and not slow"
	$(BIN)/python -m pytest -m "browser or slow"
	$(BIN)/python -m pytest --nbval-lax --nbval-current-env --nbval-cell-timeout=600 notebooks

# Colab's versions of what draws and speaks to the browser, and everything else (torch above all) from .venv.
COLAB := build/colab
colab: $(READY) ## the Python side of the widgets with the versions that Colab has: ipywidgets 7.7.1, anywidget 0.9.21
	test -d $(COLAB) || $(BIN)/python -m venv $(COLAB)
	$(COLAB)/bin/python -m pip install -q --no-deps ipywidgets==7.7.1 ipython_genutils==0.2.0 anywidget==0.9.21 matplotlib==3.10.0
	$(BIN)/python -c "import sysconfig as s; print('import site; site.addsitedir(\'' + s.get_path('purelib') + '\')')" \
		> $$($(COLAB)/bin/python -c "import sysconfig as s; print(s.get_path('purelib'))")/shared.pth
	$(COLAB)/bin/python -m pytest -p no:cacheprovider tests/widgets/test_widgets.py tests/widgets/test_live.py tests/widgets/test_attention_viewer.py tests/widgets/test_be_the_teacher.py tests/widgets/test_layer_map.py tests/widgets/test_noise_dial.py tests/plots/test_plots.py

bench: $(READY) ## what training, live distillation and a slider take, beside the usual ways (an hour; nothing else running)
	$(BIN)/python benchmarks/training.py
	$(BIN)/python benchmarks/objectives.py
	$(BIN)/python benchmarks/live.py
	$(BIN)/python tools/chromium.py
	$(BIN)/python benchmarks/slider.py
	$(BIN)/python benchmarks/exercises.py

assets: $(READY) ## make the embedded data, tokenizer and models again (hours on a CPU, minutes on a GPU)
	$(BIN)/python tools/build_assets.py all
	$(BIN)/python tools/build_assets.py body
	$(BIN)/kdtutor finetune kdtutor/assets/recipes/bert-supersense.yaml
	$(BIN)/kdtutor finetune kdtutor/assets/recipes/bert-sentiment.yaml
	$(BIN)/kdtutor pretrain kdtutor/assets/recipes/bert-glosses.yaml
	$(BIN)/kdtutor pretrain kdtutor/assets/recipes/bart-pronunciation.yaml
	$(BIN)/python tools/build_assets.py install runs/bert-supersense runs/bert-sentiment runs/bert-glosses runs/bart-pronunciation
	$(BIN)/kdtutor distill kdtutor/assets/recipes/distilbert-glosses.yaml
	$(BIN)/python tools/build_assets.py install runs/distilbert-glosses
	$(BIN)/python tools/build_assets.py answers bert-supersense bert-sentiment

fuzz: $(READY) ## 1,000 generated cases (files, folders, flags, formulas, settings, label maps), and how each ends; minutes
	OMP_NUM_THREADS=1 $(BIN)/python tools/fuzz.py

constraints: ## take the newest versions of everything into constraints.txt; then `make test`
	rm -rf build/newest
	$(PYTHON) -m venv build/newest
	$(call install,build/newest/bin/python)
	{ sed -n '/^#/p' constraints.txt; build/newest/bin/python -m pip freeze --exclude-editable | sed 's/+cpu//'; } > build/newest.txt
	mv build/newest.txt constraints.txt

clean: ## remove what was built and the tools' caches; .venv stays
	rm -rf build .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache *.egg-info

# One environment for everything, made again when the versions change.
$(READY): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "No Python from 3.11 to 3.13 found; name one: make PYTHON=/path/to/python" >&2; exit 1; }
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv .venv
	$(call install,$(BIN)/python,-c constraints.txt)
	@touch $@
