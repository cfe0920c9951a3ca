# TissueBench. `make` shows what can be done. Every target calls the `tissuebench` command or a tool.
PYTHON ?= python3
VENV   ?= .venv
METHOD ?= complementary
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
# One test process a core, one thread each: trainings that share threads get in each other's way.
PYTEST  = OMP_NUM_THREADS=1 $(BIN)/python -P -m pytest -n logical --maxprocesses 4

# Options of `tissuebench run` that were given on the command line of make.
comma := ,
each = $(foreach value,$(subst $(comma), ,$(2)),$(1) '$(value)')
DATA_OPTIONS = $(if $(DATASET),--dataset '$(DATASET)') $(if $(DATA_ROOT),--data-root '$(DATA_ROOT)')
RUN_OPTIONS  = $(DATA_OPTIONS) $(if $(PLAN),--plan '$(PLAN)') $(call each,--budget,$(BUDGETS)) \
               $(call each,--seed,$(SEEDS)) $(foreach pair,$(SET),--set '$(pair)') \
               $(if $(EXECUTOR),--executor '$(EXECUTOR)') $(call each,--gpus,$(GPUS))

.DEFAULT_GOAL := help
.PHONY: help setup bench sweep status leaderboard report data method check test test-all lint typecheck perf-tiles perf-loader perf-sweep perf-masks perf-denoising perf-contrast perf-leaderboard chaos docs clean

help:  ## this page
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

setup: $(READY)  ## make .venv with everything in it (bench and test do it by themselves)

bench: $(READY)  ## compare METHOD with its controls, print the table
	@$(BIN)/tissuebench run --method '$(METHOD)' $(RUN_OPTIONS)

sweep: $(READY)  ## all methods and data sets of PLAN; typed again it goes on
	@$(BIN)/tissuebench run $(RUN_OPTIONS)

status: $(READY)  ## how far the sweep is, from another terminal
	@$(BIN)/tissuebench status

leaderboard: $(READY)  ## the table again, from what is stored
	@$(BIN)/tissuebench results table $(if $(DATASET),--dataset '$(DATASET)')

report: $(READY)  ## everything that is stored as one HTML folder that works offline: runs/report/index.html
	@$(BIN)/tissuebench results report $(if $(DATASET),--dataset '$(DATASET)')

data: $(READY)  ## make the store of DATASET (from DATA_ROOT), or list the datasets; `tissuebench data` has more
	@$(BIN)/tissuebench data $(if $(DATASET),ingest '$(DATASET)' $(if $(DATA_ROOT),--data-root '$(DATA_ROOT)'),list)

method: $(READY)  ## begin a method of your own: make method NAME=mine
	@$(BIN)/tissuebench method $(if $(NAME),new '$(NAME)',list)

check: $(READY)  ## hold METHOD to the contract that every method passes
	@$(BIN)/tissuebench method check '$(METHOD)'

test: lint typecheck  ## everything that is quick: minutes
	$(PYTEST) -m 'not slow'

test-all: lint typecheck  ## everything: slow tests too, property tests at random with ten times the examples
	$(PYTEST) --hypothesis-profile=thorough

perf-tiles: $(READY)  ## how fast tiles are read, against other ways (JSON=1)
	@$(BIN)/tissuebench perf tiles $(if $(JSON),--json)

perf-loader: $(READY)  ## what the data module costs a training (JSON=1)
	@$(BIN)/tissuebench perf loader $(if $(JSON),--json)

perf-sweep: $(READY)  ## what a sweep costs beside its nodes (JSON=1)
	@$(BIN)/tissuebench perf sweep $(if $(JSON),--json)

perf-masks: $(READY)  ## what pseudo-masks cost beside the network itself (JSON=1)
	@$(BIN)/tissuebench perf masks $(if $(JSON),--json)

perf-denoising: $(READY)  ## what a step of diffusion pre-training costs, in bf16 and float32 (JSON=1)
	@$(BIN)/tissuebench perf denoising $(if $(JSON),--json)

perf-contrast: $(READY)  ## what the contrast between pixels costs beside the supervised step (JSON=1)
	@$(BIN)/tissuebench perf contrast $(if $(JSON),--json)

perf-leaderboard: $(READY)  ## how the table grows with the number of trials (JSON=1)
	@$(BIN)/tissuebench perf leaderboard $(if $(JSON),--json)

chaos: $(READY)  ## kill a sweep twenty times and compare with one that was left alone (SEED=0)
	@$(BIN)/python -P tests/chaos.py --seed $(or $(SEED),0)

lint: $(READY)  ## ruff, and the layers (import-linter)
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	PYTHONPATH=src:. $(BIN)/lint-imports --no-cache

typecheck: $(READY)  ## mypy --strict
	$(BIN)/mypy -p tissuebench

docs: $(READY)  ## the documentation site, in build/site
	$(BIN)/mkdocs build --strict --quiet --site-dir build/site

clean:  ## remove what was built and run (keeps data/ and .venv)
	rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis runs
