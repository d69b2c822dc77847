# Two commands do all the set-up: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
# With test,tfds the tests of tfds sets run too; they need TensorFlow.
EXTRAS ?= test
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test faults record clean

demo: $(STAMP)
	$(BIN)/jaxpt demo

test: $(STAMP)
	$(BIN)/flake8
	$(BIN)/python -m pytest -n auto --maxprocesses 8 --dist loadfile

# Runs that are killed at every kind of moment, all of them; `make test` takes a few.
faults: $(STAMP)
	$(BIN)/python tests/faults/kills.py

# Anew whenever the metadata changes; editable, so the code needs no new installation.
$(STAMP): setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --editable '.[$(EXTRAS)]'
	touch $(STAMP)

# What README shows: the demo's records and picture, and every table made anew from records.
record: demo
	mkdir -p docs/images benchmarks/records
	cp runs/demo_digits/records.jsonl benchmarks/records/demo_digits.jsonl
	cp runs/demo_digits/features_map.png docs/images/features_map.png
	$(BIN)/python benchmarks/tables.py

clean:
	rm -rf $(VENV) build runs
