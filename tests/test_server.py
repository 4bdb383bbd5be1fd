"Servers misbehave in every way; nothing is lost, nothing is asked twice, and no word goes where it must not."

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from email.utils import format_datetime
from datetime import datetime, timedelta, timezone

import pytest
from misbehaving import GOOD, NOTE, TEXT, A, B, Half, completion, llm, many  # noqa: F401

from icdrat.rationale.llm.grounding import Grounding
from icdrat.rationale.mention.linker import NoCodesForNote
from icdrat.rationale.llm.prompt import Manner, Shot, examples
from icdrat.rationale.llm.server import (
    GIVE_UP,
    KeyRefused,
    NoModel,
    NoServer,
    NothingAnswered,
    Server,
    ServerFailed,
    at_most,
    batch,
    facts,
    plan,
    prompt,
    quoted,
    server,
)
from icdrat.rationale.llm.store import (
    ReadOnly,
    RestrictedNote,
    Store,
    read_answers,
    read_batch,
    write_answers,
    write_record,
    gather,
)
from icdrat.data.exchange import read_lines, read_rationales
from icdrat.data.vignettes import vignettes
from icdrat.types import BadInput, Note, Rationale, Span

SECRETS = ("hemoptysis", "T2DM", "sk-secret", "náuseas")


def refused(error, match, call):
    with pytest.raises(error, match=match) as caught:
        call()
    assert isinstance(caught.value, BadInput) and caught.value.__suppress_context__
    message = str(caught.value)
    assert "\n" not in message
    assert not any(word in message for word in SECRETS)


def placed(rationales):
    return {r.code: [TEXT[s.start : s.end] for s in r.spans] for r in rationales}


# ---- what is sent ----


def test_the_request_is_deterministic_holds_note_then_codes_and_a_schema(llm):  # noqa: F811
    llm(GOOD)
    llm(GOOD)
    asked, again = llm.requests
    assert asked == again and (asked["temperature"], asked["seed"], asked["model"]) == (0, 0, "m")
    assert asked["key"] == "Bearer sk-secret"
    form = asked["response_format"]
    assert form["type"] == "json_schema" and form["json_schema"]["strict"]
    assert form["json_schema"]["schema"]["properties"]["rationales"]["items"]["properties"]["code"]["enum"] == [
        "E11.9",
        "R04.2",
    ]
    user = asked["messages"][-1]["content"]
    assert 0 <= user.index(TEXT) < user.index("E11.9: ") < user.index("R04.2: Hemoptysis")


def test_options_add_fields_and_take_them_away(llm):  # noqa: F811
    llm(GOOD, options={"seed": None, "max_tokens": None, "max_completion_tokens": 9}, format="json_object_schema")
    [asked] = llm.requests
    assert "seed" not in asked and "max_tokens" not in asked and asked["max_completion_tokens"] == 9
    assert asked["response_format"]["type"] == "json_object" and "schema" in asked["response_format"]


def test_a_note_without_codes_or_words_costs_no_request(llm):  # noqa: F811
    rationales, g = llm(GOOD, codes=())
    assert rationales == [] and g == Grounding() and g.rate == 0
    rationales, g = llm(GOOD, notes=[Note("n1", " \n ")])
    assert [r.spans for r in rationales] == [(), ()] and g.without_candidate == 2
    assert llm.requests == []


def test_equal_questions_are_asked_and_paid_once(llm):  # noqa: F811
    rationales, g = llm(GOOD, notes=[Note("a", TEXT), Note("b", TEXT)])
    assert len(llm.requests) == 1 and len(rationales) == 4
    assert (g.questions, g.requests, g.prompt_tokens, g.exact) == (2, 1, 7, 2)


# ---- what comes back ----


def test_a_good_answer_is_grounded_and_counted(llm):  # noqa: F811
    rationales, g = llm(GOOD, price=(1e6, 2e6))
    assert placed(rationales) == {A: ["T2DM", "T2DM"], B: ["hemoptysis"]}
    assert {(r.source, r.note_id) for r in rationales} == {("llm", "n1")}
    assert (g.notes, g.asked, g.quotes, g.grounded, g.rate, g.prompt_tokens, g.completion_tokens, g.cost) == (
        1,
        2,
        2,
        2,
        1.0,
        7,
        3,
        13.0,
    )
    assert (g.ungrounded, g.without_evidence, g.invented, g.malformed) == (0, 0, 0, 0)
    assert g.seconds > 0 and "100%" in repr(g)


@pytest.mark.parametrize(
    "script, retries",
    [
        ([(429, {})], 1),
        ([(429, {"retry-after-ms": None, "Retry-After": "0"})], 1),
        ([(500, {}), (502, {}), (503, {}), (408, {})], 4),
        ([Half(GOOD)], 1),
        ([b'{"choices": [{"mess', b"<html>busy</html>", b""], 3),
    ],
    ids=["429", "429 with Retry-After", "5xx and 408", "half a body", "wrong JSON"],
)
def test_what_passes_is_asked_again(llm, script, retries, monkeypatch):  # noqa: F811
    monkeypatch.setattr("icdrat.rationale.llm.server.random.uniform", lambda low, high: 0.01)
    rationales, g = llm(*script, GOOD)
    assert placed(rationales)[B] == ["hemoptysis"]
    assert (g.retries, g.requests, len(llm.requests)) == (retries, 1, retries + 1)


def test_a_server_that_asks_for_time_gets_it(llm):  # noqa: F811
    soon = format_datetime(datetime.now(timezone.utc) + timedelta(seconds=2), usegmt=True)
    for header in ("0.4", soon):
        start = time.perf_counter()
        llm((429, {"retry-after-ms": None, "Retry-After": header}), GOOD)
        assert 0.4 <= time.perf_counter() - start < 5


def test_a_busy_server_is_left_alone_by_all(llm):  # noqa: F811
    arrived = []

    def busy(asked):
        arrived.append(time.perf_counter())
        return (429, {"retry-after-ms": None, "Retry-After": "0.5"}) if len(arrived) == 1 else GOOD

    llm(busy, notes=many(12), asking=dict(concurrency=2))
    waited = [t for t in arrived if arrived[0] + 0.1 < t < arrived[0] + 0.45]
    assert len(arrived) == 13 and len(waited) == 0


def test_a_hanging_server_is_given_up_in_time(llm):  # noqa: F811
    start = time.perf_counter()
    refused(NoServer, "no answer within 0.2 s", lambda: llm(1.0, timeout=0.2, retries=0))
    assert time.perf_counter() - start < 0.9


def test_a_server_that_trickles_is_given_up_in_time():
    "A time-out that starts anew with every byte would never end"
    with socket.create_server(("127.0.0.1", 0)) as listening:
        there = Server(f"http://127.0.0.1:{listening.getsockname()[1]}/v1", "m", timeout=0.5, retries=0)
        program = (
            f"import socket, time; s = socket.socket(fileno={listening.fileno()}); c, _ = s.accept()\n"
            "c.send(b'HTTP/1.1 200 OK\\r\\nContent-Length: 1000\\r\\n\\r\\n')\n"
            "for _ in range(100): c.send(b' '); time.sleep(.1)"
        )
        trickle = subprocess.Popen([sys.executable, "-c", program], pass_fds=[listening.fileno()])
        start = time.perf_counter()
        refused(NoServer, "no answer within 0.5 s", lambda: prompt([NOTE], {"n1": [A]}, there, progress=False))
        assert time.perf_counter() - start < 3
        trickle.kill()
        trickle.wait()


@pytest.mark.parametrize(
    "answer",
    [
        "x" * 10_000_000,
        json.dumps({"rationales": [{"code": "E11.9", "quotes": ["T2DM"] * 1_000_000}]}),
        "{" * 10_000_000,
    ],
    ids=["letters", "quotes", "braces"],
)
def test_ten_megabytes_are_no_answer(llm, answer, tmp_path):  # noqa: F811
    start = time.perf_counter()
    try:
        rationales, g = llm(answer, codes=(A,), asking=dict(store=tmp_path / "s"))
        assert g.cut == 1 and placed(rationales) == {A: ["T2DM", "T2DM"]}
    except NothingAnswered:
        assert "T2DM" not in answer
    assert time.perf_counter() - start < 30
    assert (tmp_path / "s" / "answers.jsonl").stat().st_size < 5_000_000


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"choices": []},
        {"choices": None},
        {"choices": [{}]},
        {"choices": [{"message": None}]},
        {"hello": "world"},
        [1],
    ],
)
def test_a_server_of_another_kind_is_named_at_once(llm, content):  # noqa: F811
    refused(ServerFailed, "not in the OpenAI form", lambda: llm(content))
    assert len(llm.requests) == 1


@pytest.mark.parametrize(
    "body, match",
    [
        (b'data: {"choices": [{"delta": {"content": "x"}}]}\n\ndata: [DONE]\n\n', "word by word.*ICDRAT_LLM_OPTIONS"),
        (b": ping\n\ndata: {}\n\n", "word by word"),
    ],
)
def test_an_answer_that_comes_word_by_word_is_named_at_once(llm, body, match):  # noqa: F811
    refused(ServerFailed, match, lambda: llm(body))
    assert len(llm.requests) == 1


@pytest.mark.parametrize(
    "status, error, match",
    [
        (401, KeyRefused, "401.*OPENAI_API_KEY"),
        (403, KeyRefused, "403"),
        (404, NoModel, "404.*ICDRAT_LLM_MODEL"),
        (400, ServerFailed, "400.*CONTEXT"),
        (422, ServerFailed, "422.*FORMAT"),
        (307, ServerFailed, "elsewhere .status 307.*ICDRAT_LLM_URL"),
        (429, ServerFailed, "429"),
        (500, ServerFailed, "status 500"),
    ],
)
def test_a_refusal_is_one_line_without_the_servers_own_words(llm, status, error, match):  # noqa: F811
    refused(
        error,
        f"^127.0.0.1:[0-9]+, model 'm', note n1: .*{match}",
        lambda: llm((status, {"Location": "http://192.0.2.1/v1"}), retries=0),
    )
    assert len(llm.requests) == 1


def test_a_server_that_keeps_failing_is_given_up(llm):  # noqa: F811
    refused(ServerFailed, "status 500", lambda: llm((500, {}), retries=2))
    assert len(llm.requests) == 3
    llm.requests.clear()
    refused(ServerFailed, "status 500", lambda: llm((500, {}), retries=0, notes=many(30), asking=dict(concurrency=1)))
    assert len(llm.requests) == GIVE_UP


def test_a_refused_key_stops_everything(llm):  # noqa: F811
    refused(KeyRefused, "401", lambda: llm(GOOD, (401, {}), notes=many(20), asking=dict(concurrency=1)))
    assert len(llm.requests) == 2


def test_one_question_that_fails_is_left_out_and_said(llm):  # noqa: F811
    rationales, g = llm(GOOD, (400, {}), GOOD, notes=many(5), asking=dict(concurrency=1))
    assert (g.failed, g.unanswered, len(rationales), g.without_evidence) == (1, 2, 8, 0)
    assert {r.note_id for r in rationales} == {"n0", "n2", "n3", "n4"}
    assert "1 failed" in repr(g)


def test_nobody_listening_is_named_soon():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        free = s.getsockname()[1]
    start = time.perf_counter()
    refused(
        NoServer,
        f"127.0.0.1:{free}.*is the server running",
        lambda: prompt(
            many(50), {n.id: [A] for n in many(50)}, Server(f"http://127.0.0.1:{free}/v1", "m"), progress=False
        ),
    )
    assert time.perf_counter() - start < 5


# ---- the store, and being stopped ----


def test_what_was_answered_is_not_asked_again(llm, tmp_path):  # noqa: F811
    first = llm(GOOD, notes=many(6), asking=dict(store=tmp_path / "s"))
    again = llm(GOOD, notes=many(8), asking=dict(store=tmp_path / "s"))
    assert len(llm.requests) == 8 and (again[1].replayed, again[1].requests) == (6, 2)
    assert again[0][:12] == first[0]


def test_another_request_is_another_question(llm, tmp_path):  # noqa: F811
    ways = [dict(), dict(seed=1), dict(max_tokens=9), dict(options={"top_p": 0.5}), dict(format="none")]
    for way in ways:
        llm(GOOD, asking=dict(store=tmp_path / "s"), **way)
    for manner in (Manner(level="sentence"), Manner(one_code=True)):
        llm(GOOD, codes=(A,), asking=dict(store=tmp_path / "s", manner=manner))
    assert len(llm.requests) == len(ways) + 2


def test_a_budget_stops_cleanly_and_the_next_run_goes_on(llm, tmp_path):  # noqa: F811
    notes, asking = many(10), dict(store=tmp_path / "s", concurrency=2)
    codes_of = {n.id: (A, B) for n in notes}
    cost = max(at_most(b, llm.server()) for b in plan(notes, codes_of, llm.server()).bodies.values())
    rationales, g = llm(completion(GOOD, (cost // 2, 10)), notes=notes, asking=asking | dict(budget=3 * cost))
    assert g.failed == 0 and 4 <= g.requests < 10 and g.prompt_tokens + g.completion_tokens <= 3 * cost
    assert g.unanswered == 2 * (10 - g.requests) and len(rationales) == 2 * g.requests
    rationales, g = llm(GOOD, notes=notes, asking=asking)
    assert g.unanswered == 0 and len(rationales) == 20 and len(llm.requests) == 10
    with pytest.raises(NothingAnswered, match="budget of 5 tokens"):
        llm(GOOD, asking=dict(budget=5))


VICTIM = """
import sys
from misbehaving import A, B, many
from icdrat.rationale.llm.server import Server, prompt
notes = many(40)
codes = {n.id: (A, B) for n in notes}
server = Server(sys.argv[1], 'm', timeout=5.)
prompt(notes, codes, server, store=sys.argv[2], concurrency=3, progress=False)
"""


def test_a_run_that_is_killed_loses_nothing_and_asks_nothing_twice(llm, tmp_path):  # noqa: F811
    def slowly(asked):
        time.sleep(0.02)
        return GOOD

    llm.script(slowly)
    tests = os.path.dirname(__file__)
    victim = subprocess.Popen(
        [sys.executable, "-c", VICTIM, llm.url, tmp_path / "s"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([tests, os.path.dirname(tests)])},
    )
    answers = tmp_path / "s" / "answers.jsonl"
    while not (answers.exists() and answers.read_bytes().count(b"\n") >= 17):
        assert victim.poll() is None
        time.sleep(0.002)
    os.kill(victim.pid, signal.SIGKILL)
    victim.wait()
    time.sleep(0.1)
    n_asked, n_kept = len(llm.requests), answers.read_bytes().count(b"\n")
    assert 17 <= n_kept <= n_asked <= n_kept + 3, "only what was on its way is not kept"
    rationales, g = llm(slowly, notes=many(40), asking=dict(store=tmp_path / "s"))
    assert (g.replayed, g.requests, len(llm.requests)) == (n_kept, 40 - n_kept, n_asked + 40 - n_kept)
    times = Counter(r["messages"][-1]["content"] for r in llm.requests)
    assert len(times) == 40 and sum(times.values()) - 40 == n_asked - n_kept
    whole, _ = llm(GOOD, notes=many(40))
    assert rationales == whole


def test_a_run_is_replayed_without_a_server(llm, tmp_path):  # noqa: F811
    first = llm(GOOD, notes=many(3), asking=dict(store=tmp_path / "s"))
    nowhere = Server("http://127.0.0.1:9/v1", "m")
    again = prompt(many(3), {n.id: (A, B) for n in many(3)}, nowhere, store=tmp_path / "s", offline=True)
    assert again[0] == first[0] and again[1].requests == 0 and again[1].seconds == first[1].seconds
    with pytest.raises(NothingAnswered, match="none of 1 questions"):
        prompt([Note("x", "other")], {"x": [A]}, nowhere, store=tmp_path / "s", offline=True)


def test_a_record_is_not_asked_to_keep_what_is_paid_for(llm, tmp_path):  # noqa: F811
    llm(GOOD, asking=dict(store=tmp_path / "s"))
    (tmp_path / "record.jsonl").write_bytes((tmp_path / "s" / "answers.jsonl").read_bytes())
    with pytest.raises(ReadOnly):
        llm(GOOD, notes=many(2), asking=dict(store=tmp_path / "record.jsonl"))
    assert len(llm.requests) == 1


def test_it_works_where_an_event_loop_is_running(llm):  # noqa: F811
    import asyncio

    async def notebook():
        return llm(GOOD)

    assert len(asyncio.run(notebook())[0]) == 2


# ---- several answers ----


def test_the_agreement_of_several_answers_is_a_score(llm):  # noqa: F811
    def draw(asked):
        return json.dumps(
            {"rationales": [{"code": "E11.9", "quotes": ["T2DM since"] if asked["seed"] == 3 else ["T2DM"]}]}
        )

    llm.script(draw)
    found = quoted([NOTE], {"n1": [A]}, llm.server(), samples=4, progress=False)
    [soft] = found.explanations
    scores = [(TEXT[s:e], float(v)) for (s, e), v in zip(soft.offsets.tolist(), soft.scores) if v]
    assert scores == [("T2DM", 1.0), ("since", 0.25), ("T2DM", 0.75)]
    assert placed(found.rationales) == {A: ["T2DM", "T2DM"]}
    assert {r["temperature"] for r in llm.requests} == {0.7} and {r["seed"] for r in llm.requests} == {0, 1, 2, 3}


def test_draws_are_questions_of_their_own_even_without_a_seed(llm, tmp_path):  # noqa: F811
    llm(GOOD, options={"seed": None}, asking=dict(samples=3, store=tmp_path / "s"))
    llm(GOOD, options={"seed": None}, asking=dict(samples=5, store=tmp_path / "s"))
    assert len(llm.requests) == 5


# ---- batches and records ----


def test_a_batch_gives_what_asking_gives(llm, tmp_path):  # noqa: F811
    notes, there = many(7), llm.server()
    codes_of = {n.id: (A, B) for n in notes}
    live = llm(GOOD, notes=notes)[0]
    [file], n = batch(tmp_path / "b.jsonl", notes, codes_of, there)
    assert n == 7 and file.stat().st_mode & 0o077 == 0
    rows = [row for _, row in read_lines(file, ["custom_id", "method", "url", "body"])]
    back = [
        dict(id="x", custom_id=r["custom_id"], response=dict(status_code=200, body=completion(GOOD)), error=None)
        for r in rows[::-1]
    ]
    (tmp_path / "r.jsonl").write_text("\n".join(map(json.dumps, back)))
    with Store(tmp_path / "s") as store:
        assert read_batch(tmp_path / "r.jsonl", store)["kept"] == 7
        assert batch(tmp_path / "c.jsonl", notes, codes_of, there, store=store) == ([], 0)
        assert prompt(notes, codes_of, there, store=store, offline=True)[0] == live


def test_records_replay_without_the_model_and_hold_what_they_should(llm, tmp_path):  # noqa: F811
    llm.script(GOOD)
    codes_of = {n.id: (A, B) for n in many(3)}
    found = quoted(many(3), codes_of, llm.server(), progress=False)
    known = facts(found, llm.server())
    write_record(tmp_path / "o.jsonl", found.rationales, **known)
    text = (tmp_path / "o.jsonl").read_text()
    assert not any(w in text for w in SECRETS) and read_rationales(tmp_path / "o.jsonl", many(3)) == found.rationales
    assert all(
        row["model"] == "m" and len(row["prompt_sha256"]) == 64 and row["date"].endswith("Z")
        for row in map(json.loads, text.splitlines())
    )
    write_answers(tmp_path / "a.jsonl", found.asked, many(3), **known)
    again = gather(many(3), codes_of, read_answers(tmp_path / "a.jsonl"))
    assert again.rationales == found.rationales and again.grounding.exact == found.grounding.exact
    assert prompt(many(3), codes_of, llm.server(), store=tmp_path / "a.jsonl", offline=True)[0] == found.rationales


# ---- restricted notes ----


@pytest.mark.parametrize(
    "url",
    [
        "http://llm.invalid/v1",
        "https://api.openai.com/v1",
        "http://10.0.0.1/v1",
        "http://127.0.0.1.example.org/v1",
        "http://0.0.0.0/v1",
    ],
)
def test_a_restricted_note_goes_nowhere_else(url, monkeypatch, tmp_path):
    monkeypatch.delenv("ICDRAT_APPROVED_HOSTS", raising=False)
    monkeypatch.setattr("icdrat.rationale.llm.server._client", lambda server: pytest.fail("a client was made"))
    notes = [NOTE, Note("m1", TEXT, "mimic", restricted=True)]
    codes_of = {"n1": [A], "m1": [A]}
    for ask in (
        lambda: prompt(notes, codes_of, Server(url, "m"), progress=False),
        lambda: batch(tmp_path / "b.jsonl", notes, codes_of, Server(url, "m")),
    ):
        with pytest.raises(
            RestrictedNote, match="m1: the note is restricted.*PhysioNet.*third-party.*ICDRAT_APPROVED_HOSTS"
        ) as caught:
            ask()
        assert "hemoptysis" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_restricted_example_goes_nowhere_else_either(monkeypatch):
    monkeypatch.setattr("icdrat.rationale.llm.server._client", lambda server: pytest.fail("a client was made"))
    taught = Note("m1", TEXT, "mimic", restricted=True)
    shot = Shot(taught, Span(0, len(TEXT)), (Rationale("m1", A, (Span(19, 23),), "human"),))
    with pytest.raises(RestrictedNote, match="m1: the note of a worked example"):
        prompt([NOTE], {"n1": [A]}, Server("https://api.openai.com/v1", "m"), Manner(pool=(shot,), n_shots=1))


@pytest.mark.parametrize(
    "named, goes",
    [
        ("", False),
        ("llm.invalid", True),
        ("x.invalid, LLM.invalid:8000", True),
        ("invalid", False),
        ("llm.invalid.org", False),
        ("*", False),
    ],
)
def test_only_a_host_that_the_user_names_is_approved(named, goes, monkeypatch):
    from icdrat.rationale.llm.server import check_sendable

    monkeypatch.setenv("ICDRAT_APPROVED_HOSTS", named)
    note = Note("m1", TEXT, restricted=True)
    there = Server("http://llm.invalid:8000/v1", "m")
    if goes:
        check_sendable([note], {"m1": [A]}, there)
    else:
        with pytest.raises(RestrictedNote):
            check_sendable([note], {"m1": [A]}, there)


def test_a_restricted_note_is_asked_about_on_this_machine_past_every_proxy(llm, monkeypatch):  # noqa: F811
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    _, g = llm(GOOD, notes=[Note("m1", TEXT, restricted=True)])
    assert g.grounded == 2


def test_keys_and_text_reach_no_log(llm, caplog, capfd, tmp_path):  # noqa: F811
    with caplog.at_level(logging.DEBUG):
        for name in ("openai", "httpx", "httpcore", "asyncio"):
            caplog.set_level(logging.DEBUG, name)
        llm((500, {}), (429, {}), GOOD, notes=many(3), asking=dict(store=tmp_path / "s"))
        with pytest.raises(BadInput):
            llm((400, {}), notes=[Note("z", TEXT)])
    out, err = capfd.readouterr()
    told = caplog.text + out + err
    assert not any(w in told for w in (*SECRETS, "emoptysis"))
    assert logging.getLogger("openai").level == logging.DEBUG, "levels are put back"


def test_the_things_that_travel_do_not_print_what_they_hold(llm):  # noqa: F811
    llm.script(
        json.dumps(
            {
                "rationales": [
                    {"code": "E11.9", "quotes": ["hemoptysis T2DM náuseas"]},
                    {"code": "I10", "quotes": ["T2DM"]},
                ]
            }
        )
    )
    found = quoted([NOTE], {"n1": [A]}, llm.server(), progress=False)
    made = plan([NOTE], {"n1": [A]}, llm.server())
    assert [lost.why for lost in found.grounding.lost] == ["ungrounded", "invented"] and found.grounding.lost[
        1
    ].words == "T2DM"
    shown = [
        found,
        found.grounding,
        found.grounding.lost,
        found.asked,
        made,
        made.asked,
        llm.server(),
        Manner(pool=examples(vignettes().split("train"))),
    ]
    assert not any(w in " ".join(map(repr, shown)) for w in (*SECRETS, "dyslipidemia"))


# ---- who is asked ----


def test_forgotten_codes_are_named_before_anything_is_sent(llm):  # noqa: F811
    with pytest.raises(NoCodesForNote, match="^n2: "):
        prompt([NOTE, Note("n2", TEXT)], {"n1": [A]}, llm.server(), progress=False)
    assert llm.requests == []


def test_the_environment_names_the_server(monkeypatch):
    for name in ("URL", "MODEL", "CONTEXT", "FORMAT", "OPTIONS", "PRICE", "MAX_TOKENS", "TIMEOUT"):
        monkeypatch.delenv(f"ICDRAT_LLM_{name}", raising=False)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(NoServer, match="ICDRAT_LLM_URL is not set"):
        server()
    monkeypatch.setenv("ICDRAT_LLM_URL", "http://localhost:8000/v1")
    with pytest.raises(NoServer, match="ICDRAT_LLM_MODEL is not set"):
        server()
    assert server(model="m").key == "none"
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret\n")
    assert server(model="m", timeout=3).key == "sk-secret"
    assert "sk-secret" not in repr(server(model="m"))
    for name, value in dict(
        CONTEXT="4096", OPTIONS='{"top_p": 1}', PRICE="1, 2", FORMAT="none", MAX_TOKENS="99", TIMEOUT="7"
    ).items():
        monkeypatch.setenv(f"ICDRAT_LLM_{name}", value)
    made = server(model="m")
    assert (made.context, made.options, made.price, made.format, made.max_tokens, made.timeout) == (
        4096,
        {"top_p": 1},
        (1.0, 2.0),
        "none",
        99,
        7.0,
    )
    for name, value in dict(CONTEXT="big", OPTIONS="[1]", PRICE="1", FORMAT="xml").items():
        with monkeypatch.context() as slip:
            slip.setenv(f"ICDRAT_LLM_{name}", value)
            with pytest.raises(NoServer, match=f"ICDRAT_LLM_{name}"):
                server(model="m")


@pytest.mark.parametrize(
    "url",
    [
        "localhost:8000/v1",
        "ftp://localhost/v1",
        "http:///v1",
        "http://localhost:99999/v1",
        "http://localhost:x/v1",
        "http://user:pw@localhost/v1",
    ],
)
def test_an_address_that_cannot_be_right_is_refused(url):
    with pytest.raises(NoServer) as caught:
        Server(url, "m")
    assert "pw" not in str(caught.value).replace("password", "")


@pytest.mark.parametrize(
    "wrong",
    [
        dict(max_tokens=0),
        dict(timeout=0.0),
        dict(timeout=float("nan")),
        dict(retries=-1),
        dict(price=(-1.0, 2.0)),
        dict(price=(float("nan"), 2.0)),
        dict(options=dict(messages=[])),
        dict(options=dict(model="x")),
    ],
    ids=str,
)
def test_a_limit_that_nothing_can_keep_is_refused_before_anything_is_asked(wrong):
    [name] = wrong["options"] if "options" in wrong else wrong
    with pytest.raises(NoServer, match=f"{name}.*(ICDRAT_LLM_{name.upper()}|leave it out)"):
        Server("http://127.0.0.1:1/v1", "m", **wrong)


@pytest.mark.parametrize("key", ["sk-ü", "sk-1\nsk-2", "sk 1", ""])
def test_a_key_that_cannot_be_one_is_refused_and_not_shown(llm, key):  # noqa: F811
    with pytest.raises(NoServer, match="OPENAI_API_KEY") as refused:
        llm(GOOD, key=key)
    assert "sk" not in str(refused.value) and not llm.requests


@pytest.mark.parametrize("asking", [dict(temperature=-1.0), dict(temperature=float("nan")), dict(source="m\udcff")])
def test_what_could_not_be_sent_or_written_is_refused_before_anything_is_asked(llm, asking):  # noqa: F811
    with pytest.raises(BadInput, match="temperature|source"):
        llm(GOOD, asking=asking)
    assert not llm.requests


# ---- answers that are none, and fields that are refused ----

NONE = [
    completion(None),
    completion("Sorry, I cannot help with that."),
    dict(choices=[dict(message=dict(content=None, refusal="No."), finish_reason="stop")]),
    dict(choices=[dict(message=dict(content=""), finish_reason="length")]),
    dict(choices=[dict(message=dict(content=None, reasoning_content=GOOD), finish_reason="stop")]),
]


@pytest.mark.parametrize("none", NONE, ids=["null", "apology", "refusal", "cut", "reasoning"])
def test_a_reply_that_is_no_answer_is_no_rationale_and_is_asked_again(llm, none, tmp_path):  # noqa: F811
    asking = dict(store=tmp_path / "s")
    for offline in (False, True):
        with pytest.raises(NothingAnswered, match="of 1 questions none has an answer .1 "):
            llm(none, asking=asking | dict(offline=offline))
    rationales, g = llm(GOOD, asking=asking)
    assert len(rationales) == 2 and (g.requests, g.replayed, g.unanswered) == (1, 0, 0)
    assert llm("nothing", asking=asking)[1].replayed == 1 and len(llm.requests) == 2


def test_replies_that_are_none_are_counted_by_reason_and_left_out(llm, tmp_path):  # noqa: F811
    llm.script(GOOD, *NONE)
    codes_of = {n.id: (A, B) for n in many(6)}
    found = quoted(many(6), codes_of, llm.server(), store=tmp_path / "s", concurrency=1, progress=False)
    g = found.grounding
    assert (g.no_text, g.unread, g.refused, g.unfinished, g.thought_only) == (1, 1, 1, 1, 1)
    assert (g.unanswered, g.without_evidence, len(found.rationales)) == (10, 0, 2)
    [told] = [w for w in found.warnings if "no answer" in w]
    assert told.startswith("5 of 6 replies are no answer (1 without a word; 1 withheld")
    with Store(tmp_path / "s") as store:
        assert batch(tmp_path / "b.jsonl", many(6), codes_of, llm.server(), store=store)[1] == 5


def test_an_honest_empty_answer_is_an_answer(llm, tmp_path):  # noqa: F811
    for codes, empty in (((A, B), '{"rationales": []}'), ((A,), '{"quotes": []}')):
        rationales, g = llm(empty, codes=codes, asking=dict(store=tmp_path / "s"))
        assert [r.spans for r in rationales] == [()] * len(codes) and g.without_evidence == len(codes)
    assert len(llm.requests) == 2
    llm("never", asking=dict(store=tmp_path / "s"))
    assert len(llm.requests) == 2


def test_parts_of_an_answer_are_put_together(llm):  # noqa: F811
    parts = [dict(type="thinking", thinking=[dict(type="text", text=GOOD)]), dict(type="text", text=GOOD)]
    rationales, _ = llm(completion(parts))
    assert placed(rationales)[B] == ["hemoptysis"]


def test_an_error_inside_an_answer_passes_or_is_named(llm, monkeypatch):  # noqa: F811
    monkeypatch.setattr("icdrat.rationale.llm.server.random.uniform", lambda low, high: 0.01)
    inside = [dict(error=dict(message=TEXT, code=c), choices=None) for c in (429, 502)]
    rationales, g = llm(*inside, GOOD)
    assert len(rationales) == 2 and (g.retries, g.requests) == (2, 1)
    for code, error, match in ((401, KeyRefused, "401"), (404, NoModel, "404"), (400, ServerFailed, "status 400")):
        refused(error, match, lambda: llm(dict(error=dict(message=TEXT, code=code))))


@pytest.mark.parametrize(
    "name, said, instead",
    [
        (
            "max_tokens",
            dict(param="max_tokens", message="Use 'max_completion_tokens' instead."),
            "max_completion_tokens",
        ),
        ("temperature", dict(param="temperature", code="unsupported_value"), None),
        ("seed", dict(message='Invalid JSON payload received. Unknown name "seed": Cannot find field.'), None),
        ("seed", dict(detail=[dict(loc=["body", "seed"], msg="Extra inputs are not permitted")]), None),
        ("response_format", dict(message="'response_format' is not supported"), None),
    ],
)
def test_a_field_that_is_refused_is_left_out_and_said_once(llm, name, said, instead, tmp_path):  # noqa: F811
    def answer(asked):
        return (400, dict(error=said)) if name in asked else GOOD

    llm.script(answer)
    codes_of = {n.id: (A, B) for n in many(4)}
    found = quoted(many(4), codes_of, llm.server(), store=tmp_path / "s", concurrency=1, progress=False)
    n_refused = 2 if name == "response_format" else 1
    assert len(found.rationales) == 8 and len(llm.requests) == 4 + n_refused and found.grounding.failed == 0
    assert all(name not in asked and (not instead or instead in asked) for asked in llm.requests[n_refused:])
    [told] = [w for w in found.warnings if "refuses" in w]
    assert f"refuses the fields {name};" in told and found.grounding.changed == 4
    again = quoted(many(4), codes_of, llm.server(), store=tmp_path / "s", offline=True)
    assert again.rationales == found.rationales and told in again.warnings


@pytest.mark.parametrize(
    "said, match",
    [
        (
            dict(param="max_tokens", message="max_tokens is too large: 9000"),
            "the field 'max_tokens'.*ICDRAT_LLM_OPTIONS",
        ),
        (dict(code="context_length_exceeded", message=TEXT), "too long for the model.*ICDRAT_LLM_CONTEXT"),
        (dict(code="content_filter", message=TEXT), "content filter refuses"),
        (dict(message=f'you said "{TEXT} temperature seed"'), "status 400.*ICDRAT_LLM_FORMAT"),
    ],
)
def test_a_refusal_that_cannot_be_helped_names_its_reason(llm, said, match):  # noqa: F811
    refused(ServerFailed, match, lambda: llm((400, dict(error=said))))
    assert len(llm.requests) == 1


def test_questions_that_a_filter_refuses_do_not_stop_the_run(llm):  # noqa: F811
    script = [(400, dict(error=dict(code="content_filter")))] * (GIVE_UP + 2)
    rationales, g = llm(*script, GOOD, notes=many(GIVE_UP + 4), asking=dict(concurrency=1))
    assert g.failed == GIVE_UP + 2 and len(rationales) == 4


def test_a_question_that_the_server_cut_is_said(llm):  # noqa: F811
    long = Note("n1", TEXT * 100)
    llm.script(completion('{"rationales": []}', (300, 5)))
    found = quoted([long], {"n1": [A]}, llm.server(), progress=False)
    assert found.grounding.clipped == 1 and "ICDRAT_LLM_CONTEXT" in found.warnings[0] and "n1" in found.warnings[0]
    llm.script(completion(GOOD, (2500, 5)))
    found = quoted([long], {"n1": [A]}, llm.server(), progress=False)
    assert (found.grounding.clipped, found.warnings) == (0, ())


@pytest.mark.parametrize(
    "path, asked, header",
    [
        ("/openai/deployments/dep?api-version=1", "/openai/deployments/dep/chat/completions?api-version=1", "api-key"),
        (
            "/openai/deployments/dep/chat/completions?api-version=1",
            "/openai/deployments/dep/chat/completions?api-version=1",
            "api-key",
        ),
        ("/openai?api-version=1", "/openai/deployments/m/chat/completions?api-version=1", "api-key"),
        ("?api-version=1", "/openai/deployments/m/chat/completions?api-version=1", "api-key"),
        ("/openai/v1?api-version=preview", "/openai/v1/chat/completions?api-version=preview", "api-key"),
        ("/v1/chat/completions", "/v1/chat/completions", "authorization"),
        ("/v1/?team=a", "/v1/chat/completions?team=a", "authorization"),
    ],
)
def test_the_query_of_an_address_stands_behind_the_path(llm, path, asked, header):  # noqa: F811
    there = Server(llm.url.removesuffix("/v1") + path, "m", key="sk-secret")
    llm.script(GOOD)
    assert len(prompt([NOTE], {"n1": [A, B]}, there, progress=False)[0]) == 2
    [heard] = llm.requests
    assert heard["path"] == asked and "sk-secret" in heard["headers"][header]
