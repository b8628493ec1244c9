# The few commands people use. `make` lists them.
.DEFAULT_GOAL := help
.PHONY: help install test test-all lint docs format quickstart ci

help: ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: ## install in the active environment, with what the tests need
	pip install -e '.[dev]'

test: ## the tests; a second run is faster (compiled programs are kept in .cache/)
	pytest

test-all: ## also the tests that take minutes
	pytest -m 'not oracle and not mutation and not chaos'

lint: ## what CI checks besides the tests
	ruff check .
	ruff format --check .
	mypy

docs: ## the documentation site, in build/site
	sphinx-build --fail-on-warning -b html docs build/site

format: ## put the code in order
	ruff check --fix .
	ruff format .

quickstart: ## the whole method on this machine, with a report in runs/quickstart
	hypereyes quickstart --out runs/quickstart

ci: ## what CI does, from a fresh environment
	.ci/run
