# Two commands do all the set-up: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
# Tests marked `extras` need more, and skip without it: test,tfds,docs, for one.
EXTRAS ?= test
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test slow lint docs faults record clean

demo: $(STAMP)
	$(BIN)/jaxpt demo

PYTEST := $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder

test: lint
	$(PYTEST) -m 'not slow'

# Runs of several processes, kills, notebooks: what takes as long as all the rest.
slow: $(STAMP)
	$(PYTEST) -m slow

lint: $(STAMP)
	$(BIN)/ruff check
	$(BIN)/ruff format --check --quiet
	$(BIN)/mypy
	$(BIN)/shellcheck scripts/*.sh .ci/run .ci/advisories

# The documentation site, in build/site; a warning is an error. NO_MKDOCS_2_WARNING spares the log
# an announcement of mkdocs-material's.
docs: $(STAMP)
	$(BIN)/pip install --quiet --editable '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# Runs that are killed at every kind of moment, all of them; `make slow` takes a few.
faults: $(STAMP)
	$(BIN)/python tests/faults/kills.py

# Anew whenever the metadata changes; editable, so the code needs no new installation.
$(STAMP): setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --editable '.[$(EXTRAS)]'
	touch $(STAMP)

# What README and docs show: the demo's records, pictures, and every table anew from records.
record: demo
	mkdir -p docs/images benchmarks/records
	cp runs/demo_digits/records.jsonl benchmarks/records/demo_digits.jsonl
	cp runs/demo_digits/features_map.png docs/images/features_map.png
	$(BIN)/python benchmarks/tables.py
	$(BIN)/python docs/figures.py

clean:
	rm -rf $(VENV) build runs
