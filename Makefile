# From a machine with Python (3.11 or later), make and pip: `make book` or `make test`.
# PYTHON is the interpreter that the environment is made with, VENV the folder it is made in.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: help book test install chromium format clean

help:  ## Show this list
	@sed -n 's/^\([a-z]*\):.*  ## /  make \1	/p' Makefile | expand -t 20

book: $(INSTALLED)  ## Run every notebook on the embedded digits, build the HTML book, print where it is
	$(BIN)/nab book --profile smoke

test: $(INSTALLED) chromium  ## Run what CI runs: style, types, tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses logical --maxprocesses 8 --dist loadfile --no-loadscope-reorder

install: $(INSTALLED)  ## Make the virtual environment with the versions of constraints.txt

# The file is written last, so an installation that was cut short is started again.
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or later is needed, and $(PYTHON) is " + sys.version.split()[0] + "; name another one with PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -c constraints.txt -e '.[book,dev]'
	@touch $@

# The tests open the built book in a browser. Only root on Debian and its kin can install one unasked.
chromium:  ## Install Chromium if there is none (Debian, as root)
	@for name in chromium chromium-browser google-chrome; do command -v $$name >/dev/null && exit 0; done; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q chromium; \
	else \
		echo "No chromium, chromium-browser or google-chrome on PATH, and the tests open the book in one:" >&2; \
		echo "install one with your system's package manager, then try again." >&2; \
		exit 1; \
	fi

format:  ## Put all Python files into the project's style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## Delete built pages and caches; results and the environment stay
	rm -rf _build book/_build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find nab tests tools benchmarks -name __pycache__ -prune -exec rm -rf {} +
