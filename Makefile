# On a fresh machine, start with `make quickstart` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Three workers for two cores, since one often waits for a server, a queue or a disk.
WORKERS ?= 3
PYTEST := $(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup --no-loadscope-reorder
# Coverage is measured only if all tests run, with all services.
COVERAGE = $(if $(ARGS),,$(if $(filter 1,$(HPT_REQUIRE_SERVICES)),--cov --cov-report=))
STORE ?= $(or $(HPT_STORE),./hpt-store)
export HPT_STORE := $(STORE)

.DEFAULT_GOAL := help
.PHONY: help quickstart openmoji-line data venv test test-deep lint format bench-data bench-engine bench-evals bench-probes bench-adapt bench-precision bench-detect bench-launch bench-gpu evidence evidence-page image ui slurm-up slurm-down clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

# Installs again when pyproject.toml changes. compileall uses all cores, unlike pip. Some packages
# contain files for a newer Python, which do not compile and are not used.
define install
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo 'installing into $(VENV): this takes some minutes, torch is large'
	$(BIN)/python -m pip install --quiet --no-compile --editable '.[$(1)]'
	@$(BIN)/python -m compileall -qq -j 0 $(VENV)/lib || true
	touch $(addprefix $(VENV)/.,$(subst $(comma), ,$(1)))
endef
comma := ,

$(VENV)/.demo: pyproject.toml
	$(call install,demo)

$(VENV)/.test: pyproject.toml
	$(call install,demo$(comma)test)

$(VENV)/.detect: pyproject.toml
	$(call install,demo$(comma)detect)

$(VENV)/.bench: pyproject.toml
	$(call install,demo$(comma)test$(comma)bench)

venv: $(VENV)/.test  ## create .venv with all packages for the quickstart, the tests and lint

data: $(VENV)/.demo
	$(BIN)/hpt-dist shard openmoji/line $(STORE)/datasets/openmoji/line

quickstart: data  ## shard real images, run all stages, print the report (about 10 minutes)
	$(BIN)/hpt-dist launch recipes/quickstart.yaml

openmoji-line: data  ## adapt from colour drawings to lines, with and without HPT (up to an hour)
	$(BIN)/hpt-dist shard openmoji/color $(STORE)/datasets/openmoji/color
	$(BIN)/hpt-dist launch recipes/openmoji_line.yaml

test: venv  ## run the tests; ARGS="tests/datasets/test_tar.py -n 0" runs one file, HPT_REQUIRE_SERVICES=1 skips none
	$(PYTEST) $(COVERAGE) $(ARGS)

test-deep: venv  ## run the tests with more seeds, examples, kills and trials (an hour or more)
	$(PYTEST) --deep $(ARGS)

lint: venv  ## check the code with ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: venv  ## format the code, and fix what ruff can fix
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench-data: $(VENV)/.bench  ## compare sharding and reading with other libraries (ARGS=--write saves the table)
	PYTHONPATH=tests/fixtures $(BIN)/python -W ignore -m benchmarks.data $(ARGS)

bench-engine: $(VENV)/.bench  ## compare training steps with lightly and with the bare passes (ARGS=--write saves the table)
	GOMP_SPINCOUNT=10000 PYTHONPATH=tests/fixtures $(BIN)/python -W ignore -m benchmarks.engine $(ARGS)

bench-evals: $(VENV)/.bench  ## compare evaluations with the bare passes and with scikit-learn (ARGS=--write saves the table)
	GOMP_SPINCOUNT=10000 PYTHONPATH=tests/fixtures $(BIN)/python -W ignore -m benchmarks.evals $(ARGS)

bench-adapt: $(VENV)/.bench  ## compare a step of adaptation with the bare passes that it contains
	GOMP_SPINCOUNT=10000 PYTHONPATH=tests/fixtures $(BIN)/python -W ignore -m benchmarks.adapt $(ARGS)

bench-probes: $(VENV)/.bench  ## measure what probes of features decide (ARGS="--write --store FOLDER" saves the table, keeps the trainings)
	PYTHONPATH=tests/fixtures $(BIN)/python -W ignore -m benchmarks.probes $(ARGS)

bench-precision: $(VENV)/.bench  ## measure each precision and memory format on this machine
	GOMP_SPINCOUNT=10000 PYTHONPATH=tests/fixtures $(BIN)/python -W ignore -m benchmarks.precision $(ARGS)

bench-detect: $(VENV)/.bench  ## compare a detector's step with its bare passes and with torchvision's model
	GOMP_SPINCOUNT=10000 PYTHONPATH=tests/fixtures $(BIN)/python -W ignore -m benchmarks.detect $(ARGS)

bench-launch: $(VENV)/.bench  ## compare starting a process per trial with one process for all
	PYTHONPATH=tests/fixtures $(BIN)/python -W ignore -m benchmarks.launch $(ARGS)

bench-gpu: $(VENV)/.bench  ## measure ResNet-50 MoCo v2 at 224 pixels on this machine's GPU
	PYTHONPATH=tests/fixtures $(BIN)/python -W ignore -m benchmarks.gpu $(ARGS)

evidence: data $(VENV)/.detect  ## measure what docs/evidence.md lacks (ARGS="--minutes 40"; ARGS=--list shows what is left)
	$(BIN)/hpt-dist shard openmoji/color $(STORE)/datasets/openmoji/color
	$(BIN)/hpt-dist shard openmoji/paint $(STORE)/datasets/openmoji/paint
	$(BIN)/hpt-dist shard openclipart $(STORE)/datasets/openclipart
	$(BIN)/hpt-dist shard fashion-mnist $(STORE)/datasets/fashion-mnist
	$(BIN)/hpt-dist shard tuxpaint $(STORE)/datasets/tuxpaint
	$(BIN)/python -m evidence.shared --store $(STORE)
	$(BIN)/python -m evidence.composed --store $(STORE)
	$(BIN)/python -m evidence.run $(ARGS)

evidence-page: $(VENV)/.demo  ## write docs/evidence.md from evidence/results
	$(BIN)/python -m evidence.page

image:  ## build the container image with buildah (ARGS="--extras demo"; docs/containers.md)
	containers/build $(ARGS)

ui: $(VENV)/.demo  ## open MLflow's UI on the quickstart's runs
	$(BIN)/hpt-dist ui --store $(STORE)

slurm-up:  ## start a Slurm cluster of two nodes here, with an S3 and an MLflow server
	@$(PYTHON) slurm/dev/cluster.py up $(ARGS)

slurm-down:  ## stop everything that slurm-up started, and remove its files
	@$(PYTHON) slurm/dev/cluster.py down $(ARGS)

clean:  ## remove the virtual environment and caches, but not results
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info
