# `make` = check + unit. Each target makes the virtual environment that it needs, in this folder.
# PYTHON=/path/to/python3.12 chooses the interpreter; each version has a virtual environment of its own.

PYTHON ?= python3
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
VENV := .venv-$(VERSION)
BIN := $(VENV)/bin

# The releases with which all was last tested, for each version of Python (make constraints). A newer version than these
# gets the newest that setup.py allows.
CONSTRAINTS := $(wildcard dockerfiles/constraints/$(VERSION).txt)
PIP_INSTALL = $(BIN)/python -m pip install --quiet $(CONSTRAINTS:%=--constraint %)
BUILD_CONSTRAINTS = $(CONSTRAINTS:%=--build-constraint %)

.DEFAULT_GOAL := default
.PHONY: default quickstart test test-all compiled test-compiled unit test-lowest test-newest framework-environments check \
	constraints format images bench docs clean

default: check unit

quickstart: $(VENV)/.has-examples
	$(BIN)/python examples/quickstart.py

test: $(VENV)/.has-test
	$(BIN)/pytest -m "not (other_manager or long)" --durations=25

test-all: $(VENV)/.has-test
	$(BIN)/pytest --cov --cov-report=term:skip-covered

# A copy of the checkout that has the query path compiled, as a wheel has, if there is a C compiler; its tests.
COMPILED := build/compiled
compiled: $(BIN)/python
	rm -rf build
	mkdir -p $(COMPILED)
	$(BIN)/python -m pip wheel --quiet --no-deps $(BUILD_CONSTRAINTS) --wheel-dir build/wheel .
	git ls-files -z | tar -c --null -T - | tar -x -C $(COMPILED)
	$(BIN)/python -m zipfile --extract build/wheel/*.whl $(COMPILED)

# Those of what goes on between frontends, which is not compiled, take long.
BESIDE_COMPILED := exporter frontends leaving presence relay workers
COMMON_COMPILED := jsontext multipart wire
test-compiled: compiled $(VENV)/.has-test
	cd $(COMPILED) && CLIPPER_REQUIRE=compiled $(abspath $(BIN))/pytest $(COMMON_COMPILED:%=tests/common/test_%.py) tests/query_frontend $(BESIDE_COMPILED:%=--ignore=tests/query_frontend/test_%.py)

unit: $(VENV)/.has-test
	$(BIN)/pytest tests -m "not integration"

# The unit tests with the lowest and with the newest releases that setup.py allows, in virtual environments of their own.
# Old releases use what is deprecated in the newest ones of others, so deprecations are no errors here.
WITHOUT_CONSTRAINTS = pytest tests -m "not integration" -W ignore::DeprecationWarning -W ignore::PendingDeprecationWarning
test-lowest: $(VENV)/.has-constraints
	$(BIN)/uv venv --quiet --clear --python $(PYTHON) $(VENV)-lowest
	$(BIN)/uv pip install --quiet --python $(VENV)-lowest --resolution lowest-direct --editable '.[test]'
	$(VENV)-lowest/bin/$(WITHOUT_CONSTRAINTS)

# What lies beyond the bounds is named at the end.
test-newest: $(VENV)/.has-constraints
	$(BIN)/uv venv --quiet --clear --python $(PYTHON) $(VENV)-newest
	$(BIN)/uv pip install --quiet --python $(VENV)-newest --upgrade --editable '.[test]'
	$(VENV)-newest/bin/$(WITHOUT_CONSTRAINTS); status=$$?; \
	echo "Releases that setup.py, or a package that it names, does not allow:"; \
	$(BIN)/uv pip list --python $(VENV)-newest --outdated; exit $$status

# Run it with the lowest version of Python, then `make test`, and commit what it changed.
constraints: $(VENV)/.has-constraints
	$(BIN)/python dockerfiles/constraints.py

# Those of the frameworks, which their tests make too: in advance.
framework-environments: $(VENV)/.has-test
	$(BIN)/python integration-tests/framework_environments.py

check: $(VENV)/.has-check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.has-check
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# FRAMEWORKS="pytorch keras" (or all) adds theirs, IMAGES_PYTHON=3.12 chooses their Python, BUILD_ARGS="--build-arg BASE_IMAGE=... --build-arg PIP_INDEX_URL=..." a mirror.
IMAGES_PYTHON ?= $(VERSION)
images: $(VENV)/.has-examples
	$(BIN)/python -W ignore::RuntimeWarning:runpy -m clipper_admin.images --python-version $(IMAGES_PYTHON) $(FRAMEWORKS) > $(VENV)/images
	set -e; while read -r arguments; do docker build $$arguments $(BUILD_ARGS) .; done < $(VENV)/images

bench: $(VENV)/.has-bench
	$(BIN)/python -m bench.compare

docs: $(VENV)/.has-docs
	$(BIN)/sphinx-build -W -q -b html docs docs/_build/html

clean:
	rm -rf .venv-* build *.egg-info docs/_build .coverage* .hypothesis .mypy_cache .pytest_cache .ruff_cache

# One stamp for each extra of setup.py; installed anew when the dependencies change.
$(VENV)/.has-%: setup.py clipper_common/__init__.py $(CONSTRAINTS) | $(BIN)/python
	$(PIP_INSTALL) $(BUILD_CONSTRAINTS) --editable '.[$*]'
	touch $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Clipper needs Python 3.11 or newer, $(PYTHON) is $(VERSION); choose one with PYTHON=/path/to/python" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PIP_INSTALL) --upgrade pip
