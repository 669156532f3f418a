# make demo | test | check | lint | format | bench | fuzz | tsan | wheels | nano | clean
# Every target that needs Python shares one environment, .venv, made by the first that asks for it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
JOBS ?= 2
PYTEST_ARGS ?=
# How long `make fuzz` runs each target, and which targets it runs: all when left out.
MINUTES ?= 1
FUZZ_SECONDS ?= $(shell expr 60 '*' $(MINUTES))
TARGETS ?=
# How valley2-nano is trained: its towers, then all of it, then which of several pictures (docs/nano.md).
TOWER_MINUTES ?= 11
READING := --output build/nano/reading --steps 2760
COMPARING := --output build/nano/comparing --steps 2860 --annealing-share 0.318 --rate 1.5e-3 --first-dialogue 44000

# The environment holds an editable install: Python sources are seen as they are, the core is rebuilt when one of these
# changes. The build tools stay in the environment, because an isolated build compiles everything anew each time;
# setuptools is among them for the dependencies that come as source.
NATIVE := $(shell find runtime/native -type f -not -path 'runtime/native/fuzz/*')
CXX_FILES := $(shell find runtime/native examples \( -name '*.[ch]' -o -name '*.[ch]pp' -o -name '*.cu' -o -name '*.cuh' \) -not -path '*/node_modules/*')
PYTHON_FOLDERS := valley2_edge runtime export quantize calibration tests benchmarks examples nano

# As it is called in build/typecheck.
MYPY := ../../$(BIN)/mypy --config-file ../../pyproject.toml --cache-dir ../../.mypy_cache

.PHONY: demo test check lint format bench fuzz tsan wheels nano clean

$(STAMP): pyproject.toml $(NATIVE)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet 'cffi>=1.17' 'scikit-build-core>=1.1,<2' cmake ninja 'setuptools>=70.1'
	CMAKE_BUILD_PARALLEL_LEVEL=$(JOBS) $(BIN)/python -m pip install --quiet --no-build-isolation --editable '.[all,dev]'
	touch $@

demo: $(STAMP)
	$(BIN)/python examples/demo.py build/demo

# The quick tests, some of every folder: they build nothing, share one export and take under two minutes on two cores.
test: $(STAMP)
	$(BIN)/python -m pytest -m 'not slow' --numprocesses $(JOBS) --dist worksteal $(PYTEST_ARGS)

# All tests: those marked `slow`, too, which build the core, export, train or start many processes.
check: $(STAMP)
	$(BIN)/python -m pytest --durations 15 --numprocesses $(JOBS) --dist worksteal $(PYTEST_ARGS)

# mypy and import-linter read no editable install, and the folders lie under other names, so they are shown the package as
# it installs. -S keeps the editable install out of import-linter's sight.
lint: $(STAMP)
	$(BIN)/ruff check $(PYTHON_FOLDERS)
	$(BIN)/ruff format --check $(PYTHON_FOLDERS)
	$(BIN)/clang-format --dry-run -Werror $(CXX_FILES)
	rm -rf build/typecheck && mkdir -p build/typecheck/valley2_edge
	ln -s $(wildcard $(CURDIR)/valley2_edge/*) $(foreach folder,runtime export quantize calibration,$(CURDIR)/$(folder)) build/typecheck/valley2_edge
	cd build/typecheck && PYTHONPATH=.:$$(../../$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))') \
	    ../../$(BIN)/python -S ../../$(BIN)/lint-imports ../../pyproject.toml --no-cache --no-logo
	cd build/typecheck && $(MYPY) -p valley2_edge
	cd build/typecheck && $(MYPY) ../../benchmarks/*.py ../../examples/*.py ../../examples/python/*.py
	cd build/typecheck && $(MYPY) ../../benchmarks/peers/*.py
	cd build/typecheck && $(MYPY) ../../benchmarks/real_decoder/*.py
	cd build/typecheck && $(MYPY) ../../benchmarks/record_reference/*.py
	ln -s $(CURDIR)/nano/valley2_nano build/typecheck/valley2_nano
	cd build/typecheck && $(MYPY) -p valley2_nano
	cd build/typecheck && $(MYPY) ../../nano/*.py

format: $(STAMP)
	$(BIN)/ruff check --fix $(PYTHON_FOLDERS)
	$(BIN)/ruff format $(PYTHON_FOLDERS)
	$(BIN)/clang-format -i $(CXX_FILES)

bench: $(STAMP)
	$(BIN)/valley2-edge bench --shape qwen2.5-7b --layers 4

# Needs clang with its libFuzzer (Debian: clang libclang-rt-dev llvm). build/fuzz keeps what it learns, and findings.
fuzz: $(STAMP)
	$(BIN)/cmake -S runtime/native -B build/fuzz -G Ninja -DCMAKE_MAKE_PROGRAM=$(CURDIR)/$(BIN)/ninja \
	    -DCMAKE_CXX_COMPILER=clang++ -DV2E_FUZZ=ON -DV2E_CUDA=OFF
	$(BIN)/cmake --build build/fuzz --parallel $(JOBS)
	$(BIN)/python runtime/native/fuzz/run.py build/fuzz --seconds $(FUZZ_SECONDS) --jobs $(JOBS) $(TARGETS)

# The conversations of the core under ThreadSanitizer.
tsan: $(STAMP)
	$(BIN)/cmake -S runtime/native -B build/tsan -G Ninja -DCMAKE_MAKE_PROGRAM=$(CURDIR)/$(BIN)/ninja \
	    -DV2E_TESTS=ON -DV2E_CUDA=OFF -DV2E_SANITIZE=thread -DCMAKE_CXX_FLAGS_RELEASE=-O1
	$(BIN)/cmake --build build/tsan --parallel $(JOBS) --target valley2_conversation_tests
	TSAN_OPTIONS=halt_on_error=1 build/tsan/tests/valley2_conversation_tests

# A wheel that brings its picture libraries. The first run fetches their sources from Debian's servers (nasm, patch).
wheels: $(STAMP)
	PATH=$(CURDIR)/$(BIN):$$PATH CMAKE_BUILD_PARALLEL_LEVEL=$(JOBS) $(BIN)/python runtime/native/codecs/build_static.py build/codecs
	$(BIN)/python -m build --no-isolation --wheel --outdir dist \
	    -C cmake.define.V2E_CODECS=ON -C cmake.define.V2E_CODECS_PREFIX=$(CURDIR)/build/codecs .

# From nothing to the checkpoint and the bundle that the package carries: hours. Run again, it goes on where it stopped.
nano: $(STAMP)
	test -f build/nano/reading/towers.pt || $(BIN)/python nano/pretrain.py --output build/nano/reading --minutes $(TOWER_MINUTES)
	$(BIN)/python nano/train.py $(READING) $(if $(wildcard build/nano/reading/state.pt),--resume)
	$(BIN)/python nano/train.py $(COMPARING) $(if $(wildcard build/nano/comparing/state.pt),--resume,--initial build/nano/reading/checkpoint)
	$(BIN)/python nano/publish.py build/nano/comparing/checkpoint

clean:
	rm -rf build dist .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
