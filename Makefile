PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
SOURCES := src tests benchmarks

.PHONY: demo test test-slow check format audit clean

demo: $(VENV)/.demo ## the main job on real photos and weights, nothing downloaded but packages
	$(BIN)/upcycle demo

test: $(VENV)/.test ## every fast test
	$(BIN)/python -m pytest -m "not slow" -n 2 --dist loadfile

test-slow: $(VENV)/.test ## minutes-long proofs
	$(BIN)/python -m pytest -m slow

check: $(VENV)/.check ## format, lint, types, import contracts
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.check
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/ruff check --fix $(SOURCES)

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "upcycle needs Python 3.11 or newer: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)

# A stamp holds as long as what it was made from: a second call installs nothing.
$(VENV)/.demo: $(BIN)/python pyproject.toml constraints.txt
	@echo "installing the pinned packages into $(VENV) (a few minutes, about 5.5 GB)"
	$(PIP) -e ".[demo]"
	@touch $@

$(VENV)/.test: $(VENV)/.demo
	$(PIP) -e ".[demo,test]"
	@touch $@

$(VENV)/.check: $(VENV)/.demo
	$(PIP) -e ".[demo,test,dev]"
	@touch $@

audit: $(BIN)/python ## the pinned versions against the advisories that PyPI knows
	$(BIN)/python -m pip install --quiet --disable-pip-version-check pip-audit==2.10.1
	$(BIN)/pip-audit --requirement constraints.txt --no-deps --disable-pip

clean:
	rm -rf $(VENV) build dist src/*.egg-info
