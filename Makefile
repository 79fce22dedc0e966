# daybreak: `make demo` trains and explains; `make test` runs the test suite. Each sets up .venv by itself.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help demo test soak lint format clean

help:  ## Show this list.
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | column -t -s '|'

demo: $(READY)  ## Train on CIFAR-10 (or on digits where it cannot be had) and write a report.
	@$(BIN)/python -m daybreak.demo

test: $(READY)  ## Run the whole test suite.
	$(BIN)/python -m pytest

soak: $(READY)  ## The tests of reliability in their long form (a quarter of an hour); writes docs/reliability.md.
	$(BIN)/python benchmarks/soak.py

lint: $(READY)  ## Check style and types.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY)  ## Rewrite the code in house style.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## Remove the virtual environment.
	rm -rf $(VENV)

$(READY): pyproject.toml constraints.txt install-torch.sh
	$(PYTHON) -m venv $(VENV)
	sh install-torch.sh $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@
