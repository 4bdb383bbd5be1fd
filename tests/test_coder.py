"Laws that every trained coder must obey, and what its folder must survive."

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from icdrat.coder import base, convolutional, training
from icdrat.coder.base import (
    MASK, PAD, UNKNOWN, BadConfig, BadWeights, EmptyVocabulary, NotACoder, UnknownArchitecture, WordVocabulary,
    by_length, load_coder, pad_batch, predicted, word_vocabulary,
)
from icdrat.coder.convolutional import CAML, CamlNetwork, EvenWidth, UnequalLists
from icdrat.coder.training import (
    BadGuide, BadRecipe, CodeWithoutNotes, Diverged, GuideWithoutLoss, NothingToValidate, Recipe, SharedNotes, shuffled_batches, train, with_gaps,
    word_vectors,
)
from icdrat.data import exchange
from icdrat.data.corpus import EmptyCorpus, build
from icdrat.data.exchange import ForeignFolder
from icdrat.text import blank, mark, slices, spans_to_mask
from icdrat.types import Code, CodeNotInVocabulary, Coder, Note, Rationale, Span, SpanOutsideNote, UnknownOperator

CODES = [Code("icd10cm", c) for c in ("E11", "I10", "J45")]
LEXICON = [f"w{i}" for i in range(20)]
SEEDS = range(8)


def random_coder(seed, width=3, dtype="float64"):
    "A CAML filled with random numbers"
    rng, vocabulary = np.random.default_rng(seed), WordVocabulary(LEXICON)
    network = CamlNetwork(len(vocabulary), 3, 6, 5, width, dtype).requires_grad_(False)
    for p in network.parameters():
        p.copy_(torch.from_numpy(rng.normal(size=tuple(p.shape))))
    network.embedding[PAD] = 0
    return CAML(network, vocabulary, CODES, 0.4)


def random_text(rng, n):
    return " ".join(rng.choice(LEXICON + ["Unheard", ",", "."], n))


def random_spans(rng, n_chars, n):
    starts = rng.integers(0, n_chars - 1, n)
    return [Span(int(a), int(rng.integers(a + 1, min(n_chars, a + 9) + 1))) for a in starts]


@pytest.fixture(params=SEEDS)
def seeded(request):
    rng = np.random.default_rng(100 + request.param)
    return random_coder(request.param, width=(1, 3, 5)[request.param % 3]), [random_text(rng, n) for n in (1, 4, 9, 30, 12, 30)], rng


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


# what it answers


def test_it_is_a_coder_and_answers_probabilities(seeded):
    coder, texts, _ = seeded
    p = coder(texts)
    assert isinstance(coder, Coder) and p.shape == (6, 3) and (p >= 0).all() and (p <= 1).all()
    assert predicted(coder, texts) == [[c for c, x in zip(CODES, row) if x > 0.4] for row in p]


def test_the_answer_is_the_formula_of_the_paper(seeded):
    coder, texts, _ = seeded
    net, half = {k: v.numpy() for k, v in coder.network.state_dict().items()}, coder.network.width // 2
    for text, p in zip(texts, coder(texts)):
        x = [np.zeros(6)] * half + [net["embedding"][i] for i in coder.vocabulary.encode(text)[0]] + [np.zeros(6)] * half
        h = np.array([np.tanh(net["kernel_bias"] + sum(net["kernel"][:, :, k] @ x[n + k] for k in range(2 * half + 1))) for n in range(len(x) - 2 * half)])
        for j in range(3):
            a = np.exp(h @ net["attention"][j])
            logit = net["weight"][j] @ (a / a.sum() @ h) + net["bias"][j]
            assert p[j] == pytest.approx(1 / (1 + np.exp(-logit)), abs=1e-12)


def test_padding_and_batch_mates_never_change_an_answer(seeded):
    coder, texts, _ = seeded
    alone = np.concatenate([coder([t]) for t in texts])
    np.testing.assert_allclose(coder(texts), alone, atol=1e-12, rtol=0)
    rows = [coder.vocabulary.encode(t)[0] for t in texts]
    np.testing.assert_allclose(coder.network(pad_batch(rows))[0].sigmoid().numpy(), alone, atol=1e-12, rtol=0)


def test_filling_counts_for_nothing_even_where_the_network_gives_it_numbers(seeded):
    coder, texts, _ = seeded
    plain = coder(texts)
    coder.network.embedding[PAD] = 7
    np.testing.assert_array_equal(CAML(coder.network, coder.vocabulary, CODES)(texts), plain)


def test_answers_come_in_the_order_of_the_texts(seeded):
    coder, texts, rng = seeded
    order = rng.permutation(len(texts))
    np.testing.assert_allclose(coder([texts[i] for i in order]), coder(texts)[order], atol=1e-12, rtol=0)


def test_a_masked_word_is_the_mask_token_whatever_it_was(seeded):
    coder, _, rng = seeded
    a, b = "w1 w2 w3 w4", "w1 w2 w9 w4"
    hidden = coder([a, b], [[Span(6, 8)]] * 2)
    np.testing.assert_array_equal(hidden[0], hidden[1])
    assert not np.allclose(*coder([a, b]))
    ids = torch.tensor([[4, 5, MASK, 7]])
    np.testing.assert_allclose(hidden[0], coder.network(ids)[0][0].sigmoid(), atol=1e-12)


def test_deleting_is_reading_the_shorter_text(seeded):
    coder, texts, rng = seeded
    for text in texts[2:]:
        spans = random_spans(rng, len(text), 3)
        offsets = coder.vocabulary.encode(text)[1]
        whole_words = [Span(int(s), int(e)) for s, e in offsets[spans_to_mask(spans, offsets)]]
        np.testing.assert_array_equal(coder([text], [spans], "delete"), coder([blank(text, whole_words)]))


def test_erasing_nothing_changes_nothing(seeded):
    coder, texts, _ = seeded
    for operator in ("mask", "delete"):
        np.testing.assert_array_equal(coder(texts, [()] * len(texts), operator), coder(texts))


def test_each_text_has_its_own_erasure(seeded):
    coder, texts, rng = seeded
    spans = [random_spans(rng, len(t), 2) for t in texts]
    one_by_one = np.concatenate([coder([t], [s]) for t, s in zip(texts, spans)])
    np.testing.assert_allclose(coder(texts, spans), one_by_one, atol=1e-12, rtol=0)


@pytest.mark.parametrize("operator", ["mask", "delete"])
def test_a_note_of_which_nothing_is_left_has_an_answer(seeded, operator):
    coder, texts, _ = seeded
    nothing = coder([*texts, "", " ?! "], [[Span(0, len(t))] for t in texts] + [(), ()], operator)
    assert np.isfinite(nothing).all()
    if operator == "delete":
        np.testing.assert_allclose(nothing, np.tile(nothing[-1], (len(nothing), 1)), atol=1e-12)
        np.testing.assert_allclose(nothing[-1], coder.network(torch.tensor([[MASK]]))[0][0].sigmoid(), atol=1e-12)


def test_an_empty_list_of_texts_has_an_empty_answer():
    assert random_coder(0)([]).shape == (0, 3) and random_coder(0).attention([]) == []


def test_attention_is_a_distribution_over_the_words_of_each_note(seeded):
    coder, texts, _ = seeded
    for text, (offsets, attention) in zip([*texts, ""], coder.attention([*texts, ""])):
        np.testing.assert_array_equal(offsets, coder.vocabulary.encode(text)[1])
        assert attention.shape == (3, len(offsets)) and (attention >= 0).all()
        if len(offsets):
            np.testing.assert_allclose(attention.sum(1), 1, atol=1e-12)


def test_one_list_of_spans_for_three_texts_is_refused():
    with pytest.raises(UnequalLists, match="3 texts but 1"):
        random_coder(0)(["w1"] * 3, [[Span(0, 2)]])
    with pytest.raises(EvenWidth):
        CamlNetwork(5, 2, width=2)


# its folder


def test_a_saved_coder_gives_the_same_bits(seeded, tmp_path):
    coder, texts, _ = seeded
    coder.save(tmp_path / "deep" / "coder")
    again = load_coder(tmp_path / "deep" / "coder")
    np.testing.assert_array_equal(again(texts), coder(texts))
    assert (again.codes, again.threshold, again.vocabulary.words) == (coder.codes, coder.threshold, coder.vocabulary.words)


def test_precision_survives_saving(tmp_path):
    for dtype in ("float32", "float64"):
        random_coder(0, dtype=dtype).save(tmp_path / dtype)
        assert load_coder(tmp_path / dtype)(["w1"]).dtype == dtype


def test_a_second_coder_replaces_the_first_and_leaves_nothing_behind(tmp_path):
    for seed in (1, 2):
        random_coder(seed).save(tmp_path / "coder")
    np.testing.assert_array_equal(load_coder(tmp_path / "coder")(["w1 w2"]), random_coder(2)(["w1 w2"]))
    assert [f.name for f in tmp_path.iterdir()] == ["coder"]


def test_an_interrupted_save_keeps_the_old_coder(tmp_path, monkeypatch):
    random_coder(1).save(tmp_path / "coder")
    monkeypatch.setattr(convolutional, "write_weights", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        random_coder(2).save(tmp_path / "coder")
    assert [f.name for f in tmp_path.iterdir()] == ["coder"]
    np.testing.assert_array_equal(load_coder(tmp_path / "coder")(["w1 w2"]), random_coder(1)(["w1 w2"]))


def test_a_folder_that_cannot_be_renamed_keeps_the_old_coder(tmp_path, monkeypatch):
    random_coder(1).save(tmp_path / "coder")
    rename = exchange.os.replace

    def refuse(source, to):
        if to == tmp_path / "coder" and not source.name.startswith(".old"):
            raise PermissionError("in use")
        rename(source, to)

    monkeypatch.setattr(exchange.os, "replace", refuse)
    with pytest.raises(PermissionError):
        random_coder(2).save(tmp_path / "coder")
    assert [f.name for f in tmp_path.iterdir()] == ["coder"]
    np.testing.assert_array_equal(load_coder(tmp_path / "coder")(["w1 w2"]), random_coder(1)(["w1 w2"]))


def test_a_folder_that_is_not_a_coder_is_left_alone(tmp_path):
    (tmp_path / "work.txt").write_text("keep me")
    with pytest.raises(ForeignFolder, match="holds no config.json"):
        random_coder(0).save(tmp_path)
    assert (tmp_path / "work.txt").read_text() == "keep me"


@pytest.mark.parametrize("missing", ["config.json", "vocabulary.txt", "weights.safetensors"])
def test_a_missing_file_is_named(tmp_path, missing):
    random_coder(0).save(tmp_path / "coder")
    (tmp_path / "coder" / missing).unlink()
    with pytest.raises(NotACoder, match=missing):
        load_coder(tmp_path / "coder")
    with pytest.raises(NotACoder, match="no such folder"):
        load_coder(tmp_path / "elsewhere")


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_half_a_weight_file_is_refused(tmp_path, share):
    random_coder(0).save(tmp_path / "coder")
    file = tmp_path / "coder" / "weights.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(BadWeights, match="copy it again"):
        load_coder(tmp_path / "coder")


@pytest.mark.parametrize(
    "change, error, message",
    [
        (dict(threshold=1.5), BadConfig, "threshold"),
        (dict(threshold="high"), BadConfig, "threshold"),
        (dict(codes=[]), BadConfig, "0 codes"),
        (dict(codes=[dict(system="icd10cm", value="E11")] * 3), BadConfig, "1 different"),
        (dict(codes=[dict(system="icd10", value="E11")]), BadConfig, "a code is wrong"),
        (dict(codes=["E11"]), BadConfig, "a code is wrong"),
        (dict(codes=[dict(system="icd10cm", value="E11")]), BadWeights, "attention, bias, weight"),
        (dict(hyperparameters=dict(depth=3)), BadConfig, "depth"),
        (dict(hyperparameters=dict(embedding=6, filters=5, width=2)), BadConfig, "odd"),
        (dict(hyperparameters=dict(embedding=6, filters=5, width=5, dtype="float64")), BadWeights, "kernel"),
        (dict(hyperparameters=dict(embedding=6, filters=5, width=3, dtype="float7")), BadConfig, "float7"),
        (dict(architecture="oracle"), UnknownArchitecture, "caml"),
    ],
)
def test_a_wrong_config_is_refused_with_its_reason(tmp_path, change, error, message):
    random_coder(0).save(tmp_path / "coder")
    file = tmp_path / "coder" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(error, match=message):
        load_coder(tmp_path / "coder")


def test_another_vocabulary_does_not_fit_the_weights(tmp_path):
    random_coder(0).save(tmp_path / "coder")
    (tmp_path / "coder" / "vocabulary.txt").write_text("w1\nw2\n")
    with pytest.raises(BadWeights, match="embedding"):
        load_coder(tmp_path / "coder")


def test_an_architecture_is_defined_once():
    with pytest.raises(ValueError, match="defined twice"):
        base.architecture("caml")(lambda folder, config: None)
    assert base.ARCHITECTURES["caml"] is convolutional.load_caml
