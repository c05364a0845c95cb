# make demo     set up .venv and run the example, a virtual power plant, over mutual TLS
# make test     set up .venv and run all tests           (ARGS="-k codec" for some of them)
# make test-ray  clusters on Ray, in an environment of its own  (ARGS="-k infeasible" for some)
# make test-hosts  the tests that need root, and make hosts on this machine  (ARGS="-k cut")
# make check    all that CI checks, with one interpreter
# make bench    measure, in 5 minutes                    (ARGS="--only B1,B2" for some rows)
# make bench-clusters  measure clusters, in a minute     (ARGS=--help)
# make bench-hosts     measure clusters over hosts, as root   (ARGS=--help)
# make bench-ray       measure clusters on Ray              (ARGS=--help)
# make bench-peers     install and measure other libraries, too   (ARGS="--only pyzmq,rpyc")
# make fuzz     look for inputs that do harm, on Linux   (ARGS="--seconds 60" for a minute, not ten)
# make soak     random load and faults, for ten minutes    (ARGS="--seconds 60" for one)
# make docs     build the documentation into docs/_build/html
# make fmt      format the code and mend what can be mended
# make clean    remove what the others made
#
# Variables: PYTHON, the interpreter to set up with; VENV, where to; ARGS, passed on; JOBS, how many
# processes run tests; COVERAGE=1, to measure while testing (with one process).

VENV ?= .venv
ARGS ?=
# Where to look for an interpreter, in this order.
PYTHONS := python3 python3.13 python3.12 python3.11
COVERAGE ?=
# One more than there are cores, as many tests wait for something.
JOBS ?= $(shell $(BIN)/python -c 'import os; print((os.cpu_count() or 1) + 1)')
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
# What is run is never influenced by another environment that happens to be active.
unexport PYTHONHOME PYTHONPATH VIRTUAL_ENV

.DEFAULT_GOAL := help
.PHONY: help setup setup-dev demo test test-hosts test-ray ray-tests check lint types imports coverage coverage-report docs bench bench-clusters bench-hosts bench-ray ray-bench bench-peers fuzz soak fmt clean

help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile

# --- environments ---------------------------------------------------------------------------------

# The first that runs, is new enough and can make environments. (An interpreter's launcher may be
# there and not run, so each one is tried.)
define FIND_PYTHON
for candidate in "$(PYTHON)" $(PYTHONS); do
    [ -n "$$candidate" ] || continue
    if "$$candidate" -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
        echo "$$candidate"
        exit 0
    fi
    [ "$$candidate" != "$(PYTHON)" ] || echo "PYTHON=$$candidate does not run or is older than 3.11: looking for another" >&2
done
echo "No usable Python: aiomas needs 3.11 or newer with the modules venv and ensurepip." >&2
echo "(Debian and Ubuntu: apt install python3 python3-venv.) Name one: make PYTHON=/path/to/python3" >&2
exit 1
endef
export FIND_PYTHON

# An environment whose interpreter is gone, or that came here with a copied folder, is made anew.
USABLE = test "$$(cat $(BIN)/.made 2>&1)" = "$(CURDIR)" && $(BIN)/python -m pip --version >/dev/null 2>&1
$(if $(wildcard $(BIN)/.made),$(shell $(USABLE) || rm -f $(BIN)/.made))

$(BIN)/.made: pyproject.toml
	@$(USABLE) || { \
	    python=$$(sh -c "$$FIND_PYTHON") && \
	    echo "Making $(VENV) with $$("$$python" --version)" && \
	    "$$python" -m venv --clear $(VENV); }
	@echo "$(CURDIR)" >$@

$(BIN)/.installed: $(BIN)/.made
	@echo "Installing aiomas into $(VENV)"
	@$(PIP) install --editable .
	@touch $@

$(BIN)/.installed-dev: $(BIN)/.installed
	@echo "Installing the tools for tests and documentation into $(VENV)"
	@$(PIP) install 'pip>=25.1' # the first that knows dependency groups
	@$(PIP) install --group dev
	@touch $@

$(BIN)/.installed-ray: $(BIN)/.installed
	@echo "Installing Ray and the tools for tests into $(VENV)"
	@$(PIP) install 'pip>=25.1'
	@$(PIP) install --editable '.[ray]' --group test
	@touch $@

$(BIN)/.installed-fuzz: $(BIN)/.installed
	@echo "Installing the fuzzer into $(VENV)"
	@$(PIP) install 'pip>=25.1'
	@$(PIP) install --group fuzz
	@touch $@

setup: $(BIN)/.installed
setup-dev: $(BIN)/.installed-dev

# --- what the README names ------------------------------------------------------------------------

demo: setup
	@$(BIN)/python -m examples.virtual_power_plant $(ARGS)

test: setup-dev
	@$(BIN)/python -m $(if $(COVERAGE),coverage run -m pytest,pytest --numprocesses $(JOBS) --dist loadfile) $(ARGS)

# Ray is large, and is not there for each Python as soon as that is: so it is kept apart from the
# other tests, and the newest that both know is taken.
test-ray:
	@$(MAKE) --no-print-directory ray-tests VENV=.venv-ray PYTHONS="python3.13 python3.12 python3.11 python3"

ray-tests: $(BIN)/.installed-ray
	@$(BIN)/python -m pytest tests/ray $(ARGS)

# Apart from the others: they take a network of their own, root, and scripts/install-host-tools.
test-hosts: setup-dev
	@$(BIN)/python -m pytest tests/e2e/hosts $(ARGS)

# --- checks ---------------------------------------------------------------------------------------

# The suite runs the examples and the code of the documentation, too.
check: lint types imports docs coverage

lint: setup-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: setup-dev
	$(BIN)/python -m mypy

imports: setup-dev
	$(BIN)/lint-imports
	$(if $(wildcard pki/__init__.py),$(BIN)/lint-imports --config scripts/pki.importlinter.toml)

coverage: setup-dev
	@$(BIN)/python -m coverage erase
	@$(MAKE) --no-print-directory test COVERAGE=1
	@$(MAKE) --no-print-directory coverage-report

# Of all that ran with COVERAGE=1 since the last report.
coverage-report:
	@$(BIN)/python -m coverage combine --quiet
	@$(BIN)/python -m coverage report

docs: setup-dev
	$(BIN)/python -m sphinx -W -q -E -b html docs docs/_build/html

bench: setup
	@$(BIN)/python -m benchmarks $(ARGS)

bench-clusters: setup
	@$(BIN)/python -m benchmarks.clusters $(ARGS)

bench-hosts: setup
	@$(BIN)/python -m benchmarks.hosts $(ARGS)

bench-ray:
	@$(MAKE) --no-print-directory ray-bench VENV=.venv-ray PYTHONS="python3.13 python3.12 python3.11 python3"

ray-bench: $(BIN)/.installed-ray
	@$(BIN)/python -m benchmarks.on_ray $(ARGS)

bench-peers: setup
	@$(BIN)/python -m benchmarks.peers $(ARGS)

fuzz: $(BIN)/.installed-fuzz
	@$(BIN)/python -m fuzz $(ARGS)

soak: setup
	@$(BIN)/python -m soak $(ARGS)

fmt: setup-dev
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean:
	rm -rf .venv .venv-* .cache docs/_build build dist .coverage .coverage.* .hypothesis .import_linter_cache \
	    .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
