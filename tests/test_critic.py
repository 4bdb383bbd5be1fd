"A critic takes away what it rejects in so many words, and nothing else."

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from misbehaving import NOTE, TEXT, A, B, completion, llm  # noqa: F401  a loopback server that plays replies
from test_cli import ends_in_one_line, icdrat

from icdrat.data.exchange import read_rationales, save_corpus, write_explanations, write_rationales
from icdrat.data.synth import synthesise
from icdrat.rationale.llm.critic import Critic, critic_cut, criticised, criticised_by, excerpt, verdicts
from icdrat.rationale.llm.server import NothingAnswered, Server
from icdrat.rationale.llm.store import RestrictedNote, Store
from icdrat.rationale.select import NothingToTune, Selection
from icdrat.text import find_quote, mark, spans_to_mask, words
from icdrat.types import Explanation, Note, Span

GIVEN = mark(NOTE, A, find_quote(TEXT, "T2DM"), "llm")  # twice
OTHER = mark(NOTE, B, find_quote(TEXT, "hemoptysis"), "llm")
SECRETS = ("hemoptysis", "T2DM")


def play(reply_about_A, reply_about_B='{"accept": [1], "reject": []}'):
    "A server that answers each code in its own way"
    return lambda asked: reply_about_A if "E11.9: " in asked["messages"][-1]["content"] else reply_about_B


def judged(llm, *replies, **options):  # noqa: F811
    llm.script(play(*replies))
    return criticised([NOTE], [GIVEN, OTHER], llm.server(**options), progress=False)


# ---- what is rejected ----


def test_what_is_rejected_goes_and_the_rest_stays(llm):  # noqa: F811
    found = judged(llm, '{"accept": [2], "reject": [1]}')
    assert [r.spans for r in found.rationales] == [GIVEN.spans[1:], OTHER.spans]
    assert found.table["verdict"].tolist() == ["rejected", "accepted", "accepted"]
    assert (found.counts["rejected"], found.counts["undecided"], found.counts["emptied"]) == (1, 0, 0)
    assert not any(word in repr(found) + found.table.to_csv() for word in SECRETS)


@pytest.mark.parametrize(
    "reply, why",
    [
        ("All of them are wrong.", "unread"),
        ('{"accept": [], "reject": []}', "unread"),
        ('{"reject": true}', "unread"),
        ('{"rationales": []}', "unread"),
        ('{"accept": [numbers], "reject": [numbers]}', "unread"),
        ('{"accept": [1, 2], "reject": [1, 2]}', "unread"),
        ('{"accept": [], "reject": [3, 0, 99]}', "unread"),
        ('<think>{"reject": [1, 2]}', "thought_only"),
        ('{"accept": [], "reject": [1, 2', "unread"),
        (dict(choices=[dict(message=dict(content='{"reject": [1, 2'), finish_reason="length")]), "unfinished"),
        ("", "no_text"),
        (dict(choices=[dict(message=dict(content=None, refusal="No."), finish_reason="stop")]), "refused"),
        ((400, {}), "unanswered"),
    ],
    ids=lambda x: str(x)[:30],
)
def test_a_reply_without_a_verdict_rejects_nothing_and_is_counted(llm, reply, why):  # noqa: F811
    found = judged(llm, reply)
    assert [r.spans for r in found.rationales] == [GIVEN.spans, OTHER.spans]
    mine = found.table[found.table["code"] == str(A)]
    assert mine["verdict"].tolist() == ["undecided"] * 2 and mine["why"].tolist() == [why] * 2
    assert f"2 undecided and kept (2 {why})" in repr(found)
    assert (found.trouble != "") == (why == "unanswered")


def test_a_quote_that_is_left_out_stays(llm):  # noqa: F811
    found = judged(llm, '{"accept": [], "reject": [2]}')
    assert found.rationales[0].spans == GIVEN.spans[:1]
    assert found.table["why"].tolist() == ["left out", "", ""]


@pytest.mark.parametrize("seed", range(20))
def test_only_a_number_that_is_rejected_and_not_accepted_is_rejected(seed):
    rng = np.random.default_rng(seed)
    accept, reject = (rng.integers(-2, 9, rng.integers(0, 6)).tolist() for _ in range(2))
    read = verdicts(json.dumps(dict(accept=accept, reject=reject)), 6)
    assert {i for i, good in read.items() if not good} == {i for i in range(1, 7) if i in reject and i not in accept}
    assert {i for i, good in read.items() if good} == {i for i in range(1, 7) if i in accept and i not in reject}


def test_a_draft_is_no_verdict_where_a_later_word_corrects_it():
    assert verdicts('{"accept": [], "reject": [1]} No, wait: {"accept": [1], "reject": []}', 1) == {1: True}
    assert verdicts("{" * 50_000, 3) == verdicts('{"reject": [' * 2000, 3) == {}


# ---- asking ----


def test_a_run_without_any_verdict_is_refused_in_one_line(llm):  # noqa: F811
    with pytest.raises(NothingAnswered, match="of 2 questions of the critic none has a verdict") as caught:
        judged(llm, "No.", "No.")
    assert "\n" not in str(caught.value) and not any(word in str(caught.value) for word in SECRETS)
    with pytest.raises(NothingAnswered, match="10 tokens are left for the critic"):
        criticised([NOTE], [GIVEN], llm.server(), budget=10, progress=False)


def test_an_answer_is_kept_and_only_what_has_no_verdict_is_asked_again(llm, tmp_path):  # noqa: F811
    with Store(tmp_path / "answers") as store:
        llm.script(play("No."))
        first = criticised([NOTE], [GIVEN, OTHER], llm.server(), store=store, progress=False)
        llm.script(play('{"accept": [1, 2]}', "never asked"))
        again = criticised([NOTE], [GIVEN, OTHER], llm.server(), store=store, progress=False)
        offline = criticised([NOTE], [GIVEN, OTHER], llm.server(), store=store, offline=True)
    counts = [(c.counts["requests"], c.counts["replayed"]) for c in (first, again, offline)]
    assert counts == [(2, 0), (1, 1), (0, 2)] and len(llm.requests) == 3
    assert again.counts["accepted"] == offline.counts["accepted"] == 3


def test_a_restricted_note_is_not_sent_elsewhere(llm):  # noqa: F811
    secret = replace(NOTE, restricted=True)
    with pytest.raises(RestrictedNote, match="n1: the note is restricted"):
        criticised([secret], [GIVEN], Server("https://example.com/v1", "m"), progress=False)
    criticised([secret], [replace(GIVEN, spans=())], Server("https://example.com/v1", "m"))  # nothing to send
    llm.script('{"accept": [1, 2]}')
    assert criticised([secret], [GIVEN], llm.server(), progress=False).counts["accepted"] == 2


def test_a_quote_that_fits_in_no_question_stays(llm):  # noqa: F811
    llm.script('{"accept": [], "reject": [1]}')
    note = Note("long", "pain " * 4000)
    given = mark(note, B, [Span(0, 19_999)], "llm")
    short = replace(OTHER, spans=OTHER.spans[:1])
    found = criticised([note, NOTE], [given, short], llm.server(context=2000, max_tokens=200), progress=False)
    assert [len(r.spans) for r in found.rationales] == [1, 0] and found.table["why"].tolist() == ["too long", ""]


def test_many_quotes_are_parted_and_numbered_anew(llm):  # noqa: F811
    note = Note("many", "cough, " * 30)
    given = mark(note, B, find_quote(note.text, "cough"), "llm")
    llm.script('{"accept": [1], "reject": [2]}')
    found = criticised([note], [given], llm.server(), Critic(most=10), progress=False)
    assert len(llm.requests) == 3 and found.counts["rejected"] == found.counts["accepted"] == 3
    assert [s not in found.rationales[0].spans for s in given.spans] == [i % 10 == 1 for i in range(30)]


@pytest.mark.parametrize("seed", range(20))
def test_every_quote_is_shown_once_in_its_own_tags_within_the_words_of_the_note(seed):
    rng = np.random.default_rng(seed)
    text = "".join(rng.choice([*"abcdé😀.", " ", " ", "\r\n", "\n\n", ". "], 600))
    places = words(text)
    some = places[np.sort(rng.choice(len(places), 6, replace=False))]
    spans = [Span(s, e) for s, e in some.tolist()]
    shown = excerpt(text, spans, int(rng.integers(0, 3)))
    for i, s in enumerate(spans, 1):
        assert re.findall(rf"<q{i}>(.*?)</q{i}>", shown, re.S) == [text[s.start : s.end]]
    for part in re.sub(r"</?q\d+>", "", shown).split("\n[…]\n"):
        assert part in text


# ---- a student as critic ----


def scored(seed, n_notes=6, n_words=40):
    "Notes of words, marks of a teacher and of experts, and scores that know nothing"
    rng = np.random.default_rng(seed)
    notes = [Note(f"n{i}", " ".join(f"w{k}" for k in range(n_words))) for i in range(n_notes)]

    def marks(note, source):
        mask = rng.random(n_words) < 0.2
        return mark(note, A, [Span(int(s), int(e)) for s, e in words(note.text)[mask]], source)

    soft = [Explanation(n.id, A, words(n.text), rng.random(n_words).round(2), "extractor") for n in notes]
    return notes, [marks(n, "llm") for n in notes], [marks(n, "human") for n in notes], soft


@pytest.mark.parametrize("seed", range(10))
def test_a_span_stays_if_one_of_its_words_is_above_the_cut(seed):
    notes, given, _, soft = scored(seed)
    found = criticised_by(given, soft, Selection("extractor", "score", 0.5))
    for before, after, e in zip(given, found.rationales, soft):
        best = {s: e.scores[spans_to_mask([s], e.offsets)].max() for s in before.spans}
        assert after.spans == tuple(s for s in before.spans if best[s] > 0.5)
    assert found.table["score"].between(0, 1).all()


@pytest.mark.parametrize("beta", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("seed", range(5))
def test_no_cut_is_better_on_the_notes_on_which_it_is_chosen(seed, beta):
    notes, given, gold, soft = scored(seed)

    def f(rationales):
        masks = [[spans_to_mask(r.spans, words(n.text)) for r, n in zip(rs, notes)] for rs in (rationales, gold)]
        marked, truth = map(np.concatenate, masks)
        return (1 + beta**2) * (marked & truth).sum() / (marked.sum() + beta**2 * truth.sum())

    chosen = critic_cut(given, soft, gold, notes, beta=beta)
    best = f(criticised_by(given, soft, chosen).rationales)
    assert best == pytest.approx(chosen.f1) and best >= f(given)
    for value in np.linspace(-0.1, 1, 60):
        assert f(criticised_by(given, soft, Selection("extractor", "score", value)).rationales) <= best + 1e-12


def test_where_the_best_of_a_note_may_not_go_no_rationale_is_emptied():
    notes, given, gold, soft = scored(0)
    soft = [replace(e, scores=e.scores * spans_to_mask(r.spans, e.offsets)) for e, r in zip(soft, given)]
    found = criticised_by(given, soft, Selection("extractor", "score_or_best", 2.0))
    assert found.counts["rejected"] > 0 and found.counts["emptied"] == 0
    assert critic_cut(given, soft, gold, notes, "score_or_best").rule == "score_or_best"


def test_what_is_not_scored_stays_and_is_counted():
    notes, given, gold, soft = scored(1)
    blind = replace(soft[0], offsets=soft[0].offsets[:0], scores=soft[0].scores[:0])
    found = criticised_by(given, [blind, *soft[2:]], Selection("extractor", "score", 2.0))
    assert [r.spans for r in found.rationales[:2]] == [r.spans for r in given[:2]]
    assert not any(r.spans for r in found.rationales[2:])
    assert set(found.table.loc[found.table["verdict"] == "undecided", "why"]) == {"no word", "no scores"}
    with pytest.raises(NothingToTune):
        critic_cut(given[:1], [blind], gold, notes)


# ---- the command line ----


@pytest.fixture(scope="module")
def road(tmp_path_factory):
    "A corpus, marks that are right and wrong, and scores that know which"
    folder = tmp_path_factory.mktemp("road")
    corpus = synthesise(30, seed=2, progress=False)
    save_corpus(corpus, folder / "corpus")
    gold = {(r.note_id, r.code): r.spans for r in corpus.gold}
    given, soft = [], []
    for n in corpus.notes:
        offsets = words(n.text)
        for c in corpus.codes[n.id]:
            good = spans_to_mask(gold.get((n.id, c), ()), offsets)
            wrong = Span(*map(int, offsets[np.flatnonzero(~good)[0]]))
            given.append(mark(n, c, [*gold.get((n.id, c), ()), wrong], "teacher"))
            soft.append(Explanation(n.id, c, offsets, np.where(good, 0.6, 0.1), "extractor"))
    write_rationales(folder / "pred.jsonl", given)
    write_explanations(folder / "scores.jsonl", soft)
    write_explanations(folder / "two.jsonl", [*soft[:3], replace(soft[3], method="attention")])
    write_explanations(folder / "alien.jsonl", [replace(soft[0], note_id="alien")])
    lines = (folder / "pred.jsonl").read_text().splitlines(True)
    test = set(corpus.split("test").codes)
    only = [line for line in lines if json.loads(line)["note_id"] in test]
    (folder / "only.jsonl").write_text("".join(only))
    return folder


JUDGE = ["rationales", "critic", "--corpus", "corpus"]


def test_scores_that_know_leave_what_is_right(road):
    words_ = ["--pred", "pred.jsonl", "--scores", "scores.jsonl", "--out", "kept.jsonl", "--verdicts", "verdicts.jsonl"]
    done = icdrat(*JUDGE, *words_, cwd=road)
    assert done.returncode == 0 and "chosen on human marks" in done.stdout, done.stderr
    rows = [json.loads(line) for line in (road / "verdicts.jsonl").read_text().splitlines()]
    assert {r["verdict"]: r["score"] for r in rows} == dict(accepted=0.6, rejected=0.1)
    assert not any("text" in r for r in rows)
    n = len(read_rationales(road / "only.jsonl"))
    assert len(read_rationales(road / "kept.jsonl")) == n == sum(r["verdict"] == "rejected" for r in rows)
    by_hand = icdrat(*JUDGE, *words_[:-2], "--cut", 0.1, cwd=road)
    assert by_hand.stdout.splitlines()[-1] == "extractor, score 0.1, chosen by hand"


@pytest.mark.parametrize(
    "words_, parts",
    [
        (["--pred", "only.jsonl", "--scores", "scores.jsonl"], ["validation notes", "a cut by hand"]),
        (["--pred", "pred.jsonl", "--scores", "two.jsonl"], ["two.jsonl", "scores of 2 methods", "attention"]),
        (["--pred", "pred.jsonl", "--scores", "alien.jsonl", "--cut", 0.1], ["alien"]),
        (["--pred", "pred.jsonl", "--scores", "nowhere.jsonl", "--cut", 0.1], ["nowhere.jsonl"]),
        (["--pred", "only.jsonl", "--scores", "scores.jsonl", "--split", "train"], ["only.jsonl", "train"]),
        (["--pred", "pred.jsonl", "--scores", "scores.jsonl", "--beta", 0], ["--beta 0"]),
    ],
)
def test_bad_input_of_the_critic_ends_in_one_line(road, words_, parts):
    done = icdrat(*JUDGE, *words_, "--out", "x.jsonl", cwd=road)
    ends_in_one_line(done, *parts)
    assert not (road / "x.jsonl").exists()


ASK = ["rationales", "prompt", "--corpus", "corpus", "--split", "validation"]


def quotes_and_verdicts(asked):
    "A model that quotes one word for each code, and later rejects every quote"
    said = asked["messages"][-1]["content"]
    if "<quotes>" in said:
        return json.dumps(dict(accept=[], reject=[int(i) for i in re.findall(r"^(\d+): ", said, re.M)]))
    codes = re.findall(r"^(\S+): ", said.split("<codes>")[1], re.M)
    return json.dumps(dict(rationales=[dict(code=c, quotes=["patient"]) for c in codes]))


def test_nobody_is_criticised_unless_it_is_asked_for(road, llm):  # noqa: F811
    llm.script(quotes_and_verdicts)

    def ask(out, *more):
        done = icdrat(*ASK, "--out", out, *more, cwd=road, ICDRAT_LLM_URL=llm.url, ICDRAT_LLM_MODEL="m")
        assert done.returncode == 0, done.stderr
        return done.stdout, len(llm.requests)

    plain, n = ask("plain.jsonl", "--record", "plain.record")
    assert "Criticism" not in plain and not any("<quotes>" in r["messages"][-1]["content"] for r in llm.requests)
    store = ["--store", "plain.answers"]
    told, n_more = ask("judged.jsonl", *store, "--critic", "verdicts", "--record", "judged.record")
    assert "Criticism" in told and n_more > n and "critic" not in (road / "plain.record").read_text()
    before, after = (read_rationales(road / f"{name}.jsonl") for name in ("plain", "judged"))
    assert any(r.spans for r in before) and not any(r.spans for r in after) and len(before) == len(after)
    facts = json.loads((road / "judged.record").read_text().splitlines()[0])
    assert facts["critic"] == "verdicts 1" and len(facts["critic_sha256"]) == 64
    again, n_again = ask("again.jsonl", *store, "--critic", "verdicts", "--offline")
    assert n_again == n_more and read_rationales(road / "again.jsonl") == after


def test_the_budget_is_one_for_quotes_and_critic(road, llm):  # noqa: F811
    llm.script(lambda asked: completion(quotes_and_verdicts(asked), tokens=(400, 10)))
    words_ = ["--out", "short.jsonl", "--critic", "verdicts", "--concurrency", 1, "--budget", 4000]
    done = icdrat(*ASK, *words_, cwd=road, ICDRAT_LLM_URL=llm.url, ICDRAT_LLM_MODEL="m", ICDRAT_LLM_MAX_TOKENS="20")
    assert done.returncode == 0, done.stderr
    of_critic = sum("<quotes>" in r["messages"][-1]["content"] for r in llm.requests)
    assert 0 < of_critic < len(llm.requests) and 3000 < 410 * len(llm.requests) <= 4000
    assert re.search(r"[1-9]\d* rejected, ([1-9]\d*) undecided and kept \(\1 unanswered\)", done.stdout)


@pytest.mark.parametrize(
    "words_, parts",
    [
        (["--critic", "quotes_2"], ["quotes_2", "verdicts"]),
        (["--critic", "nowhere.txt"], ["nowhere.txt"]),
        (["--verdicts", "y.jsonl"], ["--critic verdicts"]),
        (["--critic", "verdicts", "--batch-out", "y.jsonl"], ["--batch-in"]),
    ],
)
def test_bad_words_about_a_critic_end_in_one_line(road, llm, words_, parts):  # noqa: F811
    done = icdrat(*ASK, "--out", "x.jsonl", *words_, cwd=road, ICDRAT_LLM_URL=llm.url, ICDRAT_LLM_MODEL="m")
    ends_in_one_line(done, *parts)
    assert llm.requests == [] and not (road / "x.jsonl").exists() and not (road / "y.jsonl").exists()
