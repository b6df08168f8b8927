# `make` lists the targets. Python 3.11.4+, git and make are all that has to be there.
PYTHON ?= python3
JOBS ?= 2
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
# Which PyTorch to install: empty for the usual one, `cpu` for the one without CUDA, which is 4.5 GB smaller.
TORCH ?=

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 14

lab: $(VENV)/.lab  ## set up, then open your copy of the course in JupyterLab (ARGS=--source: the chapters; TORCH=cpu: 4.5 GB less)
	$(BIN)/cnnlab lab $(ARGS)

test: $(VENV)/.dev  ## set up, then run every test and every chapter
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) $(ARGS)

test-lowest: .venv-lowest/.dev  ## run the quick tests with the oldest versions that pyproject.toml allows
	$(QUICK)

test-colab: .venv-colab/.dev  ## run the quick tests with the versions that Google Colab has
	$(QUICK)

run: $(VENV)/.lab  ## execute every chapter and print a table of seconds
	$(BIN)/cnnlab run $(ARGS)

book: $(VENV)/.dev  ## build the Jupyter Book into _build/html
	$(BIN)/cnnlab book $(ARGS)

replicate: $(VENV)/.dev  ## repeat every study with new seeds; it takes hours and may be interrupted
	OMP_NUM_THREADS=1 $(BIN)/cnnlab replicate $(ARGS)

bench: .venv-bench/.bench  ## install the peers beside, compare with them, write benchmarks/results
	.venv-bench/bin/python -m benchmarks $(ARGS)

gpu: .venv-bench/.gpu  ## test and measure on a CUDA GPU; about eight minutes: make gpu CIFAR10=folder
	.venv-bench/bin/python -m benchmarks.gpu $(CIFAR10:%=--cifar10 %) $(ARGS)

check: $(VENV)/.dev  ## format, lint, types, pairing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_repository.py

# Synchronised before the formatter touches a script, so that newer edits in a notebook are not lost.
fix: $(VENV)/.dev  ## format, bring each chapter's script and notebook together, write chapters/train.py, myst.yml and the counts in the README
	$(BIN)/jupytext --quiet --sync chapters/[0-9A-Z]*.py
	$(BIN)/ruff check --fix --exit-zero --quiet .
	$(BIN)/ruff format --quiet .
	$(BIN)/jupytext --quiet --sync chapters/[0-9A-Z]*.py
	$(BIN)/nbstripout --keep-id --extra-keys "metadata.language_info metadata.widgets" chapters/*.ipynb
	$(BIN)/python -m cnnlab.course.script
	$(BIN)/python -m cnnlab.course.toc
	$(BIN)/python -m cnnlab.course.readme

clean:  ## delete the virtual environment and everything built
	rm -rf $(VENV) .venv-* _build build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +

# A stamp says that an extra is installed; a change in pyproject.toml installs it anew. dev contains lab.
$(VENV)/.lab: pyproject.toml
	@$(call install,lab)
	@touch $@

$(VENV)/.dev: pyproject.toml
	@$(call install,dev)
	@touch $(VENV)/.lab $@

# The peers bring some seventy packages, so they stay out of the environment that people work in.
.venv-bench/.bench: pyproject.toml
	@$(call install,bench)
	@touch $@

# On a GPU the tests run in the same environment as the peers.
.venv-bench/.gpu: pyproject.toml
	@$(call install,gpu)
	@touch .venv-bench/.bench $@

# Environments of their own for the two edges of what pyproject.toml promises. pip can't look for the lowest versions.
QUICK = OMP_NUM_THREADS=1 $(<D)/bin/python -m pytest -m "not slow and not browser" tests cnnlab $(ARGS)
.venv-lowest/.dev: EDGE = --resolution lowest-direct --editable '.[dev]'
.venv-colab/.dev: EDGE = --constraints tests/constraints-colab.txt --editable '.[course,test]'
.venv-lowest/.dev .venv-colab/.dev: pyproject.toml tests/constraints-colab.txt
	$(PYTHON) -m venv --clear $(@D)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check uv
	$(UV) $(EDGE)
	@touch $@

# uv is several times faster than pip. Where it fails (an old mirror, an unknown certificate), pip does the same.
# Byte code is compiled now, since every later start of Python would be slow without it.
UV = $(@D)/bin/python -m uv pip install --quiet --compile-bytecode --python $(@D)/bin/python
define install
$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11, 4))' \
	|| { echo "cnnlab needs Python 3.11.4 or newer, and $(PYTHON) is" \
	"$$($(PYTHON) --version 2>/dev/null || echo missing). Name another one: make PYTHON=python3.12" >&2; exit 1; }; \
$(@D)/bin/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(@D) || exit 1; \
echo "Installing cnnlab[$(1)] into $(@D); the first time this takes some minutes."; \
{ $(@D)/bin/python -m pip install --quiet --disable-pip-version-check uv \
	&& { $(UV) $(TORCH:%=--torch-backend=%) --editable '.[$(1)]' \
	|| { [ -n "$(TORCH)" ] \
	&& echo "PyTorch's build for TORCH=$(TORCH) can't be had, for the reason above; the usual one is installed instead." \
	&& $(UV) --editable '.[$(1)]'; }; }; } \
|| { echo "uv could not install it; pip tries now."; \
	$(@D)/bin/python -m pip install --disable-pip-version-check --editable '.[$(1)]'; } \
|| { echo "Nothing was installed, for the reason above. If it is the network: this first call needs one;" \
	"the course itself does not. Behind a proxy, set HTTPS_PROXY; then call make again." >&2; exit 1; }
endef

.PHONY: help lab test test-lowest test-colab run book bench gpu check fix clean
