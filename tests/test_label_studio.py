"What goes through a real Label Studio server comes back to the character; needs its executable."

import json
import os
import re
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from dataclasses import replace

import pytest

from icdrat.codes import icd
from icdrat.data.annotation import adjudication, label_studio_config, label_studio_tasks, read_label_studio
from icdrat.data.corpus import build
from icdrat.types import Code, Rationale, Span

PROGRAM = os.environ.get("ICDRAT_LABEL_STUDIO") or shutil.which("label-studio")
pytestmark = pytest.mark.skipif(
    not PROGRAM,
    reason="no Label Studio: install label-studio in a venv of its own and name its executable in ICDRAT_LABEL_STUDIO",
)

TOKEN = "0123456789abcdef0123456789abcdef01234567"
TEXT = "  \tT2DM 🙂🙂 on métformine.\r\nNo náuseas,\nHFrEF 👨‍👩‍👧 with CHF today. \n "
PROCEDURE = Code("icd10pcs", "0DTJ4ZZ")
CODES = [icd("E11.9"), icd("I50.20"), icd("Z79.4"), PROCEDURE]


def span(words):
    return Span(TEXT.index(words), TEXT.index(words) + len(words))


GIVEN = [
    Rationale("n/1", CODES[0], [span("T2DM")], "ann"),
    Rationale("n/1", CODES[0], [span("T2DM 🙂🙂 on"), span("métformine.\r\nNo")], "ann", "context"),
    Rationale("n/1", CODES[1], [span("HFrEF"), span("CHF")], "ann"),
    Rationale("n/1", CODES[2], [], "ann"),
    Rationale("n/1", PROCEDURE, [], "ann", "sentence"),
]


@pytest.fixture(scope="module")
def call(tmp_path_factory):
    "A server on loopback with an empty database; `call(method, path, data)` gives the answer"
    folder = tmp_path_factory.mktemp("label-studio")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    quiet = dict(
        COLLECT_ANALYTICS="0",
        LATEST_VERSION_CHECK="0",
        SENTRY_DSN="",
        FRONTEND_SENTRY_DSN="",
        LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN="true",
    )
    start = [
        PROGRAM,
        "start",
        "--no-browser",
        "--data-dir",
        str(folder),
        "--port",
        str(port),
        "--internal-host",
        "127.0.0.1",
        "--log-level",
        "ERROR",
    ]
    start += [
        "--username",
        "ann@example.org",
        "--password",
        "toy-password",
        "--user-token",
        TOKEN,
        "--enable-legacy-api-token",
    ]
    with open(folder / "log.txt", "w") as log:
        server = subprocess.Popen(
            start,
            env=os.environ | quiet | dict(LABEL_STUDIO_BASE_DATA_DIR=str(folder)),
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
        )

    def call(method, path, data=None):
        body = None if data is None else json.dumps(data).encode()
        headers = {"Authorization": f"Token {TOKEN}", "Content-Type": "application/json"}
        with urllib.request.urlopen(
            urllib.request.Request(f"http://127.0.0.1:{port}{path}", body, headers, method=method), timeout=60
        ) as answer:
            return json.loads(answer.read() or b"null")

    try:
        for _ in range(120):
            assert server.poll() is None, "Label Studio stopped while it was starting"
            try:
                call("GET", "/health")
                break
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                time.sleep(1)
        else:
            pytest.fail("Label Studio did not start within 120 seconds")
        yield call
    finally:
        server.terminate()
        try:
            server.wait(10)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


@pytest.fixture
def corpus():
    return build("toy", [dict(note_id="n/1", text=TEXT, codes=CODES, split="test")])


def project(call, verdicts, tasks):
    number = call("POST", "/api/projects/", dict(title="toy project", label_config=label_studio_config(verdicts)))["id"]
    assert call("POST", f"/api/projects/{number}/import", tasks)["task_count"] == len(tasks)
    return number


def submit(call, number, result):
    [task] = call("GET", f"/api/tasks/?project={number}")["tasks"]
    call("POST", f"/api/tasks/{task['id']}/annotations/", dict(result=result))


def export(call, number, tmp_path):
    file = tmp_path / "export.json"
    file.write_text(json.dumps(call("GET", f"/api/projects/{number}/export?exportType=JSON&download_all_tasks=true")))
    return file


@pytest.mark.parametrize("verdicts", [False, True])
def test_the_server_accepts_our_labelling_page(call, verdicts):
    assert call("POST", "/api/projects/validate/", dict(label_config=label_studio_config(verdicts))) is None


def test_the_server_refuses_a_page_that_is_wrong(call):
    wrong = re.sub('toName="text"', 'toName="nowhere"', label_studio_config())
    with pytest.raises(urllib.error.HTTPError):
        call("POST", "/api/projects/validate/", dict(label_config=wrong))


def test_rationales_survive_the_server(call, corpus, tmp_path):
    tasks = label_studio_tasks(corpus, GIVEN)
    number = project(call, False, tasks)
    submit(call, number, tasks[0]["predictions"][0]["result"])
    file = export(call, number, tmp_path)
    [back] = json.loads(file.read_text())
    assert back["data"]["text"] == TEXT
    user = call("GET", "/api/current-user/whoami")["id"]
    assert sorted(map(repr, read_label_studio(file, corpus, {user: "ann"}))) == sorted(map(repr, GIVEN))


def test_an_adjudication_task_survives_the_server(call, corpus, tmp_path):
    second = [replace(r, source="ben", spans=r.spans[:1]) for r in GIVEN]
    _, tasks = adjudication(corpus, GIVEN, second)
    number = project(call, True, tasks)
    submit(call, number, tasks[0]["predictions"][0]["result"])
    [back] = json.loads(export(call, number, tmp_path).read_text())
    assert back["annotations"][0]["result"] == tasks[0]["predictions"][0]["result"]
    assert back["data"] == tasks[0]["data"]
