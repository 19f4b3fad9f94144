# Everything a newcomer types. Only Python (3.11 to 3.13), pip, make and git are needed; all else goes into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SHELL := /bin/bash

.PHONY: help install quickstart test slow gpu lint bench study search-curves ui lock clean

help:
	@echo "make quickstart   install, run a small real sweep on real pictures, print the leaderboard"
	@echo "make test         install, then lint, types and tests (make slow: the long ones; make gpu: those that need a GPU)"
	@echo "make bench        benchmarks, each a ratio against a named peer; the rows go to benchmarks/results.json (docs/performance.md)"
	@echo "make study        do the papers' claims hold? (DATA=manifest.csv, default signs; ARMS='none msdf'; hours; resumes)"
	@echo "make ui           MLflow's UI on loopback, on the runs of this folder"

# Packages for users; the stamp changes with the requirements, so that a second call costs nothing.
$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || { \
	  echo "dmkd needs Python 3.11 to 3.13; $(PYTHON) is $$($(PYTHON) --version). Say: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	@echo "Installing dmkd and its packages into $(VENV): about 8 GB (the ordinary CUDA builds, which also run on a CPU), 4 to 10 minutes, once."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --progress-bar off -c constraints.txt -e '.[quickstart,dev,export]'
	@touch $@

install: $(VENV)/.installed

quickstart: install
	@PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python sweeps/quickstart.py --resume

lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# Two processes, a file's tests in one of them, and all that use Ray in one too, from the start (tests/conftest.py: pytest-xdist 3.8's
# loadgroup has no effect under pytest 9.2, which no longer reads the field by which it renames tests).
test: lint
	$(BIN)/python -m pytest -n 2 --no-loadscope-reorder

slow: install
	$(BIN)/python -m pytest -m slow

gpu: install
	$(BIN)/python -m pytest -m gpu

bench: install
	@for file in benchmarks/bench_*.py; do echo "== $$file"; DMKD_BENCH_RESULTS=benchmarks/results.json $(BIN)/python $$file || exit 1; done

# Learning curves anew (an hour of one core; resumes), the searchers replayed on them, docs/search.md made again.
search-curves: install
	$(BIN)/python -m benchmarks.search.record && $(BIN)/python -m benchmarks.search.record --tones && $(BIN)/python -m benchmarks.search.replay && $(BIN)/python -m benchmarks.search.report

# Resumes where it stopped; its page stands beside its records. docs/results.md was made from the records in benchmarks/study.
study: install
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --progress-bar off -c constraints.txt -e '.[study]'
	$(BIN)/python -m benchmarks.study --data "$(or $(DATA),signs)" $(if $(ARMS),--arms $(ARMS))
	$(BIN)/python -m benchmarks.study.report --results .study/results.jsonl --out .study/results.md
	@echo "The page: .study/results.md"

ui: install
	@echo "MLflow UI: http://127.0.0.1:5000 (Ctrl-C ends it). Choose \"Model training\", then an experiment."
	@$(BIN)/mlflow ui --backend-store-uri "$${MLFLOW_TRACKING_URI:-sqlite:///mlflow.db}" --host 127.0.0.1 --port 5000

lock: install
	@{ head -n 2 constraints.txt; $(BIN)/pip freeze --exclude-editable; } > constraints.new && mv constraints.new constraints.txt

clean:
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache
