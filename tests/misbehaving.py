"A language model's server on loopback that does what it is told, also what no server should."

import json
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread

import pytest

from icdrat.codes import icd
from icdrat.rationale.llm.server import Server, prompt
from icdrat.types import Note

TEXT = "Known hemoptysis.\r\nT2DM since 2001, T2DM worse. Disnea náuseas 🙂."
NOTE = Note("n1", TEXT)
A, B = icd("E11.9"), icd("R04.2")
GOOD = json.dumps({"rationales": [{"code": "E11.9", "quotes": ["T2DM"]}, {"code": "r042", "quotes": ["HEMOPTYSIS"]}]})


def many(n):
    "Notes that differ, so that each is a question of its own"
    return [Note(f"n{i}", f"{TEXT} {i}") for i in range(n)]


def completion(content, tokens=(7, 3)):
    "A response in the OpenAI form"
    usage = dict(prompt_tokens=tokens[0], completion_tokens=tokens[1], total_tokens=sum(tokens))
    return dict(
        id="1",
        object="chat.completion",
        created=0,
        model="m",
        choices=[dict(index=0, finish_reason="stop", message=dict(role="assistant", content=content))],
        usage=usage,
    )


class Half(str):
    "An answer of which only half is sent"


class Handler(BaseHTTPRequestHandler):
    """Replies in turn: text is an answer, a dictionary a body, bytes a raw body, (status, headers) a failure, (status,
    a dictionary with an error) one with this body, a number seconds to hang; a function is called with the request"""

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        asked["key"] = self.headers["Authorization"]
        asked["path"] = self.path
        asked["headers"] = {name.lower(): value for name, value in self.headers.items()}
        with self.server.turn:
            self.server.seen.append(asked)
            reply = self.server.replies.pop(0) if len(self.server.replies) > 1 else self.server.replies[0]
        if callable(reply):
            reply = reply(asked)
        if isinstance(reply, (int, float)):
            time.sleep(reply)
            reply = (503, {})
        status, headers = reply if isinstance(reply, tuple) else (200, {})
        if status != 200:
            said = dict(error=dict(message=f"you said: {asked['messages']}"))
            body = json.dumps(headers if "error" in headers else said).encode()
            headers = {} if "error" in headers else headers
        else:
            body = (
                reply
                if isinstance(reply, bytes)
                else json.dumps(reply if isinstance(reply, (dict, list)) else completion(reply)).encode()
            )
        self.send_response(status)
        headers = {
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            "retry-after-ms": "1",
        } | headers
        for name, value in headers.items():
            if value is not None:
                self.send_header(name, value)
        self.end_headers()
        try:
            self.wfile.write(body[: len(body) // 2] if isinstance(reply, Half) else body)
        except OSError:
            pass

    def log_message(self, *args):
        pass


@pytest.fixture
def llm():
    "A function that sets the replies and asks about some notes"
    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    listening.seen, listening.replies, listening.turn = [], [GOOD], Lock()
    Thread(target=listening.serve_forever, kwargs=dict(poll_interval=0.01), daemon=True).start()

    class Play:
        url, requests = f"http://127.0.0.1:{listening.server_port}/v1", listening.seen

        def script(self, *replies):
            listening.replies[:] = replies

        def server(self, **options):
            return Server(self.url, "m", **{"key": "sk-secret", "timeout": 5.0} | options)

        def __call__(self, *script, codes=(A, B), notes=(NOTE,), asking={}, **options):
            self.script(*script)
            return prompt(notes, {n.id: codes for n in notes}, self.server(**options), progress=False, **asking)

    yield Play()
    listening.shutdown()
    listening.server_close()
