# Two commands do all the set-up on a fresh machine: `make evaluate` and `make test`.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: install docs reproduce-demo evaluate test test-all lint format types imports check bench clean constraints

install: $(STAMP)

# pip refuses an editable install beside hashes, so: the pinned uv by pip, everything pinned by uv, ourselves last.
$(STAMP): constraints.txt pyproject.toml
	$(PYTHON) -m venv --clear $(VENV)
	awk '/^uv==/ {p=1} p {print} p && !/\\$$/ {exit}' constraints.txt > $(VENV)/uv.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $(VENV)/uv.txt
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --require-hashes -r constraints.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .
	touch $@

evaluate: install  ## the main job on the embedded default
	$(BIN)/genbias-bench evaluate --method ffr

# Two processes of one thread each: threads of one process that share busy cores wait for each other.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --benchmark-disable

test: install  ## unit tests
	$(PYTEST)

test-all: install  ## unit tests and slow ones
	$(PYTEST) -m "slow or not slow"

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

types: install
	$(BIN)/mypy

imports: install
	$(BIN)/lint-imports

check: lint types imports test

bench: install  ## speed and memory; prints ratios measured in one run
	$(BIN)/python -m pytest benchmarks -m "slow or not slow" --benchmark-columns=min,median,max,rounds

reproduce-demo: install  ## a sample of the accepted rows again, about an hour; ALL=1 for every row
	$(BIN)/genbias-bench reproduce $(if $(ALL),--all)

docs: install  ## the documentation, into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

constraints:  ## pin anew: versions and hashes, no addresses
	$(BIN)/uv pip compile pyproject.toml --extra dev --extra test --extra docs --extra slurm --extra ray --extra tune --group build --universal --python-version 3.11 \
	  --generate-hashes --no-emit-index-url --no-header --no-annotate --upgrade -o constraints.txt

clean:
	rm -rf $(VENV) .venv312 results .benchmarks
