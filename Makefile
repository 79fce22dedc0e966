# daybreak: `make demo` trains and explains; `make test` tests the whole product. Each sets up in .venv what it needs.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
READY_TO_WORK := $(VENV)/.ready-to-work
PYTEST := $(BIN)/python -m pytest -n 2 --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow test-all soak container docs lint format clean

help:  ## Show this list.
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | column -t -s '|'

STARTED := $(shell date +%s)

demo: $(READY)  ## Train on CIFAR-10 (or on digits where it cannot be had) and write a report.
	@DAYBREAK_DEMO_STARTED=$(STARTED) $(BIN)/python -m daybreak.cli.demo

test: $(READY_TO_WORK)  ## Test the whole product in 12 to 25 minutes on two cores; needs a Chromium, PostgreSQL and Redis.
	$(PYTEST) -m "not slow"

test-slow: $(READY_TO_WORK)  ## The tests that `make test` leaves out: more repetitions, real sizes.
	$(PYTEST) -m slow

test-all: $(READY_TO_WORK)  ## Every test, quick and slow.
	$(PYTEST) -m ""

soak: $(READY_TO_WORK)  ## The tests of reliability in their long form: two hours; writes docs/reliability.md.
	$(BIN)/python benchmarks/soak.py

container: $(READY_TO_WORK)  ## Do what the Dockerfile says in a bare root; needs root, debootstrap, BUNDLE= and IMAGE=.
	$(BIN)/python docker/check.py $(BUNDLE) $(IMAGE)

docs: $(READY_TO_WORK)  ## Build the documentation as a site, in site/.
	$(BIN)/python -m mkdocs build --strict
	@echo site/index.html

lint: $(READY_TO_WORK)  ## Check style and types.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY_TO_WORK)  ## Rewrite the code in house style.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## Remove the virtual environment.
	rm -rf $(VENV)

$(READY): pyproject.toml constraints.txt install-torch.sh install.py
	@echo "1 of 3: a virtual environment, in $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@echo "2 of 3: PyTorch"
	@sh install-torch.sh $(BIN)/python
	@echo "3 of 3: daybreak and the packages it needs"
	@$(BIN)/python install.py $(BIN)/python -c constraints.txt -e .
	@touch $@

$(READY_TO_WORK): $(READY)
	@echo "packages for tests, documentation and lint"
	@$(BIN)/python install.py $(BIN)/python -c constraints.txt -e '.[dev]'
	@touch $@
