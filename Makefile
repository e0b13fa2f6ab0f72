# the interpreter for creating the environment, and the environment's own
PYTHON3 ?= python3
PYTHON := .venv/bin/python
# test processes; more than cores, because tests mostly wait
TEST_PROCESSES ?= 4
# the size of `make bench`: smoke, quick or full
SIZE ?= quick
# the random seed of `make chaos` and `make cluster`, the hits in each scenario of the latter, and the duration of `make soak`
SEED ?= 1
ROUNDS ?= 1
MINUTES ?= 10

# the Procfile runs `python`
export PATH := $(CURDIR)/.venv/bin:$(PATH)

.DEFAULT_GOAL := help
.PHONY: help install run demo test test-fast clients e2e check fix bench chaos cluster soak lock vendor pictures migrate-up migrate-down db-start db-stop audit psql \
	monitoring-start monitoring-stop clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-17s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

install: .venv/installed ## create the environment in .venv and install what the service needs

# Starts the server, applies the migrations, runs the Procfile. Settings come from the environment only, so honcho reads no .env.
# The shell is replaced by honcho, so `$$` is honcho's process id. The log format is chosen here, because under honcho the standard
# output of the processes is not the terminal.
run: install ## run the API and the workers, and PostgreSQL if DATABASE_URL is unset; Ctrl-C stops all
	@$(PYTHON) -m api --check
	@echo "http://$${HTTP_HOST:-127.0.0.1}:$${HTTP_PORT:-8080}  open this in a browser; Ctrl-C stops everything"
	@[ -t 1 ] && export LOG_FORMAT=$${LOG_FORMAT:-console}; PYTHONUNBUFFERED=1 exec $(PYTHON) -m db.embedded run -- sh -c \
		'python -m db.migrate up --wait && exec env SUPERVISOR_PID=$$$$ honcho --env /dev/null --procfile Procfile start'

demo: .venv/installed-dev ## show the main job on a temporary server: imports with errors in the files, an export
	@$(PYTHON) -m tests.demo

test: .venv/installed-dev ## run all tests; COVERAGE=1 also prints the branch coverage
	@$(PYTHON) -m tests --processes $(TEST_PROCESSES) $(if $(COVERAGE),--coverage)

test-fast: .venv/installed-dev ## run the tests that start no process of the service, in about a minute
	@$(PYTHON) -m tests fast --processes $(TEST_PROCESSES)

clients: .venv/installed-dev ## run the tests with every real HTTP client: curl, Java, Node, Go, Chromium, ...
	@CLIENTS=all $(PYTHON) -m pytest tests/clients

e2e: ## run the curl scripts of tests/e2e against a running service: HOST=http://127.0.0.1:8080, API_KEY=… if it has keys
	@for script in imports exports errors; do tests/e2e/$$script.sh || exit 1; done

check: .venv/installed-dev ## check format, lint, types and the import contracts
	@ruff format --check
	@ruff check
	@basedpyright
	@lint-imports

fix: .venv/installed-dev ## format, and apply the linter's fixes
	@ruff format
	@ruff check --fix

bench: .venv/installed-dev ## measure against PostgreSQL's own tools: SIZE=quick or full, ONLY="imports streams"
	@$(PYTHON) -m tests.bench $(SIZE) $(if $(ONLY),--only $(ONLY))

chaos: .venv/installed-dev ## kill, suspend and disconnect processes under load, and audit the result; SEED=1
	@$(PYTHON) -m tests.chaos --seed $(SEED)

cluster: .venv/installed-dev ## kill, cut off and switch over the nodes of a PostgreSQL cluster under load, as root; SEED=1 ROUNDS=1
	@$(PYTHON) -m tests.cluster --seed $(SEED) --rounds $(ROUNDS)

soak: .venv/installed-dev ## run under load for MINUTES=10, and check that memory and tables do not grow
	@$(PYTHON) -m tests.chaos.soak $(MINUTES)

lock: ## write the lock files from pyproject.toml (needs uv)
	@command -v uv > /dev/null || { echo "make lock needs uv" >&2; exit 1; }
	@$(UV_LOCK) -o requirements.lock pyproject.toml
	@$(UV_LOCK) --group dev -o requirements-dev.lock pyproject.toml

vendor: .venv/installed ## fetch the third-party files of the pages again (needs npm)
	@$(PYTHON) -m api.console.vendor

pictures: .venv/installed-dev ## make the pictures of the README from a real run (needs Chromium)
	@$(PYTHON) -m tests.pictures

migrate-up: install ## apply the pending migrations
	@$(PYTHON) -m db.embedded run -- $(PYTHON) -m db.migrate up

migrate-down: install ## roll back the last migration
	@$(PYTHON) -m db.embedded run -- $(PYTHON) -m db.migrate down

db-start: install ## start only PostgreSQL under DATA_DIR, and print its URL
	@$(PYTHON) -m db.embedded start

db-stop: install ## stop it
	@$(PYTHON) -m db.embedded stop

audit: install ## check the counters of every final import
	@$(PYTHON) -m db.embedded run -- $(PYTHON) -m db.audit

psql: install ## open psql on the database
	@$(PYTHON) -m db.embedded run -- $(PYTHON) -m db.embedded psql

monitoring-start: install ## start Prometheus on :9090 and, where Docker works, Grafana on :3000
	@$(PYTHON) -m monitoring start

monitoring-stop: install ## stop them
	@$(PYTHON) -m monitoring stop

clean: ## remove the environment and the caches; the data stays
	rm -rf .venv .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# universal, with hashes and without index URLs: one file for every platform and package index
UV_LOCK := uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --extra server --extra embedded

PIP_INSTALL := $(PYTHON) -m pip install --quiet --disable-pip-version-check --require-hashes

.venv/bin/python:
	@$(PYTHON3) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed: make PYTHON3=/path/to/python3" >&2; exit 1; }
	@$(PYTHON3) -m venv .venv || \
		{ rm -rf .venv; echo "$(PYTHON3) cannot make environments; on Debian: apt install python3-venv" >&2; exit 1; }

.venv/installed: requirements.lock | .venv/bin/python
	@echo "installing requirements.lock"
	@$(PIP_INSTALL) -r requirements.lock
	@printf '#!%s\nimport sys\nsys.path.insert(0, "%s")\nfrom api.client.command.main import main\nmain()\n' \
		"$(CURDIR)/$(PYTHON)" "$(CURDIR)" > .venv/bin/bulk
	@chmod +x .venv/bin/bulk
	@touch $@

.venv/installed-dev: requirements-dev.lock .venv/installed
	@echo "installing requirements-dev.lock"
	@$(PIP_INSTALL) -r requirements-dev.lock
	@touch $@
