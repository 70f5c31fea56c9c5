# Everything a person types: `make demo`, `make test`. Each sets up what it needs, from nothing.

PYTHON ?= python3
VENV := .venv
# More than cores: many tests wait for a process or a deadline.
WORKERS ?= 3
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test setup lint bench lock servers clean

demo: $(READY)  ## the whole pipeline on real recordings; SECONDS=30 bounds it
	$(BIN)/vitalseal demo $(if $(SECONDS),--seconds $(SECONDS)) $(ARGS)

test: $(READY) servers lint  ## every test, on real brokers and on the built wheel
	$(BIN)/python -m pytest -n $(WORKERS) $(ARGS)

setup: $(READY)  ## .venv with all extras and the tools

lint: $(READY)  ## ruff, mypy, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(READY) servers  ## the figures of docs/benchmarks.md, on this machine
	$(BIN)/python -m bench

lock: $(READY)  ## rewrite requirements/*.txt from pyproject.toml
	deploy/lock.sh $(BIN)/uv

servers:  ## the servers that tests run against, from Debian's packages
	deploy/install-servers.sh mosquitto strace softhsm2-util=softhsm2 faketime systemd-analyze=systemd curl \
		influxd=influxdb nginx=nginx-light

$(READY): requirements/dev.txt pyproject.toml deploy/make-venv.sh
	deploy/make-venv.sh $(PYTHON) $(VENV)
	touch $(READY)

clean:
	rm -rf $(VENV) dist build demo-data .mypy_cache .ruff_cache .pytest_cache .hypothesis
