# Every target works on a machine that has only make and Python 3.11 or newer. What it needs is put into .venv,
# by hash, and put there again only when a lock or the sources have changed. requirements.lock holds everything;
# requirements-run.lock the part of it that runs the program, so that a first `make up` does not wait for the
# linters.

PYTHON ?= python3
UV ?= uv
ARGS ?=
# Processes that run tests: one more than two cores, as many a test waits for processes that it has started.
JOBS ?= 3

VENV := .venv
BIN := $(VENV)/bin
RUN := $(VENV)/.run
DEVELOPMENT := $(VENV)/.development
PACKAGE := $(VENV)/.package

PIP_INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile
# Without a network pip says ten times that it tries again, and then that there is no such package.
PIP_LOG := $(VENV)/.pip.log
NO_NETWORK := NewConnectionError|NameResolutionError|ConnectTimeout|ReadTimeout|ProxyError|ConnectionRefusedError
INSTALL_OR_SAY_WHY = $(INSTALL_LOCKED) $(1) 2> $(PIP_LOG) || { \
	if grep -qE '$(NO_NETWORK)' $(PIP_LOG); \
	then echo 'pip cannot reach the package index: is there a network? What pip said is in $(PIP_LOG).'; \
	else cat $(PIP_LOG); fi >&2; exit 1; }
# Wheels only: a source distribution would bring build requirements that no hash covers.
INSTALL_LOCKED = $(PIP_INSTALL) --require-hashes --only-binary :all: --requirement
UV_COMPILE = $(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-emit-find-links --custom-compile-command 'make lock'

# Directories are listed too: the time of a directory changes when a file in it is deleted.
SOURCES := pyproject.toml $(wildcard README.md LICENSE extproc.yaml) \
	$(shell find extproc $(wildcard envoy docs/man) -name __pycache__ -prune -o -print)
PROTOS := $(patsubst protos/%,extproc/_proto/%,$(wildcard protos/*.proto))

.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: another-python help up test page-pictures test-compose test-kubernetes install lint bench bench-growth bench-peers bench-history bench-page bench-fleet test-shipping kill-cycles power-cuts thorough forensics fleet vllm soak fuzz fuzz-http2 \
	docs proto lock clean

help:
	@echo 'make up        run the whole stack on this machine; ARGS="--port 9000" is passed on'
	@echo 'make test      everything that CI runs; ARGS="-k journal" is passed on to pytest'
	@echo 'make unit      the unit tests of the checkout, but for the slow ones: under two minutes'
	@echo 'make mutations seeded faults, each of which some test must catch; ARGS="--sample 8" as in CI'
	@echo 'make install   only prepare .venv; the command is then $(BIN)/extproc'
	@echo 'make lint      ruff and mypy'
	@echo 'make bench     what the recorder costs, beside Envoy alone and servers that do nothing'
	@echo 'make bench-growth  whether a request costs more with more of them, of bytes, streams, segments'
	@echo 'make bench-peers  the recorder beside nginx, mitmproxy and LiteLLM, as far as they are installed or install'
	@echo 'make bench-history  what a question to a million exchanges costs'
	@echo 'make page-pictures   each view of the page at three widths, light and dark, into build/pictures'
	@echo 'make bench-page  what the page costs over a million exchanges'
	@echo 'make bench-fleet  what questions to ten million rows of a bucket cost in DuckDB'
	@echo 'make kill-cycles, power-cuts, thorough, soak, fuzz, fuzz-http2   the long forms of tests: 1,000 kills and 300 starts, every state'
	@echo '               that a power cut may leave, 500,000 exchanges, 20,000 examples each, 5 million frames'
	@echo 'make forensics ten deaths of each kind of killer, in simulated fleets: is it named?'
	@echo 'make fleet     three hosts that are killed while they ship 50,000 exchanges to a real S3: 25 minutes'
	@echo 'make vllm      the story of a killed server on a real vLLM, which it installs: 10 minutes, 8 GB'
	@echo 'make test-compose   docker-compose.yml for real, where a Docker engine can run'
	@echo 'make test-kubernetes   the Helm chart, by Helm and the schemas of what it makes: builds Helm, 6 minutes at first'
	@echo 'make test-shipping   the journal read by an OpenTelemetry Collector, which it builds: 3 minutes at first'
	@echo 'make docs      generate docs/records.md from the types of the records, and docs/man from the commands'
	@echo 'make proto     generate extproc/_proto from protos/'
	@echo 'make lock      resolve requirements.lock again (needs uv); ARGS=--upgrade takes newer versions'
	@echo 'make clean     remove .venv and everything else that make has made; data/ stays'

up: $(PACKAGE)
	@exec $(BIN)/extproc up $(ARGS)

# The safe path keeps the checkout off sys.path, here and in every process that a test starts: what is tested is
# the installed wheel.
test: lint $(PACKAGE)
	PYTHONSAFEPATH=1 $(BIN)/python -m pytest -n $(JOBS) --dist worksteal $(ARGS)

# The checkout itself, without what takes long: for a quick look while you write.
unit: $(DEVELOPMENT)
	PYTHONPATH=$(CURDIR) $(BIN)/python -m pytest -n $(JOBS) --dist worksteal -m 'not slow' tests/unit tests/protocol $(ARGS)

mutations: $(DEVELOPMENT)
	$(BIN)/python tests/mutations/run.py $(ARGS)

install: $(PACKAGE)
	@echo '$(BIN)/extproc is ready.'

lint: $(DEVELOPMENT)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

bench: $(PACKAGE)
	$(BIN)/python tests/bench/run.py $(ARGS)

bench-growth: $(PACKAGE)
	$(BIN)/python tests/bench/growth.py $(ARGS)

bench-peers: $(PACKAGE)
	$(BIN)/python tests/bench/peers.py $(ARGS)

bench-history: $(PACKAGE)
	$(BIN)/python tests/bench/history.py $(ARGS)

bench-page: $(PACKAGE)
	$(BIN)/python tests/bench/page.py $(ARGS)

page-pictures: $(DEVELOPMENT) $(PACKAGE)
	PYTHONSAFEPATH=1 EXTPROC_TEST_PICTURES=$(CURDIR)/build/pictures $(TEST_LONG) tests/page/test_browser.py -k test_a_view

bench-fleet: $(DEVELOPMENT) $(PACKAGE)
	$(BIN)/python tests/bench/fleet.py $(ARGS)

test-compose: $(DEVELOPMENT) $(PACKAGE)
	PYTHONSAFEPATH=1 $(BIN)/python tests/compose/run.py

# Helm and Envoy Gateway's schemas come as Go modules, and stay in the cache.
HELM ?= $(HOME)/.cache/extproc-tests/helm/helm
GATEWAY := github.com/envoyproxy/gateway@v1.9.0

$(HELM):
	GOBIN=$(dir $(HELM)) go install helm.sh/helm/v4/cmd/helm@v4.3.1

test-kubernetes: $(DEVELOPMENT) $(HELM)
	module=$$(cd / && go mod download -json $(GATEWAY) | sed -n 's/.*"Dir": "\(.*\)".*/\1/p') && \
	EXTPROC_HELM=$(HELM) EXTPROC_GATEWAY_CRDS=$$module/charts/gateway-helm/charts/crds/crds/generated \
		$(BIN)/python -m pytest tests/kubernetes $(ARGS)

# The long forms of tests of which `make test` runs a short one.
TEST_LONG = $(BIN)/python -m pytest -o timeout=0 $(ARGS)

kill-cycles: $(DEVELOPMENT) $(PACKAGE)
	PYTHONSAFEPATH=1 EXTPROC_TEST_KILLS=1000 $(TEST_LONG) tests/e2e/test_kill.py
	PYTHONSAFEPATH=1 EXTPROC_TEST_KILLS=200 $(TEST_LONG) tests/unit/journal/test_writer.py -k kill_9
	PYTHONSAFEPATH=1 EXTPROC_TEST_STARTS=300 $(TEST_LONG) tests/unit/service/sidecar/test_workers.py -k every_start

soak: $(DEVELOPMENT) $(PACKAGE)
	PYTHONSAFEPATH=1 EXTPROC_TEST_SOAK_MINUTES=30 $(TEST_LONG) -s tests/e2e/test_soak.py
	PYTHONSAFEPATH=1 EXTPROC_TEST_EXCHANGES=500000 $(TEST_LONG) tests/e2e/test_many.py tests/unit/service/test_strain.py

forensics: $(DEVELOPMENT) $(PACKAGE)
	PYTHONSAFEPATH=1 EXTPROC_TEST_SEEDS=10 $(TEST_LONG) -n 2 tests/forensics
	PYTHONSAFEPATH=1 $(BIN)/python tests/forensics/table.py 10

# The story on a real vLLM 0.11.0: ten minutes and 8 GB in VLLM at first, which needs python3.11 and a CPU with AVX2.
VLLM ?= $(HOME)/.cache/extproc-tests/vllm-0.11.0

vllm: $(DEVELOPMENT) $(PACKAGE)
	bash tests/vllm/install.sh $(VLLM)
	$(VLLM)/bin/python tests/vllm/model.py $(VLLM)/model README.md CHANGELOG.md docs/*.md
	EXTPROC_VLLM=$(VLLM) $(BIN)/python -m pytest -s tests/vllm $(ARGS)

fleet: $(DEVELOPMENT) $(PACKAGE)
	PYTHONSAFEPATH=1 $(BIN)/python tests/fleet/run.py $(ARGS)

power-cuts: $(DEVELOPMENT) $(PACKAGE)
	PYTHONSAFEPATH=1 EXTPROC_TEST_POWER_CUTS=20000 $(TEST_LONG) -n 2 tests/power

thorough: $(DEVELOPMENT) $(PACKAGE)
	PYTHONSAFEPATH=1 EXTPROC_TEST_THOROUGH=1 $(TEST_LONG) -n 2 tests/unit/history/index tests/unit/journal/test_recovery.py \
		tests/unit/cli/test_follow.py tests/unit/envoy/check tests/e2e/test_live_edits.py

fuzz: $(DEVELOPMENT) $(PACKAGE)
	PYTHONSAFEPATH=1 EXTPROC_TEST_PROFILE=fuzz $(TEST_LONG) tests/unit/core tests/unit/cli/test_output.py

fuzz-http2: $(DEVELOPMENT) $(PACKAGE)
	PYTHONSAFEPATH=1 EXTPROC_TEST_FRAMES=5000000 $(TEST_LONG) tests/unit/service/http2/test_fuzz.py

test-shipping: $(DEVELOPMENT) $(PACKAGE)
	PYTHONSAFEPATH=1 EXTPROC_TEST_SHIPPING=1 $(TEST_LONG) tests/shipping

docs: $(DEVELOPMENT)
	PYTHONPATH=tests $(BIN)/python -m support.record_docs > docs/records.md
	PYTHONPATH=tests $(BIN)/python -m support.man_pages docs/man

proto: $(DEVELOPMENT)
	$(BIN)/python -m grpc_tools.protoc -Iextproc/_proto=protos --python_out=. --pyi_out=. $(PROTOS)

lock:
	$(UV_COMPILE) --all-extras --group dev $(ARGS) --output-file requirements.lock pyproject.toml
	$(UV_COMPILE) --extra stack --extra aio --group build --constraint requirements.lock --output-file requirements-run.lock pyproject.toml

clean:
	rm -rf $(VENV) dist build .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find extproc tests -name __pycache__ -type d -prune -exec rm -rf {} +

# A Python that somebody names is used, also where .venv was made with another one.
ifneq ($(origin PYTHON),file)
IDENTITY := -c 'import sys; print(sys.base_prefix, sys.version)'
ifneq ($(shell $(PYTHON) $(IDENTITY) 2> /dev/null),$(shell $(BIN)/python $(IDENTITY) 2> /dev/null))
$(BIN)/python: another-python
endif
endif

$(BIN)/python:
	@command -v '$(PYTHON)' > /dev/null || \
		{ echo 'extproc needs Python 3.11 or newer, and there is no $(PYTHON) here. Name one: make PYTHON=python3.12' >&2; exit 1; }
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit("extproc needs Python 3.11 or newer, and $(PYTHON) is %d.%d. Name another: make PYTHON=python3.12" % v[:2])'
	@$(PYTHON) -m venv --clear $(VENV) || { rm -rf $(VENV); exit 1; }

$(RUN): requirements-run.lock $(BIN)/python
	@echo 'Installing what extproc needs into $(VENV) ...'
	@$(call INSTALL_OR_SAY_WHY,requirements-run.lock)
	@touch $@

$(DEVELOPMENT): requirements.lock $(BIN)/python
	@echo 'Installing what extproc and its tests need into $(VENV) ...'
	@$(call INSTALL_OR_SAY_WHY,requirements.lock)
	@touch $(RUN) $@

$(PACKAGE): $(SOURCES) | $(RUN)
	@rm -rf dist
	@$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-index --no-deps --no-build-isolation \
		--wheel-dir dist .
	@$(PIP_INSTALL) --no-index --no-deps --force-reinstall dist/extproc-*.whl
	@touch $@
