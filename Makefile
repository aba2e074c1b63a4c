# The commands of this repository; `make help` lists them.
.DEFAULT_GOAL := help
.PHONY: help up status latido test faults soak fuzz drill containers compose-up check format manifests requirements modules page bench bench-page \
  loadtest stress clean
PY := .venv/bin/python
export PATH := $(CURDIR)/.venv/bin:$(PATH)
# Moves a part of `make up` elsewhere: make up EXPORTER_PORT=20110
export EXPORTER_PORT RAW_PORT ORM_PORT BRIDGE_PORT PROMETHEUS_PORT MARIADB_PORT RETAIN_DAYS

help: ## list these commands
	@echo "Latido: what every process on every Linux host is doing now, and what it did at 03:12."
	@echo
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' $(MAKEFILE_LIST) | while IFS='|' read -r name does; do \
	  printf '  make %-13s %s\n' "$$name" "$$does"; done
	@echo
	@echo "make up takes EXPORTER_PORT RAW_PORT ORM_PORT BRIDGE_PORT PROMETHEUS_PORT MARIADB_PORT RETAIN_DAYS,"
	@echo "and LATIDO_DB_DSN=mysql://USER:PASSWORD@HOST:PORT/DATABASE to use a MySQL of yours."

up: ## set up and run the whole stack here, until Ctrl-C
	@dev/setup.sh up
	@exec $(PY) -m dev.up

$(PY):
	@echo "nothing is set up here yet; \`make up\` sets up and runs everything" >&2; exit 1

status: | $(PY) ## how the stack that `make up` runs is doing
	@$(PY) -m dev.up --status

latido: | $(PY) ## any latido command on that stack's database: make latido ARGS='history --window 1m'
	@$(PY) -m dev.up --latido $(ARGS)

test: ## set up, then run every check and test
	@dev/setup.sh test
	@$(MAKE) --no-print-directory check
	@$(MAKE) --no-print-directory -C kmod test KERNELS=$(CURDIR)/.run/kernels
	@$(PY) -m pytest -q

modules: ## build the kernel modules for this kernel, install and load them (needs root)
	@$(MAKE) --no-print-directory -C kmod install load

bench: ## run every benchmark against its real alternative (an hour) and make a page of the results in .run/benchmarks
	@dev/setup.sh test
	@$(PY) -m loadtest.benchmarks all

bench-page: ## make docs/benchmarks.md of the results in docs/benchmarks/
	@dev/setup.sh dev
	@$(PY) -m loadtest.benchmarks document --results docs/benchmarks --output docs/benchmarks.md

DURATION ?= 5m
loadtest: ## load both APIs in turn on a private stack, and say by objectives and counts how it was: make loadtest DURATION=2m ARGS='--hosts=100'
	@dev/setup.sh dev
	@$(PY) -m dev.loadtest --duration=$(DURATION) $(ARGS)

stress: ## load this machine (CPU, memory, forks, I/O) and see it in the metrics: make stress ARGS='--kind=cpu --duration=30s'
	@dev/setup.sh dev
	@$(PY) -m latido loadtest stress $(ARGS)

faults: ## kill, cut, freeze and fill everything for 10 minutes, then count every sample: make faults ARGS='--seed 7'
	@dev/setup.sh dev
	@$(PY) -m tests.faults $(ARGS)

soak: ## nothing but time, at ten times the normal rate, for 20 minutes: make soak ARGS='--minutes 5'
	@dev/setup.sh dev
	@$(PY) -m tests.faults.soak $(ARGS)

fuzz: ## feed every parser of what others wrote with broken input, three minutes each: make fuzz ARGS='--seconds 20'
	@dev/setup.sh dev
	@$(PY) -m tests.fuzz $(ARGS)

drill: ## break a running stack and see every alert, panel and rule answer, in a real Prometheus and MariaDB (four minutes)
	@dev/setup.sh test
	@LATIDO_DRILL=1 $(PY) -m pytest -q grafana/tests/test_dashboard_queries.py

containers: ## build the images and run compose.yaml and the Deployments as containers (root, podman, a quarter of an hour)
	@dev/setup.sh containers
	@LATIDO_CONTAINERS=1 $(PY) -m pytest -q tests/containers $(ARGS)

COMPOSE ?= docker compose
compose-up: ## run everything as containers, Grafana too, until Ctrl-C (Docker)
	@$(COMPOSE) up --build $(ARGS)

page: ## build the bridge's page into bridge_ws/web/dist (needs Node), after a change of its sources
	@dev/setup.sh dev
	@$(PY) -m dev.page

check: ## format, lint, types, imports
	@dev/setup.sh dev
	@$(PY) -m ruff format --check .
	@$(PY) -m ruff check .
	@$(PY) -m mypy
	@.venv/bin/lint-imports --no-cache

format: ## let ruff rewrite what it can
	@dev/setup.sh dev
	@$(PY) -m ruff format .
	@$(PY) -m ruff check --fix .

COMPILE := .venv/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
  --no-emit-index-url --no-annotate --no-header pyproject.toml

requirements: ## compile pyproject.toml into requirements.txt, the images' and `make up`'s: pinned, hashed, without addresses
	@dev/setup.sh dev
	@$(COMPILE) --all-extras -o requirements.txt
	@echo hatchling | $(COMPILE) - --extra exporter --extra ingest --extra bridge --constraint requirements.txt \
	  -o packaging/container/requirements.txt
	@echo hatchling | $(COMPILE) - --extra loadtest --constraint requirements.txt \
	  -o packaging/container/requirements-loadtest.txt
	@$(COMPILE) --extra up --constraint requirements.txt -o dev/requirements.txt

manifests: ## write the Prometheus Operator's copy of the alert rules into kubernetes/
	@dev/setup.sh dev
	@$(PY) -m dev.manifests

clean: ## remove what set-up and builds made (the data of `make up` too), unload the modules
	@$(MAKE) --no-print-directory -C kmod unload clean
	@rm -rf .venv .run .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache dist build
