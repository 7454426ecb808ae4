# For `sam build`, which runs `make build-<LogicalId>` with ARTIFACTS_DIR in a copy of the folder of the including
# Makefile: the sources are found from where this file is. ARCH is arm64, as in the template, or x86_64.
SOURCES := $(abspath $(dir $(lastword $(MAKEFILE_LIST)))/..)

build-%:
	@cd "$(SOURCES)" && "$(firstword $(wildcard $(SOURCES)/.venv/bin/python) python3)" -m local.build $* --into "$(ARTIFACTS_DIR)"
