"Checkpoints of others become coders, or are refused in one line; the logits themselves are compared in the notebook."

import json
import re
import shutil
import stat

import numpy as np
import pytest
import torch
import yaml
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, RobertaConfig, RobertaModel
from typer.testing import CliRunner

from icdrat.cli.main import app
from icdrat.coder.base import NotACoder, load_coder
from icdrat.coder.local import versions
from icdrat.coder.published import (
    CLEANING,
    BadCheckpoint,
    BadLabels,
    FilledCoder,
    cleaned_words,
    in_order,
    label_codes,
    opened_checkpoint,
    published_coder,
)
from icdrat.rationale.attribution.explain import explain
from icdrat.text import mask_to_spans, readable
from icdrat.types import BadInput, Code, Note

LABELS = ["401.9", "38.93", "V58.61"]
TOKENS = ["pt", "<UNK>", "cough", "fever", "and", "<PAD>"]
NOTES = ["Pt with cough and fever.", "Cough, no fever; seen 12 13 today.", "pt"]
STEPS = dict(lower=True, remove_special_characters=True, remove_digits=True)
N, V, E, H, CHUNK = len(LABELS), len(TOKENS), 4, 8, 8


def head(hidden, name="attention", projection=0):
    first = {"first_linear.weight": (projection or N, hidden), "second_linear.weight": (N, projection or hidden)}
    last = "third_linear" if projection else "second_linear"
    shapes = first | {f"{last}.weight": (N, hidden), f"{last}.bias": (N,)}
    return {f"{name}.{k}": v for k, v in (shapes if projection else shapes | {"first_linear.bias": (N,)}).items()}


def caml(width=10):
    return {"embed.weight": (V, E), "conv.weight": (3, E, width), "conv.bias": (3,)} | head(3)


def multires(widths=(3, 5)):
    shapes = {"embed.weight": (V, E)} | head(3 * len(widths))
    for i, w in enumerate(widths):
        block = f"convs.{i}.2"
        shapes |= {f"convs.{i}.0.weight": (E, E, w), f"{block}.left.0.weight": (3, E, w)}
        shapes |= {f"{block}.left.3.weight": (3, 3, w), f"{block}.shortcut.0.weight": (3, E, 1)}
        for n in ("left.1", "left.4", "shortcut.1"):
            shapes |= {f"{block}.{n}.{p}": (3,) for p in ("weight", "bias", "running_mean", "running_var")}
            shapes[f"{block}.{n}.num_batches_tracked"] = ()
    return shapes


def laat():
    rnn = torch.nn.LSTM(E, 3, bidirectional=True).state_dict()
    return {"embed.weight": (V, E)} | {f"rnn.{k}": tuple(v.shape) for k, v in rnn.items()} | head(6, projection=5)


def plm(late, cross=False):
    prefix, name = ("roberta_encoder.", "label_wise_attention") if late else ("roberta.", "attention")
    shapes = {
        prefix + k: tuple(v.shape) for k, v in RobertaModel(roberta(), add_pooling_layer=False).state_dict().items()
    }
    shapes |= {f"{prefix}embeddings.position_ids": (1, 16), f"{prefix}pooler.dense.bias": (H,)}  # of older versions
    if not cross:
        return shapes | head(H, name, 5)
    more = {"label_representations": (N, H), "weights_k.weight": (H, H), "weights_v.weight": (H, H)}
    more |= {"weights_v.bias": (H,), "output_linear.weight": (1, H), "output_linear.bias": (1,)}
    return shapes | {f"{name}.{k}": v for k, v in (more | {"layernorm.weight": (H,), "layernorm.bias": (H,)}).items()}


def roberta():
    sizes = dict(hidden_size=H, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    return RobertaConfig(vocab_size=77, max_position_embeddings=16, type_vocab_size=1, pad_token_id=1, **sizes)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    "A folder with the configuration and the tokenizer of a small RoBERTa"
    folder, letters = tmp_path_factory.mktemp("roberta"), "abcdefghijklmnopqrstuvwxyz0123456789"
    pieces = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *letters, *(f"##{c}" for c in letters)]
    tokenizer = Tokenizer(models.WordPiece({p: i for i, p in enumerate(pieces)}, unk_token="<unk>"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("</s>", 2), ("<s>", 0))
    signs = dict(pad_token="<pad>", unk_token="<unk>", cls_token="<s>", sep_token="</s>", mask_token="<mask>")
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **signs).save_pretrained(folder)
    roberta().save_pretrained(folder)
    return folder


def random_state(shapes, seed=0):
    rng = np.random.default_rng(seed)
    return {k: torch.as_tensor(np.abs(rng.normal(0.5, 0.3, v))).float() for k, v in shapes.items()}


def left_by(folder, shapes, model, labels=LABELS, db=0.3, configs=None, prefix="", **data):
    "The folder of a run, as the published programs leave it"
    folder.mkdir()
    state = {prefix + k: v for k, v in random_state(shapes).items()}
    torch.save(
        dict(model=state, optimizer=dict(state={}, param_groups=[]), epoch=1, db=torch.tensor(db)), folder / "m.pt"
    )
    config = dict(seed=1, model=dict(name=model, configs=configs or {}), data=data)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "target2index.json").write_text(json.dumps({c: i for i, c in enumerate(labels)}))
    (folder / "token2index.json").write_text(json.dumps({t: i for i, t in enumerate(TOKENS)}))
    return folder / "m.pt"


CLEANED = dict(preprocessor=dict(configs=STEPS))
RUNS = dict(
    caml=(caml(), "CAML", {}),
    multirescnn=(multires(), "MultiResCNN", {}),
    laat=(laat(), "LAAT", {}),
    plm_2023=(plm(False), "PLMICD", {}),
    plm_2024=(plm(True), "PLMICD", dict(chunk_size=CHUNK)),
    plm_2024_cross=(plm(True, True), "PLMICD", dict(chunk_size=CHUNK, scale=2)),
)


def run_of(folder, name, **more):
    shapes, model, configs = RUNS[name]
    at = left_by(folder, shapes, model, configs=configs, **CLEANED, **more)
    if name == "plm_2023":  # the length of a chunk stands elsewhere
        config = yaml.safe_load((folder / "config.yaml").read_text()) | dict(
            dataset=dict(configs=dict(chunk_size=CHUNK))
        )
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return at


# ---- coders like any other ----


@pytest.mark.parametrize("name", RUNS)
def test_a_converted_coder_is_kept_and_asked_like_any_other(tmp_path, encoder, name):
    coder = published_coder(run_of(tmp_path / "run", name), encoder=encoder)
    coder.save_pretrained(tmp_path / "coder", private=True)
    again = load_coder(tmp_path / "coder")
    assert type(again) is type(coder) and again.codes == label_codes(LABELS) and again.threshold == pytest.approx(0.3)
    np.testing.assert_array_equal(again(NOTES), coder(NOTES))
    np.testing.assert_allclose(np.concatenate([again([t]) for t in NOTES]), coder(NOTES), atol=1e-6)
    assert stat.S_IMODE((tmp_path / "coder").stat().st_mode) == 0o700


@pytest.mark.parametrize("operator", ["mask", "delete"])
@pytest.mark.parametrize("name", RUNS)
def test_versions_of_a_note_are_answered_as_notes_with_words_erased(tmp_path, encoder, name, operator):
    coder = published_coder(run_of(tmp_path / "run", name), encoder=encoder)
    text = NOTES[1] + " Pt with fever and cough and fever."
    words = readable(text)
    hidden = np.random.default_rng(0).random((6, len(words))) < 0.4
    erased = [mask_to_spans(row, words) for row in hidden]
    asked = 1 / (1 + np.exp(-versions(coder, text, hidden, operator).astype(float)))
    np.testing.assert_allclose(asked, coder([text] * 6, erased, operator), atol=1e-6)
    if operator == "delete" and name == "plm_2024":  # reads the text as it is
        left = ["".join(c for i, c in enumerate(text) if not any(s.start <= i < s.end for s in e)) for e in erased]
        np.testing.assert_allclose(asked, coder(left), atol=1e-6)


@pytest.mark.parametrize("method", ["attention", "input_x_gradient", "integrated_gradients", "attention_rollout"])
@pytest.mark.parametrize("name", ["caml", "plm_2023", "plm_2024_cross"])
def test_every_word_can_be_explained_and_filling_is_no_word(tmp_path, encoder, name, method):
    coder = published_coder(run_of(tmp_path / "run", name), encoder=encoder)
    if name == "caml" and method == "attention_rollout":
        pytest.skip("there is no self-attention")
    [found] = explain(coder, [Note("n", NOTES[0])], {"n": coder.codes[:1]}, method, progress=False)
    starts = [NOTES[0].index(w) for w in ("Pt", "with", "cough", "and", "fever")]
    assert set(starts) <= set(found.offsets[:, 0].tolist()) and (found.offsets[:, 0] < found.offsets[:, 1]).all()
    assert np.isfinite(found.scores).all() and found.scores.any()


def test_filling_counts_for_a_converted_plm_icd_alone(tmp_path, encoder):
    "2024: one chunk more where the tokens fill theirs; 2023: none"
    late = published_coder(run_of(tmp_path / "late", "plm_2024"), encoder=encoder)
    early = published_coder(run_of(tmp_path / "early", "plm_2023"), encoder=encoder)
    assert isinstance(late, FilledCoder) and len(late.reader.encode("abcdef")[0]) == 16  # 6 letters, first and last
    assert len(early.reader.encode("abcdef")[0]) == 8
    row = late.reader.encode("abcdef")[0]
    np.testing.assert_array_equal(late.reader.filled(row[:8]), late.reader.filled(row))
    np.testing.assert_array_equal(late.logits([row[:8]]), late.logits([row]))


def test_names_that_torch_puts_before_others_are_taken_off(tmp_path):
    shapes, model, _ = RUNS["laat"]
    plain = published_coder(left_by(tmp_path / "a", shapes, model))
    compiled = published_coder(left_by(tmp_path / "b", shapes, model, prefix="_orig_mod."))
    np.testing.assert_array_equal(compiled(NOTES), plain(NOTES))


def test_a_threshold_for_each_code_is_kept(tmp_path):
    coder = published_coder(left_by(tmp_path / "a", caml(), "CAML", db=[0.1, 0.2, 0.3]))
    np.testing.assert_allclose(coder.threshold, [0.1, 0.2, 0.3], atol=1e-6)
    with pytest.raises(BadCheckpoint, match="2 thresholds for 3 codes"):
        published_coder(left_by(tmp_path / "b", caml(), "CAML", db=[0.1, 0.2]))


def test_only_as_many_words_are_read_as_in_training(tmp_path):
    coder = published_coder(left_by(tmp_path / "run", laat(), "LAAT", max_length=2, **CLEANED))
    np.testing.assert_array_equal(coder(["pt cough fever"]), coder(["pt cough and and"]))


# ---- words and codes ----


@pytest.mark.parametrize("seed", range(20))
def test_cleaned_words_stand_where_they_came_from(seed):
    rng = np.random.default_rng(seed)
    signs = list("ab cd1 2\n[]-/.é İß ")
    text = "".join(rng.choice(signs, 80))
    steps = {"lower": True} | {name: bool(rng.integers(2)) for name, *_ in CLEANING if "danish" not in name}
    words, offsets = cleaned_words(text, steps)
    assert (offsets[:, 0] < offsets[:, 1]).all() and (offsets[1:, 0] >= offsets[:-1, 1]).all()
    for word, (start, end) in zip(words, offsets):
        came = text[start:end]
        assert len(came) >= len(word) and (came[0].lower() == word[0] or came[0] in "éİ"), (word, came)


def test_cleaning_is_that_of_the_program():
    "By the expressions of their program, without places"
    text = "BP 120 80 on 3 drugs; c/o Ménière's [**Known 12**] x-ray 7\n\n5 mg 40"
    clean = re.sub(r"\[[^]]*\]", "", text.lower())
    clean = re.sub(r"[^a-zA-Z0-9 ]", "", re.sub(r"\n|/|-", " ", clean))
    clean = re.sub(r"(\s\d+)+\s", " ", clean)
    assert cleaned_words(text, STEPS | dict(remove_brackets=True))[0] == clean.split()


@pytest.mark.parametrize(
    "label, code",
    [("486", "icd9cm 486"), ("E849.7", "icd9cm E849.7"), ("V10", "icd9cm V10"), ("38.93", "icd9pcs 38.93")],
)
def test_labels_of_icd9_have_a_system(label, code):
    assert label_codes([label, "250.00"])[0] == Code(*code.split())


@pytest.mark.parametrize("labels", [["cat"], ["250.00", "E11.9"], ["E11.9", "E11.9"], ["I10", "I10."], [""]])
def test_what_is_no_list_of_codes_is_refused(labels):
    with pytest.raises(BadLabels):
        label_codes(labels)


@pytest.mark.parametrize("words", ["[]", "{}", '{"a": 1}', '{"a": true, "b": 0}', "[1]", "3", "{", '{"a": 0, "b": 0}'])
def test_what_is_no_list_of_names_is_refused(tmp_path, words):
    (tmp_path / "x.json").write_text(words)
    with pytest.raises(BadCheckpoint, match="x.json"):
        in_order(tmp_path / "x.json")


# ---- what is refused ----


class Program:
    def __reduce__(self):
        return (open, ("ran", "w"))


def test_no_code_in_a_checkpoint_is_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(dict(model={"a": torch.ones(1)}, db=Program()), "m.pt")
    with pytest.raises(BadCheckpoint, match="holds more than weights"):
        opened_checkpoint("m.pt")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_a_checkpoint_that_is_cut_off_is_refused(tmp_path, share):
    whole = left_by(tmp_path / "run", caml(), "CAML").read_bytes()
    (tmp_path / "run" / "m.pt").write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(BadCheckpoint, match="m.pt: not a "):
        opened_checkpoint(tmp_path / "run" / "m.pt")


def with_state(change):
    "Change the weights of a run"

    def spoil(folder):
        found = torch.load(folder / "m.pt", weights_only=True)
        change(found)
        torch.save(found, folder / "m.pt")

    return spoil


def with_config(**more):
    def spoil(folder):
        config = yaml.safe_load((folder / "config.yaml").read_text()) | more
        (folder / "config.yaml").write_text(yaml.safe_dump(config))

    return spoil


SPOILT = {
    "a missing table": (with_state(lambda f: f["model"].pop("conv.bias")), "lacks 1 tables, as conv.bias"),
    "a table too many": (with_state(lambda f: f["model"].update(fc=torch.ones(2))), "has fc, which is unknown"),
    "a table of another size": (
        with_state(lambda f: f["model"].update({"conv.bias": torch.ones(9)})),
        r"kernel_bias is \[9\], where \[3\]",
    ),
    "no weights": (with_state(lambda f: f.pop("model")), "no weights under 'model'"),
    "numbers for weights": (with_state(lambda f: f.update(model={"a": 1})), "no weights under 'model'"),
    "a threshold of 7": (with_state(lambda f: f.update(db=7)), "'db' is not in"),
    "another network": (with_config(model=dict(name="LAAT")), "lacks 10 tables"),
    "an unknown network": (with_config(model=dict(name="VanillaConv")), "VanillaConv is none of CAML"),
    "no network": (with_config(model=[1]), "without a name"),
    "unknown cleaning": (with_config(data=dict(preprocessor=dict(configs=dict(stem=True)))), "cleaned by stem"),
    "a length that is a word": (with_config(data=dict(max_length="all")), "data.max_length is 'all'"),
    "no YAML": (lambda f: (f / "config.yaml").write_text("a: [b"), "not YAML"),
    "no configuration": (lambda f: (f / "config.yaml").unlink(), "config.yaml: no such file"),
    "no labels": (lambda f: (f / "target2index.json").unlink(), "target2index.json: no such file"),
    "fewer labels": (lambda f: (f / "target2index.json").write_text('["401.9"]'), "1 labels for a network of 3 codes"),
    "labels that are words": (lambda f: (f / "target2index.json").write_text('["a","b","c"]'), "no codes of icd"),
    "fewer words": (lambda f: (f / "token2index.json").write_text('["<UNK>", "<PAD>"]'), "2 words for 6 embeddings"),
    "words without the unknown": (
        lambda f: (f / "token2index.json").write_text(json.dumps([*"abcde", "<PAD>"])),
        "the words lack <UNK>",
    ),
}


@pytest.mark.parametrize("name", SPOILT)
def test_what_does_not_belong_together_is_one_line_and_leaves_nothing(tmp_path, name):
    checkpoint, (spoil, why) = left_by(tmp_path / "run", caml(), "CAML"), SPOILT[name]
    spoil(tmp_path / "run")
    with pytest.raises(BadInput, match=why) as refused:
        published_coder(checkpoint)
    assert "\n" not in str(refused.value)
    done = CliRunner().invoke(app, ["convert", "--checkpoint", str(checkpoint), "--out", str(tmp_path / "coder")])
    assert isinstance(done.exception, BadInput) and not (tmp_path / "coder").exists()


def test_an_encoder_that_is_none_or_another_is_refused(tmp_path, encoder):
    checkpoint = run_of(tmp_path / "run", "plm_2024")
    with pytest.raises(BadInput, match="PLM-ICD needs --encoder"):
        published_coder(checkpoint)
    with pytest.raises(BadInput, match="no encoder can be made of it"):
        published_coder(checkpoint, encoder=tmp_path)
    larger = tmp_path / "larger"
    shutil.copytree(encoder, larger)
    config = json.loads((larger / "config.json").read_text()) | dict(hidden_size=16)
    (larger / "config.json").write_text(json.dumps(config))
    with pytest.raises(BadCheckpoint, match="belong together"):
        published_coder(checkpoint, encoder=larger)
    (larger / "config.json").write_text(
        json.dumps(config | dict(auto_map={"AutoConfig": "evil.Config"}, model_type="x"))
    )
    with pytest.raises(BadInput, match="never run here|no encoder"):
        published_coder(checkpoint, encoder=larger)


def test_a_network_of_two_passes_is_refused(tmp_path, encoder):
    at = left_by(tmp_path / "run", plm(True), "PLMICD", configs=dict(chunk_size=CHUNK, mask_input=True))
    with pytest.raises(BadCheckpoint, match="mask_input"):
        published_coder(at, encoder=encoder)


@pytest.mark.parametrize("name", ["caml", "plm_2024"])
@pytest.mark.parametrize("words", [None, "{", "[]", '{"steps": 1}'])
def test_a_converted_folder_without_its_reader_is_refused(tmp_path, encoder, name, words):
    published_coder(run_of(tmp_path / "run", name), encoder=encoder).save_pretrained(tmp_path / "coder")
    file = tmp_path / "coder" / "reader.json"
    file.unlink() if words is None else file.write_text(words)
    with pytest.raises(BadInput if words else NotACoder, match="reader.json"):
        load_coder(tmp_path / "coder")
