# Everything a contributor or CI runs. `make help` lists it. Nothing but Python >= 3.12, pip, make
# and git has to be on the machine.

.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
MAKEFLAGS += --no-print-directory
# A run of the tests starts some hundred Python processes: each would compile what it imports anew.
unexport PYTHONDONTWRITEBYTECODE

VENV := .venv
BIN := $(VENV)/bin
PY := $(BIN)/python
STAMP := $(VENV)/.ready
MDF := $(PY) -m tools.cli
# The order of test files; a run is repeated with the number that it printed.
SEED ?= $(shell od -An -N2 -tu2 /dev/urandom | tr -d ' ')
# Test processes at once: tests wait for servers more than they compute. 0 runs them in one process.
JOBS ?= 3

##@ Start here
.PHONY: help
help: ## List these commands
	@awk 'BEGIN {FS = ":.*## "} \
	/^##@/ {printf "\n%s\n", substr($$0, 5)} \
	/^[a-zA-Z0-9_-]+:.*## / {printf "  %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: demo
demo: $(STAMP) ## Run the whole platform here [DURATION= UPSTREAM=sim|coinbase|replay CAPTURE= TRUTH= BROKER_KIND= GATEWAY_PORT=]
	@$(MDF) stack

.PHONY: demo-gap
demo-gap: $(STAMP) ## The demo with messages dropped upstream: see the gap found, announced, healed
	@$(MDF) stack --gap

.PHONY: live
live: $(STAMP) ## The demo on the live Coinbase feed
	@UPSTREAM=coinbase $(MDF) stack

.PHONY: watch-gateway
watch-gateway: $(STAMP) ## Terminal board on a running gateway [URL= PRODUCTS= CHANNEL= FROM_SEQ= API_KEY=]
	@$(MDF) watch

##@ Check
.PHONY: test
test: $(STAMP) ## All tests, on real servers, files in the order of a seed [ARGS=... JOBS=3 SEED=]
	@$(PY) -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder --seed $(SEED) $(ARGS)

.PHONY: check
check: lint typecheck arch charts-render test ## Lint, types, import contracts, charts, all tests

.PHONY: lint
lint: $(STAMP) ## ruff; hadolint, actionlint, zizmor and more on images, compose, workflows
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(PY) -m tools.dev.lint

.PHONY: fmt
fmt: $(STAMP) ## Format and mend what can be mended
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

.PHONY: typecheck
typecheck: $(STAMP) ## mypy --strict over code and tests
	@$(BIN)/mypy

.PHONY: arch
arch: $(STAMP) ## Import contracts
	@$(BIN)/lint-imports

.PHONY: charts charts-render
charts: charts-render ## Lint, render and validate the Helm charts, and run their tests
	@$(PY) -m pytest -q tools/dev/charts tests/deployment/test_pods.py

charts-render: $(STAMP)
	@$(PY) -m tools.dev.charts

.PHONY: manifests
manifests: $(STAMP) ## Render k8s/ from the umbrella chart
	@$(PY) -m tools.dev.charts --write

.PHONY: test-again
test-again: $(STAMP) ## The suite again and again, each time in another order (not in CI) [RUNS=10 BUSY=1 ARGS=...]
	@$(PY) -m tools.dev.repeat_suite --runs $(or $(RUNS),10) --jobs $(JOBS) $(if $(BUSY),--busy) -- $(ARGS)

.PHONY: simulate-years
simulate-years: $(STAMP) ## The platform on virtual time under seeded faults (not in CI) [SEEDS=100 FIRST=0 FAULTS=5]
	@PYTHONPATH=clients/python/src:clients/conformance $(PY) -m tests.simulation --seeds $(or $(SEEDS),100) --first $(or $(FIRST),0) --faults $(or $(FAULTS),5)

FUZZED = $(or $(TARGET),$(basename $(notdir $(filter-out %/__init__.py,$(wildcard tests/fuzz/targets/*.py)))))
.PHONY: fuzz
fuzz: .mdf/fuzz/site/.ready ## Fuzz a parser, guided by coverage (Linux on x86-64) [TARGET=all SECONDS=60 SEED=]
	@for target in $(FUZZED); do \
	  PYTHONPATH=.mdf/fuzz/site $(PY) -m tests.fuzz $$target --seconds $(or $(SECONDS),60) --seed $(SEED); \
	done

# atheris is 37 MB that nothing else needs, and is not to be had for every machine.
.mdf/fuzz/site/.ready: $(STAMP) requirements/fuzz.txt
	@$(PY) -m pip install --quiet --no-deps --require-hashes --only-binary :all: \
	  --upgrade --target $(@D) -r requirements/fuzz.txt
	@touch $@

.PHONY: mutants
mutants: $(STAMP) ## Does a test fail when one thing in a rule is changed? By module (not in CI) [MODULES="chain ..." all: an hour]
	@$(PY) -m tools.dev.mutants $(MODULES)

##@ Measure
.PHONY: bench
bench: $(STAMP) ## All benchmarks: JSON in bench-results/, tables of docs/performance.md [BENCH="broker ..." ARGS=--quick]
	@$(PY) -m tools.bench $(BENCH) $(or $(ARGS),--write-docs)

.PHONY: bench-fanout
bench-fanout: $(STAMP) ## The gateway's fan-out beside a C send() loop and others (needs a C compiler; 10 min)
	@$(PY) -m tools.bench fanout $(or $(ARGS),--write-docs)

.PHONY: soak-snapshotter
soak-snapshotter: $(STAMP) ## Snapshotter: SIGKILL 20 times under load, stores away for 30 s, half of all rows throttled (5 min)
	@SNAPSHOTTER_KILLS=20 SNAPSHOTTER_AWAY_S=30 SNAPSHOTTER_THROTTLED_ROUNDS=1500 \
	  $(PY) -m pytest -q services/snapshotter -k "sigkill or away_for_a_while or throttled"

.PHONY: bench-snapshot-lag
bench-snapshot-lag: $(STAMP) ## How far latest rows are behind: the stack at 50 products and 500 ticks/s (2 min)
	@$(PY) -m tools.bench snapshot-lag --rounds 4

.PHONY: bench-replay
bench-replay: $(STAMP) ## An hour of simulated market recorded, archived, replayed: the same ticks, byte for byte (10 min)
	@REPLAY_S=3600 $(PY) -m pytest -q -s tools/replay -k byte_for_byte

.PHONY: bench-ingest
bench-ingest: $(STAMP) ## The ingestor: everything goes wrong for 60 s, then socket to durable record [SOAK_S=]
	@SOAK_S=$${SOAK_S:-60} $(PY) -m pytest -q -s --timeout 600 services/ingestor/tests/test_soak.py
	@$(PY) -m tools.bench ingest $(ARGS)

.PHONY: dashboards
dashboards: $(STAMP) ## Make dashboards, rules file and docs/metrics.md anew from the code
	@$(PY) -m tools.dev.observability --write

.PHONY: observe-check
observe-check: $(STAMP) ## A real Prometheus on the demo: every panel has data, alerts fire when they should (3 min)
	@$(PY) -m tools.dev.observability.acceptance

.PHONY: bench-observability
bench-observability: $(STAMP) ## What metrics and tracing cost on the gateway's hot path
	@$(PY) -m tools.bench observability $(or $(ARGS),--rounds 40)

.PHONY: bench-web
bench-web: $(STAMP) ## The web board's main thread at 500 ticks a second, in Chromium (15 s)
	@BOARD_BENCH_S=10 $(PY) -m pytest -q services/gateway/tests/test_web_board.py -k 500; \
	  cat .mdf/artifacts/board-500.json; echo

.PHONY: conformance
conformance: $(STAMP) ## Does a client keep the protocol's rule? [CLIENT=python|js|"any command" ONLY=case]
	@case "$(CLIENT)" in \
	  ""|python) command="$(PY) clients/conformance/drivers/python_sdk.py" ;; \
	  js) command="$$(PYTHONPATH=clients/conformance $(PY) -m market_data_conformance.node) clients/conformance/drivers/js_sdk.mjs" ;; \
	  *) command="$(CLIENT)" ;; \
	esac; \
	PYTHONPATH=clients/conformance:clients/python/src $(PY) -m market_data_conformance "$$command" --only "$(ONLY)"

.PHONY: bench-crash bench-cluster
bench-crash: $(STAMP) ## A normalizer killed 20 times under load writes what an undisturbed one writes
	@NORMALIZER_KILLS=20 $(PY) -m pytest -q services/normalizer/tests/test_service.py -k killed
bench-cluster: $(STAMP) ## A cluster's stream leader stepped down and killed under load [STEP_DOWNS=40 KILLS=10]
	@CLUSTER_STEP_DOWNS=$(or $(STEP_DOWNS),40) CLUSTER_KILLS=$(or $(KILLS),10) $(PY) -m pytest -q services/common/tests/test_stream_nats_cluster.py

##@ Run one service (configured by environment)
.PHONY: run-ingestor run-normalizer run-snapshotter run-gateway
run-ingestor: $(STAMP) ## The ingestor
	@exec $(PY) -m services.ingestor
run-normalizer: $(STAMP) ## The normalizer
	@exec $(PY) -m services.normalizer
run-snapshotter: $(STAMP) ## The snapshotter
	@exec $(PY) -m services.snapshotter
run-gateway: $(STAMP) ## The gateway
	@exec $(PY) -m services.gateway

##@ Containers
.PHONY: compose compose-up compose-down compose-logs
compose:
	@docker compose version >/dev/null 2>&1 || { \
	  echo "Docker with its compose plugin was not found: https://docs.docker.com/compose/install/" >&2; exit 1; }
PROFILES = $(if $(filter redis,$(BROKER_KIND)),--profile redis) $(if $(TRACES),--profile observability)
compose-up: compose ## Start the docker-compose stack, wait until it is healthy [BROKER_KIND=redis TRACES=1]
	$(if $(TRACES),OTEL_EXPORTER_OTLP_ENDPOINT=http://jaeger:4318) docker compose $(PROFILES) up -d --build --wait
compose-down: compose ## Stop it and remove its volumes
	docker compose --profile '*' down -v
compose-logs: compose ## Follow its logs
	docker compose --profile '*' logs -f

.PHONY: images-check
images-check: $(STAMP) ## What each image installs, from the index: all its modules import, wheels for amd64 and arm64 (1 min)
	@$(PY) -m tools.dev.images

.PHONY: e2e-kind
e2e-kind: $(STAMP) ## The charts on a kind cluster: load, restart everything, nothing lost [CLIENTS=200 DURATION=300 KEEP=1]
	@$(PY) -m tools.dev.e2e

##@ House
.PHONY: setup
setup: $(STAMP) ## Make .venv (done by every other command when needed)

$(STAMP): requirements/build.txt requirements/dev.txt pyproject.toml tools/setup.sh
	@tools/setup.sh
	@touch $@

.PHONY: lock
lock: $(STAMP) ## Pin what pyproject.toml and dev.in ask for, other pins as they are [UPGRADE=1: all anew]
# dev.txt is solved first and holds everything; each other file is the subset that it needs, at the
# same versions, so an image never runs what the tests did not. Hashes, no addresses.
	@solve() { $(PY) -m uv pip compile --quiet --universal --python-version 3.12 --generate-hashes \
	  --allow-unsafe --no-emit-index-url --no-emit-find-links --no-header "$$@"; }; \
	solve $(if $(UPGRADE),--upgrade) --all-extras pyproject.toml requirements/dev.in \
	  --output-file requirements/dev.txt; \
	solve --constraints requirements/dev.txt requirements/build.in --output-file requirements/build.txt; \
	for apart in fuzz audit; do \
	  solve $(if $(UPGRADE),--upgrade) requirements/$$apart.in --output-file requirements/$$apart.txt; \
	done; \
	for extra in ingestor normalizer snapshotter gateway tools; do \
	  solve --extra $$extra --constraints requirements/dev.txt pyproject.toml \
	    --output-file requirements/$$extra.txt; \
	done

.PHONY: clean
clean: ## Remove everything that was made here
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .hypothesis .import_linter_cache .mdf
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
