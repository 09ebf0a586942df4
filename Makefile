# The two commands of a newcomer: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test check clean

demo: $(VENV)/installed
	@echo '$$ qwen35 ask --model demo "What can you do?"'
	@$(BIN)/qwen35 ask --model demo --seed 1 --hide-thinking "What can you do?"
	@echo '$$ qwen35 ask --model demo -i docs/circles.png "What is in the picture?"'
	@$(BIN)/qwen35 ask --model demo --seed 1 --hide-thinking -i docs/circles.png "What is in the picture?"

test: $(VENV)/tested
	$(BIN)/python -m pytest

check: $(VENV)/checked
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: $(BIN)/python pyproject.toml setup.py constraints.txt $(wildcard src/qwen35cli/kernels/cpu/*.cpp)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	@touch $@

$(VENV)/tested: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test]'
	@touch $@

$(VENV)/checked: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) build dist src/*.egg-info
