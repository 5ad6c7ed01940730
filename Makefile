# Every target does all of its own set-up; a machine needs Python >= 3.11, and for the broker tests Java >= 17 and Maven.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
SHELL := /bin/bash

venv := .venv
bin := $(venv)/bin
lock := deploy/requirements
cache := .cache
pip := $(bin)/python -m pip --disable-pip-version-check --quiet

# The first interpreter that is new enough; empty if there is none.
python := $(shell for p in $(PYTHON) python3 python3.13 python3.12 python3.11 python3.14 python; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo "$$p"; break; }; done)

kafka := $(shell sed -n 's:.*<kafka.version>\(.*\)</kafka.version>.*:\1:p' tests/broker/pom.xml)
jars := $(cache)/kafka-$(kafka)/lib

# The stack's Alertmanager: Debian 12 and 13 have none yet that waits after its start (0.30, --dispatch.start-delay).
alertmanager := $(shell sed -n 's|.*image: prom/alertmanager:v||p' deploy/compose.yaml)
pager := $(cache)/alertmanager-$(alertmanager)/alertmanager

.PHONY: help install demo test pages faults lint format dashboards metrics clean lock jars broker-checksums

help: ## this list
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 28

install: $(venv)/.dev ## the virtual environment .venv with the project and all that its tests need
	@echo "ready: $(bin)/plumbline"

demo: $(venv)/.run ## a simulated model with a scripted story; needs no broker
	@$(bin)/plumbline demo $(ARGS)

test: $(venv)/.dev jars ## the whole suite, with a real Kafka broker where Java and Maven are (ARGS='-k name' narrows it)
	@$(bin)/python -m pytest -q $(ARGS)

# A broker, Prometheus and Alertmanager are real: Java, Maven, Debian's package prometheus, and Go for Alertmanager.
pages: $(venv)/.dev jars $(pager) ## the demo's story from Kafka to the pager, with kills on the way; the table goes to build/pages.json
	@$(bin)/python -m tests.pages --alertmanager $(pager) $(ARGS)

$(pager):
	@command -v go >/dev/null || { echo "make pages builds Alertmanager $(alertmanager) with Go, and there is none" >&2; exit 1; }
	@echo "building Alertmanager $(alertmanager)"
	@mkdir -p $(@D)
	@GOBIN=$(CURDIR)/$(@D) go install github.com/prometheus/alertmanager/cmd/alertmanager@v$(alertmanager) 2>$(cache)/alertmanager.log \
		|| { tail -n 3 $(cache)/alertmanager.log >&2; exit 1; }

faults: $(venv)/.dev jars ## kills, cuts, floods and lies, each against an oracle that counts again; the table goes to build/faults.json
	@$(bin)/python -m tests.faults $(ARGS)

lint: $(venv)/.dev ## ruff, its formatter, and mypy --strict
	@$(bin)/ruff check
	@$(bin)/ruff format --check
	@$(bin)/mypy

format: $(venv)/.dev ## write the formatter's and the safe fixes' result
	@$(bin)/ruff check --fix
	@$(bin)/ruff format

dashboards: $(venv)/.dev ## write the JSON of the Grafana dashboards anew from their code
	@$(bin)/python -m grafana

metrics: $(venv)/.dev ## write docs/metrics.md anew from the catalogue
	@$(bin)/python -m agent.measure.catalogue > docs/metrics.md

clean: ## remove what the other targets made
	rm -rf $(venv) $(cache) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find agent detectors grafana tests -name __pycache__ -prune -exec rm -rf {} +

$(bin)/python:
	@if [ -z "$(python)" ]; then \
		echo "plumbline needs Python 3.11 or newer, and found none on PATH." >&2; \
		echo "Install one (Debian, Ubuntu: apt-get install python3 python3-venv) or name it: make PYTHON=/path/to/python3" >&2; \
		exit 1; fi
	@"$(python)" -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "$(python) cannot make a virtual environment: its venv module is missing." >&2; \
		echo "Debian, Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@echo "making $(venv) with $$("$(python)" --version)"
	@"$(python)" -m venv $(venv)

# Stamps: redone only when a lock file, or what the project's own installation is made from, changes.
# The project is installed editable and without its dependencies, which the lock has brought with their hashes checked.
$(venv)/.run: $(lock)/run.txt pyproject.toml | $(bin)/python
	@echo "installing the locked dependencies"
	@$(pip) install --require-hashes -r $(lock)/run.txt
	@$(pip) install --no-deps --no-build-isolation --editable .
	@touch $@

$(venv)/.dev: $(lock)/dev.txt pyproject.toml | $(bin)/python
	@echo "installing the locked dependencies and development tools"
	@$(pip) install --require-hashes -r $(lock)/dev.txt
	@$(pip) install --no-deps --no-build-isolation --editable .
	@touch $@ $(venv)/.run

# dev.txt is run.txt and more, so that one environment serves both. No index, host or local folder is written.
# pip-compile knows neither dependency groups nor `requires`: they are read out of pyproject.toml and given on stdin.
compile := CUSTOM_COMPILE_COMMAND='make lock' PIP_FIND_LINKS= $(bin)/pip-compile --quiet --generate-hashes \
	--strip-extras --allow-unsafe --no-emit-index-url --no-emit-trusted-host --no-emit-find-links --no-emit-options
listed = $(bin)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["$(1)"]["$(2)"], sep="\n")'

$(bin)/pip-compile: | $(bin)/python
	@$(pip) install 'pip-tools>=7.5'

lock: $(bin)/pip-compile ## resolve the dependencies anew and write the lock files (ARGS=--upgrade for newer versions)
	@mkdir -p $(lock)
	@$(call listed,build-system,requires) | $(compile) $(ARGS) -o $(lock)/run.txt pyproject.toml -
	@$(call listed,dependency-groups,dev) | $(compile) $(ARGS) -o $(lock)/dev.txt $(lock)/run.txt -

# The broker's jars are checked against recorded SHA-256 sums before anything runs them. Without them the tests skip
# loudly (and fail in CI), so an unreachable repository does not stop the others; a wrong checksum does.
jars: ## the broker of the tests, from Maven, where Java and Maven are present
	@if [ $(jars)/.verified -nt tests/broker/pom.xml ] && [ $(jars)/.verified -nt tests/broker/kafka.sha256 ]; then :; \
	elif ! java -version 2>&1 | grep -qE 'version "(1[7-9]|[2-9][0-9])'; then \
		echo "broker tests: no Java >= 17, so no local broker (Debian: apt-get install openjdk-17-jre-headless maven)"; \
	elif ! command -v mvn >/dev/null; then \
		echo "broker tests: no Maven to fetch Kafka with, so no local broker (Debian: apt-get install maven)"; \
	else \
		echo "fetching Apache Kafka $(kafka) for the broker tests"; \
		if $(fetch); then (cd $(jars) && sha256sum --quiet --strict --check $(CURDIR)/tests/broker/kafka.sha256) && touch $(jars)/.verified; \
		else echo "broker tests: Maven could not fetch Kafka, so no local broker"; fi; fi

# Maven writes its errors, and escape codes, to stdout: they are shown only if it fails.
fetch = mkdir -p $(jars) && rm -f $(jars)/* $(jars)/.verified && \
	{ mvn -q -B -f tests/broker/pom.xml $(copy) -DincludeScope=runtime -DoutputDirectory=$(CURDIR)/$(jars) \
		>$(cache)/maven.log 2>&1 || { grep -m 3 ERROR $(cache)/maven.log >&2; false; }; }
copy := org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies

broker-checksums: ## record the jars' checksums (after a new Kafka version in tests/broker/pom.xml)
	@$(fetch)
	@cd $(jars) && sha256sum *.jar > $(CURDIR)/tests/broker/kafka.sha256
