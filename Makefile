# make demo: from nothing to runs/demo/report.html.   make test: lint, types and all tests.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python

.PHONY: demo test lint types tests clean

demo: $(VENV)/installed
	$(RUN) -m jobs.demo

test: lint types tests

lint: $(VENV)/installed
	$(RUN) -m ruff check
	$(RUN) -m ruff format --check
	$(VENV)/bin/lint-imports --no-logo --no-cache

types: $(VENV)/installed
	$(RUN) -m mypy

tests: $(VENV)/installed
	$(RUN) -m pytest -n 2 --dist loadfile

# The stamp is older than the lock file when dependencies have changed: then install again.
$(VENV)/installed: requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(None if (3, 11) <= sys.version_info < (3, 14) else "Python 3.11 to 3.13 is needed, this is " + sys.version.split()[0] + "; try: make PYTHON=python3.12 $(MAKECMDGOALS)")'
	test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --disable-pip-version-check -q -r requirements.lock
	touch $@

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache
