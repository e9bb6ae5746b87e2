# The commands for people, hooks and CI. They need Python 3.11 or newer and git. PYTHON=python3.12 chooses a Python.
BIN := .venv/bin
NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
# .venv keeps its Python until PYTHON names another one.
PYTHON ?= $(shell for p in $(BIN)/python python3.11 python3.12 python3.13 python3.14 python3; do \
	$$p -c '$(NEW_ENOUGH)' 2>/dev/null && echo $$p && break; done)
SHOW_VERSION := print("%d.%d" % sys.version_info[:2])
VERSION := $(shell $(PYTHON) -c 'import sys; $(SHOW_VERSION)' 2>/dev/null)
# Marks a .venv of this Python version. For another version the file is missing, and .venv is created again.
CREATED := .venv/.python-$(VERSION)
# On a terminal, pip and the compiler show how far they are. A log stays short.
ON_TERMINAL := $(shell [ -t 2 ] && echo yes)
PIP_INSTALL := $(BIN)/python -m pip install $(if $(ON_TERMINAL),,--quiet) --disable-pip-version-check --no-compile
ARGS ?= -P max_evals=1
# Programs that the tests start, each with the package of Debian and Ubuntu that contains it.
NEEDS := java=default-jre-headless chromium=chromium initdb=postgresql ip=iproute2 ps=procps faketime=faketime redis-server=redis-server
# The caller's own PATH. If .venv is not on it, main prints how to activate the environment.
export CALLERS_PATH := $(PATH)
export PATH := $(CURDIR)/$(BIN):$(PATH)
# `mlflow run` opens its run before the project's code can choose the experiment, so make chooses it.
export MLFLOW_EXPERIMENT_NAME ?= purchase-predict
# MLflow's own commands would contact a host of MLflow. purchase_predict/telemetry.py does the same for Python's imports.
export MLFLOW_DISABLE_TELEMETRY ?= true
# The jobs of MLflow's GenAI part are not used here. Without their 8 processes, MLflow's page opens in half the time.
export MLFLOW_SERVER_ENABLE_JOB_EXECUTION ?= false
# Without byte code each process of a run compiles its 2,000 imported modules again. uv writes none, and with
# PYTHONDONTWRITEBYTECODE Python does not either. pip would write it on one core, so compileall does it on all cores.
# A file that cannot be compiled is no error. On a terminal there is a dot for every 200 files.
DOTS := awk 'NR % 200 == 0 { printf "."; fflush() } END { print "" }'
COMPILE := @$(BIN)/python -m compileall $(if $(ON_TERMINAL),,-qq) -j 0 .venv/lib $(if $(ON_TERMINAL),2>&1 | $(DOTS)) || true
# Some tools would otherwise use the caller's virtual environment.
unexport VIRTUAL_ENV PYTHONHOME PYTHONPATH

.PHONY: help packages setup lock run demo test test-core test-servers coverage lint format image ui server server-stop server-status clean

help:  ## Lists the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 21

packages:  ## Installs what the tests need besides Python: Debian packages (as root, or with sudo); on macOS OpenMP
	@if [ "$$(uname)" = Darwin ]; then brew list libomp >/dev/null 2>&1 || brew install --quiet libomp; exit; fi; \
	PATH="$$PATH$$(printf ':%s' /usr/lib/postgresql/*/bin)"; missing=; for need in $(NEEDS); do \
		command -v $${need%%=*} >/dev/null || missing="$$missing $${need#*=}"; done; \
	if [ -n "$$missing" ]; then \
		sudo=; [ "$$(id -u)" = 0 ] || sudo=sudo; \
		echo "installing$$missing"; \
		$$sudo apt-get update -qq && $$sudo apt-get install -qq -y --no-install-recommends $$missing >/dev/null; \
	fi

setup: .venv/.ready  ## Creates the virtual environment .venv with the locked versions and the development tools

$(CREATED):
	@$(or $(PYTHON),false) -c '$(NEW_ENOUGH)' 2>/dev/null || { \
		echo "Python 3.11 or newer is needed$(if $(VERSION),; $(PYTHON) is $(VERSION)): make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@test "$$($(BIN)/python -c 'import pip, sys; $(SHOW_VERSION)' 2>/dev/null)" = '$(VERSION)' || { \
		echo "creating .venv with Python $(VERSION)"; $(PYTHON) -m venv --clear .venv; }
	@$(PIP_INSTALL) 'pip==26.3'
	@touch $@

# The locks have hashes, so pip checks every file that it installs.
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
	@$(PIP_INSTALL) --group servers --group spark --group kubernetes -c requirements.lock -c requirements-dev.lock
	$(COMPILE)
	@touch $@

# UPGRADE="--upgrade" locks the newest versions that the pins allow, UPGRADE="--upgrade-package scipy" that of scipy.
lock: $(CREATED)  ## Writes the locks and the digest in conda.yaml again, after an edit of the pins in pyproject.toml
	@$(PIP_INSTALL) uv -c requirements-dev.lock
	$(BIN)/python tools/lock.py $(UPGRADE)

run: setup  ## Runs the workflow on the built-in sample with one trial; ARGS="-P source=..." sets other parameters
	mlflow run . --env-manager local $(ARGS)

demo: setup  ## Runs the workflow, asks a server with its model about one cart, stops it, and opens the report
	@$(BIN)/python -m tools.demo $(ARGS)

# The tests of a file run on one worker, in their order. tests/conftest.py starts the longest files first.
PYTEST := $(BIN)/python -m pytest $(TESTS) -n auto --dist loadfile --no-loadscope-reorder

test: setup .venv/.ready-tests  ## Runs every test
	$(PYTEST)

test-core: setup .venv/.ready-tests  ## Runs the tests that need no server, no Spark and no chain of processes
	$(PYTEST) -m 'not servers'

test-servers: setup .venv/.ready-tests  ## Runs the other tests; CI may run both targets at the same time
	$(PYTEST) -m servers

coverage: setup .venv/.ready-tests  ## Runs every test and prints which lines none of them runs; takes longer than test
	$(PYTEST) --cov

lint: setup .venv/.ready-tests  ## Checks style, types, and the direction of imports
	ruff check .
	ruff format --check .
	mypy
	lint-imports

format: setup  ## Formats the code in the project's style
	ruff check --fix .
	ruff format .

# IMAGE is the image's name. A label identifies the source it was built from, so that a Job can refuse a wrong image.
IMAGE ?= purchase-predict
image: setup  ## Builds the image for serving and Kubernetes Jobs (needs Docker); IMAGE=<registry>/<name>:<tag>
	docker build -t '$(IMAGE)' --build-arg SOURCE="$$($(BIN)/python -m purchase_predict.kubernetes.image)" .

ui: setup  ## Starts MLflow's web page for the runs in this folder
	mlflow ui

# STATE is the server's data folder. docs/deployment.md describes HOST, PORT, ARTIFACT_BUCKET and AUTH=true.
SERVER = $(BIN)/python -m tools.server $(if $(STATE),--state '$(STATE)')

server: setup .venv/.ready-tests  ## Starts a tracking server with PostgreSQL and a bucket (or an emulated one)
	@$(SERVER) start $(if $(HOST),--host '$(HOST)') $(if $(PORT),--port '$(PORT)') \
		$(if $(ARTIFACT_BUCKET),--bucket '$(ARTIFACT_BUCKET)') $(if $(AUTH),--auth '$(AUTH)')

server-stop: setup  ## Stops the server and keeps its data
	@$(SERVER) stop

server-status: setup  ## Shows which parts of the server run
	@$(SERVER) status

clean:  ## Removes the virtual environment and the caches; keeps the runs
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
