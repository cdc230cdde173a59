# Two commands do all the set-up on a fresh machine with Python 3.11 and make: `make run` and `make test`.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
FLOWER := benchmarks/flower/.venv
JOB ?= quickstart
N ?= 20
# Tests wait more than they compute: more of them at once than there are cores.
AT_ONCE ?= 4
# The tests start hundreds of programs. Each would compile our modules and torch's anew where nobody may keep them.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help run fabric examples quick test chaos board check wheel-test bench flower benchmarks paper lock clean clean-runs

help:  ## what there is to make
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: $(VENV)/.run  ## train a job on this machine: make run JOB=configs/mnist-nn.toml URL=mqtt://127.0.0.1:1883
	$(BIN)/fedkeeper run $(JOB) $(if $(URL),--url $(URL))
	@printf '\n%s\n\n  %s\n\n%s\n' 'to go on, with a system that stays:' '. $(BIN)/activate && fedkeeper up' \
		'or without activating the environment: $(BIN)/fedkeeper up'

fabric: $(VENV)/.test  ## one job over OpenFaaS, OpenWhisk and Google Cloud Functions at once, all of them emulated here
	$(BIN)/python -m emulators.demo

examples: $(VENV)/.examples  ## every example in examples/, or some: make examples NAMES="diabetes lora"
	$(BIN)/python -m examples.run $(NAMES)

quick: $(VENV)/.test  ## the tests to run while writing: under a minute, without root
	$(BIN)/pytest -q -n $(AT_ONCE) --dist loadgroup -m "not slow and not root" tests/unit tests/contract

test: $(VENV)/.test  ## checks, every test, and the built wheel in an empty environment; as root it installs what is missing
	scripts/needs
	VENV=$(VENV) scripts/check
	@# A trainer reads compiled modules, but writes none.
	$(BIN)/python -m compileall -q broker server bridges client_fn fedkeeper emulators
	$(BIN)/pytest -n $(AT_ONCE) --dist loadgroup
	VENV=$(VENV) scripts/wheel-test

chaos: $(VENV)/.test  ## faults drawn at random, in the real system: make chaos N=200 BROKER=mosquitto SEED=7 FAULT="kill server"
	$(BIN)/python -m tests.chaos.run -n $(N) $(if $(BROKER),--broker $(BROKER)) $(if $(SEED),--seed $(SEED)) $(if $(FAULT),--fault "$(FAULT)")

# What it mounts ends with its mount namespace, and what it starts with its pid namespace.
board: $(VENV)/.test  ## the edge kit on an emulated arm64 Debian, as root: make board FOLDER=/var/tmp/board KINDS="openfaas local"
	scripts/needs board
	unshare --mount --pid --fork --kill-child --mount-proc $(BIN)/python -m tests.board.run $(if $(FOLDER),--folder $(FOLDER)) $(if $(KINDS),--kinds "$(KINDS)")

check: $(VENV)/.test  ## ruff, mypy, import-linter
	VENV=$(VENV) scripts/check

wheel-test: $(VENV)/.test  ## build the wheel, install it into an empty environment, run the quickstart from it
	VENV=$(VENV) scripts/wheel-test

bench: $(VENV)/.test $(FLOWER)/.made  ## our bars of speed and memory, beside Flower: make bench ONLY="noop-100 worker"
	$(BIN)/python -m benchmarks $(if $(ONLY),--only $(ONLY))

flower: $(FLOWER)/.made  ## Flower for `make bench`, in an environment of its own

benchmarks: $(VENV)/.test  ## the numbers in docs/benchmarks.md
	$(BIN)/python -m benchmarks.noop_round
	$(BIN)/python -m benchmarks.import_time
	$(BIN)/python -m benchmarks.fabric_round

paper: $(VENV)/.test  ## the paper's figures beside its own: ten minutes of runs that are missing, then docs/paper.md
	$(BIN)/python -m benchmarks.paper run --minutes 10 --resume
	$(BIN)/python -m benchmarks.paper draw

lock:  ## pin the newest versions of everything anew
	scripts/lock

clean:  ## remove the environment and built packages; trained models and stores stay
	rm -rf $(VENV) $(FLOWER) dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis

clean-runs:  ## delete what was trained here: runs/ and .fedkeeper/ (stores of brokers, shards, passwords); says it first
	@for folder in runs .fedkeeper; do if [ -e $$folder ]; then du -sh $$folder; fi; done
	rm -rf runs .fedkeeper

$(VENV)/.made:
	$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/.run: $(VENV)/.made requirements.lock pyproject.toml
	@scripts/install $(VENV) requirements.lock
	$(BIN)/pip install --disable-pip-version-check -q --no-deps --no-build-isolation -e .
	touch $@

$(VENV)/.test: $(VENV)/.run requirements-dev.lock
	@scripts/install $(VENV) requirements-dev.lock
	touch $@

$(FLOWER)/.made: benchmarks/flower/requirements.txt
	$(PYTHON) -m venv $(FLOWER)
	$(FLOWER)/bin/pip install --disable-pip-version-check -q -r benchmarks/flower/requirements.txt
	touch $@

# The file is complete. pip would not install aeon beside this numpy, though its data files are all that is used of it.
$(VENV)/.examples: $(VENV)/.test requirements-examples.lock
	@scripts/install $(VENV) requirements-examples.lock --no-deps
	touch $@
