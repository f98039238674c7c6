# SPDX-License-Identifier: Apache-2.0
# make demo              train, measure, export and picture on the sample slide (under 6 minutes on 2 cores)
# make demo DATA=folder  the same on your own slides or tiles (make DATA="a folder" where its name has spaces)
# make test              lint, types and the quick tests (under 10 minutes on 2 cores)
# make test-fast         the fastest tests alone (under 2 minutes)
# make test-all          lint, types and all tests
# make lint              ruff, mypy, import-linter
# make fuzz              damaged files for ten minutes each kind (tests/test_fuzz.py)
# make soak              50 kills at random moments; memory of long runs (benchmarks/soak.py)
# make malformed         the programs on damaged files: INPUTS=a folder of folders (benchmarks/malformed.py)
# make audit             whether a tested version of a dependency has a known weakness (needs a network)
# make docs              the website, in build/site; warnings are errors
# make lock              write requirements.txt anew from what is installed in .venv
PYTHON ?= python3
VENV   := .venv
RUN    := $(VENV)/bin/python
# After a worker has crashed, xdist 3.8 can wait for ever: end there, with the name of the test.
PYTEST := $(RUN) -m pytest -n auto --dist loadfile --max-worker-restart 0
# The lock holds the versions back to those that were tested.
PIP    := $(RUN) -m pip install --disable-pip-version-check -q -c requirements.txt
FILES  := requirements.txt pyproject.toml setup.py

.PHONY: demo test test-fast test-all lint fuzz soak malformed audit docs lock clean

# The shell reads DATA from its environment, whatever characters it has; make itself would replace what a $ begins.
override export DATA := $(value DATA)
demo: $(VENV)/base
	$(RUN) -m sr_keras.demo $(if $(DATA),--data="$$DATA")

test: lint
	$(PYTEST) -m "not slow and not gpu"

test-fast: $(VENV)/dev
	$(PYTEST) -m fast

test-all: lint
	$(PYTEST) -m "not gpu"

lint: $(VENV)/dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

fuzz: $(VENV)/dev
	SR_KERAS_FUZZ_SECONDS=600 $(PYTEST) --timeout=0 tests/test_fuzz.py

soak: $(VENV)/base
	$(RUN) -m benchmarks.soak

malformed: $(VENV)/base
	$(RUN) -m benchmarks.malformed --inputs="$$INPUTS"

audit: $(VENV)/dev
	$(RUN) -m venv $(VENV)/audit
	$(VENV)/audit/bin/python -m pip install --disable-pip-version-check -q pip-audit
	$(VENV)/audit/bin/pip-audit --strict --requirement requirements.txt --no-deps --disable-pip

docs: $(VENV)/dev
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict --quiet

lock: $(VENV)/dev
	{ head -2 requirements.txt; $(RUN) -m pip freeze --all --exclude-editable | grep -v '^pip=='; } > $(VENV)/lock
	cp $(VENV)/lock requirements.txt

# A stamp file each: written last, so that an install that broke off starts again.
$(VENV)/base: $(FILES) | $(VENV)/bin/python
	@echo "installing into $(VENV), a few minutes ..."
	$(PIP) -e .
	touch $@

$(VENV)/dev: $(FILES) | $(VENV)/bin/python
	@echo "installing into $(VENV), a few minutes ..."
	$(PIP) -e ".[dev]"
	touch $@ $(VENV)/base

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "error: $(PYTHON) cannot make a virtual environment;" \
	  "on Debian: apt-get install python3-venv. Python 3.11 or 3.12 is needed (PYTHON=python3.11)"; exit 1; }

clean:
	rm -rf $(VENV) build *.egg-info
