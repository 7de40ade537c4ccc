# `make demo` and `make test` are all that a fresh machine needs; both set up .venv first.
.PHONY: demo test lint format setup perf-analyzer clean
.DEFAULT_GOAL := help

PYTHON ?= $(shell for p in python3.11 python3.12 python3.10 python3; do command -v $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PERF_ANALYZER := $(BIN)/perf_analyzer

help:
	@echo "make demo    set up, then run the whole chain on a synthetic pair"
	@echo "make test    set up, then run every test that a CPU can run"
	@echo "make lint    ruff (format and check) and mypy --strict"
	@echo "make format  let ruff rewrite the sources"
	@echo "make perf-analyzer  NVIDIA's perf_analyzer into .venv, for 'specbuild bench perf-analyzer'"
	@echo "make clean   remove build/ and .venv/"

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt tests/check_system.py
	@$(PYTHON) tests/check_system.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[torch,server,openai,dev]'
	@touch $(STAMP)

demo: $(STAMP)
	$(BIN)/specbuild demo

test: $(STAMP) $(PERF_ANALYZER)
	@$(PYTHON) tests/check_system.py --tests
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not gpu and not timing"
	$(BIN)/python -m pytest -m "not gpu and timing"
	TRITON_INTERPRET=1 $(BIN)/python -m pytest -n 2 tests/unit/torch_runtime/test_interpreted.py

perf-analyzer: $(PERF_ANALYZER)

$(PERF_ANALYZER): $(STAMP) tests/install_perf_analyzer.sh
	tests/install_perf_analyzer.sh $(VENV)

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf build $(VENV)
