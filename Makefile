# What people, hooks and CI call. Needs Python 3.11 or newer, git, make.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3.14 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
ARGS ?= -P max_evals=1
# Programs that tests start, and the packages of Debian and Ubuntu that bring them.
NEEDS := java=default-jre-headless chromium=chromium initdb=postgresql ip=iproute2 ps=procps faketime=faketime
export PATH := $(CURDIR)/$(BIN):$(PATH)
# uv leaves byte code out, and PYTHONDONTWRITEBYTECODE keeps Python from adding it: then each process of a run compiles
# 2,000 modules of its imports anew. What cannot be compiled stays as it is.
COMPILE := @$(BIN)/python -m compileall -qq .venv/lib || true
# A virtual environment of the caller's would otherwise be preferred by some tools.
unexport VIRTUAL_ENV PYTHONHOME PYTHONPATH

.PHONY: help packages setup run test test-core test-servers lint format ui server server-stop server-status clean

help:  ## What there is to make
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

packages:  ## What the tests need beyond Python, from Debian's packages (as root, or by sudo)
	@PATH="$$PATH$$(printf ':%s' /usr/lib/postgresql/*/bin)"; missing=; for need in $(NEEDS); do \
		command -v $${need%%=*} >/dev/null || missing="$$missing $${need#*=}"; done; \
	if [ -n "$$missing" ]; then \
		sudo=; [ "$$(id -u)" = 0 ] || sudo=sudo; \
		echo "installing$$missing"; \
		$$sudo apt-get update -qq && $$sudo apt-get install -qq -y --no-install-recommends $$missing >/dev/null; \
	fi

setup: .venv/.ready  ## The virtual environment .venv, with conda.yaml's versions and the tools of development

.venv/.ready: conda.yaml pyproject.toml Makefile
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'pip==26.3'
	sed -n 's/^ *- \([a-zA-Z].*==.*\)/\1/p' conda.yaml > .venv/requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r .venv/requirements.txt --group dev
	$(COMPILE)
	@touch $@

.venv/.ready-tests: .venv/.ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --group servers --group spark
	$(COMPILE)
	@touch $@

run: setup  ## The whole workflow on the built-in sample, one trial; ARGS="-P source=..." for anything else
	mlflow run . --env-manager local $(ARGS)

# The tests of a file stay on one worker, in their order; tests/conftest.py has the longest files started first.
PYTEST := $(BIN)/python -m pytest $(TESTS) -n auto --dist loadfile --no-loadscope-reorder --cov

test: setup .venv/.ready-tests  ## Every test, and how much of the code they run
	$(PYTEST)

test-core: setup .venv/.ready-tests  ## The tests that need no server, no Spark and no chain of processes
	$(PYTEST) -m 'not servers'

test-servers: setup .venv/.ready-tests  ## The other ones; CI may run both side by side
	$(PYTEST) -m servers

lint: setup .venv/.ready-tests  ## Style, types, and the direction of imports
	ruff check .
	ruff format --check .
	mypy
	lint-imports

format: setup  ## Rewrites the code in the project's style
	ruff check --fix .
	ruff format .

ui: setup  ## MLflow's web page over the runs made here
	mlflow ui

# STATE is the folder of its data, HOST, PORT, ARTIFACT_BUCKET and AUTH=true as in docs/deployment.md.
SERVER = $(BIN)/python tools/server.py $(if $(STATE),--state '$(STATE)')

server: setup .venv/.ready-tests  ## A tracking server on PostgreSQL and Cloud Storage (or its emulator), AUTH=true with a password
	@$(SERVER) start $(if $(HOST),--host '$(HOST)') $(if $(PORT),--port '$(PORT)') \
		$(if $(ARTIFACT_BUCKET),--bucket '$(ARTIFACT_BUCKET)') $(if $(AUTH),--auth '$(AUTH)')

server-stop: setup  ## Stops it; what it holds stays
	@$(SERVER) stop

server-status: setup  ## Which of its parts run
	@$(SERVER) status

clean:  ## Removes the virtual environment and caches, not the runs
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
