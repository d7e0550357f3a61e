# Everything a developer runs. Each target alone is enough on a fresh machine with Python 3.11, make and git.
.DEFAULT_GOAL := help
PYTHON ?= $(shell python3.11 -V > /dev/null 2>&1 && echo python3.11 || echo python3)
BIN := .venv/bin
STAMP := .venv/.ready
export OMP_NUM_THREADS ?= 2

.PHONY: help setup check test demo bench chaos golden constraints clean

help: ## list the targets
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-12s %s\n", $$1, $$2}'

setup: $(STAMP) ## install everything into .venv, once per change of pyproject.toml or constraints.txt

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q --upgrade -c constraints.txt pip
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[aws,demo,scenes,bench]' --group dev
	touch $@

check: $(STAMP) ## lint, format, types, architecture
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

test: check ## check, then all tests, two files at a time
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

demo: $(STAMP) ## answer questions over a few real clips and show the hits
	$(BIN)/python -m jobs.demo

bench: $(STAMP) ## measured comparisons: make bench ARGS="retrieval --media DIR --labels FILE"
	$(BIN)/python -m jobs bench $(or $(ARGS),--help)

chaos: $(STAMP) ## kill drivers, actors, tasks and machines over a bad S3 in 30 seeded runs; counts what is lost
	REELSIFT_FAIL_ON_SKIP=1 REELSIFT_CHAOS_RUNS=30 REELSIFT_KILL_TRIES=10 $(BIN)/python -m pytest -s \
		$(addprefix tests/integration/test_,kill.py compact.py commit_kills.py chaos.py)

golden: $(STAMP) ## write the golden files anew; review the difference
	$(BIN)/python -m tests.golden.regenerate

constraints: ## resolve anew and write constraints.txt; torch stays, its builds are chosen by hand
	rm -rf .venv-new && $(PYTHON) -m venv .venv-new
	.venv-new/bin/python -m pip install -q --upgrade pip
	.venv-new/bin/python -m pip install -q "$$(grep ^torch== constraints.txt)" -e '.[aws,demo,scenes,bench]' --group dev
	echo '# Exact versions of everything a development installation holds. Made by: make constraints' > constraints.txt
	.venv-new/bin/python -m pip freeze --all --exclude-editable | grep -v '^#' | sed 's/+cpu$$//' >> constraints.txt
	rm -rf .venv-new

clean: ## remove everything that was made here
	rm -rf .venv .demo build dist out .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
