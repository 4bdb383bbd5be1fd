"An answer that was kept is kept, whatever happens to the program, the disk or the file."

import json
import os
import stat

import pytest
from misbehaving import GOOD, NOTE, A, B, completion

from icdrat.data.exchange import BadLine, ForeignFolder
from icdrat.rationale.llm.store import (
    Asked,
    NotAnAnswer,
    ReadOnly,
    Reply,
    Store,
    StoreInUse,
    ErrorInside,
    gather,
    key,
    lacks,
    read_batch,
    reply,
    write_batch,
)
from icdrat.types import Span


def a(n, content=GOOD):
    return Reply(str(n), content, "stop", 7, 3, 0.5, "m", "2026-01-01T00:00:00Z")


def test_what_goes_in_comes_out_in_another_process(tmp_path):
    odd = ["", None, GOOD, "náuseas 🙂\u2028\n", "\x00"]
    with Store(tmp_path / "s") as store:
        for n, content in enumerate(odd):
            store.put(a(n, content))
    with Store(tmp_path / "s") as store:
        assert [store.get(str(n)) for n in range(len(odd))] == [a(n, c) for n, c in enumerate(odd)]


@pytest.mark.parametrize("lost", [1, 7, 60, 150])
def test_half_a_line_costs_one_answer(tmp_path, lost):
    with Store(tmp_path / "s") as store:
        for n in range(3):
            store.put(a(n))
    file = tmp_path / "s" / "answers.jsonl"
    os.truncate(file, file.stat().st_size - lost)
    with Store(tmp_path / "s") as store:
        assert list(store.replies) == ["0", "1"]
        store.put(a(2))
    assert len(file.read_text().splitlines()) == 3 and all(map(json.loads, file.read_text().splitlines()))


def test_a_full_disk_leaves_whole_lines_only(tmp_path, monkeypatch):
    write = os.write
    with Store(tmp_path / "s") as store:
        store.put(a(0))
        monkeypatch.setattr(os, "write", lambda file, line: write(file, line[:20]))
        with pytest.raises(OSError, match="space"):
            store.put(a(1))
        assert "1" not in store
        monkeypatch.undo()
        store.put(a(2))
    with Store(tmp_path / "s") as store:
        assert list(store.replies) == ["0", "2"]


def test_an_answer_is_on_the_disk_before_anything_else_happens(tmp_path, monkeypatch):
    pushed = []
    monkeypatch.setattr(os, "fsync", lambda file: pushed.append(os.fstat(file).st_size))
    with Store(tmp_path / "s") as store:
        store.put(a(0))
    assert pushed == [(tmp_path / "s" / "answers.jsonl").stat().st_size]


def test_two_writers_are_one_too_many_and_the_lock_dies_with_its_owner(tmp_path):
    with Store(tmp_path / "s"):
        with pytest.raises(StoreInUse, match="another program"):
            Store(tmp_path / "s")
    Store(tmp_path / "s").close()


@pytest.mark.filterwarnings("ignore:.*damaged")
def test_a_damaged_line_is_set_aside_and_costs_one_answer(tmp_path):
    with Store(tmp_path / "s") as store:
        store.put(a(0))
    file = tmp_path / "s" / "answers.jsonl"
    whole = file.read_text()
    file.write_text("not json\n" + whole)
    for _ in range(2):
        with Store(tmp_path / "s") as store:
            assert list(store.replies) == ["0"]
    assert file.read_text() == whole and (tmp_path / "s" / "damaged.jsonl").read_text() == "not json\n"


def test_half_a_character_in_an_answer_is_replaced_so_that_it_can_be_kept(tmp_path):
    got = reply("k", completion("\ud800 alone 🙂"))
    with Store(tmp_path / "s") as store:
        store.put(got)
    with Store(tmp_path / "s") as store:
        assert store.get("k") == got and got.content == "\ufffd alone 🙂"


def test_a_store_is_for_its_owner_and_not_for_git(tmp_path):
    os.umask(os.umask(0o022))
    Store(tmp_path / "s").close()
    assert [stat.S_IMODE((tmp_path / p).stat().st_mode) for p in ("s", "s/answers.jsonl")] == [0o700, 0o600]
    assert (tmp_path / "s" / ".gitignore").read_text() == "*\n"


def test_a_stranger_s_folder_and_a_record_are_left_alone(tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("years of work")
    with pytest.raises(ForeignFolder):
        Store(tmp_path / "home")
    (tmp_path / "record.jsonl").write_text(json.dumps(dict(key="k", content=GOOD, note_id="n1")) + "\n")
    with pytest.raises(ReadOnly):
        Store(tmp_path / "record.jsonl").put(a(0))
    assert [p.name for p in (tmp_path / "home").iterdir()] == ["thesis.txt"]


def test_a_key_knows_every_part_of_a_request():
    body = dict(
        model="m",
        messages=[dict(role="user", content="x")],
        temperature=0,
        seed=0,
        response_format=dict(type="json_object"),
    )
    keys = {
        key(body),
        key(body, 1),
        key(body | dict(messages=[dict(role="user", content="y")])),
        key(body | dict(messages=[dict(role="system", content="x")])),
        *(key(body | {k: None}) for k in body),
    }
    assert len(keys) == 4 + len(body) and key(json.loads(json.dumps(body))) == key(dict(reversed(body.items())))


@pytest.mark.parametrize("usage", [None, {}, {"prompt_tokens": None}, {"prompt_tokens": 7}])
def test_a_server_may_leave_out_what_it_does_not_know(usage):
    got = reply("k", dict(choices=[dict(message=dict(content="x"))], usage=usage))
    assert (got.content, got.finish, got.completion_tokens) == ("x", "", 0)
    for wrong in ({"prompt_tokens": "many"}, [1], "x"):
        with pytest.raises(NotAnAnswer):
            reply("k", dict(choices=[dict(message=dict(content="x"))], usage=wrong))


def test_a_batch_is_cut_at_both_limits_and_loses_nothing(tmp_path):
    bodies = {key(dict(seed=i)): dict(seed=i, text="x" * 100) for i in range(23)}
    for most, size in ((5, 10**9), (10**9, 1000), (1, 10**9)):
        files = write_batch(tmp_path / "b.jsonl", bodies, most, size)
        rows = [json.loads(line) for f in files for line in f.read_text().splitlines()]
        assert [r["custom_id"] for r in rows] == list(bodies) and all(
            len(f.read_text().splitlines()) <= most and f.stat().st_size <= size for f in files
        )
        assert all(len(r["custom_id"]) <= 64 and r["method"] == "POST" for r in rows)


def test_results_of_a_batch_come_in_any_order_with_failures_counted(tmp_path):
    done = dict(status_code=200, body=completion(GOOD))
    rows = [
        dict(custom_id="b", response=done, error=None),
        dict(custom_id="x", response=None, error=dict(code="expired")),
        dict(custom_id="y", response=dict(status_code=429, body={})),
        dict(custom_id="a", response=done),
    ]
    (tmp_path / "r.jsonl").write_text("\n".join(map(json.dumps, rows)))
    store = Store()
    assert dict(read_batch(tmp_path / "r.jsonl", store)) == dict(kept=2, known=0, failed=2) and sorted(
        store.replies
    ) == ["a", "b"]
    (tmp_path / "r.jsonl").write_text(
        json.dumps(dict(custom_id="z", response=dict(status_code=200, body={"hello": 1})))
    )
    with pytest.raises(BadLine, match="line 1.*output file"):
        read_batch(tmp_path / "r.jsonl", store)


def test_a_pair_with_an_open_question_is_not_a_pair_without_evidence():
    whole = Span(0, len(NOTE))
    asked = [Asked("n1", (A, B), whole, 0, a(0)), Asked("n1", (B,), whole, 0, None)]
    found = gather([NOTE], {"n1": [A, B]}, asked)
    assert [r.code for r in found.rationales] == [A] and (
        found.grounding.unanswered,
        found.grounding.without_evidence,
    ) == (1, 0)


def test_pieces_of_a_note_are_merged():
    cut = NOTE.text.index("2001")
    answers = [
        Asked("n1", (A,), Span(s, e), 0, a(s, json.dumps({"quotes": [q]})))
        for s, e, q in ((0, cut, "T2DM since"), (cut - 12, len(NOTE), "T2DM"))
    ]
    found = gather([NOTE], {"n1": [A]}, answers, everywhere=False)
    assert [NOTE.text[s.start : s.end] for s in found.rationales[0].spans] == ["T2DM since", "T2DM"]


@pytest.mark.parametrize(
    "choice, why",
    [
        (dict(message=dict(content=None)), "no_text"),
        (dict(message={}), "no_text"),
        (dict(message=dict(content=" \n")), "no_text"),
        (dict(message=dict(content=None, reasoning_content=GOOD)), "thought_only"),
        (dict(message=dict(content="", reasoning=GOOD)), "thought_only"),
        (dict(message=dict(content=[dict(type="thinking", thinking=[dict(type="text", text=GOOD)])])), "thought_only"),
        (dict(message=dict(content=f"<think>{GOOD}")), "thought_only"),
        (dict(message=dict(content=None, refusal="No.")), "refused"),
        (dict(message=dict(content=[dict(type="refusal", refusal="No.")])), "refused"),
        (dict(message=dict(content=None), finish_reason="content_filter"), "refused"),
        (dict(message=dict(role="assistant"), finish_reason="content_filter: PROHIBITED_CONTENT"), "refused"),
        (dict(message=dict(content="", reasoning_content="I think"), finish_reason="length"), "unfinished"),
        (dict(message=dict(content='{"rationales": ['), finish_reason="length"), "unfinished"),
        (dict(message=dict(content="Sorry, I cannot help with that.")), "unread"),
        (dict(message=dict(content="{}")), "unread"),
        (dict(message=dict(content="[]")), ""),
        (dict(message=dict(content=GOOD)), ""),
        (dict(message=dict(content=[dict(type="text", text=GOOD[:9]), dict(type="text", text=GOOD[9:])])), ""),
        (dict(message=dict(content='{"rationales": []}')), ""),
        (dict(message=dict(content=GOOD[:-20]), finish_reason="length"), ""),
    ],
)
def test_a_reply_without_an_answer_says_why(choice, why):
    assert lacks(reply("k", dict(choices=[choice])), [A, B]) == why


def test_a_pair_whose_reply_is_no_answer_is_left_out_and_counted():
    whole = Span(0, len(NOTE))
    asked = [Asked("n1", (A,), whole, 0, a(0)), Asked("n1", (B,), whole, 0, Reply("1", None, "content_filter"))]
    found = gather([NOTE], {"n1": [A, B]}, asked)
    g = found.grounding
    assert [r.code for r in found.rationales] == [A] and (g.unanswered, g.refused, g.malformed) == (1, 1, 0)
    assert "1 refused" in repr(g)
    broken = Asked("n1", (A, B), whole, 0, a(0, GOOD[: GOOD.index("r042")]))
    found = gather([NOTE], {"n1": [A, B]}, [broken])
    assert [r.code for r in found.rationales] == [A] and (found.grounding.cut, found.grounding.unanswered) == (1, 1)


def test_the_later_of_two_replies_counts_and_both_are_kept(tmp_path):
    with Store(tmp_path / "s") as store:
        store.put(a(0, None))
        store.put(a(0))
        assert store.get("0").content == GOOD
    with Store(tmp_path / "s") as store:
        assert store.get("0").content == GOOD
    assert len((tmp_path / "s" / "answers.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize(
    "body, code",
    [
        (dict(error=dict(message="busy", code=429), choices=None), 429),
        (dict(error=dict(message="x", code="503")), 503),
        ([dict(error=dict(code=400, status="INVALID_ARGUMENT"))], 400),
        (dict(error=dict(message="x", type="overloaded_error")), 503),
        (dict(error="no"), 400),
        (dict(choices=[dict(finish_reason="error", error=dict(code=502))]), 502),
    ],
)
def test_an_error_inside_an_answer_has_its_status(body, code):
    with pytest.raises(ErrorInside) as caught:
        reply("k", body)
    assert caught.value.code == code


def test_a_batch_without_answers_stays_open(tmp_path):
    def came(name, body):
        return json.dumps(dict(custom_id=name, response=dict(status_code=200, body=body))) + "\n"

    file, store = tmp_path / "r.jsonl", Store()
    file.write_text(came("a", completion(None)) + came("b", dict(error=dict(code=500))) + came("c", completion(GOOD)))
    assert read_batch(file, store) == {"kept": 1, "known": 0, "failed": 1, "without an answer": 1}
    file.write_text(came("a", completion(GOOD)) + came("c", completion(None)))
    assert read_batch(file, store) == {"kept": 1, "known": 1, "failed": 0}
    assert store.get("a").content == store.get("c").content == GOOD
    file.write_text(json.dumps(dict(custom_id="a", response="lost")) + "\n")
    assert read_batch(file, store)["failed"] == 1
