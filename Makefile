# `make search` and `make test` need only Python 3.11 (or 3.12), make and git.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin

.PHONY: search test test-all clean

search: $(VENV)/.installed  ## the demo search, from nothing to an exported generator
	$(BIN)/python search/run.py

test: $(VENV)/.installed-dev  ## linters and tests
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest --cov --cov-report=term:skip-covered --cov-fail-under=85 --durations=10

test-all: test  ## and what takes minutes more
	$(BIN)/python -m pytest -m all

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "Installing the pinned dependencies into $(VENV), once; this takes a few minutes ..."
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

clean:  ## remove the environment; results stay
	rm -rf $(VENV)
