# TissueBench. `make` lists the targets; each calls the `tissuebench` command or a tool.
PYTHON ?= python3
VENV   ?= .venv
METHOD ?= complementary
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
# One test process per core with one thread each: trainings that share cores slow each other down.
PYTEST  = OMP_NUM_THREADS=1 $(BIN)/python -P -m pytest -n logical --maxprocesses 4

# A mistyped variable would silently be ignored: those on the command line must be known here.
KNOWN := METHOD DATASET DATA_ROOT PLAN BUDGETS SEEDS SET EXECUTOR GPUS NAME JSON \
         PYTHON VENV PYTEST SHELL MAKE MAKEFLAGS $(if $(filter chaos,$(MAKECMDGOALS)),SEED)
GIVEN := $(foreach name,$(filter-out -*-command-variables-*-,$(.VARIABLES)),$(if $(filter command,$(origin $(name))),$(name)))
meant  = $(firstword $(filter $(1)S $(1:%S=%) $(1:%ES=%),$(filter-out $(1),$(KNOWN))))
$(foreach name,$(filter-out $(KNOWN),$(GIVEN)),$(error unknown variable $(name): $(if $(call meant,$(name)),did you mean $(call meant,$(name))?,known are $(wordlist 1,11,$(KNOWN)))))
$(if $(strip $(METHOD)),,$(error METHOD is empty: name a method, or leave METHOD out))

# Options of `tissuebench run`, from variables on the command line of make.
comma := ,
each = $(foreach value,$(subst $(comma), ,$(2)),$(1) '$(value)')
DATA_OPTIONS = $(if $(DATASET),--dataset '$(DATASET)') $(if $(DATA_ROOT),--data-root '$(DATA_ROOT)')
RUN_OPTIONS  = $(DATA_OPTIONS) $(if $(PLAN),--plan '$(PLAN)') $(call each,--budget,$(BUDGETS)) \
               $(call each,--seed,$(SEEDS)) $(foreach pair,$(SET),--set '$(pair)') \
               $(if $(EXECUTOR),--executor '$(EXECUTOR)') $(call each,--gpus,$(GPUS))

.DEFAULT_GOAL := help
.PHONY: help setup bench sweep status leaderboard report data method check test test-all lint typecheck test-gpu perf perf-losses perf-tiles perf-loader perf-scoring perf-counting perf-sweep perf-masks perf-denoising perf-contrast perf-leaderboard perf-gpu chaos docs notebook clean

help:  ## show this page
	@awk 'BEGIN {FS = ":.*## "; print "TissueBench: which weak-supervision strategy is worth a pathologist'"'"'s time?\n"} \
	  /^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo "  make bench METHOD=complementary [DATASET=synthetic DATA_ROOT=... PLAN=smoke BUDGETS=masks:3p,masks:6p SEEDS=0,1,2 SET='training.steps=500' EXECUTOR=local GPUS=0,1]"

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info < (3, 14) else "TissueBench needs Python 3.11 to 3.13: make PYTHON=python3.11 ...")'
	@test -d src/tissuebench/methods/ || { echo 'src/tissuebench is a text file here, not a link: get the code with "git clone" (on Windows: git clone -c core.symlinks=true), not as a zip'; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

setup: $(READY)  ## create .venv with all dependencies (other targets do it when needed)

bench: $(READY)  ## compare METHOD with its controls, print the leaderboard
	@$(BIN)/tissuebench run --method '$(METHOD)' $(RUN_OPTIONS)

sweep: $(READY)  ## run all methods and datasets of PLAN; run it again to resume
	@$(BIN)/tissuebench run $(RUN_OPTIONS)

status: $(READY)  ## show the progress of a sweep, from another terminal
	@$(BIN)/tissuebench status

leaderboard: $(READY)  ## print the leaderboard from stored results
	@$(BIN)/tissuebench results table $(if $(DATASET),--dataset '$(DATASET)')

report: $(READY)  ## write an HTML report that works offline: runs/report/index.html
	@$(BIN)/tissuebench results report $(if $(DATASET),--dataset '$(DATASET)')

data: $(READY)  ## convert DATASET (from DATA_ROOT) to a store, or list the datasets
	@$(BIN)/tissuebench data $(if $(DATASET),ingest '$(DATASET)' $(if $(DATA_ROOT),--data-root '$(DATA_ROOT)'),list)

method: $(READY)  ## start a method of your own: make method NAME=mine
	@$(BIN)/tissuebench method $(if $(NAME),new '$(NAME)',list)

check: $(READY)  ## run the contract tests on METHOD
	@$(BIN)/tissuebench method check '$(METHOD)'

test: lint typecheck  ## run linters, type checker and the quick tests
	$(PYTEST) -m 'not slow and not gpu'

test-all: lint typecheck  ## also run the slow tests; property tests draw at random, twenty times as many examples
	$(PYTEST) -m 'not gpu' --hypothesis-profile=thorough

test-gpu: $(READY)  ## run the tests that need an NVIDIA GPU; without one they are skipped
	$(BIN)/python -P -m pytest -m gpu tests/gpu

perf: $(READY)  ## measure the ratios that are to hold before a release, in one table (JSON=1)
	@$(BIN)/tissuebench perf all $(if $(JSON),--json)

perf-losses: $(READY)  ## compare the complementary losses with plain PyTorch (JSON=1)
	@$(BIN)/tissuebench perf losses $(if $(JSON),--json)

perf-tiles: $(READY)  ## compare reading tiles from a store with other formats (JSON=1)
	@$(BIN)/tissuebench perf tiles $(if $(JSON),--json)

perf-loader: $(READY)  ## measure the cost of the data module in training (JSON=1)
	@$(BIN)/tissuebench perf loader $(if $(JSON),--json)

perf-scoring: $(READY)  ## compare scoring from cached features with scoring from images (JSON=1)
	@$(BIN)/tissuebench perf scoring $(if $(JSON),--json)

perf-counting: $(READY)  ## compare how scoring counts with plain ways of doing it (JSON=1)
	@$(BIN)/tissuebench perf counting $(if $(JSON),--json)

perf-sweep: $(READY)  ## measure the overhead of a sweep (JSON=1)
	@$(BIN)/tissuebench perf sweep $(if $(JSON),--json)

perf-masks: $(READY)  ## measure the cost of pseudo-masks against bare network passes (JSON=1)
	@$(BIN)/tissuebench perf masks $(if $(JSON),--json)

perf-denoising: $(READY)  ## compare diffusion pre-training in bf16 and float32 (JSON=1)
	@$(BIN)/tissuebench perf denoising $(if $(JSON),--json)

perf-contrast: $(READY)  ## measure the cost of pixel contrast against the supervised step (JSON=1)
	@$(BIN)/tissuebench perf contrast $(if $(JSON),--json)

perf-leaderboard: $(READY)  ## measure how the leaderboard scales with the number of trials (JSON=1)
	@$(BIN)/tissuebench perf leaderboard $(if $(JSON),--json)

perf-gpu: $(READY)  ## measure the share of a bare loop's speed that training reaches on a GPU (JSON=1)
	@$(BIN)/tissuebench perf gpu $(if $(JSON),--json)

chaos: $(READY)  ## kill a sweep twenty times and compare it with an undisturbed one (SEED=0)
	@$(BIN)/python -P tests/chaos.py --seed $(or $(SEED),0)

lint: $(READY)  ## run ruff and check the import layers (import-linter)
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	PYTHONPATH=src:. $(BIN)/lint-imports --no-cache

typecheck: $(READY)  ## run mypy --strict
	$(BIN)/mypy -p tissuebench

docs: $(READY)  ## build the documentation site in build/site
	$(BIN)/mkdocs build --strict --quiet --site-dir build/site

notebook: $(READY)  ## run docs/notebook.ipynb again and store its outputs
	@PYTHONPATH=. $(BIN)/python -P -m tests.docs.notebook

clean:  ## remove build products and runs/ (keeps data/ and .venv)
	rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis runs
