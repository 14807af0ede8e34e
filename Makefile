# Needs Python 3.11, 3.12 or 3.13, pip and make. `make setup` brings everything else into .venv. For another interpreter
# beside it: `make test PYTHON=python3.13 VENV=.venv-3.13`.
PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
# uv does not read pip's find-links by itself.
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)
export OMP_NUM_THREADS ?= 1
export PATH := $(abspath $(BIN)):$(PATH)
# Containers often set this variable. Without compiled files in .venv every process compiles its imports again, seconds each.
unexport PYTHONDONTWRITEBYTECODE

# Each worker of pytest-xdist is a process with OMP_NUM_THREADS threads: workers times threads is the number of cores.
WORKERS ?= 2
PYTEST := pytest -n $(WORKERS) --dist loadgroup

.PHONY: setup lock demo up down check test test-fast test-loop test-faults test-installs test-all golden bench docs docs-reference
.PHONY: compose-secrets compose-test clean bench-long

setup: $(VENV)/.ready

$(VENV)/.ready: requirements.lock pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check "uv>=0.9"
	@$(BIN)/uv pip install --quiet --python $(BIN)/python -r requirements.lock
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	@touch $@

# One lock for every Python of requires-python; a marker says where a package is for some of them only. Versions that are
# locked stay, unless pyproject.toml rules them out; delete a line of the lock to renew it. torch brings
# its own CUDA packages, so they are left out of the lock: a host gets those of the torch build it installs.
lock:
	cp requirements.lock requirements.lock.tmp
	$(BIN)/uv pip compile pyproject.toml --extra dev --universal --no-annotate --no-header --quiet \
	  --output-file requirements.lock.tmp >/dev/null
	sed -i -E 's/^torch==([0-9.]*)\+cpu/torch==\1/; /^(cuda-|nvidia-[^m]|triton)/d' requirements.lock.tmp
	mv requirements.lock.tmp requirements.lock

# RECIPE is any recipe of the shapes world, e.g. mapo_shapes; without it, that of projects/shapes.toml.
demo: setup
	@plumbline demo projects/shapes.toml $(if $(RECIPE),--recipe $(RECIPE))
	@python examples/shapes/ask_oracle.py

up: setup
	@plumbline up

down: setup
	@plumbline down

check: setup
	ruff format --check .
	ruff check .
	mypy
	basedpyright
	lint-imports

# In random order. The seed is printed first; repeat an order with PYTEST_ADDOPTS=--randomly-seed=SEED.
test: setup
	$(PYTEST) -m "not loop and not faults and not installs and not compose"

# The whole loop: interrupted, killed, resumed, promoted; every DAG in a live scheduler; pages in the host's Chromium.
# An hour and a half, one test at a time.
test-loop: setup
	pytest tests/integration
	pytest -m loop tests/pipelines

# The wheel in fresh environments: a control plane without torch, a training host without airflow, a developer's.
test-installs: setup
	pytest tests/installs

# 20 kills at random moments of the loop and 10 of `plumbline snapshot`; half an hour or more. PLUMBLINE_FAULT_SEED=N repeats a plan of kills.
test-faults: setup
	pytest tests/faults -s -p no:randomly

test-fast: setup
	$(PYTEST) -m "not slow"

# Random secrets for docker-compose.yml in .env, which only you can read. Those that are there stay. Nothing is installed.
compose-secrets:
	@python3 -m pipelines.platform.compose.secrets

# The stack of docker-compose.yml in containers: the loop while parts restart. Needs Docker Engine; see tests/compose/README.md.
compose-test: setup
	pytest tests/compose

# Everything, as a nightly run does.
test-all: test test-loop test-installs test-faults

# DIR is a folder of reference vectors, one sub-folder per method.
golden: setup
	@python tests/golden/replay.py $(or $(DIR),tests/golden/vectors)

# Everything within 15 minutes on two cores: some benchmarks with fewer repetitions than `make bench-long`, so their bars
# are met within wider noise. A benchmark that ends with an error or a missed bar does not keep the next from running.
BENCH_LIMIT := timeout -k 10
bench: setup
	-@$(BENCH_LIMIT) 250 python benchmarks/train_step.py 1
	-@$(BENCH_LIMIT) 160 python benchmarks/imports.py 1
	-@$(BENCH_LIMIT) 200 python benchmarks/objective_memory.py
	-@$(BENCH_LIMIT) 90 python benchmarks/gate_presets.py 100
	-@$(BENCH_LIMIT) 190 python benchmarks/gate_operating_curve.py 100

# Every benchmark of the CPU at its full size; more than an hour. For a GPU see docs/performance.md.
bench-long: setup
	-@for file in benchmarks/*.py; do test $$file = benchmarks/gpu.py || python $$file; done

# The site, with every warning (a broken link, a page outside the contents) as an error. Open build/docs/index.html.
docs: setup
	sphinx-build -W --keep-going -n -q -b html docs build/docs

# The reference pages that are generated from the code.
docs-reference: setup
	@python -m pipelines.commands.reference > docs/cli.md
	@python -m pipelines.project.reference > docs/configuration.md

clean:
	rm -rf build $(VENV) .plumbline .mypy_cache .ruff_cache .pytest_cache
