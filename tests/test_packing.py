"What is encoded of versions of a note: their own tokens, hardly any filling, and the same answers."

import tempfile

import numpy as np
import pytest
import torch
from encoder import tiny_encoder
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification, BertModel

from icdrat.coder.base import by_length, pad_batch
from icdrat.coder.classifier import classifier
from icdrat.coder.local import versions
from icdrat.coder.network import LabelAttentionCoder, packed
from icdrat.coder.plm import PlmNetwork
from icdrat.evaluation.faithfulness.engine import FERRET, Interview, ranking_inquiries, together
from icdrat.text import readable
from icdrat.types import Code, Note

LABELS = ["E11.9", "I10", "J45.909"]
SIZES = dict(hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16, initializer_range=0.4)
STILL = dict(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, max_position_embeddings=130)
TEXT = " ".join(np.random.default_rng(1).choice(list("abcdefghijklmnopqrstuvwxyz"), 100))


@pytest.fixture(scope="module", params=["plm_icd", "classifier"])
def coder(request):
    "A coder that reads 128 tokens at once"
    tokenizer, folder = AutoTokenizer.from_pretrained(tiny_encoder()), tempfile.TemporaryDirectory()
    config = BertConfig(vocab_size=len(tokenizer), id2label=dict(enumerate(LABELS)), **SIZES, **STILL)
    torch.manual_seed(0)
    kind = BertModel if request.param == "plm_icd" else BertForSequenceClassification
    kind(config).save_pretrained(folder.name)
    tokenizer.model_max_length = 10**6
    tokenizer.save_pretrained(folder.name)
    if request.param == "classifier":
        return classifier(folder.name)
    network, reader = PlmNetwork.fresh([], 3, encoder=folder.name, chunk=128, projection=6)
    network.begin(np.random.default_rng(0), np.full(3, 0.2))
    return LabelAttentionCoder(network.requires_grad_(False), reader, [Code("icd10cm", c) for c in LABELS])


def encoder_of(coder):
    return getattr(coder.network, "encoder", None) or coder.network.model


@pytest.fixture
def encoded(coder, monkeypatch):
    "How many cells each table has that the encoder reads"
    tables, encoder = [], encoder_of(coder)
    forward = encoder.forward

    def counted(*args, inputs_embeds, **kwargs):
        tables.append(inputs_embeds.shape[0] * inputs_embeds.shape[1])
        return forward(*args, inputs_embeds=inputs_embeds, **kwargs)

    monkeypatch.setattr(encoder, "forward", counted)
    return tables


def masks_of(n, seed=0):
    "Versions with few and with many hidden words, no two equal"
    rng = np.random.default_rng(seed)
    masks = rng.random((n, 100)) < np.linspace(0.02, 0.95, n)[:, None]
    return np.unique(masks, axis=0)


def read_as(coder, masks, operator):
    "Token numbers of each version, with its first and last tokens"
    ids, reader = coder.reader.read(TEXT)[0], coder.reader
    if hasattr(reader, "before"):
        ids = np.r_[reader.before, ids, reader.after]
    hidden = np.pad(masks, ((0, 0), (1, 1)))
    return [np.where(h, reader.mask, ids) if operator == "mask" else ids[~h] for h in hidden]


@pytest.mark.parametrize("n", [20, 150])
def test_versions_of_a_note_of_one_chunk_are_read_at_their_own_lengths(coder, encoded, n):
    masks = masks_of(n)
    versions(coder.to("cpu"), TEXT, masks, "delete")
    own = sum(map(len, read_as(coder, masks, "delete")))
    assert own <= sum(encoded) <= 1.05 * own + 32


def test_hiding_keeps_the_length_and_nothing_is_filled_up(coder, encoded):
    masks = masks_of(60)
    versions(coder.to("cpu"), TEXT, masks, "mask")
    assert sum(encoded) == 102 * len(masks)
    assert max(encoded) <= coder.batch_tokens + 2 * 2048 // 100  # the first and last tokens come on top


@pytest.mark.parametrize("operator", ["mask", "delete"])
def test_answers_are_those_of_each_version_alone(coder, operator):
    masks, network = masks_of(40, seed=3), coder.network
    found = versions(coder.to("cpu"), TEXT, masks, operator)
    for row, logits in zip(read_as(coder, masks, operator), found):
        table = torch.from_numpy(row[None])
        with torch.no_grad():
            if hasattr(network, "encoder"):
                h = network.encoder(table).last_hidden_state
                scores = network.head.scores(h)
                alone = network.head.decide(network.head.gather(scores.softmax(-1), h))
            else:
                z = network.model(table).logits
                alone = network.head.answer(z[None])
        np.testing.assert_allclose(logits, alone[0].numpy(), atol=1e-5)


@pytest.mark.parametrize("operator", ["mask", "delete"])
@pytest.mark.parametrize("text", [TEXT, TEXT + " " + TEXT[:77]])
@pytest.mark.parametrize("coder", ["plm_icd"], indirect=True)
def test_a_coder_that_fills_up_every_block_says_the_same(coder, operator, text):
    masks = np.random.default_rng(4).random((30, len(readable(text)))) < 0.3
    ours = versions(coder.to("cpu"), text, masks, operator)
    rows = [coder.reader.read(text)[0][~np.pad(m, 1)] for m in masks]
    if operator == "mask":
        ids = coder.reader.read(text)[0]
        rows = [np.where(np.pad(m, 1), coder.reader.mask, ids) for m in masks]
    with torch.no_grad():
        filled = coder.network(*pad_batch(rows, coder.reader.pad, coder.reader.mask, 128))[0].numpy()
    np.testing.assert_allclose(ours, filled, atol=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_packing_takes_every_row_once_and_costs_no_more_than_greed(seed):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, 300, rng.integers(1, 200))
    tables = packed(lengths, 2048, call=32)
    assert sorted(sum(tables, [])) == list(range(len(lengths)))
    cost = lambda tables: sum(max(1, max(lengths[t])) * len(t) + 32 for t in tables)
    assert all(max(lengths[t]) * len(t) <= 2048 or len(t) == 1 for t in tables)
    assert cost(tables) <= cost(by_length(lengths, 2048))


def test_areas_alone_leave_out_the_other_questions(coder):
    scores, asked, found = np.random.default_rng(0).random(100) + 0.1, {}, {}
    for name in FERRET:
        interview = Interview(coder, Note("n", TEXT), [0], "delete")
        inquiries = [(inquiry, 0) for inquiry in ranking_inquiries(scores, 0.5, [name])]
        [found[name]] = together(inquiries, interview)
        asked[name] = interview.n_asked
    # the last level keeps the whole note, and two of the words left out are levels too
    assert asked == dict(ferret=1 + 199 + 98, ferret_aopc=1 + 199, ferret_deciles=1 + 19)
    for some in found.values():
        np.testing.assert_allclose(list(some.values()), [found["ferret"][k] for k in some], atol=1e-6)
