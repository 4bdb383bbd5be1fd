"A memory of marked words, and the coder that marks evidence and decides by it."

import numpy as np
import pytest
import torch

from icdrat.coder.base import MASK, UNKNOWN, WordVocabulary, load_coder, pad_batch, stem_of, word_vocabulary
from icdrat.coder.evidence import EvidenceNetwork, NoEvidenceHead
from icdrat.coder.memory import KINDS, SAID, Memory, counted, grams, whole
from icdrat.coder.network import LabelAttentionCoder
from icdrat.coder.recipe import recipe
from icdrat.coder.training import train
from icdrat.data.corpus import build
from icdrat.learning.objectives import OBJECTIVES, attention_kl, margin_ranking, objective, token_tagging
from icdrat.rationale.attribution.explain import WrongCoder, explain
from icdrat.text import find_quote, mark
from icdrat.types import BadInput, Code

CODES = [Code("icd10cm", "E11"), Code("icd10cm", "I10")]
THREE = [Code("icd10cm", c) for c in ("E11", "E13", "I10")]  # the first two stand in one group
SIZE = 12  # token numbers, the first three of them special
STEM = torch.tensor([-1, -1, -1, *range(3, SIZE)])


def random_notes(seed, n=6):
    "Rows of token numbers and what is marked in them for three codes; some notes have no lesson"
    rng = np.random.default_rng(seed)
    rows = [rng.integers(0, SIZE, rng.integers(1, 15)) for _ in range(n)]
    lessons = [[(c, rng.random(len(r)) < 0.5) for c in range(3) if rng.random() < 0.7] for r in rows]
    return rows, lessons


def filled(rows, lessons):
    memory = Memory(SIZE, 3)
    memory.stem = STEM
    memory.remember(rows, lessons, THREE)
    return memory


def entries(known):
    "What is known, as a dictionary"
    keys = zip(known.note.tolist(), known.place.tolist(), known.code.tolist())
    return {k: said for k, said in zip(keys, known.said.tolist())}


# what is counted


@pytest.mark.parametrize("seed", range(10))
def test_counts_are_those_of_a_plain_loop(seed):
    rows, lessons = random_notes(seed)
    for kind, n in KINDS.items():
        of = [grams(torch.from_numpy(r)[None], STEM)[kind][0].numpy() for r in rows]
        found = counted(of, lessons, n)
        for g, gram in enumerate(found.gram.tolist()):
            assert found.notes[g] == sum(gram in o for o in of)
            for e in range(found.start[g], found.start[g + 1]):
                c = found.code[e]
                masks = [(o, [whole(m, n) for column, m in of_note if column == c]) for o, of_note in zip(of, lessons)]
                assert found.met[e] == sum(bool(m) and gram in o for o, m in masks)
                assert found.marked[e] == sum(any((x & (o == gram)).any() for x in m) for o, m in masks) > 0


@pytest.mark.parametrize("seed", range(20))
def test_a_note_taken_out_is_a_note_that_never_was(seed):
    rows, lessons = random_notes(seed)
    memory = filled(rows, lessons)
    for i, row in enumerate(rows):
        others = [j for j in range(len(rows)) if j != i]
        without = filled([rows[j] for j in others], [lessons[j] for j in others])
        ids = torch.from_numpy(row)[None]
        taken, never = entries(memory(ids, lessons[i])), entries(without(ids))
        assert taken.keys() == never.keys()
        for k in never:
            assert taken[k] == pytest.approx(never[k], abs=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_a_group_says_of_a_code_what_all_codes_in_it_would_say_as_one(seed):
    rows, lessons = random_notes(seed)
    ids = torch.from_numpy(rows[0])[None]
    joint = Memory(SIZE, 2)
    joint.stem = STEM
    joint.remember(rows, [[(c // 2, m) for c, m in of] for of in lessons], [THREE[0], THREE[2]])
    half = len(SAID) * len(KINDS)
    of_one, of_groups = entries(joint(ids)), entries(filled(rows, lessons)(ids))
    for (note, place, code), said in of_groups.items():
        assert said[half:] == pytest.approx(of_one[note, place, code // 2][:half], abs=1e-6)


def test_a_code_without_a_lesson_is_helped_by_its_group_only():
    found = entries(filled([np.array([5, 6, 7])], [[(0, np.array([True, False, False]))]])(torch.tensor([[5, 6]])))
    assert {(place, code) for _, place, code in found} == {(0, 0), (0, 1)}
    own, helped = found[0, 0, 0], found[0, 0, 1]
    half = len(own) // 2
    assert not any(helped[:half]) and helped[half:] == own[half:] == own[:half]


def test_special_tokens_remind_of_nothing():
    memory = filled([np.array([5, 6, 7])], [[(0, np.ones(3, bool))]])
    assert not entries(memory(torch.tensor([[0, 1, 2]])))
    assert {p for _, p, _ in entries(memory(torch.tensor([[5, MASK, 7]])))} == {0, 2}


@pytest.mark.parametrize("length", [1, 2, 3])
def test_notes_shorter_than_a_gram_are_read(length):
    memory = filled([np.array([5, 6, 7])], [[(1, np.ones(3, bool))]])
    found = entries(memory(torch.tensor([[5, 6, 7][:length]])))
    assert {p for _, p, _ in found} == set(range(length))


def test_a_longer_gram_says_its_part_at_every_place_it_covers():
    memory = filled([np.array([5, 6, 7])], [[(1, np.ones(3, bool))]])
    found = memory(torch.tensor([[5, 6, 7, 9]]))
    of_three = len(SAID) * list(KINDS).index("three")
    assert found.said[found.code == 1, of_three].tolist() == [0.5] * 3  # one of one, and one more in doubt


# stems


def test_a_rare_word_is_read_as_its_stem():
    reader = word_vocabulary(["diabetes diabetes", "diabetico y no mas"], 2, stems=True)
    ids = reader.read("diabetes diabetica diadema y")[0]
    number = {w: i for i, w in enumerate(reader.words, MASK + 1)}
    assert ids.tolist() == [number["diabetes"], number["diabe*"], UNKNOWN, UNKNOWN]
    assert stem_of("diabetes") == "diabe*" and stem_of("mas") == "mas"


def test_without_stems_a_vocabulary_is_what_it_was():
    texts = ["diabetes diabetes y y", "diabetico"]
    assert word_vocabulary(texts, 2).words == ("diabetes", "y")


# the coder


def teachable():
    "A corpus in which each code has a word, and the marks of that word"
    rng = np.random.default_rng(0)
    drug = dict(zip(CODES, ("metformin", "lisinopril")))
    rows = []
    for i in range(60):
        codes = [c for c in CODES if rng.random() < 0.5] or [CODES[0]]
        words = [*rng.choice("seen today with stable vitals and no complaints".split(), 8), *(drug[c] for c in codes)]
        split = "validation" if i % 4 == 0 else "train"
        rows.append(dict(note_id=f"n{i}", text=" ".join(rng.permutation(words)), codes=codes, split=split))
    corpus = build("toy", rows)
    marks = [
        mark(n, c, find_quote(n.text, drug[c]), "teacher")
        for n in corpus.split("train").notes
        for c in corpus.codes[n.id]
    ]
    return corpus, marks, drug


@pytest.fixture(scope="module")
def taught():
    corpus, marks, drug = teachable()
    plan = recipe("evidence", epochs=4, min_count=1, embedding=8, filters=8)
    parts = corpus.split("train"), corpus.split("validation")
    coder, log = train(*parts, CODES, plan, marks, token_tagging, 0.1, progress=False)
    return corpus, drug, coder, log


def test_it_marks_the_evidence_and_finds_the_codes(taught):
    corpus, drug, coder, _ = taught
    held = corpus.split("validation")
    for e in explain(coder, held.notes, held.codes, "evidence", progress=False):
        text = corpus.note(e.note_id).text
        best = int(np.argmax(e.scores))
        assert text[slice(*e.offsets[best])] == drug[e.code]
        assert (e.scores >= 0).all() and (e.scores <= 1).all()
    probabilities = coder([n.text for n in held.notes])
    truth = np.array([[c in held.codes[n.id] for c in CODES] for n in held.notes])
    assert ((probabilities > coder.threshold) == truth).mean() > 0.95


def test_two_trainings_of_one_seed_are_equal(taught):
    corpus, _, coder, log = taught
    marks = teachable()[1]
    plan = recipe("evidence", epochs=4, min_count=1, embedding=8, filters=8)
    parts = corpus.split("train"), corpus.split("validation")
    again, log2 = train(*parts, CODES, plan, marks, token_tagging, 0.1, progress=False)
    texts = [n.text for n in corpus.notes]
    assert np.array_equal(coder(texts), again(texts))
    assert log.drop(columns="seconds").equals(log2.drop(columns="seconds"))


def test_a_saved_student_carries_its_memory(taught, tmp_path):
    corpus, _, coder, _ = taught
    coder.save_pretrained(tmp_path / "student")
    same = load_coder(tmp_path / "student")
    texts = [n.text for n in corpus.notes]
    assert np.array_equal(coder(texts), same(texts))
    assert same.network.memory.sizes == coder.network.memory.sizes != Memory(3, 2).sizes


def test_without_a_lesson_it_is_a_coder_that_remembers_nothing():
    corpus, _, _ = teachable()
    plan = recipe("evidence", epochs=1, min_count=1, embedding=8, filters=8)
    coder, _ = train(corpus.split("train"), corpus.split("validation"), CODES, plan, progress=False)
    assert coder.network.memory.sizes == Memory(3, 2).sizes
    assert np.isfinite(coder(["metformin", ""])).all()


def test_other_coders_mark_no_evidence():
    network, reader = EvidenceNetwork.fresh(["one two"], 2, min_count=1)
    plain = LabelAttentionCoder(network.under, reader, CODES)
    with pytest.raises(WrongCoder, match="marks evidence"):
        explain(plain, [], {}, "evidence")


def test_a_network_without_one_query_a_code_carries_no_evidence():
    from encoder import tiny_encoder

    with pytest.raises(NoEvidenceHead, match="LabelAttention"):
        EvidenceNetwork.fresh(["a"], 2, base="plm_icd", encoder=tiny_encoder(), chunk=8, head="cross")


def test_hiding_a_marked_word_hides_what_it_reminded_of(taught):
    _, drug, coder, _ = taught
    text = f"seen today {drug[CODES[0]]} and stable"
    start = text.index(drug[CODES[0]])
    whole_note, hidden = coder([text, text], [[], find_quote(text, drug[CODES[0]])])[:, 0]
    assert start > 0 and hidden < whole_note - 0.1


@pytest.mark.parametrize("seed", range(3))
def test_lookups_of_a_batch_are_those_of_each_note(seed):
    rows, lessons = random_notes(seed)
    memory = filled(rows, lessons)
    ids, real = pad_batch(rows)
    together = entries(memory(ids))
    for i, row in enumerate(rows):
        alone = entries(memory(torch.from_numpy(row)[None]))
        of_note = {(0, p, c): v for (n, p, c), v in together.items() if n == i and real[i, p]}
        assert of_note == alone


# objectives


@pytest.mark.parametrize("name", OBJECTIVES)
def test_an_objective_is_least_where_the_scores_are_right_and_ignores_filling(name):
    loss = OBJECTIVES[name]
    evidence = torch.tensor([[0.5, 0.5, 0, 0], [0, 0, 0, 1.0]])
    right = torch.where(evidence > 0, 12.0, -12.0)
    filled = torch.cat([right, torch.full((2, 3), -1e4)], 1)
    wider = torch.cat([evidence, torch.zeros(2, 3)], 1)
    assert loss(right, evidence) < 1e-3 < loss(torch.zeros(2, 4), evidence) < loss(-right, evidence)
    assert loss(filled, wider).item() == pytest.approx(loss(right, evidence).item(), abs=1e-6)
    assert loss(torch.zeros(0, 4), torch.zeros(0, 4)) == 0


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("seed", range(3))
def test_its_gradient_is_that_of_finite_differences(name, seed):
    rng = np.random.default_rng(seed)
    marked = rng.random((3, 6)) < 0.4
    marked[:, 0], marked[:, 1] = True, False
    evidence = torch.from_numpy(marked / marked.sum(1, keepdims=True))
    scores = torch.from_numpy(rng.normal(size=(3, 6))).requires_grad_()
    assert torch.autograd.gradcheck(lambda s: OBJECTIVES[name](s, evidence), scores)


def test_the_tagger_is_the_likelihood_by_hand():
    scores, evidence = torch.tensor([[2.0, -1.0, 0.5]]), torch.tensor([[1.0, 0, 0]])
    p = 1 / (1 + np.exp(-scores.numpy()[0]))
    assert token_tagging(scores, evidence).item() == pytest.approx(
        -np.log(p[0]) - np.log(1 - p[1]) - np.log(1 - p[2]), abs=1e-6
    )
    assert token_tagging(scores, evidence, rho=3.0).item() == pytest.approx(
        -3 * np.log(p[0]) - np.log(1 - p[1]) - np.log(1 - p[2]), abs=1e-6
    )


def test_the_margin_is_met_once_marked_words_stand_above_all_others():
    evidence = torch.tensor([[1.0, 0, 0]])
    assert margin_ranking(torch.tensor([[5.0, 0, 0]]), evidence) == 0
    assert margin_ranking(torch.tensor([[5.0, 4.9, 0]]), evidence) > 0


def test_a_network_has_its_own_objective_and_an_unknown_one_is_refused():
    assert objective(None) is attention_kl and objective(None, marks=True) is token_tagging
    with pytest.raises(BadInput, match="token_tagging"):
        objective("mse")


def test_a_vocabulary_with_stems_is_saved_and_loaded(tmp_path):
    reader = word_vocabulary(["diabetes mellitus"], 1, stems=True)
    reader.save(tmp_path)
    assert WordVocabulary.load(tmp_path).words == reader.words
