# `make train` and `make test` set themselves up on first use. VENV=/path shares an environment between checkouts: the
# last one that was set up is installed in it, and what is run from a checkout (launch/*.py, the tests) uses its own code.
VENV ?= .venv
PYTHON ?= python3
ARGS ?=
# `make test-newest` has an environment of its own. NEWEST_LOCK= (empty): the newest that pip finds within setup.py's ranges.
NEWEST_VENV ?= .venv-newest
NEWEST_LOCK ?= requirements-newest.txt
WHEELS ?= .whl
LOCK := $(VENV)/.silc-lock-$(shell cat requirements.txt | cksum | cut -d' ' -f1)
INSTALLED := $(VENV)/.silc-checkout-$(shell { pwd; cat setup.py kernels/pyproject.toml silc/version.py; } | cksum | cut -d' ' -f1)
PIP := $(VENV)/bin/python -m pip --quiet --disable-pip-version-check install
RUN := PATH="$(abspath $(VENV))/bin:$$PATH" OMP_WAIT_POLICY=passive GOMP_SPINCOUNT=0

NEWEST := $(NEWEST_VENV)/.silc-newest-$(shell cat $(NEWEST_LOCK) setup.py kernels/pyproject.toml 2>/dev/null | cksum | cut -d' ' -f1)

.PHONY: help setup train claims test test-newest lint format docs bench soak gpu gpu-wheels clean

help:
	@echo "make train   set up, then SILC and plain CLIP trained on the embedded drawings and compared; with ARGS='--preset NAME"
	@echo "             key=value' only 'silc train' with these"
	@echo "make claims  set up, then SILC and its baselines trained and measured alike, in tables (an hour or so on two CPU cores)"
	@echo "make test    set up, then ruff, mypy and every test"
	@echo "make test-newest  the kernels' tests, the compile gate and a short training under the newest torch, triton and numpy"
	@echo "make lint    ruff and mypy alone; make format changes what ruff can"
	@echo "make docs    the pages of docs/ as a site, in site/"
	@echo "make bench   the microbenchmarks and the training benchmark, against public parts"
	@echo "make soak    long checks: the data stream, mutated files, kills, signals, other ranks, several nodes, SLURM (two hours on two CPU cores)"
	@echo "make gpu     on a machine with a GPU, no network needed: smoke test, benchmarks, kernel tests, a short training"
	@echo "make gpu-wheels  what peers and trainings need there, as wheels in $(WHEELS), to be used by make gpu ARGS='--wheels $(WHEELS)'"
	@echo "make setup   only the environment in $(VENV): requirements.txt, and this checkout as an editable install"

setup: $(INSTALLED)

$(LOCK):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; $(PYTHON) is $$($(PYTHON) -V). Name another: make PYTHON=python3.12 ..."; exit 1; }
	@command -v c++ >/dev/null || { echo "A C++ compiler is needed (torch.compile and DeepSpeed build with it): install g++ or clang"; exit 1; }
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(PIP) --requirement requirements.txt
	@rm -f $(VENV)/.silc-*
	@touch $@

# Needs no network: what it depends on, the build backend too, is in the lock.
$(INSTALLED): $(LOCK)
	$(PIP) --no-deps --no-build-isolation --editable ./kernels --editable .
	@rm -f $(VENV)/.silc-checkout-*
	@touch $@

# Without ARGS: SILC, plain CLIP on as many pairs, and what the one adds to the other. Both folders get the same number,
# the first that is free for both, so that what is compared has just been trained.
train: setup
ifneq ($(strip $(ARGS)),)
	$(RUN) silc train $(ARGS)
else
	@end=; number=1; while [ -e runs/sample$$end ] || [ -e runs/sample_clip$$end ]; do number=$$((number + 1)); end=-$$number; done; \
	set -e; export $(RUN); set -x; \
	silc train train.out=runs/sample$$end; \
	silc train --preset sample_clip train.out=runs/sample_clip$$end; \
	silc compare --brief runs/sample_clip$$end runs/sample$$end
endif

claims: setup
	$(RUN) silc claims $(ARGS)

test: setup lint
	$(RUN) OMP_NUM_THREADS=1 python -m pytest -n 2 --dist worksteal -q $(ARGS)

$(NEWEST):
	test -x $(NEWEST_VENV)/bin/python || $(PYTHON) -m venv $(NEWEST_VENV)
	$(NEWEST_VENV)/bin/python -m pip --quiet --disable-pip-version-check install $(if $(NEWEST_LOCK),--requirement $(NEWEST_LOCK),--upgrade ./kernels .[test])
	@rm -f $(NEWEST_VENV)/.silc-newest-*
	@touch $@

test-newest: setup $(NEWEST)
	$(RUN) $(abspath $(NEWEST_VENV))/bin/python -m tests.soak.newest --lock $(abspath $(VENV))/bin/python $(ARGS)

lint: setup
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) mypy

format: setup
	$(RUN) ruff format .
	$(RUN) ruff check --fix .

docs: setup
	$(RUN) NO_MKDOCS_2_WARNING=1 mkdocs build --strict

bench: setup
	$(RUN) python benchmarks/loss_bench.py
	$(RUN) python benchmarks/patch_embed_bench.py
	$(RUN) python benchmarks/train_bench.py
	$(RUN) python benchmarks/data_bench.py
	$(RUN) python benchmarks/save_bench.py

# Each prints a table; all run, and the first status that is not 0 counts.
soak: setup
	@status=0; for name in order faults fuzz kills signals elastic nodes slurm; do \
		$(RUN) OMP_NUM_THREADS=1 python -m tests.soak.$$name || status=$$?; \
	done; exit $$status

# Without a set-up: a GPU machine may have no network, and brings its own torch (make gpu PYTHON=...).
gpu:
	$(if $(wildcard $(VENV)/bin/python),$(RUN) python,$(PYTHON)) benchmarks/gpu.py $(ARGS)

gpu-wheels: setup
	$(RUN) python benchmarks/gpu.py --download $(WHEELS)

clean:
	rm -rf build *.egg-info kernels/build kernels/*.egg-info site .mypy_cache .pytest_cache .ruff_cache .hypothesis
