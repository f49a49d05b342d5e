# Everything the project does, from a machine that has only Python 3.11 to 3.13 and make.
#
# The first command makes a virtual environment in .venv with the versions of requirements.lock. Nothing is installed
# outside this folder, except that root's `make test`, `make pdf` and `make epub` on Debian install what they need. The
# environment is made again when pyproject.toml or requirements.lock change.

# The backend of Keras, an extra of pyproject.toml. The choice is kept until another is named, also when an installation
# fails.
BACKENDS := cpu tensorflow cuda jax torch
BACKEND ?= $(or $(basename $(notdir $(firstword $(wildcard .venv/*.stamp)))),$(shell cat .backend 2>&-),cpu)
ifeq ($(filter $(BACKEND),$(BACKENDS)),)
$(error BACKEND must be one of $(BACKENDS); received '$(BACKEND)')
endif

# The first Python on the PATH that fits.
FITS = import sys; (3, 11) <= sys.version_info[:2] <= (3, 13) and print(sys.executable)
PYTHON ?= $(firstword $(foreach name,python3 python3.13 python3.12 python3.11,$(shell $(name) -c '$(FITS)' 2>&-)))

NEEDS_PYTHON = test -n "$(PYTHON)" || { echo "No Python 3.11, 3.12 or 3.13 on the PATH. Install one, or name it:" \
	"make PYTHON=/path/to/python3.12"; exit 1; }

# uv installs in seconds what takes pip minutes. One on the PATH is used; without it, one is put in .uv.
UV := $(shell command -v uv 2>&-)
ifeq ($(UV),)
UV := .uv/bin/uv
OWN_UV := $(UV)
endif

# What a chapter imports or reads, and what the pages are made of. Folders count: they change when a file is removed.
# (book/. is the folder; plain book is the target below.)
IMPORTED := $(wildcard book/experiments/grid.* book/experiments/contrasts.* book/live/page.html book/one_page/*.py) $(shell find ranet_lib $(wildcard book/results) -not -path '*__pycache__*')
PAGES := _config.yml _toc.yml $(shell find book/. -not -path '*__pycache__*' -not -path '*.ipynb_checkpoints*')
SHAPES := _config.yml _toc.yml $(shell find book/_ext book/assets book/references.bib -not -path '*__pycache__*')

# Keras takes its backend from here; outside of make, from keras_backend.pth in .venv.
export KERAS_BACKEND := $(if $(filter jax torch,$(BACKEND)),$(BACKEND),tensorflow)
# Notebooks and pages are UTF-8, whatever the machine's locale.
export PYTHONUTF8 := 1
# Some machines forbid Python to keep what it has compiled. Each import of TensorFlow then takes ten seconds longer.
unexport PYTHONDONTWRITEBYTECODE

# Two targets at once would write into the same folders.
.NOTPARALLEL:

.PHONY: help book pdf epub lab test test-slow test-colab test-repeat benchmark experiments results lint dist colab install lock clean

help:
	@echo "make book      run every chapter and build the site in _build/html"
	@echo "make pdf       the book as a PDF, by LaTeX: _build/residual-attention.pdf"
	@echo "make epub      the book for electronic readers: _build/residual-attention.epub"
	@echo "make lab       open the chapters in JupyterLab, after installing it"
	@echo "make test      run the tests, the quick ones first"
	@echo "make test-slow compare with other backends and runtimes, after installing them (1 GB or more)"
	@echo "make experiments GROUP=NAME   run the experiments of a group of book/experiments/grid.yaml that have not run yet"
	@echo "make results   take the records of finished runs into book/results, and print the table (RUNS=folder: not runs)"
	@echo "make benchmark measure speed against plain PyTorch (an hour; BENCHMARK_FLAGS=--help says how to measure less)"
	@echo "make lint      check the style of the code and of the notebooks"
	@echo "make dist      build the wheel and the source distribution in dist"
	@echo "make colab     make what Google Colab opens in _build/colab: notebooks without the book's markup, and the wheel"
	@echo "make test-colab   run chapters and library with Colab's versions (needs Python 3.13, and COLAB_PINS, its pip freeze)"
	@echo "make test-repeat  run each notebook twice, and as other processors would: the results must agree (an hour)"
	@echo "make install   make the environment in .venv, and nothing else"
	@echo "make lock      bring requirements.lock in line with pyproject.toml (with UPGRADE=1: the newest versions)"
	@echo "make clean     remove what make has made, but for runs and records"
	@echo
	@echo "BACKEND=NAME   the backend of Keras: $(BACKENDS) (now $(BACKEND))"
	@echo "PYTHON=NAME    the Python to use (now $(or $(PYTHON),none that fits))"

book: _build/site.stamp
	@echo "The book is built. Open this in a browser:"
	@echo "file://$(CURDIR)/_build/html/index.html"

pdf: _build/residual-attention.pdf
epub: _build/residual-attention.epub
pdf epub:
	@echo "The book is made:"
	@echo "$(CURDIR)/_build/residual-attention.$@"

lab: .venv/lab.installed
	.venv/bin/jupyter lab book

test: install
	.venv/bin/python -m pytest $(PYTEST_FLAGS)

# One process more than there are cores, as batches on clusters mostly wait.
test-slow: .venv/compare.installed .venv/lab.installed
	.venv/bin/python -m pytest -m slow --numprocesses $$(($$(getconf _NPROCESSORS_ONLN) + 1)) --dist loadfile \
		$(PYTEST_FLAGS)

# COLAB_PINS: a file with what `pip freeze` prints in Colab.
test-colab: install
	.venv/bin/python -m pytest -m colab $(PYTEST_FLAGS)

test-repeat: install _build/repeat.stamp
	.venv/bin/python -m pytest -m repeat $(PYTEST_FLAGS)

benchmark: .venv/compare.installed
	.venv/bin/python benchmarks/run.py $(BENCHMARK_FLAGS)

# DATA: the folder with CIFAR; RUNS: where the runs go (runs); JOBS: how many at a time; SNAKEMAKE_FLAGS: for Snakemake.
experiments: install
	.venv/bin/python book/experiments/batch.py $(GROUP) $(if $(DATA),--data-dir '$(DATA)') $(if $(RUNS),--runs '$(RUNS)') \
		$(if $(JOBS),--jobs $(JOBS)) $(if $(SNAKEMAKE_FLAGS),-- $(SNAKEMAKE_FLAGS))

results: install
	.venv/bin/python book/experiments/results.py $(if $(RUNS),'$(RUNS)')

lint: install
	.venv/bin/ruff check .

dist: $(OWN_UV)
	rm -rf dist
	$(UV) build --quiet --out-dir dist

colab: install dist
	rm -rf _build/colab
	.venv/bin/python book/colab.py _build/colab --wheel dist/*.whl

install: .venv/$(BACKEND).stamp

lock: $(OWN_UV)
	$(UV) pip compile pyproject.toml --output-file requirements.lock --quiet $(if $(UPGRADE),--upgrade) \
		--extra book --extra lab --extra test --extra batch --extra export --extra cpu --extra tensorflow \
		--universal --python-version 3.11 --fork-strategy fewest \
		--no-annotate --custom-compile-command "make lock"

clean:
	rm -rf _build dist .venv .uv .backend .hypothesis .pytest_cache .ruff_cache *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Only pages that have changed are read and written again. A warning must not hide in what Sphinx keeps of a page, so
# after one all are. What Jupyter Book prints of its progress is not shown; its warnings and errors, on stderr, are.
# Where npm could not fetch what the page `try_it` needs, the next `make book` tries again.
_build/site.stamp: _build/pages.stamp $(PAGES)
	@.venv/bin/python book/execute.py
	@echo "Writing the pages."
	@.venv/bin/jupyter-book build . -W -n --keep-going >/dev/null || { rm -f _build/pages.stamp; exit 1; }
	@test ! -e _build/html/_static/live/runtime.js && command -v npm >/dev/null || touch $@

# Sphinx sees changes of the pages only, not of what shapes them all or what notebooks have printed.
_build/pages.stamp: _build/cache.stamp $(SHAPES)
	rm -rf _build/html _build/.doctrees
	@touch $@

# From what the notebooks have shown, of which nothing runs again after `make book`.
_build/residual-attention.pdf _build/residual-attention.epub: _build/residual-attention.%: _build/cache.stamp $(PAGES)
	.venv/bin/python book/execute.py
	.venv/bin/python book/paper.py $*

# The cache compares the code of the notebooks only, so a change in what they import or read empties it.
_build/cache.stamp: .venv/$(BACKEND).stamp $(IMPORTED)
	rm -rf _build/.jupyter_cache
	@mkdir -p _build
	@.venv/bin/python -m compileall -q ranet_lib book/one_page book/_ext  # which would change the folders later
	@touch $@

# The runs that test-repeat keeps go with it.
_build/repeat.stamp: _build/cache.stamp
	rm -rf _build/repeat
	@touch $@

# The lock is a constraint: its versions, and of its packages those that the backend needs.
.venv/$(BACKEND).stamp: pyproject.toml requirements.lock | $(OWN_UV)
	@$(NEEDS_PYTHON)
	@echo $(BACKEND) > .backend
	rm -rf .venv
	$(UV) venv --quiet --python $(PYTHON) .venv
	$(UV) pip install --python .venv --editable '.[book,test,batch,$(BACKEND)]' --constraint requirements.lock
	@echo "import os; os.environ.setdefault('KERAS_BACKEND', '$(KERAS_BACKEND)')" > \
		"$$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/keras_backend.pth"
	@mkdir -p .venv/etc/ipython && cp book/ipython_kernel_config.py .venv/etc/ipython
	@touch $@

.venv/lab.installed: .venv/$(BACKEND).stamp
	$(UV) pip install --python .venv --quiet --editable '.[lab]' --constraint requirements.lock
	@touch $@

# By pip and not by uv, because pip follows the settings of this machine for where PyTorch's build for CPUs is found.
.venv/compare.installed: .venv/$(BACKEND).stamp
	$(UV) pip install --python .venv --quiet pip
	.venv/bin/python -m pip install --quiet --no-compile --editable '.[export,compare]' --constraint requirements.lock
	@touch $@

.uv/bin/uv:
	@$(NEEDS_PYTHON)
	@$(PYTHON) -c 'import ensurepip, venv' 2>&- || { echo "$(PYTHON) cannot make virtual environments." \
		"On Debian or Ubuntu: apt install python3-venv. Or put uv on the PATH."; exit 1; }
	rm -rf .uv
	$(PYTHON) -m venv .uv
	.uv/bin/python -m pip install --quiet --disable-pip-version-check uv==0.13.9
