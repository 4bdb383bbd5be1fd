"What a coder reads, and what its folder must survive; the laws of its network are in test_networks."

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from icdrat.coder import base, convolutional, network, training
from icdrat.coder.base import (
    MASK, PAD, UNKNOWN, BadConfig, BadWeights, EmptyVocabulary, NotACoder, UnknownArchitecture, WordVocabulary,
    by_length, load_coder, pad_batch, word_vocabulary,
)
from icdrat.coder.convolutional import CamlNetwork
from icdrat.coder.network import LabelAttentionCoder
from icdrat.coder.training import (
    BadGuide, BadRecipe, CodeWithoutNotes, Diverged, GuideWithoutLoss, NothingToValidate, Recipe, SharedNotes, shuffled_batches, train, with_gaps,
    word_vectors,
)
from icdrat.data import exchange
from icdrat.data.corpus import EmptyCorpus, build
from icdrat.data.exchange import ForeignFolder
from icdrat.text import mark, slices, spans_to_mask
from icdrat.types import Code, CodeNotInVocabulary, Note, Rationale, Span, SpanOutsideNote, UnknownOperator

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


def test_an_interrupted_save_keeps_the_old_coder(tmp_path, monkeypatch):
    random_coder(1).save_pretrained(tmp_path / "coder")
    monkeypatch.setattr(network, "write_weights", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        random_coder(2).save_pretrained(tmp_path / "coder")
    assert [f.name for f in tmp_path.iterdir()] == ["coder"]
    np.testing.assert_array_equal(load_coder(tmp_path / "coder")(["w1 w2"]), random_coder(1)(["w1 w2"]))


def test_a_folder_that_cannot_be_renamed_keeps_the_old_coder(tmp_path, monkeypatch):
    random_coder(1).save_pretrained(tmp_path / "coder")
    rename = exchange.os.replace

    def refuse(source, to):
        if to == tmp_path / "coder" and not source.name.startswith(".old"):
            raise PermissionError("in use")
        rename(source, to)

    monkeypatch.setattr(exchange.os, "replace", refuse)
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


def test_another_vocabulary_does_not_fit_the_weights(tmp_path):
    random_coder(0).save_pretrained(tmp_path / "coder")
    (tmp_path / "coder" / "vocabulary.txt").write_text("w1\nw2\n")
    with pytest.raises(BadWeights, match="embedding"):
        load_coder(tmp_path / "coder")


def test_an_architecture_is_defined_once():
    with pytest.raises(ValueError, match="defined twice"):
        base.architecture("caml")(lambda folder, config: None)
    assert convolutional.CamlNetwork.architecture == "caml"


# training

CUES = dict(zip(CODES, ("t2dm", "htn", "asthma")))
SMALL = Recipe(epochs=4, width=3, word_dropout=0.2, embedding=12, filters=8, min_count=1, lr=0.01)


def toy(n, split, seed):
    rng, rows, gold = np.random.default_rng(seed), [], []
    for i in range(n):
        words, has = list(rng.choice(LEXICON, rng.integers(8, 20))), [c for c in CODES if rng.random() < 0.4]
        for c in has:
            words.insert(rng.integers(len(words)), CUES[c])
        note = Note(f"{split}{i}", " ".join(words))
        rows.append(dict(note_id=note.id, text=note.text, codes=has, split=split))
        gold += [mark(note, c, [Span(k := note.text.index(CUES[c]), k + len(CUES[c]))], "planted") for c in has]
    return build("toy", rows, gold)


NOTES, HELD_OUT = toy(60, "train", 0), toy(20, "validation", 1)
TEXTS = [n.text for n in HELD_OUT.notes]


def cross_entropy(log_attention, evidence):
    return -(evidence * log_attention).sum(1).mean()


@pytest.fixture(scope="module")
def trained():
    return train(NOTES, HELD_OUT, CODES, SMALL, progress=False)


def test_training_twice_gives_the_same_bits_whatever_ran_before(trained):
    torch.manual_seed(3)
    torch.rand(10)
    np.random.seed(4)
    state = torch.random.get_rng_state()
    coder, log = train(NOTES, HELD_OUT, CODES, SMALL, progress=False)
    np.testing.assert_array_equal(coder(TEXTS), trained[0](TEXTS))
    assert log.drop(columns="seconds").equals(trained[1].drop(columns="seconds"))
    assert coder.threshold == trained[0].threshold
    assert torch.equal(state, torch.random.get_rng_state()) and not torch.are_deterministic_algorithms_enabled()


def test_another_seed_gives_another_coder(trained):
    coder, _ = train(NOTES, HELD_OUT, CODES, replace(SMALL, seed=1), progress=False)
    assert not np.allclose(coder(TEXTS), trained[0](TEXTS))


def test_the_kept_coder_is_that_of_the_first_best_epoch(trained):
    from icdrat.coder.scores import micro_curve, tune_threshold
    from icdrat.data.corpus import code_matrix

    coder, log = trained
    truth = code_matrix(HELD_OUT, CODES)
    assert micro_curve(coder(TEXTS), truth)[1].max() == log["micro_f1"].max()
    assert coder.threshold == tune_threshold(coder(TEXTS), truth) == log.loc[log["micro_f1"].idxmax(), "threshold"]
    assert log["epoch"].tolist() == [1, 2, 3, 4] and log["loss"].is_monotonic_decreasing


def test_epochs_after_the_best_one_change_nothing():
    recipe = replace(SMALL, epochs=14, lr=0.02)
    coder, log = train(NOTES, HELD_OUT, CODES, recipe, progress=False)
    best = int(log["micro_f1"].idxmax())
    assert best < 13 and (log["micro_f1"][best + 1 :] == log["micro_f1"][best]).any(), "the toy has a first best epoch and a later one as good"
    shorter, _ = train(NOTES, HELD_OUT, CODES, replace(recipe, epochs=best + 1), progress=False)
    np.testing.assert_array_equal(coder(TEXTS), shorter(TEXTS))
    assert coder.threshold == shorter.threshold == log["threshold"][best]


@pytest.mark.parametrize("decay", [0.0, 1.0])
def test_what_is_learned_about_neighbours_is_forgotten_at_the_rate_of_the_recipe(decay):
    kernel = train(NOTES, HELD_OUT, CODES, replace(SMALL, epochs=1, neighbour_decay=decay), progress=False)[0].network.kernel
    assert kernel[:, :, 1].any() and bool(kernel[:, :, [0, 2]].any()) == (decay == 0)


def test_a_trained_coder_survives_its_folder(trained, tmp_path):
    trained[0].save(tmp_path / "coder")
    np.testing.assert_array_equal(load_coder(tmp_path / "coder")(TEXTS), trained[0](TEXTS))


def test_double_precision_is_the_same_training():
    single, double = (train(NOTES, HELD_OUT, CODES, replace(SMALL, epochs=1, dtype=d), progress=False)[0](TEXTS) for d in ("float32", "float64"))
    assert double.dtype == np.float64
    np.testing.assert_allclose(single, double, atol=1e-3)


def test_a_guide_moves_the_attention_to_its_words():
    share = lambda c: np.mean([a[0][spans_to_mask(r.spans, o)].sum() for r in HELD_OUT.gold if r.code == CODES[0] for o, a in c.attention([HELD_OUT.note(r.note_id).text])])
    unguided, silent = (train(NOTES, HELD_OUT, CODES, SMALL, *guide, progress=False) for guide in ((), (NOTES.gold, cross_entropy, 0.0)))
    guided = train(NOTES, HELD_OUT, CODES, SMALL, NOTES.gold, cross_entropy, 1.0, progress=False)
    np.testing.assert_array_equal(silent[0](TEXTS), unguided[0](TEXTS))
    assert share(guided[0]) > share(unguided[0]) + 0.1
    assert np.isfinite(guided[1]["guide_loss"]).all() and guided[1]["guide_loss"].iloc[-1] < silent[1]["guide_loss"].iloc[-1]


def test_the_guide_sees_attention_and_evidence_that_sum_to_one_without_the_filling():
    seen = []

    def look(log_attention, evidence):
        seen.append((log_attention.detach().exp(), evidence))
        return cross_entropy(log_attention, evidence)

    wide = [replace(r, spans=(Span(0, r.spans[-1].end),)) for r in NOTES.gold]
    train(NOTES, HELD_OUT, CODES, replace(SMALL, epochs=1), wide, look, 0.1, progress=False)
    assert sum(len(e) for _, e in seen) == len(NOTES.gold)
    for attention, marked in seen:
        torch.testing.assert_close(attention.sum(1), torch.ones(len(attention)))
        torch.testing.assert_close(marked.sum(1), torch.ones(len(marked)))


def test_a_rationale_without_words_guides_nothing():
    nowhere = [Rationale(r.note_id, r.code, (), "nobody") for r in NOTES.gold]
    plain = train(NOTES, HELD_OUT, CODES, replace(SMALL, epochs=1), progress=False)
    guided = train(NOTES, HELD_OUT, CODES, replace(SMALL, epochs=1), nowhere, cross_entropy, 1.0, progress=False)
    np.testing.assert_array_equal(guided[0](TEXTS), plain[0](TEXTS))


def test_words_are_hidden_at_their_rate_and_filling_never():
    ids = pad_batch([np.full(n, 5) for n in (10, 500, 1000)])
    hidden, kept = with_gaps(ids, Recipe(word_dropout=0.3, embedding=4, dropout=0.5), np.random.default_rng(0))
    assert ((hidden == PAD) == (ids == PAD)).all()
    assert (hidden == MASK).sum() / (ids != PAD).sum() == pytest.approx(0.3, abs=0.05)
    assert set(kept.unique().tolist()) == {0.0, 2.0}


def test_words_in_the_same_company_start_close_to_each_other():
    rng = np.random.default_rng(0)
    rows = [np.array([rng.choice(pair), *rng.choice(near, 6)]) for pair, near in (((3, 4), (5, 6, 7)), ((8, 9), (10, 11, 12))) for _ in range(60)]
    v = word_vectors(rows, 14, 4, window=5)
    near = lambda a, b: v[a] @ v[b] / np.linalg.norm(v[a]) / np.linalg.norm(v[b])
    assert near(3, 4) > 0.8 > 0.2 > near(3, 8)
    assert not v[:3].any() and not v[13].any()


@pytest.mark.parametrize("change", [dict(epochs=0), dict(lr=0.0), dict(dropout=1.0), dict(word_dropout=-0.1), dict(dtype="float16"), dict(window=-1)])
def test_a_recipe_out_of_range_is_refused(change):
    with pytest.raises(BadRecipe, match=next(iter(change))):
        Recipe(**change)


def test_what_cannot_be_trained_is_refused_by_name():
    with pytest.raises(CodeWithoutNotes, match="A41"):
        train(NOTES, HELD_OUT, [*CODES, Code("icd10cm", "A41")], SMALL)
    with pytest.raises(SharedNotes, match="train0"):
        train(NOTES, NOTES, CODES, SMALL)
    with pytest.raises(NothingToValidate, match="same level"):
        train(NOTES, build("bare", [dict(note_id="v", text="w1", codes=[], split="validation")]), CODES, SMALL)
    with pytest.raises(NothingToValidate):
        train(NOTES, HELD_OUT, [], SMALL)
    with pytest.raises(EmptyCorpus):
        train(build("none", []), HELD_OUT, CODES, SMALL)


def test_a_guide_from_elsewhere_is_refused_by_name():
    for guide, codes, error, message in [
        (HELD_OUT.gold, CODES, BadGuide, "not trained on"),
        (NOTES.gold, CODES[1:], CodeNotInVocabulary, "same level"),
        ([Rationale(i, c, (Span(0, 1),), "x") for i, cs in NOTES.codes.items() for c in set(CODES) - set(cs)][:1], CODES, BadGuide, "does not have"),
        ([Rationale(r.note_id, r.code, (Span(0, 9999),), "x") for r in NOTES.gold[:1]], CODES, SpanOutsideNote, "9999"),
    ]:
        with pytest.raises(error, match=message):
            train(NOTES, HELD_OUT, codes, SMALL, guide, cross_entropy, 1.0)
    with pytest.raises(GuideWithoutLoss):
        train(NOTES, HELD_OUT, CODES, SMALL, NOTES.gold)


def test_a_loss_that_is_not_a_number_ends_the_training():
    with pytest.raises(Diverged, match="guide_weight"):
        train(NOTES, HELD_OUT, CODES, SMALL, NOTES.gold, lambda a, e: a.sum() * float("nan"), 1.0, progress=False)


def test_a_note_without_words_can_be_trained_on():
    rows = [dict(note_id="e", text=" . ", codes=[CODES[0]], split="train")] + [dict(note_id=i, text=NOTES.note(i).text, codes=cs, split="train") for i, cs in NOTES.codes.items()]
    _, log = train(build("gap", rows), HELD_OUT, CODES, replace(SMALL, epochs=1), progress=False)
    assert np.isfinite(log["loss"]).all()


def test_padding_has_no_embedding_after_training(trained):
    assert not trained[0].network.embedding[PAD].any() and training.PAD == PAD == 0
