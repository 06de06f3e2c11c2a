# make run    sets up and starts the proxy on 127.0.0.1:8080, its own CA in ca/, its certificates in certs/
#             (OPTIONS=--listen=127.0.0.1:8081 for another port, or any other options)
# make test   sets up and runs everything that must pass
# make lint-certs  runs pkilint on a generated CA and one leaf of each kind (part of make test)
# make image-test  builds the container image and puts a request through it (needs root)
# make soak   runs the abuse tests in their long form, some minutes (the short form is part of make test)
# make fuzz   looks for input that a parser does not foresee, a minute for each parser (FUZZ_SECONDS=60)
# make bench  measures certifier beside those of its peers that are installed, twenty minutes; results in bench/
#             (bench-growth: how cost grows, a quarter of an hour; bench-mixed: latency under mixed load, two minutes;
#              bench-workers: what sharing a port costs, three minutes; bench-price: what observing traffic costs, five)
# make check  runs make test without the set-up: linter, types, tests
# make clean  removes the virtual environment, caches and what make fuzz found

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

FUZZ_SECONDS ?= 60  # for each target

.PHONY: run test check lint-certs image-test soak fuzz bench bench-growth bench-mixed bench-workers bench-price clean

run: $(VENV)/run.stamp
	@exec $(BIN)/python certifier.py --store=certs --max=1000 --ca=ca $(OPTIONS)

test: $(VENV)/dev.stamp
	$(MAKE) check

check:
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest
	PYTHON="$(abspath $(BIN))/python" sh examples/redirect.sh

lint-certs: $(VENV)/dev.stamp
	$(BIN)/python -m pytest tests/test_lint.py

soak: $(VENV)/dev.stamp
	SOAK=1 $(BIN)/python -m pytest -s tests/test_soak.py

fuzz: $(VENV)/fuzz.stamp
	$(BIN)/python fuzz/run.py --seconds=$(FUZZ_SECONDS)

image-test:
	sh tests/image.sh

bench: $(VENV)/run.stamp
	$(BIN)/python -m bench --out=bench

bench-growth: $(VENV)/run.stamp
	$(BIN)/python -m bench --out=bench --part=names --part=store --part=tunnels --part=shared --part=row

bench-mixed: $(VENV)/run.stamp
	$(BIN)/python -m bench --out=bench --part=flood --part=bulk

bench-workers: $(VENV)/run.stamp
	$(BIN)/python -m bench --out=bench --part=workers

bench-price: $(VENV)/run.stamp
	$(BIN)/python -m bench --out=bench --part=price

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit("certifier needs Python 3.11 or newer" if sys.version_info < (3, 11) else 0)'
	@# If it fails, as on a Debian without python3-venv, it leaves one without pip, which would look complete.
	$(PYTHON) -m venv $(VENV) || { rm -f $@; exit 1; }

$(VENV)/run.stamp: requirements.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

$(VENV)/dev.stamp: requirements.txt requirements-dev.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@ $(VENV)/run.stamp

# atheris has wheels for some platforms only: without it, fuzz/run.py says so and goes on.
$(VENV)/fuzz.stamp: requirements-fuzz.txt $(VENV)/dev.stamp
	-$(BIN)/python -m pip install --quiet --disable-pip-version-check --only-binary=atheris -r requirements-fuzz.txt
	@touch $@

clean:
	rm -rf $(VENV) build fuzz/findings .mypy_cache .ruff_cache .pytest_cache .hypothesis
