# The commands of the workshop. `make run` and `make test` are all a newcomer needs; see README.md.
PYTHON ?= python3
TORCH_INDEX ?=
VENV := .venv
PY := $(VENV)/bin/python
NB ?=
ARGS ?=

# Torch's threads spin while they wait; on a busy machine that costs fifty times the work itself.
export OMP_NUM_THREADS ?= 2
export OMP_WAIT_POLICY ?= PASSIVE
export TOKENIZERS_PARALLELISM ?= false

.PHONY: help setup lab run test execute exercises data bench check clean
help:
	@echo "make lab        open JupyterLab at your copy of notebook 00 (ARGS=--no-browser: arguments for JupyterLab)"
	@echo "make run        run the whole series headless and write build/ (NB=00 runs one)"
	@echo "make test       everything CI checks"
	@echo "make setup      only .venv and the model"
	@echo "authors: make execute | exercises | data | bench | check"

# torch comes first and pinned: left to float, it brings gigabytes of CUDA.
$(VENV)/.installed: pyproject.toml constraints.txt
	@echo "installing packages into $(VENV): a few minutes, about 2 GB (more where torch brings CUDA)"
	$(PYTHON) -m venv $(VENV)
	@echo "first torch, the largest of them"
	$(PY) -m pip install --quiet --disable-pip-version-check $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) "$$(grep '^torch==' constraints.txt)"
	@echo "then all others"
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test,author]'
	@touch $@

setup: $(VENV)/.installed
	@$(PY) -m mi_utils fetch
	$(if $(filter setup,$(MAKECMDGOALS)),@echo "to use it from this shell: . $(VENV)/bin/activate")

lab: setup
	$(PY) -m mi_utils lab $(ARGS)

run: setup
	$(PY) -m mi_utils run $(NB)

test: setup
	$(PY) -m mi_utils test

execute: setup
	$(PY) -m mi_utils execute $(NB)

exercises: $(VENV)/.installed
	$(PY) -m mi_utils exercises

data: $(VENV)/.installed
	$(PY) -m mi_utils data

bench: setup
	$(PY) -m mi_utils bench

check: $(VENV)/.installed
	$(VENV)/bin/ruff check .
	$(PY) -m mi_utils exercises --check
	$(PY) -m mi_utils readme --check
	$(PY) -m pytest -q tests/notebooks -m "not slow"

clean:
	rm -rf build
