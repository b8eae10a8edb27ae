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

# Tests start hundreds of processes that import the same modules: where nothing is kept, each compiles them again. That is
# two thirds of what it takes to import TensorFlow, and half of what it takes to import PyTorch.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := default
.PHONY: default quickstart test test-kubernetes test-frameworks test-notebooks test-all compiled test-compiled unit \
	test-lowest test-newest framework-environments check constraints format images bench docs clean

default: check unit

quickstart: $(VENV)/.has-examples
	$(BIN)/python examples/quickstart.py

# Each test is run by one of these, or by test-all alone: integration-tests/targets.py. Most tests wait most of their time,
# so several run at once, but for those with Docker, which check that nothing is left in it, and those that measure times.
AT_ONCE := --numprocesses=auto --dist=loadfile
test: $(VENV)/.has-oracle
	$(BIN)/pytest --target=test -m "not (alone or docker)" $(AT_ONCE) --durations=15; status=$$?; \
	$(BIN)/pytest --target=test -m "alone or docker" --durations=15 && exit $$status

test-kubernetes test-frameworks test-notebooks: $(VENV)/.has-test
	$(BIN)/pytest integration-tests --target=$@ --durations=10

test-all: $(VENV)/.has-oracle
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
BESIDE_COMPILED := cluster workers http/test_connection_drain.py test_exporter.py
COMMON_COMPILED := connections http_framing jsontext multipart webapp wire
test-compiled: compiled $(VENV)/.has-test
	cd $(COMPILED) && CLIPPER_REQUIRE=compiled $(abspath $(BIN))/pytest $(AT_ONCE) $(COMMON_COMPILED:%=tests/common/test_%.py) tests/query_frontend $(BESIDE_COMPILED:%=--ignore=tests/query_frontend/%)

unit: $(VENV)/.has-oracle
	$(BIN)/pytest tests $(AT_ONCE) -m "not integration"

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
	set -e; build="$$($(BIN)/python -m clipper_admin.docker.buildx)"; while read -r arguments; do $$build $$arguments $(BUILD_ARGS) .; done < $(VENV)/images

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
