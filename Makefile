# Targets for people; each works from a clean checkout. VENV=… and PYTHON=… choose others.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
export TF_CPP_MIN_LOG_LEVEL ?= 3

.PHONY: setup teacher demo test check lint docs notebooks clean

setup: $(VENV)/.installed

$(VENV)/.library: setup.py  ## the library alone, which is what running it takes
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -e .
	touch $@

$(VENV)/.installed: $(VENV)/.library
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[test]'
	touch $@

teacher: $(VENV)/.teacher  ## YOLO and SAM2, which bring PyTorch

$(VENV)/.teacher: setup.py $(VENV)/.installed
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[teacher]'
	touch $@

demo: $(VENV)/.library  ## phantoms: source only, adapted, oracle; a few minutes on 2 cores
	$(BIN)/python scripts/train_aerunet_kd.py --out runs/demo --oracle --steps 300 --size 96 \
		--filters 8 16 32 64

test: setup  ## at most 15 minutes on 2 cores
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow"

check: setup  ## everything that CI runs; the teacher's side is skipped where PyTorch cannot be had
	-$(MAKE) teacher
	$(BIN)/python -m pytest -n 2 --dist loadfile

lint: setup
	$(BIN)/ruff check .

docs: setup  ## the pages under docs/ as a site in build/site; a dead link is an error
	$(BIN)/mkdocs build --strict

notebooks: setup  ## runs those whose code has changed, and keeps their outputs; some minutes each
	$(BIN)/python notebooks/build.py

clean:
	rm -rf $(VENV) runs build dist *.egg-info .pytest_cache .ruff_cache
