# Every target sets up what it needs: a Python (3.11 or newer, with venv) and make are enough.
SHELL := /bin/bash
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
export PYTHONPATH := $(CURDIR):$(CURDIR)/layers/core:$(CURDIR)/layers/agents

.PHONY: help
help:
	@echo "make run         the whole system on http://localhost:$${PORT:-8000}"
	@echo "make test        all tests          make lint       style and types"
	@echo "make scan        a security scanner reads the templates (.checkov.yaml has the exceptions)"
	@echo "make test-contract  longer, with other requests each time (EXAMPLES=100)"
	@echo "make bench       speed and memory   make token      a bearer token for the local server (ROLE=admin)"
	@echo "make db-migrate  (DRY_RUN=1), db-verify, db-reset (YES=delete-everything), db-repair (DRY_RUN=1)"
	@echo "make build       what Lambda is given (ARCH=arm64 or x86_64; HOST=1 for this machine)"
	@echo "make deploy      build and sam deploy; asks for what it needs the first time"
	@echo "make openapi     write openapi.json make lock       resolve the dependencies anew"
	@echo "make prices      changes of model prices since (APPLY=1 writes them)"

$(READY): requirements/dev.txt requirements/uv.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/uv.txt
	@$(BIN)/uv pip sync --quiet --require-hashes --python $(BIN)/python requirements/dev.txt
	@touch $@

.PHONY: run
run: $(READY)
	@exec $(BIN)/python -m local.server

.PHONY: token
token: $(READY)
	@$(BIN)/python -m local.token --role "$${ROLE:-user}" --user "$${AS:-}"

# More than two cores need: a test waits for its servers most of its time.
WORKERS ?= 4
.PHONY: test
test: $(READY)
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(ARGS)

.PHONY: test-contract
test-contract: $(READY)
	CONTRACT_EXAMPLES=$(or $(EXAMPLES),100) $(BIN)/python -m pytest -n 2 --dist worksteal tests/contract $(ARGS)

.PHONY: lint
lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Apart, because it brings a hundred packages along that nothing else needs.
SCANNER := .scanner
$(SCANNER)/.ready: requirements/scan.txt $(READY)
	@test -x $(SCANNER)/bin/python || $(PYTHON) -m venv $(SCANNER)
	@$(BIN)/uv pip sync --quiet --require-hashes --python $(SCANNER)/bin/python requirements/scan.txt
	@touch $@

.PHONY: scan
scan: $(SCANNER)/.ready
	@$(BIN)/python -m tests.infra.stacks $(SCANNER)/templates
	@$(SCANNER)/bin/checkov --directory $(SCANNER)/templates --config-file .checkov.yaml

.PHONY: bench
bench: $(READY)
	@$(BIN)/python -m bench $(ARGS)

.PHONY: db-migrate db-verify db-reset db-repair
db-migrate: $(READY)
	@$(BIN)/python -m local.database_commands migrate $(if $(DRY_RUN),--dry-run)
db-verify: $(READY)
	@$(BIN)/python -m local.database_commands verify
db-reset: $(READY)
	@$(BIN)/python -m local.database_commands reset $(if $(filter delete-everything,$(YES)),--yes-delete-everything)
db-repair: $(READY)
	@$(BIN)/python -m local.database_commands repair $(if $(DRY_RUN),--dry-run)

# Lambda's, unless HOST=1 says this machine's own.
export ARCH ?= arm64
.PHONY: build
build: $(READY)
	@$(BIN)/python -m local.build $(if $(HOST),--host,--arch $(ARCH)) $(ARGS)

# Apart, because its dependencies and ours exclude one another.
SAM := .sam
$(SAM)/.ready: requirements/sam.txt $(READY)
	@test -x $(SAM)/bin/python || $(PYTHON) -m venv $(SAM)
	@$(BIN)/uv pip sync --quiet --require-hashes --python $(SAM)/bin/python requirements/sam.txt
	@touch $@

IDENTITY := import boto3; print(boto3.client("sts").get_caller_identity()["Arn"])
.PHONY: deploy
deploy: $(SAM)/.ready
	@$(SAM)/bin/python -c '$(IDENTITY)' 2>/dev/null || \
	  { echo "AWS does not know who you are: run aws configure or aws sso login, or set AWS_PROFILE."; exit 1; }
	@$(BIN)/python -m local.deployment $(ARGS)
	$(SAM)/bin/sam build --build-in-source
	$(SAM)/bin/sam deploy $(ARGS)

include $(dir $(lastword $(MAKEFILE_LIST)))infra/build.mk

.PHONY: prices
prices: $(READY)
	@$(BIN)/python -m local.prices $(if $(APPLY),--apply)

.PHONY: openapi
openapi: $(READY)
	@$(BIN)/python -m local.openapi

.PHONY: lock
lock: $(READY)
	$(BIN)/uv pip compile --quiet $(LOCK) pyproject.toml --all-extras --group dev -o requirements/dev.txt
	$(BIN)/uv pip compile --quiet $(LOCK) pyproject.toml --extra agents -c requirements/dev.txt -o requirements/agents.txt
	$(BIN)/uv pip compile --quiet $(LOCK) pyproject.toml -c requirements/dev.txt -o requirements/core.txt
	echo checkov | $(BIN)/uv pip compile --quiet $(LOCK) - -o requirements/scan.txt
	echo aws-sam-cli | $(BIN)/uv pip compile --quiet $(LOCK) - -o requirements/sam.txt
	@grep -E -A2 '^uv==' requirements/dev.txt >/dev/null && \
	  echo uv | $(BIN)/uv pip compile --quiet $(LOCK) - -c requirements/dev.txt -o requirements/uv.txt
LOCK := --universal --generate-hashes --no-emit-index-url --no-annotate --no-header --python-version 3.11
