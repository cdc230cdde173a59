# Two commands do all the set-up on a fresh machine with Python 3.11 and make: `make run` and `make test`.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
JOB ?= quickstart

.PHONY: run fabric test check wheel-test benchmarks lock clean

run: $(VENV)/.run  ## train a job on this machine: make run JOB=configs/mnist-nn.toml URL=mqtt://127.0.0.1:1883
	$(BIN)/fedkeeper run $(JOB) $(if $(URL),--url $(URL))

fabric: $(VENV)/.test  ## one job over OpenFaaS, OpenWhisk and Google Cloud Functions at once, all of them emulated here
	$(BIN)/python -m emulators.demo

test: $(VENV)/.test  ## checks, every test, and the built wheel in an empty environment
	scripts/needs
	VENV=$(VENV) scripts/check
	$(BIN)/pytest
	VENV=$(VENV) scripts/wheel-test

check: $(VENV)/.test  ## ruff, mypy, import-linter
	VENV=$(VENV) scripts/check

wheel-test: $(VENV)/.test  ## build the wheel, install it into an empty environment, run the quickstart from it
	VENV=$(VENV) scripts/wheel-test

benchmarks: $(VENV)/.test  ## the numbers in docs/benchmarks.md
	$(BIN)/python -m benchmarks.noop_round
	$(BIN)/python -m benchmarks.import_time
	$(BIN)/python -m benchmarks.fabric_round

lock:  ## pin the newest versions of everything anew
	scripts/lock

clean:
	rm -rf $(VENV) dist runs .fedkeeper

$(VENV)/.made:
	$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/.run: $(VENV)/.made requirements.lock pyproject.toml
	$(BIN)/pip install --disable-pip-version-check -q -r requirements.lock
	$(BIN)/pip install --disable-pip-version-check -q --no-deps --no-build-isolation -e .
	touch $@

$(VENV)/.test: $(VENV)/.run requirements-dev.lock
	$(BIN)/pip install --disable-pip-version-check -q -r requirements-dev.lock
	touch $@
