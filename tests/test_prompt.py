"What a language model says becomes evidence only where it is in the note; the rest is counted, over real HTTP."

import json
import socket
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from icdrat.codes import icd
from icdrat.rationale.mention import NoCodesForNote
from icdrat.rationale.prompt import (
    Grounding,
    KeyRefused,
    NoModel,
    NoServer,
    RestrictedNote,
    Server,
    ServerFailed,
    parse,
    prompt,
    question,
    server,
)
from icdrat.types import BadInput, Note

TEXT = "Known hemoptysis.\r\nT2DM since 2001, T2DM worse. Disnea náuseas 🙂."
NOTE = Note("n1", TEXT)
A, B = icd("E11.9"), icd("R04.2")
GOOD = json.dumps({"rationales": [{"code": "E11.9", "quotes": ["T2DM"]}, {"code": "r042", "quotes": ["HEMOPTYSIS"]}]})


@pytest.fixture
def llm():
    "A loopback server that plays a list of replies: text, (status, text) or seconds to hang"

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            seen.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            seen[-1]["key"] = self.headers["Authorization"]
            reply = replies.pop(0) if len(replies) > 1 else replies[0]
            if isinstance(reply, float):
                time.sleep(reply)
                reply = (503, "late")
            status, content = (200, reply) if isinstance(reply, str) or reply is None else reply
            if status == 200 and not isinstance(content, dict):
                choice = dict(index=0, finish_reason="stop", message=dict(role="assistant", content=content))
                usage = dict(prompt_tokens=7, completion_tokens=3, total_tokens=10)
                content = dict(id="1", object="chat.completion", created=0, model="m", choices=[choice], usage=usage)
            elif status != 200:
                content = dict(error=dict(message=f"you said: {seen[-1]['messages']}"))
            body = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.send_header("retry-after-ms", "1")
            self.end_headers()
            try:
                self.wfile.write(body)
            except OSError:
                pass

        def log_message(self, *args):
            pass

    replies, seen = [], []
    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=listening.serve_forever, kwargs=dict(poll_interval=0.01), daemon=True).start()

    class Play:
        url, requests = f"http://127.0.0.1:{listening.server_port}/v1", seen

        def __call__(self, *script, codes=(A, B), notes=(NOTE,), **options):
            replies[:] = script
            there = Server(self.url, "m", **{"key": "sk-secret", "timeout": 5.0} | options)
            return prompt(notes, {n.id: codes for n in notes}, there, progress=False)

    yield Play()
    listening.shutdown()
    listening.server_close()


def refused(error, match, call):
    with pytest.raises(error, match=match) as caught:
        call()
    assert isinstance(caught.value, BadInput) and caught.value.__suppress_context__
    message = str(caught.value)
    assert "\n" not in message
    assert not any(word in message for word in ("hemoptysis", "T2DM", "sk-secret", "náuseas"))


def placed(rationales):
    return {r.code: [TEXT[s.start : s.end] for s in r.spans] for r in rationales}


def test_a_good_answer_is_grounded_at_every_place_where_the_quote_stands(llm):
    rationales, g = llm(GOOD)
    assert placed(rationales) == {A: ["T2DM", "T2DM"], B: ["hemoptysis"]}
    assert {(r.source, r.note_id) for r in rationales} == {("llm", "n1")}
    assert (g.notes, g.asked, g.quotes, g.grounded, g.rate) == (1, 2, 2, 2, 1.0)
    assert (g.prompt_tokens, g.completion_tokens) == (7, 3)
    assert (g.ungrounded, g.without_evidence, g.invented, g.malformed) == (0, 0, 0, 0)
    assert g.seconds > 0 and "100%" in repr(g)


@pytest.mark.parametrize("wrap", ["```json\nANSWER\n```", "```\nANSWER```", "Of course! ANSWER I hope {this} helps.", "{} or rather ANSWER", "\n\nANSWER\n"])
def test_fences_and_chatter_around_an_answer_do_no_harm(llm, wrap):
    rationales, g = llm(wrap.replace("ANSWER", GOOD))
    assert g.grounded == 2 and g.malformed == 0


@pytest.mark.parametrize(
    "answer",
    [None, "", "no evidence", GOOD[:-5], "[]", "null", "{}", '{"rationales": {}}', '{"rationales": ["T2DM"]}', '{"rationales": [{"code": "E11.9"}]}',
     '{"rationales": [{"code": "E11.9", "quotes": [1]}]}', '{"rationales": [{"quotes": []}]}', "{" * 3000, '{"a":' * 3000, "[" * 3000],
)  # fmt: skip
def test_a_malformed_answer_is_counted_and_never_a_crash(llm, answer):
    rationales, g = llm(answer)
    assert placed(rationales) == {A: [], B: []}
    assert (g.malformed, g.without_evidence, g.quotes) == (1, 2, 0)


def test_a_quote_that_is_not_in_the_note_is_counted(llm):
    said = ["type 2 diabetes", "T2D", "  ", "T2DM"]
    rationales, g = llm(json.dumps({"rationales": [{"code": "E11.9", "quotes": said}, {"code": "R04.2", "quotes": ["blood"]}]}))
    assert placed(rationales) == {A: ["T2DM", "T2DM"], B: []}
    assert (g.quotes, g.grounded, g.ungrounded, g.without_evidence) == (5, 1, 4, 1)


def test_a_code_that_was_not_asked_is_counted_and_left_out(llm):
    rationales, g = llm(json.dumps({"rationales": [{"code": "I10", "quotes": ["T2DM"]}, {"code": "", "quotes": []}]}))
    assert placed(rationales) == {A: [], B: []}
    assert (g.invented, g.quotes, g.without_evidence) == (2, 0, 2)


def test_a_code_answered_twice_keeps_all_its_quotes(llm):
    rationales, g = llm(json.dumps({"rationales": [{"code": c, "quotes": [q]} for c, q in (("E11.9", "worse"), ("E11.9", "T2DM"), ("e119", "Disnea"))]}))
    assert set(placed(rationales)[A]) == {"T2DM", "worse", "Disnea"} and g.grounded == 3


def test_spans_survive_accents_line_ends_and_emoji(llm):
    rationales, g = llm(json.dumps({"rationales": [{"code": "E11.9", "quotes": ["hemoptysis. T2DM", "disnea nauseas"]}]}))
    assert placed(rationales)[A] == ["hemoptysis.\r\nT2DM", "Disnea náuseas"]


def test_the_question_is_deterministic_and_holds_note_then_codes(llm):
    llm(GOOD)
    [asked] = llm.requests
    assert (asked["temperature"], asked["seed"], asked["response_format"], asked["model"]) == (0, 0, {"type": "json_object"}, "m")
    assert asked["key"] == "Bearer sk-secret"
    user = asked["messages"][-1]["content"]
    assert 0 <= user.index(TEXT) < user.index("E11.9: ") < user.index("R04.2: Hemoptysis")
    assert "JSON" in asked["messages"][0]["content"]


def test_a_spanish_note_is_asked_about_in_spanish():
    spanish, english = (question(Note("n", "x", language=lang), [A])[0]["content"] for lang in ("es", "en"))
    assert "cita" in spanish and "quote" in english


def test_a_note_without_codes_costs_no_request(llm):
    rationales, g = llm(GOOD, codes=())
    assert rationales == [] and llm.requests == []
    assert g == Grounding(seconds=g.seconds) and g.rate == 0


def test_counts_add_up_over_notes(llm):
    notes = [Note(f"n{i}", t) for i, t in enumerate([TEXT, "nothing", "T2DM"])]
    rationales, g = llm(GOOD, notes=notes)
    assert len(rationales) == g.asked == 6 and g.notes == 3
    assert (g.grounded, g.ungrounded, g.without_evidence) == (3, 3, 3)
    assert sum(not r.spans for r in rationales) == g.without_evidence
    assert g.prompt_tokens == 21


@pytest.mark.parametrize(
    "status, error, match",
    [(401, KeyRefused, "401.*OPENAI_API_KEY"), (403, KeyRefused, "403"), (404, NoModel, "404.*ICDRAT_LLM_MODEL"), (400, ServerFailed, "400.*context"), (422, ServerFailed, "status 422"),  # noqa: E501
     (429, ServerFailed, "429"), (500, ServerFailed, "status 500")],
)  # fmt: skip
def test_a_refusal_is_one_line_without_the_servers_own_words(llm, status, error, match):
    refused(error, f"^127.0.0.1:[0-9]+, model 'm', note n1: .*{match}", lambda: llm((status, ""), retries=0))
    assert len(llm.requests) == 1


def test_a_server_that_fails_twice_is_asked_a_third_time(llm):
    rationales, g = llm((500, ""), (503, ""), GOOD)
    assert g.grounded == 2 and len(llm.requests) == 3


def test_a_server_that_keeps_failing_is_given_up(llm):
    refused(ServerFailed, "status 500", lambda: llm((500, ""), retries=1))
    assert len(llm.requests) == 2


def test_a_server_that_hangs_is_given_up_in_time(llm):
    start = time.perf_counter()
    refused(NoServer, "no answer within 0.2 s", lambda: llm(1.0, timeout=0.2, retries=0))
    assert time.perf_counter() - start < 0.9


@pytest.mark.parametrize("content", [{}, {"choices": []}, {"choices": None}, {"choices": [{}]}, {"choices": [{"message": None}]}, {"hello": "world"}])
def test_a_server_of_another_kind_is_named(llm, content):
    refused(ServerFailed, "not in the OpenAI form", lambda: llm((200, content)))


def test_nobody_listening_is_named():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        free = s.getsockname()[1]
    there = Server(f"http://127.0.0.1:{free}/v1", "m", retries=0)
    refused(NoServer, f"127.0.0.1:{free}.*is the server running", lambda: prompt([NOTE], {"n1": [A]}, there, progress=False))


@pytest.mark.parametrize("url", ["http://llm.invalid/v1", "https://api.openai.com/v1", "http://10.0.0.1/v1", "http://127.0.0.1.example.org/v1", "http://0.0.0.0/v1"])
def test_a_restricted_note_goes_nowhere_else(url, monkeypatch):
    monkeypatch.setattr("icdrat.rationale.prompt._client", lambda server: pytest.fail("a client was made"))
    notes = [NOTE, Note("m1", TEXT, "mimic", restricted=True)]
    with pytest.raises(RestrictedNote, match="m1: the note is restricted.*third-party") as caught:
        prompt(notes, {"n1": [A], "m1": [A]}, Server(url, "m"), progress=False)
    assert "hemoptysis" not in str(caught.value)


def test_a_restricted_note_is_asked_about_on_this_machine(llm):
    _, g = llm(GOOD, notes=[Note("m1", TEXT, restricted=True)])
    assert g.grounded == 2


def test_a_proxy_never_sees_what_is_sent_to_this_machine(llm, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    _, g = llm(GOOD, notes=[Note("m1", TEXT, restricted=True)])
    assert g.grounded == 2


def test_forgotten_codes_are_named_before_anything_is_sent(llm):
    notes = [NOTE, Note("n2", TEXT)]
    with pytest.raises(NoCodesForNote, match="^n2: "):
        prompt(notes, {"n1": [A]}, Server(llm.url, "m"), progress=False)
    assert llm.requests == []


def test_the_environment_names_the_server(monkeypatch):
    for name in ("ICDRAT_LLM_URL", "ICDRAT_LLM_MODEL", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(NoServer, match="ICDRAT_LLM_URL is not set"):
        server()
    monkeypatch.setenv("ICDRAT_LLM_URL", "http://localhost:8000/v1")
    with pytest.raises(NoServer, match="ICDRAT_LLM_MODEL is not set"):
        server()
    assert server(model="m").key == "none"
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret\n")
    assert server(model="m", timeout=3).key == "sk-secret"
    assert "sk-secret" not in repr(server(model="m"))


@pytest.mark.parametrize("url", ["localhost:8000/v1", "ftp://localhost/v1", "http:///v1", "http://localhost:99999/v1", "http://localhost:x/v1", "http://user:pw@localhost/v1"])
def test_an_address_that_cannot_be_right_is_refused(url):
    with pytest.raises(NoServer) as caught:
        Server(url, "m")
    assert "pw" not in str(caught.value).replace("password", "")


def test_what_is_parsed_is_what_was_said():
    assert parse(GOOD) == {"E11.9": ["T2DM"], "r042": ["HEMOPTYSIS"]}
    assert parse('{"rationales": []}') == {}
