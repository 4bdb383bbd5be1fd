"What a coder reads, and what its folder must survive; the laws of its network are in test_networks."

import json
import os
import shutil

import numpy as np
import pytest
import torch
from encoder import tiny_encoder
from safetensors.torch import load_file, save_file

from icdrat.coder import base, convolutional, network
from icdrat.coder.base import (
    MASK,
    UNKNOWN,
    BadConfig,
    BadWeights,
    EmptyVocabulary,
    NotACoder,
    UnknownArchitecture,
    WordVocabulary,
    by_length,
    load_coder,
    word_vocabulary,
)
from icdrat.coder.convolutional import CamlNetwork
from icdrat.coder.network import LabelAttentionCoder
from icdrat.coder.plm import BadChunk, NoEncoder, PlmNetwork, blank_encoder, positions, pretrained
from icdrat.coder.recipe import BadRecipe, recipe
from icdrat.coder.start import shuffled_batches
from icdrat.coder.training import fresh_network
from icdrat.data import outputs
from icdrat.data.exchange import ForeignFolder
from icdrat.text import slices
from icdrat.types import Code, Span, SpanOutsideNote, UnknownOperator

CODES = [Code("icd10cm", c) for c in ("E11", "I10", "J45")]
LEXICON = [f"w{i}" for i in range(20)]
SEEDS = range(8)


def random_coder(seed, width=3, dtype="float64"):
    "A CAML filled with random numbers"
    rng, vocabulary = np.random.default_rng(seed), WordVocabulary(LEXICON)
    net = CamlNetwork(len(vocabulary), 3, 6, 5, width, dtype=dtype)
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.from_numpy(rng.normal(size=tuple(p.shape))))
    return LabelAttentionCoder(net, vocabulary, CODES, 0.4)


# what a coder reads


def test_words_are_folded_and_punctuation_is_not_read():
    vocabulary = WordVocabulary(["fiebre", "t2dm"])
    assert vocabulary.encode("¡FIÉBRE!, ... T2DM - xyz")[0].tolist() == [3, 4, UNKNOWN]
    assert slices("¡FIÉBRE! T2DM", vocabulary.encode("¡FIÉBRE! T2DM")[1]) == ["FIÉBRE", "T2DM"]


def test_encode_hides_by_mask_or_by_leaving_out():
    vocabulary, text = WordVocabulary(LEXICON), "w0 w1, w2"
    assert vocabulary.encode(text, [Span(4, 5)])[0].tolist() == [3, MASK, 5]
    ids, offsets = vocabulary.encode(text, [Span(4, 5)], "delete")
    assert ids.tolist() == [3, 5] and offsets.tolist() == [[0, 2], [7, 9]]


def test_reading_twice_gives_the_same_and_nobody_can_change_it():
    vocabulary = WordVocabulary(LEXICON)
    ids, _ = vocabulary.encode("w0 w1")
    with pytest.raises(ValueError):
        ids[0] = 9
    vocabulary.encode("w0 w1", [Span(0, 2)])
    assert vocabulary.encode("w0 w1")[0].tolist() == [3, 4]


def test_mistakes_of_a_reader_are_named():
    with pytest.raises(UnknownOperator, match="mask or delete"):
        WordVocabulary(LEXICON).encode("w0", [], "drop")
    with pytest.raises(SpanOutsideNote, match="2 characters"):
        WordVocabulary(LEXICON).encode("w0", [Span(0, 3)])
    with pytest.raises(EmptyVocabulary, match="min_count"):
        word_vocabulary(["a b c"], 2)


@pytest.mark.parametrize("seed", SEEDS)
def test_every_note_is_in_exactly_one_batch(seed):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, 400, rng.integers(0, 60))
    assert sorted(sum(by_length(lengths, 900), [])) == list(range(len(lengths)))
    assert all(len(b) == 1 or len(b) * max(lengths[b]) <= 900 for b in by_length(lengths, 900))
    together = shuffled_batches(lengths, 7, rng) if len(lengths) else []
    assert sorted(i for b in together for i in b) == list(range(len(lengths)))


# its folder


def test_a_folder_remembers_words_codes_and_threshold(tmp_path):
    coder = random_coder(0)
    for threshold in (0.4, [0.1, 0.5, 0.9]):
        LabelAttentionCoder(coder.network, coder.reader, CODES, threshold).save_pretrained(tmp_path / "coder")
        again = LabelAttentionCoder.from_pretrained(tmp_path / "coder")
        assert (again.codes, again.reader.words) == (CODES, tuple(coder.reader.words))
        np.testing.assert_array_equal(again.threshold, threshold)


def test_a_second_coder_replaces_the_first_and_leaves_nothing_behind(tmp_path):
    for seed in (1, 2):
        random_coder(seed).save_pretrained(tmp_path / "coder")
    np.testing.assert_array_equal(load_coder(tmp_path / "coder")(["w1 w2"]), random_coder(2)(["w1 w2"]))
    assert [f.name for f in tmp_path.iterdir()] == ["coder"]


@pytest.mark.parametrize("umask, mode", [(0o022, 0o644), (0o007, 0o660), (0o077, 0o600)])
def test_the_files_of_a_coder_can_be_read_by_the_same_people(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        random_coder(0).save_pretrained(tmp_path / "coder")
        random_coder(0).save_pretrained(tmp_path / "secret", private=True)
    finally:
        os.umask(before)
    assert {f.stat().st_mode & 0o777 for f in (tmp_path / "coder").iterdir()} == {mode}
    assert {f.stat().st_mode & 0o777 for f in (tmp_path / "secret").iterdir()} == {0o600}


def test_an_interrupted_save_keeps_the_old_coder(tmp_path, monkeypatch):
    random_coder(1).save_pretrained(tmp_path / "coder")
    monkeypatch.setattr(network, "write_weights", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        random_coder(2).save_pretrained(tmp_path / "coder")
    assert [f.name for f in tmp_path.iterdir()] == ["coder"]
    np.testing.assert_array_equal(load_coder(tmp_path / "coder")(["w1 w2"]), random_coder(1)(["w1 w2"]))


def test_a_folder_that_cannot_be_renamed_keeps_the_old_coder(tmp_path, monkeypatch):
    random_coder(1).save_pretrained(tmp_path / "coder")
    rename = outputs.os.replace

    def refuse(source, to):
        if to == tmp_path / "coder" and not source.name.startswith(".old"):
            raise PermissionError("in use")
        rename(source, to)

    monkeypatch.setattr(outputs.os, "replace", refuse)
    with pytest.raises(PermissionError):
        random_coder(2).save_pretrained(tmp_path / "coder")
    assert [f.name for f in tmp_path.iterdir()] == ["coder"]
    np.testing.assert_array_equal(load_coder(tmp_path / "coder")(["w1 w2"]), random_coder(1)(["w1 w2"]))


def test_a_folder_that_is_not_a_coder_is_left_alone(tmp_path):
    (tmp_path / "work.txt").write_text("keep me")
    with pytest.raises(ForeignFolder, match="holds no config.json"):
        random_coder(0).save_pretrained(tmp_path)
    assert (tmp_path / "work.txt").read_text() == "keep me"


@pytest.mark.parametrize("missing", ["config.json", "vocabulary.txt", "model.safetensors"])
def test_a_missing_file_is_named(tmp_path, missing):
    random_coder(0).save_pretrained(tmp_path / "coder")
    (tmp_path / "coder" / missing).unlink()
    with pytest.raises(NotACoder, match=missing):
        load_coder(tmp_path / "coder")
    with pytest.raises(NotACoder, match="no such folder"):
        load_coder(tmp_path / "elsewhere")


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_half_a_weight_file_is_refused(tmp_path, share):
    random_coder(0).save_pretrained(tmp_path / "coder")
    file = tmp_path / "coder" / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(BadWeights, match="copy it again"):
        load_coder(tmp_path / "coder")


@pytest.mark.parametrize(
    "change, error, message",
    [
        (dict(threshold=1.5), BadConfig, "threshold"),
        (dict(threshold="high"), BadConfig, "threshold"),
        (dict(threshold=True), BadConfig, "threshold"),
        (dict(codes=[]), BadConfig, "0 codes"),
        (dict(codes=[dict(system="icd10cm", value="E11")] * 3), BadConfig, "1 different"),
        (dict(codes=[dict(system="icd10", value="E11")]), BadConfig, "a code is wrong"),
        (dict(codes=["E11"]), BadConfig, "a code is wrong"),
        (dict(codes=[dict(system="icd10cm", value="E11")]), BadWeights, "head.bias, head.query, head.weight"),
        (dict(hyperparameters=dict(depth=3)), BadConfig, "depth"),
        (dict(hyperparameters=dict(embedding=6, filters=5, width=2)), BadConfig, "odd"),
        (dict(hyperparameters=dict(embedding=6, filters=5, width=5, dtype="float64")), BadWeights, "kernel"),
        (dict(hyperparameters=dict(embedding=6, filters=5, width=3, dtype="float7")), BadConfig, "float7"),
        (dict(architecture="oracle"), UnknownArchitecture, "caml"),
    ],
)
def test_a_wrong_config_is_refused_with_its_reason(tmp_path, change, error, message):
    random_coder(0).save_pretrained(tmp_path / "coder")
    file = tmp_path / "coder" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(error, match=message):
        load_coder(tmp_path / "coder")


@pytest.mark.parametrize("size", [10**6, 10**9, 10**12])
def test_sizes_that_the_weight_file_does_not_have_take_no_memory(tmp_path, size):
    random_coder(0).save_pretrained(tmp_path / "coder")
    file = tmp_path / "coder" / "config.json"
    config = json.loads(file.read_text())
    config["hyperparameters"] |= dict(filters=size, embedding=10**6)
    file.write_text(json.dumps(config))
    with pytest.raises((BadConfig, BadWeights), match="do not fit|do not make"):
        load_coder(tmp_path / "coder")


def test_another_vocabulary_does_not_fit_the_weights(tmp_path):
    random_coder(0).save_pretrained(tmp_path / "coder")
    (tmp_path / "coder" / "vocabulary.txt").write_text("w1\nw2\n")
    with pytest.raises(BadWeights, match="embedding"):
        load_coder(tmp_path / "coder")


def test_an_architecture_is_defined_once():
    with pytest.raises(ValueError, match="defined twice"):
        base.architecture("caml")(lambda folder, config: None)
    assert convolutional.CamlNetwork.architecture == "caml"


# folders from elsewhere


EVIL = "from pathlib import Path\nPath(__file__).with_name('ran').touch()\nclass Evil: pass\n"


def bring_code(folder, file, **said):
    "A folder whose file asks for code that lies beside it"
    (folder / "evil.py").write_text(EVIL)
    kept = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps(kept | said))


def plm_coder(folder):
    net, reader = PlmNetwork.fresh(["a b"], 3, encoder=tiny_encoder(), chunk=8, projection=4)
    LabelAttentionCoder(net, reader, CODES, 0.5).save_pretrained(folder)


def test_code_beside_a_coder_is_never_run(tmp_path, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *a: "y")
    folder = tmp_path / "coder"
    plm_coder(folder)
    there = dict(AutoTokenizer=["evil.Evil", "evil.Evil"], AutoModel="evil.Evil", AutoConfig="evil.Evil")
    bring_code(folder, "tokenizer_config.json", tokenizer_class="Evil", auto_map=there)
    encoder = json.loads((folder / "config.json").read_text())["hyperparameters"]
    encoder["encoder"] |= dict(auto_map=there, trust_remote_code=True, _attn_implementation="someone/kernel")
    bring_code(folder, "config.json", hyperparameters=encoder)
    try:
        load_coder(folder)
    except BadConfig as e:
        assert "\n" not in str(e)
    assert not list(tmp_path.rglob("ran"))


@pytest.mark.parametrize(
    "change",
    [
        dict(model_type="bart"),
        dict(model_type="gpt2"),
        dict(model_type="none"),
        dict(num_hidden_layers=10**9),
        dict(hidden_size=10**7),
        dict(is_decoder=True),
    ],
)
def test_another_kind_of_encoder_is_refused_in_one_line(tmp_path, change):
    plm_coder(tmp_path / "coder")
    file = tmp_path / "coder" / "config.json"
    config = json.loads(file.read_text())
    config["hyperparameters"]["encoder"] |= change
    file.write_text(json.dumps(config))
    with pytest.raises((BadConfig, BadWeights)) as e:
        load_coder(tmp_path / "coder")
    assert "\n" not in str(e.value)


def test_an_encoder_is_read_from_safetensors_and_not_from_a_pickle(tmp_path):
    folder = tmp_path / "encoder"
    shutil.copytree(tiny_encoder(), folder)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(NoEncoder, match="safetensors"):
        pretrained(str(folder))


def test_an_encoder_that_lacks_weights_is_not_filled_with_chance(tmp_path):
    folder = tmp_path / "encoder"
    shutil.copytree(tiny_encoder(), folder)
    kept = load_file(folder / "model.safetensors")
    save_file({k: v for k, v in kept.items() if "layer.1." not in k}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(NoEncoder, match="lack weights"):
        pretrained(str(folder))


def test_positions_of_roberta_begin_behind_the_filling():
    sizes = dict(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, vocab_size=9)
    for kind, most in (("roberta", 18), ("xlm-roberta", 18), ("bert", 20)):
        config = dict(model_type=kind, max_position_embeddings=20, pad_token_id=1, **sizes)
        assert positions(blank_encoder(config, most)) == most
        with pytest.raises(BadChunk, match=f"1 to {most}"):
            blank_encoder(config, most + 1)


@pytest.mark.parametrize("file", ["config.json", "vocabulary.txt"])
def test_a_byte_order_mark_is_no_part_of_a_coder_and_another_encoding_is_named(tmp_path, file):
    random_coder(0).save_pretrained(tmp_path / "coder")
    at = tmp_path / "coder" / file
    whole = at.read_bytes()
    at.write_bytes(b"\xef\xbb\xbf" + whole.replace(b"\n", b"\r\n"))
    assert load_coder(tmp_path / "coder").reader.words == random_coder(0).reader.words
    at.write_bytes(whole + b"\xe9\n")
    with pytest.raises(BadConfig, match=f"{file}: not UTF-8 at byte {len(whole)}; copy it again"):
        load_coder(tmp_path / "coder")
    at.write_text("[" * 99_999 if file == "config.json" else "a\na\n")
    with pytest.raises((BadConfig, base.RepeatedWord), match=file):
        load_coder(tmp_path / "coder")


@pytest.mark.parametrize("sizes", [dict(filters=0), dict(filters=-3), dict(width="5"), dict(embedding=2.5)])
def test_a_size_that_no_network_can_have_is_refused_before_the_training(sizes):
    with pytest.raises(BadRecipe, match=f"{[*sizes][0]} is .*a whole number from 1"):
        fresh_network(recipe("caml", **sizes), ["pain pain"], 2)
