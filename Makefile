# `make demo` and `make test` set themselves up: they make .venv and install into it with pip alone.
# Another interpreter: `make demo PYTHON=python3.12`. pip's own settings (PIP_INDEX_URL, PIP_FIND_LINKS, ...) hold.

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python -m
EXTRAS := train,emoji
TEST_EXTRAS := $(EXTRAS),dev,study,web,curate,cluster,provenance,large,gguf
TORCH := $(shell sed -n 's/^dependencies = \["\(torch==[^"]*\)".*/\1/p' pyproject.toml)
# A stamp names this folder, so that a moved or copied checkout does not run the code of the old one. The second is of
# what tests need and the demo does not.
STAMP := $(VENV)/installed-$(shell pwd | cksum | cut -d ' ' -f 1)
TEST_STAMP := $(STAMP)-test

# An interpreter's own settings from outside would leak other packages into .venv.
unexport PYTHONHOME PYTHONPATH

.PHONY: help demo test test-slow test-browser bench fuzz audit lint clean

help:
	@echo 'make demo      fine-tune the bundled emoji model end to end and report; a few minutes on a CPU'
	@echo 'make test      lint, types and tests'
	@echo 'make test-slow the slow tests alone'
	@echo 'make test-browser  the pages in the system'"'"'s Chromium'
	@echo 'make bench     speed and memory beside references, into results/benchmarks; half an hour on a quiet machine'
	@echo 'make fuzz      damages what each reader reads, for ten minutes a reader; FUZZ=20 for 20 seconds'
	@echo 'make audit     asks a public service for known vulnerabilities of what constraints.txt names'
	@echo 'make lint      ruff, mypy and import-linter alone'
	@echo 'make clean     remove .venv and caches; runs/ stays'

demo: $(STAMP)
	$(VENV)/bin/e2ed2 demo

# The figures that tests know are a CPU's. A process for each core, at most four, of one thread each.
PYTEST := CUDA_VISIBLE_DEVICES= $(RUN) pytest --numprocesses logical --maxprocesses 4 --dist worksteal

bench: $(STAMP)
	for theme in unroll objectives sampling data startup; do \
	  OMP_NUM_THREADS=1 $(RUN) benchmarks.$$theme --out results/benchmarks || exit 1; done

test: lint
	$(PYTEST)

test-slow: $(TEST_STAMP)
	$(PYTEST) -m slow

# In the system's Chromium; skipped where there is none.
test-browser: $(TEST_STAMP)
	$(RUN) pytest -m browser

# A decoder's crash ends a worker, which pytest-xdist tells and replaces.
FUZZ ?= 600
fuzz: $(TEST_STAMP)
	CUDA_VISIBLE_DEVICES= E2ED2_FUZZ=$(FUZZ) $(RUN) pytest --numprocesses logical --maxprocesses 4 --dist worksteal \
	  -k mangled -m 'slow or not slow'

audit:
	'$(PYTHON)' -m venv $(VENV)/audit
	$(VENV)/audit/bin/pip install --quiet pip-audit
	$(VENV)/audit/bin/pip-audit --require-hashes --disable-pip -r constraints.txt

lint: $(TEST_STAMP)
	$(RUN) ruff check .
	$(RUN) mypy
	$(VENV)/bin/lint-imports

# Only a complete install leaves the stamp; a half-made .venv (no working pip) is made anew.
$(STAMP): pyproject.toml
	@rm -f $(VENV)/installed-*
	@$(RUN) pip --version >/dev/null 2>&1 || $(MAKE) --no-print-directory .make-venv
	$(RUN) pip install '$(TORCH)'
	$(RUN) pip install --editable '.[$(EXTRAS)]'
	@touch $@

$(TEST_STAMP): $(STAMP)
	$(RUN) pip install --editable '.[$(TEST_EXTRAS)]'
	@touch $@

.PHONY: .make-venv
.make-venv:
	@command -v '$(PYTHON)' >/dev/null || { \
	  echo "Python '$(PYTHON)' was not found: name one of 3.11-3.13, as in: make demo PYTHON=python3.12" >&2; exit 2; }
	@'$(PYTHON)' -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || { \
	  echo "e2ed2 needs Python 3.11-3.13, but '$(PYTHON)' is $$('$(PYTHON)' --version 2>&1):" \
	       "name another, as in: make demo PYTHON=python3.12" >&2; exit 2; }
	'$(PYTHON)' -m venv --clear $(VENV)

clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache
	find e2ed2 tests -name __pycache__ -type d -prune -exec rm -rf {} +
