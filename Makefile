# `make demo` and `make test` need nothing but Python 3.11 to 3.14: they create .venv and install into it.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
DEMO := runs/demo

help:  ## this text
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/ ##/' | column -t -s '##'

install: $(INSTALLED)  ## create .venv and install relax-exp into it

# torch first and pinned to the tested build, so that no other dependency pulls in another one.
$(INSTALLED): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q -c constraints.txt torch
	$(BIN)/pip install -q -c constraints.txt -e '.[dev]'
	touch $@

demo: $(INSTALLED)  ## train on bundled data, compare estimators, draw Figure 1
	$(BIN)/relax-exp -m task=toy estimator=relax,rebar,reinforce 'seeds=[0,1,2,3,4]' $(call into,toy)
	$(BIN)/relax-exp -m task=vae task.dataset=digits estimator=relax,rebar,reinforce steps=2000 eval_every=500 $(call into,vae)
	$(BIN)/relax-exp-report $(DEMO) -o $(DEMO)/report
	@echo "Figures and tables: $(DEMO)/report   TensorBoard: $(BIN)/tensorboard --logdir $(DEMO)"

into = 'out=$(DEMO)/$(1)-$${estimator.name}'

# The cold start makes an environment of its own.
COLD := tests/test_cold_start.py

test: $(INSTALLED)  ## run all tests
	$(BIN)/python -m pytest -n 2 --deselect $(COLD)::test_the_quick_start_prints_what_the_readme_shows

cold-start: $(INSTALLED)  ## README's quick start in a fresh clone and environment
	$(BIN)/python -m pytest $(COLD)

lint: $(INSTALLED)  ## check style, layers and types
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/lint-imports && $(BIN)/pyright --pythonpath $(BIN)/python

mutants: $(INSTALLED)  ## show that the verification rejects broken code
	$(BIN)/python scripts/mutants.py

verify: $(INSTALLED)  ## all estimators against exact enumeration, a million draws each
	$(BIN)/relax-exp task=verify

# SB3: a Python that has stable-baselines3, in an environment of its own, to time it too.
bench: $(INSTALLED)  ## milliseconds a step against the arithmetic bound and plain PyTorch, frames a second -> results/bench
	$(BIN)/python scripts/bench.py
	$(BIN)/python scripts/bench_rl.py $(if $(SB3),--sb3 $(SB3))

# STORCH, PYRO: Pythons that have relax-exp and storchastic or pyro-ppl, in environments of their own.
bench-library: $(INSTALLED)  ## Latent beside other libraries and beside the same step by hand -> results/bench
	$(BIN)/python scripts/bench_library.py $(if $(STORCH),--storchastic $(STORCH)) $(if $(PYRO),--pyro $(PYRO))

bench-quick: $(INSTALLED)  ## the ratios of two cells, printed
	$(BIN)/python scripts/bench.py --quick

bench-gpu: $(INSTALLED)  ## the same on a GPU
	$(BIN)/python scripts/bench.py --device cuda

gpu-check: $(INSTALLED)  ## does everything work on this GPU, and how fast; without one a dry run
	$(BIN)/python scripts/gpu_check.py

BUDGET ?= cpu
JOBS ?= 1

reproduce-all: $(INSTALLED)  ## the papers' experiments, what is missing of them: BUDGET=smoke|cpu|published|paper JOBS=1
	$(BIN)/python scripts/reproduce.py --budget $(BUDGET) --jobs $(JOBS)

original: $(INSTALLED)  ## two epochs of RELAX on MNIST beside the original code's bounds (some minutes)
	$(BIN)/python scripts/original.py

report: $(INSTALLED)  ## their tables and figures, from the runs that are there
	$(BIN)/python scripts/reproduce.py --budget $(BUDGET) --report

compare: $(INSTALLED)  ## one table of all estimators: bias, cost, tuned variance -> results/comparison
	$(BIN)/python scripts/compare.py

docs: $(INSTALLED)  ## the generated parts of docs/estimators/ and docs/tasks/
	$(BIN)/python scripts/docs.py

# No banner of the theme's about another generator; formulas are checked where there is a node to run KaTeX.
site: $(INSTALLED)  ## the documentation as a site -> build/site, warnings are errors
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	if command -v node > /dev/null; then node scripts/handbook/formulas.cjs build/site; fi

notebooks: $(INSTALLED)  ## execute the tutorials, keep what they print and draw
	$(BIN)/python scripts/handbook/notebooks.py

clean:  ## remove .venv (runs stay)
	rm -rf $(VENV)

.PHONY: help install demo test cold-start lint mutants verify compare bench bench-library bench-quick bench-gpu gpu-check reproduce-all original report docs site notebooks clean
