# Two commands: `make reproduce` runs the main job, `make test` runs the tests. Both set up .venv first.
PROFILE ?= smoke
PYTHON  ?= python3

BIN     := .venv/bin
RUNS    := runs/$(PROFILE)
RESULTS := results/$(PROFILE)

# ---- profiles: sizes other than the notebooks' own defaults live here and nowhere else ----
PROFILES := smoke codiesp
# smoke: the embedded corpus, every notebook as it stands
# codiesp: real notes in Spanish; ICDRAT_DATA names the folder that holds codiesp/
codiesp.e1_coder   := -p corpus=codiesp
codiesp.e3_student := -p teacher=mention_training -p weight=0.1
codiesp.e6_corpora := -p corpora="synth vignettes codiesp"
codiesp.e7_linker  := -p corpus="vignettes codiesp_en" -p sources="tabular index doid abbreviations training"
# where a language model is given, it is the teacher
ifdef ICDRAT_LLM_URL
$(PROFILE).e3_student += -p teacher=llm
endif

ifeq ($(filter $(PROFILE),$(PROFILES)),)
$(error There is no profile '$(PROFILE)'; choose one of: $(PROFILES))
endif

# small networks are fastest in one thread each
export OMP_NUM_THREADS ?= 1

# ---- what depends on what ----
data       := icdrat/types.py icdrat/codes.py icdrat/text.py icdrat/bootstrap.py $(wildcard icdrat/data/*.py)
coder      := $(data) $(wildcard icdrat/coder/*.py)
rationale  := $(coder) $(wildcard icdrat/rationale/*.py)
evaluation := $(rationale) $(wildcard icdrat/evaluation/*.py)
learning   := $(evaluation) $(wildcard icdrat/learning/*.py)
report     := icdrat/report.py

EXPERIMENTS := e1_coder e2_rationales e3_student e4_plausibility e5_faithfulness e6_corpora e7_linker
PAPER       := tab1_methods tab2_codes tab3_corpora tab4_agreement tab5_linker fig1_curves page1_notes

$(RUNS)/e1_coder.ipynb:        $(coder)
$(RUNS)/e2_rationales.ipynb:   $(rationale)  $(RUNS)/e1_coder.ipynb
$(RUNS)/e3_student.ipynb:      $(learning)   $(RUNS)/e2_rationales.ipynb
$(RUNS)/e4_plausibility.ipynb: $(evaluation) $(RUNS)/e3_student.ipynb
$(RUNS)/e5_faithfulness.ipynb: $(evaluation) $(RUNS)/e3_student.ipynb
$(RUNS)/e6_corpora.ipynb:      $(data) $(report) $(wildcard icdrat/vignettes/*)
$(RUNS)/e7_linker.ipynb:       $(evaluation) $(report) $(wildcard icdrat/vignettes/*)
$(RUNS)/tab1_methods.ipynb:    $(evaluation) $(report) $(RUNS)/e4_plausibility.ipynb $(RUNS)/e5_faithfulness.ipynb
$(RUNS)/tab2_codes.ipynb:      $(evaluation) $(report) $(RUNS)/e3_student.ipynb
$(RUNS)/tab3_corpora.ipynb:    $(report) $(RUNS)/e6_corpora.ipynb
$(RUNS)/tab4_agreement.ipynb:  $(report) $(RUNS)/e6_corpora.ipynb
$(RUNS)/tab5_linker.ipynb:     $(report) $(RUNS)/e7_linker.ipynb
$(RUNS)/fig1_curves.ipynb:     $(evaluation) $(report) $(RUNS)/e5_faithfulness.ipynb
$(RUNS)/page1_notes.ipynb:     $(report) icdrat/view.py $(RUNS)/e3_student.ipynb

# ---- reproduce ----
.PHONY: reproduce test check notebooks clean FORCE
.DELETE_ON_ERROR:
.DEFAULT_GOAL := reproduce

reproduce: $(EXPERIMENTS:%=$(RUNS)/%.ipynb) $(PAPER:%=$(RUNS)/%.ipynb)
	@$(BIN)/python -c 'from icdrat.report import what_was_made as made; print(made("$(RESULTS)"))'

run = $(BIN)/icdrat reproduce $< --out $@ -p runs=$(RUNS) -p results=$(RESULTS) $($(PROFILE).$*)

# a notebook runs again when it, its modules, its parameters or the notebooks before it have changed, or its results are gone
.SECONDEXPANSION:
gone = $$(if $$(wildcard $(RESULTS)/$$*.*),,FORCE)

$(EXPERIMENTS:%=$(RUNS)/%.ipynb): $(RUNS)/%.ipynb: nbs/experiments/%.ipynb $(RUNS)/parameters .venv/ready $(gone)
	@$(run)

$(PAPER:%=$(RUNS)/%.ipynb): $(RUNS)/%.ipynb: nbs/paper/%.ipynb $(RUNS)/parameters .venv/ready $(gone)
	@$(run)

# changes when a parameter, or the language model's server, is another one than last time
$(RUNS)/parameters: FORCE
	@mkdir -p $(RUNS)
	@echo '$(foreach e,$(EXPERIMENTS),$($(PROFILE).$e)) $(ICDRAT_DATA) $(ICDRAT_LLM_URL) $(ICDRAT_LLM_MODEL)' > $@.now
	@cmp -s $@.now $@ && rm $@.now || mv $@.now $@

# ---- set-up ----
.venv/ready: settings.ini setup.py constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 10) else "icdrat needs Python 3.10 or later, this is " + sys.version.split()[0] + "; name another: make PYTHON=python3.11")'
	@echo 'Setting up .venv (a few minutes, once)'
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

# ---- tests ----
# modules match their notebooks, and the readme its own
check: .venv/ready
	$(BIN)/python -m pytest -q tests/test_house.py

test: .venv/ready
	$(BIN)/nbdev_test --n_workers 2 --do_print
	$(BIN)/python -m pytest -q tests

# ---- for authors: write the modules, run every library notebook, clean, write the readme ----
notebooks: .venv/ready
	$(BIN)/nbdev_export
	$(BIN)/python tests/readme.py

clean:
	rm -rf .venv runs/$(PROFILE)
