# The two commands of a fresh machine are `make quickstart` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Three workers on two cores: one often waits for a server, a queue or a disk.
WORKERS ?= 3
PYTEST := $(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup --no-loadscope-reorder
# Coverage means something of all tests alone, the real services' included.
COVERAGE = $(if $(ARGS),,$(if $(filter 1,$(HPT_REQUIRE_SERVICES)),--cov --cov-report=))
STORE ?= $(or $(HPT_STORE),./hpt-store)
export HPT_STORE := $(STORE)

.DEFAULT_GOAL := help
.PHONY: help quickstart openmoji-line data venv test test-deep lint format bench-data bench-engine bench-precision bench-launch bench-gpu image ui slurm-up slurm-down clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

# Each is made again when pyproject.toml changes. pip would compile on one core; a package's file for
# a newer Python does not compile, and is not used.
define install
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo 'installing into $(VENV): some minutes, torch is large'
	$(BIN)/python -m pip install --quiet --no-compile --editable '.[$(1)]'
	@$(BIN)/python -m compileall -qq -j 0 $(VENV)/lib || true
	touch $(addprefix $(VENV)/.,$(subst $(comma), ,$(1)))
endef
comma := ,

$(VENV)/.demo: pyproject.toml
	$(call install,demo)

$(VENV)/.test: pyproject.toml
	$(call install,demo$(comma)test)

$(VENV)/.bench: pyproject.toml
	$(call install,demo$(comma)test$(comma)bench)

venv: $(VENV)/.test  ## make .venv with everything that the quickstart, the tests and lint need

data: $(VENV)/.demo
	$(BIN)/hpt-dist shard openmoji/color $(STORE)/datasets/openmoji/color
	$(BIN)/hpt-dist shard openmoji/line $(STORE)/datasets/openmoji/line

quickstart: data  ## shard real images, run the stages, print the report (about 10 minutes)
	$(BIN)/hpt-dist launch recipes/quickstart.yaml

openmoji-line: data  ## the same question with baselines, budgets and seeds (up to an hour)
	$(BIN)/hpt-dist launch recipes/openmoji_line.yaml

test: venv  ## run the tests (ARGS="tests/datasets/test_tar.py -n 0" some); HPT_REQUIRE_SERVICES=1 skips none
	$(PYTEST) $(COVERAGE) $(ARGS)

test-deep: venv  ## the tests with repetition and size too: more seeds, examples, kills, trials
	$(PYTEST) --deep $(ARGS)

lint: venv  ## ruff, strict types, and the pre-commit checks' own rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: venv  ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench-data: $(VENV)/.bench  ## the data plane's speeds beside its peers' (ARGS=--write keeps them)
	PYTHONPATH=tests/fixtures $(BIN)/python -W ignore -m benchmarks.data $(ARGS)

bench-engine: $(VENV)/.bench  ## training steps beside lightly's and the bare passes (ARGS=--write keeps them)
	GOMP_SPINCOUNT=10000 PYTHONPATH=tests/fixtures $(BIN)/python -W ignore -m benchmarks.engine $(ARGS)

bench-precision: $(VENV)/.bench  ## what each precision and memory format costs on this machine
	GOMP_SPINCOUNT=10000 PYTHONPATH=tests/fixtures $(BIN)/python -W ignore -m benchmarks.precision $(ARGS)

bench-launch: $(VENV)/.bench  ## what starting trials costs over one process that runs them all
	PYTHONPATH=tests/fixtures $(BIN)/python -W ignore -m benchmarks.launch $(ARGS)

bench-gpu: $(VENV)/.bench  ## ResNet-50 MoCo v2 at 224 pixels on this machine's GPU
	PYTHONPATH=tests/fixtures $(BIN)/python -W ignore -m benchmarks.gpu $(ARGS)

image:  ## build the container image with buildah (ARGS="--extras demo"; docs/containers.md)
	containers/build $(ARGS)

ui: $(VENV)/.demo  ## open MLflow's UI on the quickstart's runs
	$(BIN)/hpt-dist ui --store $(STORE)

slurm-up:  ## start a Slurm cluster of two nodes here, with an S3 and an MLflow server
	@$(PYTHON) slurm/dev/cluster.py up $(ARGS)

slurm-down:  ## end all that slurm-up started, and remove its state
	@$(PYTHON) slurm/dev/cluster.py down $(ARGS)

clean:  ## remove the virtual environment and caches, but no results
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info
