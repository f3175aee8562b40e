# make demo: install and run the main job on procedural faces.  make test: install and run the tests.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test check drill format clean

demo: .venv/.demo
	$(BIN)/topoface demo

test: .venv/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

check: .venv/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# kills training at random points and compares what it ends with; fewer points: make drill POINTS=10
POINTS ?= 50
drill: .venv/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.drill --points $(POINTS)

format: .venv/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis

# pip reads constraints.txt so that torch stays the CPU build that CI uses
.venv/.demo: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[all]'
	touch $@

.venv/.dev: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@ .venv/.demo
