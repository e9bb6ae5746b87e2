# What people, hooks and CI call. Needs Python 3.11 or newer, git, make. PYTHON=python3.12 takes another one.
BIN := .venv/bin
NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
# The Python of .venv stays until PYTHON names another one.
PYTHON ?= $(shell for p in $(BIN)/python python3.11 python3.12 python3.13 python3.14 python3; do \
	$$p -c '$(NEW_ENOUGH)' 2>/dev/null && echo $$p && break; done)
SHOW_VERSION := print("%d.%d" % sys.version_info[:2])
VERSION := $(shell $(PYTHON) -c 'import sys; $(SHOW_VERSION)' 2>/dev/null)
# Stands for a .venv of this version of Python. With another version the file is missing, and .venv is created anew.
CREATED := .venv/.python-$(VERSION)
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile
ARGS ?= -P max_evals=1
# Programs that tests start, and the packages of Debian and Ubuntu that bring them.
NEEDS := java=default-jre-headless chromium=chromium initdb=postgresql ip=iproute2 ps=procps faketime=faketime redis-server=redis-server
# What the caller's shell finds by itself: main prints how to use the environment, if that is not there.
export CALLERS_PATH := $(PATH)
export PATH := $(CURDIR)/$(BIN):$(PATH)
# `mlflow run` opens its run before the project's code can say where, so make says it.
export MLFLOW_EXPERIMENT_NAME ?= purchase-predict
# Without byte code each process of a run compiles the 2,000 modules of its imports anew: uv writes none, and
# PYTHONDONTWRITEBYTECODE keeps Python from it. Here all cores write it after pip, which takes one. What cannot be compiled
# stays without.
COMPILE := @$(BIN)/python -m compileall -qq -j 0 .venv/lib || true
# A virtual environment of the caller's would otherwise be preferred by some tools.
unexport VIRTUAL_ENV PYTHONHOME PYTHONPATH

.PHONY: help packages setup lock run demo test test-core test-servers lint format ui server server-stop server-status clean

help:  ## What there is to make
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

packages:  ## What the tests need beyond Python: Debian's packages (as root, or by sudo); on macOS LightGBM's OpenMP
	@if [ "$$(uname)" = Darwin ]; then brew list libomp >/dev/null 2>&1 || brew install --quiet libomp; exit; fi; \
	PATH="$$PATH$$(printf ':%s' /usr/lib/postgresql/*/bin)"; missing=; for need in $(NEEDS); do \
		command -v $${need%%=*} >/dev/null || missing="$$missing $${need#*=}"; done; \
	if [ -n "$$missing" ]; then \
		sudo=; [ "$$(id -u)" = 0 ] || sudo=sudo; \
		echo "installing$$missing"; \
		$$sudo apt-get update -qq && $$sudo apt-get install -qq -y --no-install-recommends $$missing >/dev/null; \
	fi

setup: .venv/.ready  ## The virtual environment .venv, with the locked versions and the tools of development

$(CREATED):
	@$(or $(PYTHON),false) -c '$(NEW_ENOUGH)' 2>/dev/null || { \
		echo "Python 3.11 or newer is needed$(if $(VERSION),; $(PYTHON) is $(VERSION)): make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@test "$$($(BIN)/python -c 'import pip, sys; $(SHOW_VERSION)' 2>/dev/null)" = '$(VERSION)' || { \
		echo "creating .venv with Python $(VERSION)"; $(PYTHON) -m venv --clear .venv; }
	@$(PIP_INSTALL) 'pip==26.3'
	@touch $@

# pip checks the hash of every file that it installs, because the locks hold hashes.
.venv/.ready: $(CREATED) requirements.lock requirements-dev.lock pyproject.toml Makefile
	@echo "installing the packages of a run (requirements.lock)"
	@$(PIP_INSTALL) -r requirements.lock
	@echo "installing the development tools (requirements-dev.lock)"
	@$(PIP_INSTALL) --group dev -c requirements.lock -c requirements-dev.lock
	@echo "compiling byte code"
	$(COMPILE)
	@touch $@

.venv/.ready-tests: .venv/.ready
	@echo "installing what the tests start: servers, Spark (requirements-dev.lock)"
	@$(PIP_INSTALL) --group servers --group spark -c requirements.lock -c requirements-dev.lock
	$(COMPILE)
	@touch $@

# UPGRADE="--upgrade" takes the newest versions that the pins allow, UPGRADE="--upgrade-package scipy" those of one package.
lock: $(CREATED)  ## Writes the locks and conda.yaml's digest anew, after an edit of pyproject.toml's pins
	@$(PIP_INSTALL) uv -c requirements-dev.lock
	$(BIN)/python tools/lock.py $(UPGRADE)

run: setup  ## The whole workflow on the built-in sample, one trial; ARGS="-P source=..." for anything else
	mlflow run . --env-manager local $(ARGS)

demo: setup  ## The workflow, a server of its model, one answer, the report; the server is stopped at the end
	@$(BIN)/python -m tools.demo -- $(ARGS)

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
SERVER = $(BIN)/python -m tools.server $(if $(STATE),--state '$(STATE)')

server: setup .venv/.ready-tests  ## A tracking server on PostgreSQL and Cloud Storage (or its emulator), AUTH=true with a password
	@$(SERVER) start $(if $(HOST),--host '$(HOST)') $(if $(PORT),--port '$(PORT)') \
		$(if $(ARTIFACT_BUCKET),--bucket '$(ARTIFACT_BUCKET)') $(if $(AUTH),--auth '$(AUTH)')

server-stop: setup  ## Stops it; what it holds stays
	@$(SERVER) stop

server-status: setup  ## Which of its parts run
	@$(SERVER) status

clean:  ## Removes the virtual environment and caches, not the runs
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
