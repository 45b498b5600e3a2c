# What a fresh machine needs: python3 (3.11 to 3.14, with venv), git, make. Everything else is set up by the targets.
# Another Python: make PYTHON3=python3.12 test

PYTHON3 ?= python3
VENV := .venv
EMULATOR_VENV := .venv-emulator
PYTHON := $(VENV)/bin/python
CODE := layers/stream_downloads/stream_downloads functions tests deploy.py package.py

export SAM_CLI_TELEMETRY := 0
# uv compiles nothing, so the first program that imports a package has to: else each of a hundred would compile it again.
unexport PYTHONDONTWRITEBYTECODE
# Without a writable home, pip and uv have no cache.
CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)
ifneq (,$(shell test -w "$(CACHE)" || { test ! -e "$(CACHE)" && test -d "$(HOME)" && test -w "$(HOME)"; } || echo none))
export PIP_NO_CACHE_DIR := 1
export UV_NO_CACHE := 1
endif
# uv trusts the machine's certificates, as pip does.
export UV_SYSTEM_CERTS := 1
# Commands find the tools, and the layer's Makefile finds python3, in the development environment.
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

.DEFAULT_GOAL := help
.PHONY: help demo playground test check chaos mutants fuzz load format bench build deploy smoke package undeploy lock clean

help: ## say what each target does
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' Makefile

EMULATED := $(VENV)/installed $(EMULATOR_VENV)/installed $(VENV)/wheels/requirements.txt
demo: $(EMULATED) ## deploy on a local emulator and watch videos become URLs
	@$(PYTHON) -m tests.demo

playground: $(EMULATED) ## deploy on a local emulator, to try things out until Ctrl-C
	@$(PYTHON) -m tests.playground

test: $(EMULATED) ## unit and integration tests with coverage, faults, end to end
	$(PYTHON) -m pytest --numprocesses 2 --dist worksteal --cov --cov-report=term-missing:skip-covered tests/unit tests/integration
	$(PYTHON) -m pytest --numprocesses 4 tests/e2e tests/faults tests/bench

check: $(VENV)/installed ## lint, format, types, layers, template, links, known vulnerabilities
	ruff check .
	ruff format --check .
	mypy $(CODE)
	PYTHONPATH=layers/stream_downloads lint-imports --no-logo --no-cache
	cfn-lint template.yaml
	sam validate --lint --template template.yaml
	$(PYTHON) -m tests.links
	$(PYTHON) -m tests.audit

chaos mutants fuzz load bench smoke: export PYTHONPATH := .:layers/stream_downloads
chaos: $(VENV)/installed ## simulate a week of 10,000 videos in which three of ten requests fail
	$(PYTHON) -m tests.faults.chaos $(CHAOS)

mutants: $(VENV)/installed ## change the code in a thousand small ways, and break each invariant: the tests notice
	$(PYTHON) -m tests.faults.mutants $(MUTANTS)

FUZZ := -max_total_time=600
fuzz: $(VENV)/installed ## search ten minutes for an input that makes the webhook fail
	uv run --quiet --isolated --no-project --with-requirements tests/requirements/fuzz.txt \
		python -m tests.faults.fuzz $(FUZZ)

load: $(EMULATED) ## sixteen clients send webhooks for half a minute, amid a flood of others
	$(PYTHON) -m tests.bench.load $(LOAD)

format: $(VENV)/installed ## format the code
	ruff check --fix .
	ruff format .

bench: build ## measure the cold start, and the scheduling next to a minute poller (PLOT=file.png draws it)
	$(PYTHON) -m tests.bench.cold_start
	$(PYTHON) -m tests.bench $(if $(PLOT),--plot $(PLOT))

build: $(VENV)/installed ## build the functions and the layer into .aws-sam/
	sam build --parallel

deploy: build ## deploy to AWS; asks the first time, and with DEPLOY=--guided
	$(PYTHON) deploy.py $(DEPLOY)

smoke: $(VENV)/installed ## prove a deployed stack (STACK=name) with a clip of two seconds, on your own accounts
	@$(PYTHON) -m tests.smoke $(STACK)

package: build ## upload the code to S3 (BUCKET=name) and write packaged.json, to deploy with other tools
	@test -n "$(BUCKET)" || { echo "make package BUCKET=<a bucket in the region of the deployment>"; exit 1; }
	$(PYTHON) package.py $(BUCKET)

STACK ?= stream-downloads
undeploy: $(VENV)/installed ## delete the stack from AWS (the downloads table stays)
	sam delete --stack-name $(STACK)

# The layer first: the development environment takes over its versions.
LOCK := uv pip compile --quiet --upgrade --no-config --no-emit-index-url --generate-hashes \
	--custom-compile-command "make lock"
lock: $(VENV)/installed ## resolve every requirements file again
	$(LOCK) --python-version 3.13 --python-platform aarch64-manylinux2014 \
		layers/stream_downloads/requirements.in -o layers/stream_downloads/requirements.txt
	for name in tools development emulator audit fuzz; do \
		$(LOCK) --universal --python-version 3.11 tests/requirements/$$name.in -o tests/requirements/$$name.txt || exit 1; \
	done

clean: ## remove everything that the other targets made
	rm -rf $(VENV) $(EMULATOR_VENV) .aws-sam .coverage .coverage.* .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find $(CODE) -name __pycache__ -prune -exec rm -rf {} +

$(VENV)/installed: tests/requirements/tools.txt tests/requirements/development.txt
	@$(PYTHON3) -c 'import sys; sys.exit("This needs Python 3.11 to 3.14, not " + sys.version.split()[0] \
		if not (3, 11) <= sys.version_info[:2] <= (3, 14) else 0)'
	@$(PYTHON3) -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON3) lacks its module venv." \
		"Install it first; on Debian and Ubuntu: apt-get install $(notdir $(PYTHON3))-venv" >&2; exit 1; }
	@echo "Setting up $(VENV), the development environment (about 200 MB to download) ..."
	@$(PYTHON3) -m venv $(VENV)
	@$(PYTHON) -m pip install --quiet --disable-pip-version-check --require-hashes -r tests/requirements/tools.txt
	@$(VENV)/bin/uv pip sync --quiet --python $(PYTHON) --require-hashes tests/requirements/development.txt
	@touch $@

$(EMULATOR_VENV)/installed: $(VENV)/installed tests/requirements/emulator.txt
	@echo "Setting up $(EMULATOR_VENV), the AWS emulator's environment ..."
	@$(VENV)/bin/uv venv --quiet --clear --python $(PYTHON) $(EMULATOR_VENV)
	@$(VENV)/bin/uv pip sync --quiet --python $(EMULATOR_VENV)/bin/python \
		--require-hashes tests/requirements/emulator.txt
	@touch $@

# The layer's packages, in the form that its Makefile installs: with them the demo needs no registry.
$(VENV)/wheels/requirements.txt: layers/stream_downloads/requirements.txt | $(VENV)/installed
	@rm -rf $(@D)
	@$(PYTHON) -m pip download --quiet --disable-pip-version-check --require-hashes --requirement $< \
		--only-binary=:all: --implementation cp --python-version 3.13 --platform manylinux2014_aarch64 --dest $(@D)
	@cp $< $@
