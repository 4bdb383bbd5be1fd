"Classifiers of the Hugging Face library and functions of texts, as coders: their own answers, explained and tested."

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from encoder import tiny_encoder
from test_cli import SECRET, ends_in_one_line, icdrat
from transformers import (
    AutoTokenizer,
    BartConfig,
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertForTokenClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    LongformerConfig,
    LongformerForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from icdrat.coder.base import load_coder
from icdrat.coder.callable import AnswerStore, BadAnswer, BadStore, CallableCoder
from icdrat.coder.classifier import ANSWERS, JOINS, NotANumber, classifier
from icdrat.evaluation.faithfulness.engine import DEFINITIONS, note_faithfulness
from icdrat.evaluation.faithfulness.inquiry import ask
from icdrat.rationale.attribution.explain import WrongCoder, explain, methods
from icdrat.rationale.attribution.reference import apart
from icdrat.text import mask_to_spans, readable
from icdrat.types import Code, Note

LABELS = ["E11.9", "I10", "J45.909"]
TEXT = f"a1 b2 {SECRET} c3, d e f. No pain!"
SIZES = dict(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
NAMED = dict(id2label=dict(enumerate(LABELS)), label2id={c: i for i, c in enumerate(LABELS)}, initializer_range=0.4)
STILL = dict(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
KINDS = dict(
    bert=lambda n: BertForSequenceClassification(
        BertConfig(vocab_size=n, max_position_embeddings=16, **SIZES, **STILL, **NAMED)
    ),
    roberta=lambda n: RobertaForSequenceClassification(
        RobertaConfig(vocab_size=n, max_position_embeddings=16, pad_token_id=0, **SIZES, **STILL, **NAMED)
    ),
    distilbert=lambda n: DistilBertForSequenceClassification(
        DistilBertConfig(vocab_size=n, max_position_embeddings=16, dim=8, n_layers=1, n_heads=2, hidden_dim=16, **NAMED)
    ),
    longformer=lambda n: LongformerForSequenceClassification(
        LongformerConfig(
            vocab_size=n, max_position_embeddings=18, attention_window=[4], pad_token_id=1, **SIZES, **STILL, **NAMED
        )
    ),
    gpt2=lambda n: GPT2ForSequenceClassification(
        GPT2Config(vocab_size=n, n_positions=16, n_embd=8, n_layer=1, n_head=2, **NAMED)
    ),
)


def saved(folder, model, tokenizer=True, **config):
    "A model as anybody would save it"
    for name, value in config.items():
        setattr(model.config, name, value)
    model.save_pretrained(folder)
    if tokenizer:
        AutoTokenizer.from_pretrained(tiny_encoder()).save_pretrained(folder)
    return str(folder)


def made(kind="bert"):
    torch.manual_seed(0)
    return KINDS[kind](len(AutoTokenizer.from_pretrained(tiny_encoder()))).eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("classifier") / "bert", made(), problem_type="multi_label_classification")


@pytest.mark.parametrize("kind", KINDS)
def test_the_answer_is_the_models_own_joined_over_chunks(kind, tmp_path):
    model = made(kind)
    name = saved(tmp_path, model)
    plain = classifier(name)
    reader, size = plain.reader, plain.network.block
    assert size == plain.network.hyperparameters["chunk"] - 2
    for text in ("a b c", TEXT, " ".join([TEXT] * 3)):
        ids = reader.read(text)[0]
        chunks = [[*reader.before, *ids[i : i + size], *reader.after] for i in range(0, len(ids), size)]
        with torch.no_grad():
            z = torch.cat([model(torch.tensor([c]), attention_mask=torch.ones(1, len(c))).logits for c in chunks])
        for join, whole in dict(max=z.amax(0), mean=z.mean(0)).items():
            for answers, p in dict(sigmoid=whole.sigmoid(), softmax=whole.softmax(-1)).items():
                coder = classifier(name, join=join, answers=answers)
                np.testing.assert_allclose(coder(["b", text, "a c"])[1], p, atol=2e-5)
                assert join in repr(coder) and answers in repr(coder)


@pytest.mark.parametrize("answers", ANSWERS)
@pytest.mark.parametrize("join", JOINS)
def test_gradients_are_captums_and_add_up_over_chunks(join, answers, folder):
    coder, note = classifier(folder, join=join, answers=answers), Note("n", " ".join([TEXT] * 2))
    codes_of = {"n": coder.codes}
    for name in ("input_x_gradient", "integrated_gradients", "gradient_shap", "occlusion"):
        options = dict(n_steps=20) if name == "integrated_gradients" else {}
        ours = explain(coder, [note], codes_of, name, progress=False, **options)
        assert apart(ours, explain(coder, [note], codes_of, name, progress=False, by="captum", **options)) < 1e-3
    ids = coder.reader.read(note.text)[0]
    masked = coder.logits([np.full(len(ids), coder.reader.mask)])[0]
    found = explain(coder, [note], codes_of, "deeplift", progress=False)
    np.testing.assert_allclose([e.scores.sum() for e in found], coder.logits([ids])[0] - masked, atol=1e-3)
    assert len(coder.reader.places(note.text)) == len(found[0].scores)


@pytest.mark.parametrize("operator", ["mask", "delete"])
def test_a_hidden_word_is_hidden_whoever_asks(operator, folder):
    coder, note, rng = classifier(folder), Note("n", TEXT), np.random.default_rng(0)
    offsets = readable(TEXT)
    masks = rng.random((7, len(offsets))) < 0.4
    spans = [mask_to_spans(m, offsets) for m in masks]
    np.testing.assert_allclose(ask(coder, note, masks, operator), coder([TEXT] * 7, spans, operator), atol=1e-5)


def test_every_explainer_that_needs_no_attention_and_every_definition_work(folder):
    coder, note = load_coder(folder), Note("n", TEXT)
    of_others = {"attention", "attgrad", "attingrad", "attention_rollout", "evidence"}
    soft = []
    for name in set(methods()) - of_others:
        soft += explain(coder, [note], {"n": coder.codes[:2]}, name, progress=False)
    for name in of_others & set(methods()):
        with pytest.raises(WrongCoder, match="without label attention"):
            explain(coder, [note], {"n": coder.codes}, name, progress=False)
    table, _ = note_faithfulness(coder, note, (), soft, coder.codes[:2], ["mask"], n_random=2)
    part_of_ferret = {"ferret_aopc"}  # its numbers bear the names of the whole
    assert {m.split("/")[0] for m in table.metric} >= {*DEFINITIONS} - part_of_ferret
    assert {e.method for e in soft} <= set(table.method)


def test_the_choices_are_kept(folder, tmp_path):
    coder = classifier(folder, join="mean", answers="softmax", chunk=9, threshold=[0.1, 0.2, 0.3])
    coder.save_pretrained(tmp_path / "kept")
    again = load_coder(tmp_path / "kept")
    np.testing.assert_array_equal(again([TEXT * 3]), coder([TEXT * 3]))
    assert (repr(again), again.name, again.threshold.tolist()) == (repr(coder), coder.name, [0.1, 0.2, 0.3])


def test_labels_come_from_a_table_beside_the_model(tmp_path):
    name = saved(tmp_path / "m", made(), id2label={0: "sugar", 1: "other", 2: "old"})
    (tmp_path / "m" / "labels.csv").write_text("label,code,system\nold,250.00,icd9cm\nsugar,E119,\nother,,\n")
    coder = load_coder(name)
    assert coder.codes == [Code("icd10cm", "E11.9"), Code("icd9cm", "250.00")]
    p = classifier(name, labels=dict(sugar="E11.9", other="I10", old="R52"))([TEXT])[0]
    np.testing.assert_allclose(coder([TEXT])[0], p[[0, 2]], atol=1e-6)  # one of three labels has no column


def test_the_command_line_takes_a_folder(folder, tmp_path):
    (tmp_path / "note.txt").write_text(TEXT)
    words = ["predict", "--coder", folder, "--threshold", 0, "--out", "out.jsonl", "--page", "page.html"]
    done = icdrat(*words, "--method", "integrated_gradients", "note.txt", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").open()]
    assert sorted(r["code"] for r in rows) == LABELS and "E11.9" in (tmp_path / "page.html").read_text()
    done = icdrat("predict", "--coder", folder, "--threshold", 0, "note.txt", cwd=tmp_path)
    assert done.returncode == 0 and "Evidence by integrated_gradients" in done.stdout
    asked = ["predict", "--coder", folder, "--method", "attention", "note.txt"]
    ends_in_one_line(icdrat(*asked, cwd=tmp_path), "without label attention")
    rest = ["data", "synth", "--notes", 20, "--out", "corpus"]
    assert icdrat(*rest, cwd=tmp_path).returncode == 0
    rest = ["--corpus", "corpus", "--coder", folder, "--method", "occlusion", "--cut", 0.3, "--out", "marks.jsonl"]
    done = icdrat("rationales", "attribution", *rest, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rest = ["--coder", folder, "--notes", "corpus", "--pred", "marks.jsonl", "--out", "s.json", "--draws", 10]
    done = icdrat("evaluate", "faithfulness", *rest, "--definition", "eraser", "--random", 1, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def _of(cls, **config):
    n = len(AutoTokenizer.from_pretrained(tiny_encoder()))
    return cls(BertConfig(vocab_size=n, max_position_embeddings=16, **SIZES, **(NAMED | config)))


def _broken(model):
    model.classifier.weight.data.fill_(torch.nan)
    return model


def _swapped(path):
    "The weights of one kind beside the configuration of another"
    saved(path / "other", made("distilbert"))
    saved(path, made())
    shutil.copy(path / "other" / "model.safetensors", path)


def _encoder_decoder(path):
    path.mkdir(parents=True)
    BartConfig(architectures=["BartForSequenceClassification"]).save_pretrained(path)


def _pickled(path):
    "Weights that are a program"

    class Program:
        def __reduce__(self):
            return Path.touch, (path / "was_run",)

    saved(path, made())
    (path / "model.safetensors").unlink()
    torch.save({"a": Program()}, path / "pytorch_model.bin")


def _with_code(path):
    "A folder that brings program code"
    saved(path, made())
    config = json.loads((path / "config.json").read_text())
    auto = dict(AutoConfig="code.Config", AutoModelForSequenceClassification="code.Model")
    (path / "config.json").write_text(json.dumps(config | dict(model_type="own", auto_map=auto)))
    (path / "code.py").write_text(f"open({str(path / 'was_run')!r}, 'w')")


MISTAKES = dict(
    no_tokenizer=(lambda p: saved(p, made(), tokenizer=False), "no tokenizer with words in it"),
    no_names=(lambda p: saved(p, _of(BertForSequenceClassification, id2label={0: "LABEL_0"}, label2id={})), "'LABEL_0"),
    no_codes=(lambda p: saved(p, made(), id2label={0: "good", 1: "bad", 2: "so"}), "'good' is no code of ICD-10-CM"),
    two_labels=(lambda p: saved(p, made(), id2label={0: "I10", 1: "i10", 2: "R52"}), "two labels stand for it"),
    tokens=(lambda p: saved(p, _of(BertForTokenClassification)), "BertForTokenClassification was made for another"),
    words=(lambda p: saved(p, _of(BertForMaskedLM)), "BertForMaskedLM was made for another task"),
    amounts=(lambda p: saved(p, made(), problem_type="regression"), "regression"),
    writes=(_encoder_decoder, "writes texts"),
    nan=(lambda p: saved(p, _broken(made())), "no number (NaN)"),
    swapped=(_swapped, "tables lack weights"),
    pickled=(_pickled, "of which nothing is run"),
    code=(_with_code, "never run here"),
)


@pytest.mark.parametrize("mistake", MISTAKES)
def test_what_is_no_classifier_ends_in_one_line(mistake, tmp_path):
    make, said = MISTAKES[mistake]
    make(tmp_path / "m")
    (tmp_path / "note.txt").write_text(TEXT)
    done = icdrat("predict", "--coder", "m", "--method", "occlusion", "note.txt", cwd=tmp_path)
    ends_in_one_line(done, said)
    assert not (tmp_path / "m" / "was_run").exists()


def test_an_answer_that_is_no_number_stops_the_run(folder):
    coder = load_coder(folder)
    coder.network.model.get_input_embeddings().weight.data[coder.reader.read("a")[0].tolist()] = torch.nan
    with pytest.raises(NotANumber):
        coder(["a"])


# ---- functions of texts ----


def counted(texts):
    return [[0.1 + 0.8 * ("a1" in t), 0.5 + 0.1 * t.count("d")] for t in texts]


CODES = [Code("icd10cm", c) for c in LABELS[:2]]


def test_a_function_is_asked_in_batches_and_nothing_twice(tmp_path):
    calls = []

    def answer(texts):
        calls.append(list(texts))
        return counted(texts)

    def made():
        return CallableCoder(answer, CODES, "counted 1", batch_size=3, store=AnswerStore(tmp_path / "answers.db"))

    coder, note = made(), Note("n", TEXT)
    soft = explain(coder, [note], {"n": CODES}, "occlusion", progress=False)
    table, _ = note_faithfulness(coder, note, (), soft, CODES, ["mask", "delete"], n_random=2)
    asked = [t for some in calls for t in some]
    assert len(asked) == len(set(asked)) == coder.n_asked and max(map(len, calls)) == 3
    again = made()
    other, _ = note_faithfulness(again, note, (), soft, CODES, ["mask", "delete"], n_random=2)
    assert again.n_asked == 0 and other.equals(table)
    kept = (tmp_path / "answers.db").read_bytes()
    assert SECRET.encode() not in kept and b"pain" not in kept
    assert (tmp_path / "answers.db").stat().st_mode & 0o777 == 0o600
    other = CallableCoder(answer, CODES, "counted 2", store=AnswerStore(tmp_path / "answers.db"))
    other([TEXT])
    assert other.n_asked == 1  # another model is not answered for by its predecessor


def test_what_only_answers_needs_no_opening():
    coder, note = CallableCoder(counted, CODES, "counted"), Note("n", TEXT)
    for name in ("random", "occlusion", "lime", "kernel_shap"):
        found = explain(coder, [note], {"n": CODES}, name, progress=False)
        assert len(found) == 2
    top = explain(coder, [note], {"n": CODES[:1]}, "occlusion", progress=False)[0]
    assert TEXT[slice(*top.offsets[top.scores.argmax()])] == "a1"
    with pytest.raises(WrongCoder, match="can be opened"):
        explain(coder, [note], {"n": CODES}, "integrated_gradients", progress=False)


@pytest.mark.parametrize("wrong", [[[0.5]], [[0.5, 1.5]], [[np.nan, 0.5]], [["a", "b"]], None])
def test_an_answer_of_a_function_that_is_no_probability_is_refused(wrong):
    with pytest.raises(BadAnswer):
        CallableCoder(lambda texts: wrong, CODES, "wrong")(["a"])


def test_a_file_that_is_no_store_is_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("no store " * 200)
    with pytest.raises(BadStore):
        AnswerStore(tmp_path / "notes.txt")
    assert (tmp_path / "notes.txt").read_text() == "no store " * 200
