# `make train` and `make test` set themselves up on first use. VENV=/path shares an environment between checkouts.
VENV ?= .venv
PYTHON ?= python3
ARGS ?=
STAMP := $(VENV)/.silc-$(shell cat requirements.txt | cksum | cut -d' ' -f1)
RUN := PATH="$(abspath $(VENV))/bin:$$PATH" OMP_WAIT_POLICY=passive GOMP_SPINCOUNT=0

.PHONY: help setup train claims test lint format bench gpu clean

help:
	@echo "make train   set up, then 'deepspeed launch/train.py' on the embedded drawings (ARGS='--preset NAME key=value' passes on)"
	@echo "make claims  set up, then SILC and its baselines trained and measured alike, in tables (an hour or so on two CPU cores)"
	@echo "make test    set up, then ruff and every test"
	@echo "make bench   the microbenchmarks and the training benchmark, against public parts"
	@echo "make gpu     on a machine with a GPU, no network needed: kernel tests, sanitizer, benchmarks, a short training"
	@echo "make setup   only the environment in $(VENV), from requirements.txt"

setup: $(STAMP)

$(STAMP):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; $(PYTHON) is $$($(PYTHON) -V). Name another: make PYTHON=python3.12 ..."; exit 1; }
	@command -v c++ >/dev/null || { echo "A C++ compiler is needed (torch.compile and DeepSpeed build with it): install g++ or clang"; exit 1; }
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --requirement requirements.txt
	@rm -f $(VENV)/.silc-*
	@touch $@

train: setup
	$(RUN) deepspeed launch/train.py $(ARGS)

claims: setup
	$(RUN) python launch/claims.py $(ARGS)

test: setup lint
	$(RUN) OMP_NUM_THREADS=1 python -m pytest -n 2 --dist worksteal -q $(ARGS)

lint: setup
	$(RUN) ruff check .
	$(RUN) ruff format --check .

format: setup
	$(RUN) ruff format .
	$(RUN) ruff check --fix .

bench: setup
	$(RUN) python benchmarks/loss_bench.py
	$(RUN) python benchmarks/patch_embed_bench.py
	$(RUN) python benchmarks/train_bench.py

# Without a set-up: a GPU machine may have no network, and brings its own torch (make gpu PYTHON=...).
gpu:
	$(if $(wildcard $(VENV)/bin/python),$(RUN) python,$(PYTHON)) benchmarks/gpu.py $(ARGS)

clean:
	rm -rf build *.egg-info .pytest_cache .ruff_cache .hypothesis
