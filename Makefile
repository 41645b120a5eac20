# Every command a developer needs. Each one sets up what it uses: a virtual environment in .venv,
# with the versions that requirements.lock pins.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

SIMULATE_SEEDS ?= 10000
SIMULATE_STEPS ?= 1000
SIMULATE_FIRST ?= 0
GUARDS_PARALLEL ?= 2

.PHONY: demo test test-network test-crashes simulate guards lint bench format lock clean

demo: $(STAMP)
	$(BIN)/python -m undercroft demo

test: $(STAMP)
	$(BIN)/python -m pytest -n auto

# Replication sets under faults, on all cores: many more seeds than `make test` has.
simulate: $(STAMP)
	$(BIN)/python -m tests.simulation --seed $(SIMULATE_FIRST) --seeds $(SIMULATE_SEEDS) --steps $(SIMULATE_STEPS)

# Bad wires between namespaces, faketime, HAProxy, a full tmpfs: as root, on Debian.
test-network: $(STAMP)
	apt-get install -y -q --no-install-recommends iproute2 faketime haproxy
	$(BIN)/python -m pytest -m network tests/replication

# A hundred rounds of kill -9 on either side under load, twice.
test-crashes: $(STAMP)
	REPLICATION_CRASH_ROUNDS=100 $(BIN)/python -m pytest tests/replication/test_crashes.py

# Each guard against a known threat taken out in turn, and its tests seen to fail.
guards: $(STAMP)
	$(BIN)/python -m tests.guards -k $(GUARDS_PARALLEL)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(STAMP)
	$(BIN)/python -m bench

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The versions of a green run, for the next ones: run after changing pyproject.toml.
lock:
	rm -rf $(VENV)-lock
	$(PYTHON) -m venv $(VENV)-lock
	$(VENV)-lock/bin/python -m pip install --quiet --disable-pip-version-check -e ".[test,lint]"
	$(VENV)-lock/bin/python -m pip freeze --exclude-editable > requirements.lock
	rm -rf $(VENV)-lock

clean:
	rm -rf $(VENV) .demo .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(STAMP): requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("Undercroft needs Python 3.11 or newer" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	touch $(STAMP)
