# make demo              train, measure, export and picture on the sample slide (under 6 minutes on 2 cores)
# make demo DATA=folder  the same on your own slides or tiles (make DATA="a folder" where its name has spaces)
# make test              lint, types and the tests that are quick (under 10 minutes on 2 cores)
# make test-all          lint, types and all tests, which is what continuous integration runs
PYTHON ?= python3
VENV   := .venv
RUN    := $(VENV)/bin/python

.PHONY: demo test test-all lint clean

# The shell reads DATA from its environment, whatever characters it has: make exports what stands on its command line.
demo: $(VENV)/base
	$(RUN) -m sr_keras.demo $(if $(DATA),--data="$$DATA")

test: lint
	$(RUN) -m pytest -n auto --dist loadfile -m "not slow"

test-all: lint
	$(RUN) -m pytest -n auto --dist loadfile

lint: $(VENV)/dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

# A stamp file each: written last, so that an install that broke off starts again.
$(VENV)/base: requirements.txt setup.py | $(VENV)/bin/python
	@echo "installing into $(VENV), a few minutes ..."
	$(RUN) -m pip install --disable-pip-version-check -q -e .
	touch $@

$(VENV)/dev: requirements.txt setup.py | $(VENV)/bin/python
	@echo "installing into $(VENV), a few minutes ..."
	$(RUN) -m pip install --disable-pip-version-check -q -e ".[dev]"
	touch $@ $(VENV)/base

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "error: $(PYTHON) cannot make a virtual environment;" \
	  "on Debian: apt-get install python3-venv. Python 3.11 or 3.12 is needed (PYTHON=python3.11)"; exit 1; }

clean:
	rm -rf $(VENV) build *.egg-info
