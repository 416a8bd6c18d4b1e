# make demo        DreamBooth without and with masks, in demo/   make lint    format, types, layers
# make test        all tests                                     make docs    the documentation site, in site/
# make test-fast   those that take little time                   make bench   time and memory at real sizes
#
# Needs Python 3.11 or later and make; everything else goes into .venv. To choose:
#   make test PYTHON=python3.12                      another interpreter
#   make test VENV=$$VIRTUAL_ENV                     an environment of yours; what is missing is installed into it
#   make test TORCH="torch==2.13.0 torchvision"      another build of torch, in pip's words (options too)

PYTHON ?= python3.11
VENV ?= .venv
TORCH ?= $(shell grep -E '^(torch|torchvision)==' constraints.txt)
BIN = $(VENV)/bin
READY = $(VENV)/.persam-dreambooth-installed

.PHONY: demo test test-fast lint docs bench clean

demo: $(READY)
	rm -rf demo
	OMP_NUM_THREADS=1 $(BIN)/python experiments/tinyworld/demo.py --output demo

test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile --durations 25

# All but browsers, trainings and kills: the list is SLOW in tests/conftest.py.
test-fast: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" --numprocesses auto --maxprocesses 4 --dist loadfile

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: $(READY)
	$(BIN)/python benchmarks/full_size.py

clean:
	rm -rf demo site $(READY)

# torch comes first and alone, so that its build is the user's choice; the constraints pin the rest.
$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install $(TORCH)
	grep -v -E '^(torch|torchvision)==' constraints.txt > $(VENV)/constraints.txt
	$(BIN)/python -m pip install -e '.[dev]' -c $(VENV)/constraints.txt
	touch $@
