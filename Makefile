# `make demo` and `make test` install what they need into .venv first. Needs Python 3.11 or newer with venv, and make.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
DEMO_OUT ?= runs/demo

.PHONY: demo test test-fast lint docs clean

demo: .venv/installed
	$(BIN)/diffmix run --config jobs/recipes/nano/demo.yaml --out $(DEMO_OUT)

test: .venv/installed-dev
	$(BIN)/python -m pytest $(PYTEST_ARGS)

# What starts no Ray and trains for no longer than a second.
test-fast: .venv/installed-dev
	$(BIN)/python -m pytest -m 'not slow and not gpu and not cluster and not trains' $(PYTEST_ARGS)

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: .venv/installed
	$(BIN)/python -m jobs.options_page > docs/options.md.new
	mv docs/options.md.new docs/options.md

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

.venv/installed-dev: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf .venv runs
