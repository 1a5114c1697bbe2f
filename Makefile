# Needs Python 3.11 or newer and make; the rest comes with the first `make demo`, `make test` or `make lint`.
# Variables: PYTHON=python3.12 (which Python), TORCH_BACKEND=cpu (torch without CUDA, from PyTorch's own index),
# EXTRAS=all (which extras to install), DATA=path (a data set for `make bench`), UPGRADE=1 (for `make constraints`).

PYTHON ?= python3
EXTRAS ?= agents,api,app,captions,export,open-clip,samples,search,train,weights

BIN := .venv/$(if $(filter Windows_NT,$(OS)),Scripts,bin)
UV = $(BIN)/python -m uv pip
VENV := .venv/.has-uv
READY := .venv/.ready-$(EXTRAS)
DEMO := .venv/.ready-demo
BENCHMARKS = $(filter-out benchmarks/_%,$(wildcard benchmarks/*.py))

# A PYTHON that somebody asked for is used or refused; only the default has others to fall back on.
PYTHONS = $(PYTHON) $(if $(filter file,$(origin PYTHON)),python3.13 python3.12 python3.11)

.DEFAULT_GOAL := help
.PHONY: help setup demo test coverage lint docs bench constraints clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-13s%s\n", $$1, $$2}' Makefile

setup: $(READY) ## Install diptych and what it needs into .venv (the other targets do it when it is due)

demo: $(if $(wildcard $(READY)),$(READY),$(DEMO)) ## Index fifteen photographs, and find them by text and by picture
	$(BIN)/python examples/demo.py

test: $(READY) ## Run the tests
	$(BIN)/pytest

coverage: $(READY) ## Run the tests and list the lines of the source that none of them reaches
	$(BIN)/pytest --cov --cov-report=term:skip-covered --cov-report=html:build/coverage

lint: $(READY) ## Check style and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

docs: $(READY) ## Write docs/cli.md and the tree of docs/architecture.md anew
	$(BIN)/python docs/generate.py

bench: $(READY) ## Run the benchmarks; those that measure on a data set need DATA=path
	@failed=; for script in $(BENCHMARKS); do \
		set --; \
		if grep -q -e '--data' $$script; then \
			if [ -z "$(DATA)" ]; then echo "== $$script: skipped, it needs DATA=path"; continue; fi; \
			set -- --data "$(DATA)"; \
		fi; \
		echo "== $$script $$*"; $(BIN)/python $$script "$$@" || failed="$$failed $$script"; \
	done; \
	[ -z "$$failed" ] || { echo "failed:$$failed"; exit 1; }

constraints: $(VENV) ## Pin what pyproject.toml asks for in constraints.txt; UPGRADE=1 moves every pin to the newest
	$(UV) compile pyproject.toml --quiet --universal --python-version 3.11 --fork-strategy fewest \
		--all-extras --group dev $(if $(UPGRADE),--upgrade) \
		--annotation-style line --custom-compile-command 'make constraints' --output-file constraints.txt

clean: ## Remove caches and build output, and have the next target check .venv again
	rm -rf build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .venv/.ready-*
	find . -name .venv -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV):
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || { \
		for python in $(PYTHONS); do \
			if $$python -c 'import sys, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
				echo "$$python -m venv .venv"; exec $$python -m venv .venv; \
			fi; \
		done; \
		echo "no Python 3.11 or newer that can make a virtual environment; tried: $(PYTHONS)." >&2; \
		echo "Install one (Debian: python3 and python3-venv), or name it: make PYTHON=/path/to/python" >&2; \
		exit 1; \
	}
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'uv>=0.9'
	@touch $@

# A set-up that was cut off may leave packages half written which look installed: `.unfinished` tells the next one to
# install them again. It becomes the stamp when all is done. The demo needs little of it, and does not wait for the rest.
$(READY): WANTED = '.[$(EXTRAS)]' --group dev
$(DEMO): WANTED = '.[samples,search]'
$(READY) $(DEMO): $(VENV) pyproject.toml constraints.txt
	@again=; [ ! -e .venv/.unfinished ] || again=--reinstall; touch .venv/.unfinished; set -x; \
	$(UV) install --python $(BIN)/python $$again $(if $(TORCH_BACKEND),--torch-backend $(TORCH_BACKEND)) \
		-c constraints.txt -e $(WANTED)
	@mv .venv/.unfinished $@
