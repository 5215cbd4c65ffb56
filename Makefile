# Two commands for a newcomer: `make demo` and `make test`. Each creates what it needs in .venv.
PYTHON ?= python3
# One known torch for development. Any torch >= 2.10 serves: make TORCH=torch test
TORCH ?= torch==2.13.0
BIN := .venv/bin

SOURCES := $(shell find csrc -type f) CMakeLists.txt setup.py pyproject.toml

.PHONY: build demo test test-fast lint docs sanitize cuda-check gpu-check clean
.DELETE_ON_ERROR:

build: .venv/built

.venv/packages: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet "$(TORCH)"
	touch $@

.venv/built: .venv/packages $(SOURCES)
	$(BIN)/python -m pip install --editable '.[train,dev]'
	rm -f .venv/emulated
	touch $@

# The same with the CUDA kernels on the emulator, for the tests.
.venv/emulated: .venv/packages $(SOURCES)
	MFVIS_EMULATE=1 $(BIN)/python -m pip install --editable '.[train,dev]'
	touch .venv/built $@

demo: .venv/built
	$(BIN)/mfvis demo --out demo

# Idle threads sleep. By default they spin, which makes tests many times slower on a busy machine.
test test-fast: export OMP_WAIT_POLICY ?= passive

test: .venv/emulated
	MFVIS_FAIL_WITHOUT_EMULATOR=1 $(BIN)/python -m pytest

# The tests of the operators on the CPU, and those of the pipeline that take no training.
test-fast: .venv/built
	$(BIN)/python -m pytest -m "not slow" $(FAST)
FAST := tests/ops/test_tk_loss.py tests/ops/test_temporal_topk.py tests/ops/test_pairwise_loss.py \
  tests/ops/test_box_projection_loss.py tests/ops/test_modules.py tests/pipeline/test_losses.py tests/pipeline/test_config.py \
  tests/pipeline/test_data_ytvis.py tests/pipeline/test_data_importers.py tests/pipeline/test_eval_ytvis.py \
  tests/pipeline/test_model_mask2former.py

lint: .venv/built
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python tests/check_words.py
	$(BIN)/clang-format --dry-run --Werror $(shell find csrc -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh')

docs: .venv/built
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

# The operator tests, also of the CUDA kernels on the emulator, with every access to memory checked: in the folder of a
# library of its own. libstdc++ is loaded first, or else AddressSanitizer cannot see exceptions.
SANITIZED := cd build/sanitize/lib && PYTHONPATH=$(CURDIR)/python MFVIS_KEEP_MEMORY=0 \
  LD_PRELOAD="$$(c++ -print-file-name=libasan.so) $$(c++ -print-file-name=libstdc++.so)" \
  ASAN_OPTIONS=detect_leaks=0:detect_stack_use_after_return=0
SANITIZED_TESTS := $(CURDIR)/$(BIN)/python -m pytest -q -p no:cacheprovider $(CURDIR)/tests/ops \
  -k "(reference or any_size or strided or any_case or any_mistake or backward or refilled) and not emulat"
sanitize: .venv/packages
	MFVIS_EMULATE=1 MFVIS_CUDA=0 MFVIS_SANITIZE=address $(BIN)/python setup.py build_ext \
	  --build-temp build/sanitize/temp --build-lib build/sanitize/lib
	cp -r mfvis_ext/*.py mfvis_ext/ops mfvis_ext/reference build/sanitize/lib/mfvis_ext
	$(SANITIZED) $(SANITIZED_TESTS)
	$(SANITIZED) MFVIS_CPU_CAPABILITY=emulated $(SANITIZED_TESTS)

# All CUDA sources for all architectures, on a machine without a GPU: only nvcc is needed.
cuda-check: .venv/built
	$(BIN)/python benchmarks/kernel_resources.py

# On a machine with an NVIDIA GPU, with the torch, nvcc and pytest of its own $(PYTHON): nothing is fetched.
gpu-check:
	$(PYTHON) benchmarks/gpu_check.py

clean:
	rm -rf .venv build dist demo
