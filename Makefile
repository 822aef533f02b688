# Every target works in a fresh clone: it makes .venv with the first Python >= 3.11 it finds and installs what it needs.
PYTHON := .venv/bin/python
NODE_QUIET := PYRIGHT_PYTHON_IGNORE_WARNINGS=1

# What each stamp .venv/.installed-NAME installs, and which smaller stamps it covers.
EXTRAS_core :=
EXTRAS_notebooks := [notebooks]
EXTRAS_dev := [notebooks,dev]
# nnU-Net's architectures; their own requirements would bring torchvision, which nothing here needs.
ALONE_dev := dynamic-network-architectures
COVERS_core := core
COVERS_notebooks := core notebooks
COVERS_dev := core notebooks dev

# Workers of `make test`, of one thread each: `make test WORKERS=8` on a machine with eight cores.
WORKERS := 2

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help demo test lint lab notebooks book browser workshop bench bench-gpu yardstick

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' Makefile | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 18

demo: .venv/.installed-core ## explain three lesions of the demo subject, and name the page to open
	@$(PYTHON) -m ies_helpers demo --out demo

test: lint ## lint, then every test, each chapter executed
	@$(PYTHON) -m pytest tests -m "not bench and not browser" -n $(WORKERS) --durations 20

lint: .venv/.installed-dev ## ruff and pyright
	@$(PYTHON) -m ruff check .
	@$(PYTHON) -m ruff format --check .
	@$(NODE_QUIET) $(PYTHON) -m pyright --pythonpath $(PYTHON)

lab: .venv/.installed-notebooks ## open the chapters in JupyterLab
	@$(PYTHON) -m jupyterlab notebooks

notebooks: .venv/.installed-notebooks ## write notebooks/*.ipynb from notebooks/src/*.py
	@$(PYTHON) notebooks/build.py

book: .venv/.installed-notebooks notebooks/_build/.package ## execute the chapters into a book, notebooks/_build/html
	@$(PYTHON) notebooks/build.py --check
	@cd notebooks && ../.venv/bin/jupyter-book build . --warningiserror --keep-going --all \
		--config book/_config.yml --toc book/_toc.yml

browser: .venv/.installed-dev book ## look at the book and the viewer in headless Chromium
	@$(PYTHON) -m pytest tests/browser

workshop: .venv/.installed-notebooks ## one zip for a room without internet: ies-workshop.zip
	@$(PYTHON) notebooks/build.py --check
	@$(PYTHON) notebooks/workshop.py ies-workshop.zip

bench: .venv/.installed-dev ## measure time and memory
	@$(PYTHON) -m tests.bench

bench-gpu: .venv/.installed-dev ## the same on a GPU, in 8 minutes at most
	@$(PYTHON) -m tests.bench.gpu

yardstick: .venv-yardstick/.installed ## every method, ours and the peers', on cases whose truth is known
	@.venv-yardstick/bin/python -m tests.yardstick

# The book keeps executed chapters by their text alone, so a change of the package throws them away.
notebooks/_build/.package: $(wildcard ies_helpers/*.py ies_helpers/*/*.py data/checkpoints/*.safetensors data/demo/*)
	@rm -rf notebooks/_build && mkdir notebooks/_build && touch $@

# A stamp is touched only after its recipe succeeded; -qq keeps pip to its errors.
.venv/.installed-%: pyproject.toml constraints.txt | .venv/.made
	@echo "Installing ies-helpers$(EXTRAS_$*) into .venv, 1.5 GB or more: minutes the first time, without a word ..."
	@$(PYTHON) -m pip install -qq --disable-pip-version-check -c constraints.txt -e ".$(EXTRAS_$*)"
	@$(if $(ALONE_$*),$(PYTHON) -m pip install -qq --disable-pip-version-check -c constraints.txt --no-deps $(ALONE_$*))
	@for name in $(COVERS_$*); do touch ".venv/.installed-$$name"; done

# The peers have an environment of their own, about 6 GB: torch is PyPI's own build there.
.venv-yardstick/.installed: tests/yardstick/requirements.txt pyproject.toml constraints.txt | .venv/.made
	@echo "Installing the peers into .venv-yardstick (about 6 GB, ten minutes the first time) ..."
	@$(PYTHON) -m venv .venv-yardstick
	@.venv-yardstick/bin/python -m pip install -qq --disable-pip-version-check -c constraints.txt \
		-r tests/yardstick/requirements.txt -e .
	@touch $@

.venv/.made:
	@for python in python3 python3.11 python3.12 python3.13; do \
		if $$python -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then \
			$$python -m venv .venv && touch $@; exit $$?; \
		fi; \
	done; \
	echo "No Python 3.11 or newer with its venv module was found as python3, python3.11, python3.12 or python3.13:" \
		"install one and run make again." >&2; exit 1
