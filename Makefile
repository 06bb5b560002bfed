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

.PHONY: help setup lab run test execute exercises data bench check check-tl4 clean
help:
	@echo "make lab        open JupyterLab at your copy of notebook 00 (ARGS=--no-browser: arguments for JupyterLab)"
	@echo "make run        run the whole series headless and write build/ (NB=00 runs one)"
	@echo "make test       everything CI checks"
	@echo "make setup      only .venv and the model"
	@echo "authors: make execute | exercises | data | bench | check | check-tl4"

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
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff format --isolated --check --config line-length=100 notebooks/*.ipynb notebooks/exercises/[0-9]*.ipynb
	$(PY) -m mi_utils exercises --check
	$(PY) -m mi_utils readme --check
	$(PY) -m pytest -q tests/notebooks -m "not slow"

# TransformerLens 4, in an environment of its own and without SAELens, which asks for 3.
VENV4 := .venv-tl4
PY4 := $(VENV4)/bin/python
TESTS4 := tests/models tests/prompts tests/heads tests/lens tests/patching tests/circuits tests/graphs \
	tests/transcoders tests/sae tests/features tests/test_harvest.py tests/test_harvest_collect.py tests/test_atlas.py
NEED_SAELENS = $(shell grep -rlE '^(import|from) sae_lens' tests)

$(VENV4)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV4)
	$(PY4) -m pip install --quiet --disable-pip-version-check $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) "$$(grep '^torch==' constraints.txt)"
	grep -v -E '^(transformer|sae)-lens==' constraints.txt > $(VENV4)/constraints.txt
	$(PY4) -c "import tomllib; project = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
		wanted = project['dependencies'] + project['optional-dependencies']['test']; \
		print(*(one for one in wanted if not one.startswith(('transformer_lens', 'sae_lens'))), sep='\n')" \
		> $(VENV4)/requirements.txt
	$(PY4) -m pip install --quiet --disable-pip-version-check -c $(VENV4)/constraints.txt -r $(VENV4)/requirements.txt 'transformer_lens>=4,<5'
	$(PY4) -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@

check-tl4: $(VENV4)/.installed
	$(PY4) -m pip list --disable-pip-version-check 2>/dev/null | grep -i -E '^(torch|transformers|transformer-lens) '
	$(PY4) -m pytest -q -m "not browser" $(TESTS4) $(addprefix --ignore=,$(NEED_SAELENS))

clean:
	rm -rf build
