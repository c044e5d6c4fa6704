# Two commands do everything: `make demo` and `make test`. Both make .venv first if it is not there.
PYTHON ?= python3
BIN := .venv/bin
# Processes that test beside one another: one a core, 2 GB each.
TESTERS ?= $(shell $(PYTHON) -c 'import os; print(max(2, min(4, os.cpu_count() or 2)))')

.PHONY: demo test lint types tests gpu setup clean

demo: setup  ## train an autoencoder and a model on its latents, sample held-out prompts, measure them, put all on a page
	$(BIN)/python train.py experiment=vae_world trainer.max_steps=800 name=demo_codec
	$(BIN)/python train.py experiment=demo_latent codec.ckpt=runs/demo_codec trainer.max_steps=460 callbacks.world.every=230 name=demo
	$(BIN)/python scripts/evaluate.py ckpt=runs/demo
	$(BIN)/python scripts/report.py runs/demo

# Types take one core for half a minute, in which the tests have the other; bytecode is kept also where the environment
# says otherwise, since tests start Python again and again, and each start would compile the project anew.
test: setup lint  ## everything that CI runs
	$(MAKE) -j2 types tests

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

tests: setup
	OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n $(TESTERS)

gpu: setup  ## what only a GPU can tell: tests that are skipped elsewhere, speeds, a training (scripts/on_gpu.py)
	$(BIN)/python scripts/on_gpu.py

setup: .venv/ready

# The stamp holds the requirements it was made from: an edit there installs again, nothing else does.
.venv/ready: requirements.txt requirements-dev.txt requirements-lora.txt requirements-pretrained.txt requirements-data.txt requirements-sets.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit(f"error: Python {v.major}.{v.minor} is too old: 3.11 or newer is needed; make PYTHON=python3.11")'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "installing requirements.txt into .venv (once, about 5 minutes and 7 GB) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt -r requirements-dev.txt
	@touch $@

clean:  ## forget the environment and caches; runs/ stays
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache
