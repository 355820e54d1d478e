# Six words: setup, demo, check, test, bench, up. Each does all of its own set-up and needs no activated
# environment: on a fresh machine with Python 3.11 or newer, `make demo` alone is enough.

SHELL := /bin/bash
VENV := .venv
PY := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed

# What the user's shell happens to have must not shadow what .venv has.
unexport PYTHONPATH PYTHONHOME
# Without it every process that starts would compile GKD's own modules again.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup demo check test faults bench up

help:  ## this list
	@sed -nE 's/^([a-z]+):.*## (.*)/  make \1\t\2/p' Makefile | expand -t 16

setup: $(INSTALLED)  ## create .venv and install GKD with the tested versions (PYTHON=... picks the interpreter)
	@echo "GKD is installed; the command is $(VENV)/bin/gkd"

demo: $(INSTALLED)  ## a teacher, a control and a distilled student in 5 minutes (DATA=folder: your pictures; EPOCHS=, MINUTES=)
	$(PY) -m client.demo $(if $(DATA),--data "$(DATA)") $(if $(EPOCHS),--epochs "$(EPOCHS)") $(if $(MINUTES),--minutes "$(MINUTES)")

check: $(INSTALLED)  ## style, types, import rules, container files
	$(PY) -m ruff check
	$(PY) -m ruff format --check
	$(PY) -m mypy
	$(VENV)/bin/lint-imports
	$(PY) -c "import api.app, jobs.store.store, client.cli, worker.runner, sys; assert 'torch' not in sys.modules"
	docker/check.sh $(VENV)/bin

test: $(INSTALLED)  ## every test, three files at a time, with a real PostgreSQL and a real Redis (ARGS=... goes to pytest)
	OMP_WAIT_POLICY=PASSIVE $(PY) -m pytest -n 3 --dist loadfile --no-loadscope-reorder $(ARGS)

# Not one of the six words: for the night.
faults: $(INSTALLED)
	OMP_WAIT_POLICY=PASSIVE $(PY) -m tests.faults.storm $(ARGS)

bench: $(INSTALLED)  ## the measurements that take minutes, into bench/results/ (ARGS="selection rdm" for some)
	OMP_WAIT_POLICY=PASSIVE $(PY) bench/run.py $(ARGS)

up:  ## the service on Redis and PostgreSQL, in containers (DATA=folder of your data sets, the first time)
	docker/up.sh "$(DATA)"

# ---- set-up: once, and again whenever what to install has changed ----------------------------------------------

# Version managers leave commands on the PATH that only print an error, so every candidate is tried.
$(INSTALLED): pyproject.toml constraints.txt
	@for python in $(or $(PYTHON),python3 python3.13 python3.12 python3.11); do \
	    "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && break; python=; \
	done; \
	if [ -z "$$python" ]; then \
	    echo "GKD needs Python 3.11 or newer; $(or $(PYTHON),python3) is: $$($(or $(PYTHON),python3) --version 2>&1)" >&2; \
	    echo "Install one, or name it: make setup PYTHON=/path/to/python3.11" >&2; exit 1; \
	fi; \
	if ! "$$python" -c 'import venv, ensurepip' 2>/dev/null; then \
	    echo "$$python cannot create environments: its venv module is missing." >&2; \
	    echo "On Debian or Ubuntu: apt-get install python3-venv" >&2; exit 1; \
	fi; \
	if ! $(PY) -m pip --version >/dev/null 2>&1; then "$$python" -m venv $(VENV); fi
	@echo "Installing into $(VENV): a minute or more, about 5 GB with PyTorch."
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@
