"The perturbation engine: the numbers of one question at a time, each asked once, and a table that survives a kill."

import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from test_networks import CODES, NETWORKS, random_coder, random_text

import icdrat.coder.local as local
from icdrat.coder.local import distinct, hidden_tokens, portion, touched, versions
from icdrat.data.exchange import ForeignFolder
from icdrat.evaluation.cards import cards
from icdrat.evaluation.faithfulness.curves import aopc, curve_inquiry, curves, scores_on
from icdrat.evaluation.faithfulness.emc import emc_faithfulness, emc_inquiry
from icdrat.evaluation.faithfulness.engine import (
    ADDITIVE,
    DEFINITIONS,
    FERRET,
    OVER,
    PORTION,
    Interview,
    note_faithfulness,
    note_inquiries,
    together,
)
from icdrat.evaluation.faithfulness.inquiry import ask, concluded
from icdrat.evaluation.faithfulness.eraser import faithfulness, rationale_inquiry
from icdrat.evaluation.faithfulness.ferret import ferret_inquiry
from icdrat.evaluation.faithfulness.naopc import naopc_inquiry
from icdrat.evaluation.faithfulness.stream import NoGold, OtherRun, all_faithfulness, dealt, read_parts
from icdrat.text import mark, mask_to_spans, readable, spans_to_mask
from icdrat.types import OPERATORS, Explanation, Note

ROOT = Path(__file__).resolve().parents[1]
KEY = ["note_id", "code", "method", "metric"]
TIGHT = dict(float64=1e-12, float32=1e-5)


def some_masks(rng, n_words, n=25):
    return (
        rng.random((n, n_words)) < rng.random((n, 1)) * rng.integers(0, 2, (n, 1)) * 1.3
    )  # nothing, some, nearly everything


def one_at_a_time(coder, text, masks, operator):
    return np.concatenate([coder([text], [mask_to_spans(m, readable(text))], operator) for m in masks])


def sigmoid(x):
    return 1 / (1 + np.exp(-np.asarray(x, float)))


# what has changed is read again


@pytest.mark.parametrize("dtype", TIGHT)
@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("name", NETWORKS)
def test_versions_are_what_one_at_a_time_gives(name, operator, dtype):
    for seed in range(3):
        rng, coder = np.random.default_rng(seed), random_coder(name, seed, dtype)
        text = random_text(rng, int(rng.integers(1, 90)))
        masks = some_masks(rng, len(readable(text)))
        slow = one_at_a_time(coder, text, masks, operator)
        for stretch in (1, 5, 32):
            np.testing.assert_allclose(
                sigmoid(versions(coder, text, masks, operator, stretch=stretch)), slow, atol=TIGHT[dtype], rtol=0
            )
        np.testing.assert_allclose(
            sigmoid(versions(coder, text, masks, operator, [2, 0])), slow[:, [2, 0]], atol=TIGHT[dtype], rtol=0
        )
        tight = coder.to("cpu", memory_mb=0.02)
        np.testing.assert_allclose(sigmoid(versions(tight, text, masks, operator)), slow, atol=TIGHT[dtype], rtol=0)


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("name", ["caml", "plm_icd"])
def test_a_word_that_holds_all_attention_can_be_taken_away(name, operator):
    "Corrected sums would have no digits left here"
    coder, rng = random_coder(name, 0, "float32"), np.random.default_rng(0)
    coder.network.head.query.data *= 40
    text = random_text(rng, 60)
    masks = np.eye(len(readable(text)), dtype=bool)
    np.testing.assert_allclose(
        sigmoid(versions(coder, text, masks, operator)), one_at_a_time(coder, text, masks, operator), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("name, share", [("caml", 0.35), ("multirescnn", 1.0), ("plm_icd", 0.35)])
def test_little_is_read_when_little_has_changed(name, share, monkeypatch):
    coder, rng = random_coder(name, 0), np.random.default_rng(0)
    text, read = random_text(rng, 400), []
    encoded = local.encoded
    for module in (local, sys.modules["icdrat.coder.network"]):
        monkeypatch.setattr(
            module,
            "encoded",
            lambda network, ids, real, precision: read.append(ids.numel()) or encoded(network, ids, real, precision),
        )
    masks = np.argsort(rng.permutation(len(readable(text))))[None] < np.arange(0, 60, 2)[:, None]
    versions(coder, text, masks, stretch=8)
    assert 0 < sum(read) < share * len(masks) * len(coder.reader.read(text)[0])


@pytest.mark.parametrize("name", ["caml", "plm_icd"])
@pytest.mark.parametrize("seed", range(10))
def test_a_hidden_word_hides_the_tokens_that_the_reader_would_hide(name, seed):
    coder, rng = random_coder(name, 0), np.random.default_rng(seed)
    text = "".join(rng.choice([*"abé7_ .,-(\n", "diabète ", "ß"], 60))
    offsets, masks = readable(text), some_masks(rng, len(readable(text)))
    for m, t in zip(masks, hidden_tokens(coder.reader, text, masks)):
        spans = mask_to_spans(m, offsets)
        ids, _ = coder.reader.read(text)
        np.testing.assert_array_equal(np.where(t, coder.reader.mask, ids), coder.reader.encode(text, spans)[0])
        np.testing.assert_array_equal(ids[~t], coder.reader.encode(text, spans, "delete")[0])
        np.testing.assert_array_equal(touched(m[None], offsets, offsets)[0], spans_to_mask(spans, offsets))


def test_two_windows_with_one_number_are_told_apart(monkeypatch):
    class Unlucky:
        def integers(self, *args, **kwargs):
            return np.zeros(3, np.uint64)  # every sum is the plain sum

    monkeypatch.setattr(local.np.random, "default_rng", lambda seed: Unlucky())
    rows = np.array([[0, 1, 2], [1, 0, 2], [0, 1, 2], [3, 0, 0]])
    first, which = distinct(rows)
    np.testing.assert_array_equal(rows[first][which], rows)
    assert len(first) == 3


def test_memory_bounds_what_is_taken_at_once():
    coder = random_coder("caml", 0)
    sizes = [portion(coder.to("cpu", memory_mb=mb), 2000, 50, 32) for mb in (0, 1, 64, 512)]
    assert sizes == sorted(sizes) and sizes[0] == 1 and sizes[-1] > 7 * sizes[-2]


def test_a_note_without_words_is_a_version_of_itself():
    for name in ("caml", "laat", "plm_icd"):
        coder = random_coder(name, 0)
        np.testing.assert_allclose(sigmoid(versions(coder, "", np.zeros((2, 0), bool))), coder(["", ""]), atol=1e-12)
        assert versions(coder, "w1 w2", np.zeros((0, 2), bool)).shape == (0, 3)


# side by side


def material(name, seed, n_words=(9, 40), dtype="float64"):
    "A coder, notes, and what two methods say of them"
    rng, coder = np.random.default_rng(seed), random_coder(name, seed, dtype)
    notes = [Note(f"n{i}", random_text(rng, n)) for i, n in enumerate(n_words)]
    hard, soft = [], []
    for note in notes:
        offsets = readable(note.text)
        for code in CODES:
            for m in "ab":
                hard.append(
                    mark(
                        note,
                        code,
                        mask_to_spans(np.isin(np.arange(len(offsets)), rng.choice(len(offsets), 2)), offsets),
                        m,
                    )
                )
                soft.append(Explanation(note.id, code, offsets, rng.normal(size=len(offsets)), m))
    gold = {n.id: [c for c in CODES if rng.random() < 0.6] for n in notes}
    return coder, notes, hard, soft, gold


INQUIRIES = dict(eraser=curve_inquiry, emc=emc_inquiry, ferret=ferret_inquiry, naopc=naopc_inquiry)


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("name", ["caml", "plm_icd", "laat"])
def test_the_engine_gives_the_numbers_of_one_at_a_time(name, operator):
    coder, notes, hard, soft, gold = material(name, 1, (8, 16))
    for note in notes:
        mine = [[x for x in said if x.note_id == note.id] for said in (hard, soft)]
        table, _ = note_faithfulness(coder, note, *mine, gold=CODES, operators=[operator], n_random=2)
        value = table.set_index(KEY[1:])["value"]
        known = {}

        def answers(masks):
            for m in masks:
                if m.tobytes() not in known:
                    known[m.tobytes()] = one_at_a_time(coder, note.text, m[None], operator)[0]
            return np.stack([known[m.tobytes()] for m in masks])

        for k, code in enumerate(CODES):
            answer = lambda masks: answers(masks)[:, k]
            for e in mine[1]:
                if e.code == code:
                    for make in INQUIRIES.values():
                        for metric, number in concluded(
                            make(
                                scores_on(e, note, readable(note.text)),
                                **(dict(threshold=0.4) if make is curve_inquiry else {}),
                            ),
                            answer,
                        ).items():
                            np.testing.assert_allclose(
                                value[code.value, e.method, f"{metric}@{operator}"],
                                number,
                                atol=1e-10 if "naopc" not in metric else 1e-6,
                                err_msg=metric,
                            )
            for r in mine[0]:
                if r.code == code:
                    for metric, number in concluded(
                        rationale_inquiry(spans_to_mask(r.spans, readable(note.text)), 0.4), answer
                    ).items():
                        np.testing.assert_allclose(
                            value[code.value, r.source, f"{metric}@{operator}"], number, atol=1e-12
                        )


@pytest.mark.parametrize("operator", OPERATORS)
def test_controls_and_measures_are_those_of_the_plain_functions(operator):
    coder, notes, hard, soft, gold = material("caml", 2)
    table = all_faithfulness(
        coder,
        notes,
        hard,
        soft,
        gold={n.id: CODES for n in notes},
        operators=[operator],
        over="gold",
        n_random=3,
        seed=5,
        progress=False,
    )
    plain = faithfulness(coder, notes, hard, n_random=3, seed=5, operator=operator, progress=False)
    area = aopc(curves(coder, notes, soft, n_random=3, seed=5, operator=operator, progress=False), operator)
    for other in (plain, area):
        both = other.merge(table, on=KEY)
        assert len(both) == len(other)
        np.testing.assert_allclose(both["value_x"], both["value_y"], atol=1e-12)
    assert {"random", "random@a", "whole_note", "empty"} <= set(table["method"])


class Counting:
    "A coder that remembers what it was asked"

    def __init__(self, coder):
        self.coder, self.codes, self.threshold, self.asked, self.largest = coder, coder.codes, coder.threshold, [], 0

    def __call__(self, texts, erased=None, operator="mask"):
        self.asked += [(t, tuple(e), operator) for t, e in zip(texts, erased)]
        self.largest = max(self.largest, len(texts))
        return self.coder(texts, erased, operator)


def test_no_question_is_asked_twice():
    coder, notes, hard, soft, gold = material("caml", 3, (7, 20))
    counting = Counting(coder)
    table = all_faithfulness(counting, notes, hard, soft, gold, n_random=2, batch_size=10, progress=False)
    assert len(counting.asked) == len(set(counting.asked)) and counting.largest == 10
    pd.testing.assert_frame_equal(
        table, all_faithfulness(coder, notes, hard, soft, gold, n_random=2, progress=False), atol=1e-9, rtol=0
    )


def test_a_forgetful_engine_asks_again_and_says_the_same():
    coder, notes, hard, soft, gold = material("caml", 4, (30,))
    known = dict(gold=gold, n_random=2, definitions=["eraser", "emc", "ferret"], progress=False)
    few, many = Counting(coder), Counting(coder)
    first = all_faithfulness(few, notes, hard, soft, **known)
    pd.testing.assert_frame_equal(
        first, all_faithfulness(many, notes, hard, soft, memory_mb=0, **known), atol=1e-12, rtol=0
    )
    assert len(many.asked) > len(few.asked)


def test_what_is_remembered_and_what_lies_on_the_table_is_bounded():
    coder, [note], _, soft, _ = material("caml", 5, (60,))
    interview, sizes = Interview(coder, note, [0, 1, 2], memory_mb=0.05), []
    asked = interview.__call__

    def watched(masks):
        sizes.append(masks.nbytes)
        return asked(masks)

    plan = note_inquiries(note, [], soft, {c: 0.4 for c in CODES}, ["emc", "ferret"], n_random=3)
    together([(i, CODES.index(c)) for c, _, i in plan], watched, memory_mb=0.2)
    assert max(sizes) <= 0.2 * 2**20 + PORTION * len(
        readable(note.text)
    )  # the bound and one inquiry that was let in below it
    assert len(interview.known) <= interview.room


def test_every_metric_has_its_card_and_stays_inside_its_bounds():
    coder, notes, hard, soft, gold = material("caml", 6, (9, 11, 20))
    table = all_faithfulness(coder, notes, hard, soft, gold, n_random=2, progress=False)
    shelf = cards("faithfulness").set_index("name")
    assert set(table["metric"]) == set(shelf.index)
    for metric, values in table.groupby("metric")["value"]:
        assert values.dropna().between(shelf.low[metric] - 1e-9, shelf.high[metric] + 1e-9).all(), metric


def test_the_pairs_are_those_asked_for():
    coder, notes, hard, soft, gold = material("caml", 7, (20, 30, 25))
    tables = {
        o: all_faithfulness(coder, notes, hard, soft, gold, ["eraser"], over=o, n_random=1, progress=False)
        for o in OVER
    }
    pairs = {o: set(zip(t.note_id, t.code)) for o, t in tables.items()}
    given = {(n.id, c.value) for n in notes for c, p in zip(CODES, coder([n.text])[0]) if p > coder.threshold}
    true = {(i, c.value) for i, cs in gold.items() for c in cs}
    assert pairs == dict(predicted=given, gold=true, both=given | true) and given != true
    for row in tables["both"].itertuples():
        assert (row.predicted, row.gold) == ((row.note_id, row.code) in given, (row.note_id, row.code) in true)
    flips = tables["both"].query("metric == 'eraser/decision_flip@mask'")
    assert flips["value"].isna().equals(~flips["predicted"])
    with pytest.raises(NoGold, match="corpus.codes"):
        all_faithfulness(coder, notes, hard, soft)


def test_one_explanation_alone_is_the_same():
    coder, notes, _, soft, _ = material("caml", 8)
    table = all_faithfulness(
        coder, notes, [], soft, {n.id: CODES for n in notes}, ["emc"], ["mask"], "gold", n_random=1, progress=False
    ).set_index(KEY)["value"]
    for e in soft:
        for metric, number in emc_faithfulness(coder, next(n for n in notes if n.id == e.note_id), e).items():
            assert table[e.note_id, e.code.value, e.method, f"{metric}@mask"] == pytest.approx(number, abs=1e-12)


# folders

RUN = dict(definitions=["eraser", "emc", "ferret"], n_random=2, progress=False)


def corpus():
    return material("caml", 9, (6, 14, 9, 12, 10))


CHILD = """
import os, signal, sys
sys.path.insert(0, {tests!r})
import test_engine as t
import icdrat.data.exchange as exchange
coder, notes, hard, soft, gold = t.corpus()
counting = t.Counting(coder)
"""
MID_NOTE = """
class Killed(t.Counting):
    def __call__(self, texts, erased=None, operator="mask"):
        if len({t for t, _, _ in self.asked} | set(texts)) == 3: os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(texts, erased, operator)
Killed.__name__ = "Counting"  # a coder that is none of ours is known by its name
counting = Killed(coder)
"""
MID_WRITE = """
import pandas as pd
write = pd.DataFrame.to_parquet
def half(self, path, **kw):
    write(self, path, **kw)
    if sum(1 for f in path.parent.glob('0*.parquet')) == 2:
        open(path, 'r+b').truncate(100); os.kill(os.getpid(), signal.SIGKILL)
pd.DataFrame.to_parquet = half
"""
GO = "t.all_faithfulness(counting, notes, hard, soft, gold, folder={folder!r}, **t.RUN)\n"


def child(script, *launch, **env):
    return subprocess.run(
        [sys.executable, *launch, script],
        env=os.environ | dict(PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1") | env,
        capture_output=True,
        text=True,
        timeout=600,
    )


@pytest.mark.parametrize("moment", [MID_NOTE, MID_WRITE], ids=["in the middle of a note", "while it wrote a part"])
def test_a_killed_run_goes_on_and_asks_nothing_of_finished_notes(moment, tmp_path):
    script, folder = tmp_path / "script.py", tmp_path / "run"
    script.write_text(CHILD.format(tests=str(ROOT / "tests")) + moment + GO.format(folder=str(folder)))
    assert child(script).returncode == -signal.SIGKILL
    assert len(list((folder / "notes").glob("0*.parquet"))) == 2
    assert len(list((folder / "notes").glob(".part*"))) == (moment is MID_WRITE)
    coder, notes, hard, soft, gold = corpus()
    counting, finished = Counting(coder), set(read_parts(folder)["note_id"])
    table = all_faithfulness(counting, notes, hard, soft, gold, folder=folder, **RUN)
    assert len(counting.asked) == len(set(counting.asked))
    assert {t for t, _, _ in counting.asked} == {n.text for n in notes if n.id not in finished} and len(finished) == 2
    pd.testing.assert_frame_equal(table, all_faithfulness(coder, notes, hard, soft, gold, **RUN), atol=1e-12, rtol=0)
    assert sorted(f.name for f in (folder / "notes").iterdir()) == [f"{i:06}.parquet" for i in range(5)]
    counting.asked.clear()
    pd.testing.assert_frame_equal(all_faithfulness(counting, notes, hard, soft, gold, folder=folder, **RUN), table)
    assert not counting.asked


LAUNCH = [
    "-m",
    "accelerate.commands.launch",
    "--multi_gpu",
    "--num_processes",
    "2",
    "--num_machines",
    "1",
    "--mixed_precision",
    "no",
    "--dynamo_backend",
    "no",
    "--main_process_port",
    "0",
]
TOGETHER = """
rank = os.environ["RANK"]
table = t.all_faithfulness(coder, notes, hard, soft, gold, folder={folder!r}, **t.RUN)
table.to_parquet({folder!r} + f'/table{{rank}}.parquet')
t.all_faithfulness(coder, notes, hard, soft, gold, **t.RUN).to_parquet({folder!r} + f'/sent{{rank}}.parquet')
try: t.all_faithfulness(coder, notes, hard, soft, gold, folder={folder!r}, **(t.RUN | dict(n_random=3)))
except t.OtherRun as e: open({folder!r} + f'/refused{{rank}}.txt', 'w').write(str(e))
"""


def test_two_processes_find_what_one_would(tmp_path):
    script, folder = tmp_path / "script.py", tmp_path / "run"
    script.write_text(CHILD.format(tests=str(ROOT / "tests")) + TOGETHER.format(folder=str(folder)))
    done = child(script, *LAUNCH, ACCELERATE_USE_CPU="1")
    assert done.returncode == 0, done.stderr[-3000:]
    coder, notes, hard, soft, gold = corpus()
    alone = all_faithfulness(coder, notes, hard, soft, gold, **RUN)
    for kind in ("table", "sent"):
        for rank in (0, 1):
            pd.testing.assert_frame_equal(pd.read_parquet(folder / f"{kind}{rank}.parquet"), alone, atol=1e-12, rtol=0)
    for rank in (0, 1):
        assert "n_random (2 there, 3 now)" in (folder / f"refused{rank}.txt").read_text()


@pytest.mark.parametrize("n, processes", [(7, 1), (7, 2), (3, 5), (0, 2)])
def test_every_note_is_dealt_once_and_the_long_ones_apart(n, processes):
    lengths = np.random.default_rng(n).permutation(n).tolist()
    hands = [dealt(lengths, k, processes) for k in range(processes)]
    assert sorted(i for h in hands for i in h) == list(range(n))
    assert max(map(len, hands)) - min(map(len, hands)) <= 1
    assert [lengths[h[0]] for h in hands if h] == sorted(lengths)[::-1][: min(n, processes)]


def test_a_folder_of_another_run_or_of_other_things_is_refused(tmp_path):
    coder, notes, hard, soft, gold = corpus()
    first = dict(definitions=["emc"], operators=["mask"], n_random=1, progress=False)
    all_faithfulness(coder, notes, hard, soft, gold, folder=tmp_path / "run", **first)
    other = random_coder("caml", 10)
    for c, n, h, s, g, options, named in [
        (other, notes, hard, soft, gold, first, "coder"),
        (coder, notes[:4] + [Note("n4", notes[4].text + " ")], hard, soft, gold, first, "notes"),
        (coder, notes, hard[1:], soft, gold, first, "rationales"),
        (coder, notes, hard, soft[1:], gold, first, "explanations"),
        (coder, notes, hard, soft, gold | dict(n0=CODES[:1], n1=CODES[:1]), first, "gold"),
        (coder, notes, hard, soft, gold, first | dict(seed=1), r"seed \(0 there, 1 now\)"),
        (coder, notes, hard, soft, gold, first | dict(over="gold"), "over"),
    ]:
        with pytest.raises(OtherRun, match=named):
            all_faithfulness(c, n, h, s, g, folder=tmp_path / "run", **options)
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(ForeignFolder, match="faithfulness.json"):
        all_faithfulness(coder, notes, hard, soft, gold, folder=tmp_path, **first)
    assert (tmp_path / "thesis.tex").read_text() == "mine"


def test_the_folder_of_restricted_notes_is_private_and_holds_no_word_of_them(tmp_path):
    coder, notes, hard, soft, gold = corpus()
    secret = [Note(n.id, n.text, restricted=True) for n in notes]
    before = os.umask(0o022)
    try:
        all_faithfulness(
            coder, secret, hard, soft, gold, ["emc"], ["mask"], n_random=1, folder=tmp_path / "run", progress=False
        )
    finally:
        os.umask(before)
    modes = {f.name: stat.S_IMODE(f.stat().st_mode) for f in [tmp_path / "run", *(tmp_path / "run").rglob("*")]}
    assert modes["run"] == modes["notes"] == 0o700 and modes["faithfulness.json"] == modes["000000.parquet"] == 0o600
    assert (tmp_path / "run" / ".gitignore").read_text() == "*\n"
    assert not any(
        w in json.dumps(json.loads((tmp_path / "run" / "faithfulness.json").read_text())) for w in notes[0].text.split()
    )


def test_faithfulness_definitions_are_all_there():
    assert set(DEFINITIONS) - ADDITIVE - {*FERRET} | {"ferret"} == set(INQUIRIES)
    coder, [note], _, soft, _ = material("caml", 11, (10,))
    for d, make in INQUIRIES.items():
        found = concluded(make(soft[0].scores), lambda masks: ask(coder, note, masks)[:, 0])
        assert all(name.partition("/")[0].removesuffix("_unfloored").removesuffix("_deciles") == d for name in found)
