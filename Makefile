# `make demo` and `make test` are all the set-up there is: Python 3.11 or newer and make.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

.PHONY: demo test check docs bench clean

demo: $(VENV)/installed
	$(BIN)/ts-langchain demo

test: $(VENV)/installed-dev
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

check: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/installed-dev
	$(BIN)/mkdocs build --strict

bench: $(VENV)/installed-dev
	$(BIN)/python benchmarks/detection/run.py
	$(BIN)/python benchmarks/live.py
	$(BIN)/python benchmarks/middleware.py
	$(BIN)/python benchmarks/replay.py
	$(BIN)/python benchmarks/service.py
	$(BIN)/python benchmarks/parquet.py

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; name one with make PYTHON=…")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	touch $@

$(VENV)/installed-dev: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[agents,dev,docs]'
	touch $@ $(VENV)/installed

clean:
	rm -rf $(VENV) site dist build .mypy_cache .ruff_cache .pytest_cache
