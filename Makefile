# Two commands for a bare clone: `make demo` and `make test`. They need Python 3.11 to 3.13
# with venv (Debian: apt-get install python3 python3-venv make), and a package index.

PYTHON ?= python3
VENV   ?= .venv
BIN     = $(VENV)/bin
OUT    ?= out
QGIS_PYTHON ?= /usr/bin/python3
PIP     = $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test test-qgis plugin lint types check benchmark clean

demo: $(VENV)/.installed  ## buildings out of a real aerial image
	mkdir -p $(OUT)
	$(BIN)/geoseg predict tests/data/banepa.tif -o $(OUT)/buildings.gpkg --overwrite
	$(BIN)/geoseg preview $(OUT)/buildings.gpkg tests/data/banepa.tif -o $(OUT)/buildings.png --overwrite

test: $(VENV)/.tested  ## all tests
	$(BIN)/python -m pytest

test-qgis: $(VENV)/.tested  ## the plugin, in the system's QGIS (3.22 or later) on its own Python
	GEOSEG_PYTHON=$(abspath $(BIN)/python) $(QGIS_PYTHON) -m pytest -c tests/qgis/pytest.ini \
		--rootdir tests/qgis --confcutdir tests/qgis tests/qgis

plugin: $(VENV)/.tested  ## dist/geoseg_qgis-VERSION.zip, checked as plugins.qgis.org checks it
	$(BIN)/python qgis_plugin/translate.py --check
	$(BIN)/python qgis_plugin/package.py --check

lint: $(VENV)/.tested
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.tested
	$(BIN)/mypy

check: lint types test  ## what CI runs

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) --editable .
	touch $@

$(VENV)/.tested: $(VENV)/.installed
	$(PIP) --editable ".[dev]"
	touch $@

benchmark: $(VENV)/.tested  ## PEERS=path of the peers' Python, see benchmarks/README.md
	$(BIN)/python benchmarks/pipeline.py --part a --cores 0
	$(BIN)/python benchmarks/pipeline.py --part b $(if $(PEERS),--peers-python $(PEERS))
	$(BIN)/python benchmarks/enduser.py --threads 0 $(if $(PEERS),--peers-python $(PEERS))
	$(BIN)/python benchmarks/memory.py --cores 0
	$(BIN)/python benchmarks/seams.py --threads 0
	$(BIN)/python benchmarks/loader.py --cores 0
	$(BIN)/python benchmarks/streaming.py --cores 0
	$(BIN)/python benchmarks/device.py

clean:
	rm -rf $(VENV) $(OUT) dist
