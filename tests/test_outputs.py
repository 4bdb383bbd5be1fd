"Outputs are looked at before the work, written whole or not at all, in private where they must be, and harm nobody."

import errno
import os
import re
import resource
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import get_type_hints

import pandas as pd
import pytest
from commands import commands
from typer.testing import CliRunner

from icdrat.cli.main import app
from icdrat.data import outputs
from icdrat.data.exchange import Notice, load_corpus, save_corpus
from icdrat.data.outputs import (
    BeingWritten,
    CannotWrite,
    ForeignFolder,
    Leftover,
    check_outputs,
    check_room,
    let_go,
    opened_folder,
    whole_file,
    whole_folder,
)
from icdrat.data.synth import synthesise
from icdrat.evaluation.faithfulness.engine import ROW
from icdrat.evaluation.faithfulness.stream import kept_or_asked, part_file, read_parts
from icdrat.types import BadInput, Note

ROOT = Path(__file__).resolve().parents[1]
AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
NOT_ROOT = pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def python(script, cwd, **options):
    "A script in a process of its own, which says when it is ready and then waits"
    env = os.environ | dict(PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1")
    streams = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    return subprocess.Popen([sys.executable, "-c", script], cwd=cwd, env=env, **streams, **options)


def icdrat(*words, cwd, **options):
    env = os.environ | dict(OMP_NUM_THREADS="1")
    command = [sys.executable, "-m", "icdrat.cli.main", *map(str, words)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, env=env, timeout=300, **options)


def small_files():
    "No file of the process may be larger than 20 kB"
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))


def in_one_line(done, *parts):
    "A command that ended with status 2 and one line of complaint, without a trace of the machinery"
    said = [line for line in re.split("[\r\n]", done.stderr) if line.startswith("icdrat: ")]
    assert done.returncode == 2 and len(said) == 1, done.stderr
    assert "Traceback" not in done.stderr and ".part" not in said[0] and "Errno" not in said[0], said
    for part in parts:
        assert part in said[0], said[0]


WRITER = """
from icdrat.data.outputs import {door}
with {door}({path!r}{more}, private=True) as part:
    ({file}).write_text("half of a secret")
    print("ready", flush=True)
    input()
"""


def half_written(folder, door, path="corpus"):
    "A process in the middle of a private output"
    more, file = (", 'notes.jsonl'", "part/'notes.jsonl'") if door == "whole_folder" else ("", "part")
    run = python(WRITER.format(door=door, path=path, more=more, file=file), folder)
    assert run.stdout.readline() == "ready\n", run.stderr.read()
    return run


def killed(run):
    run.send_signal(signal.SIGKILL)
    run.communicate()


def write(path, door="whole_folder"):
    "The whole of an output"
    if door == "whole_folder":
        with whole_folder(path, "notes.jsonl") as part:
            (part / "notes.jsonl").write_text("whole")
    else:
        with whole_file(path) as part:
            part.write_text("whole")


DOORS = pytest.mark.parametrize("door", ["whole_file", "whole_folder"])


# ---- what a path stands for ----


def test_a_pipe_and_a_device_are_written_through_and_stay(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    read = []
    reader = threading.Thread(target=lambda: read.append((tmp_path / "pipe").read_text()), daemon=True)
    reader.start()
    write(tmp_path / "pipe", "whole_file")
    reader.join(10)
    assert read == ["whole"] and stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    write("/dev/null", "whole_file")
    assert Path("/dev/null").is_char_device() and names(tmp_path) == ["pipe"]


def test_what_the_shell_has_opened_gets_it_in_its_place(tmp_path):
    script = "from test_outputs import write; print('before'); write('/dev/stdout', 'whole_file'); print('after')"
    with open(tmp_path / "log", "w") as log:
        env = os.environ | dict(PYTHONPATH=f"{ROOT}:{ROOT / 'tests'}")
        subprocess.run([sys.executable, "-c", script], stdout=log, env=env, check=True)
    assert (tmp_path / "log").read_text() == "before\nwholeafter\n"


def test_a_device_is_no_folder():
    for check in (lambda: check_outputs(folders={"/dev/null": "notes.jsonl"}), lambda: write("/dev/null")):
        with pytest.raises(ForeignFolder, match="/dev/null: is "):
            check()


@DOORS
def test_a_link_is_followed_and_stays(tmp_path, door):
    (tmp_path / "far").mkdir()
    (tmp_path / "link").symlink_to("far/target")
    for _ in range(2):  # the target is made, and then replaced
        write(tmp_path / "link", door)
        assert (tmp_path / "link").is_symlink() and names(tmp_path / "far") == ["target"]
    (tmp_path / "circle").symlink_to("circle")
    with pytest.raises(CannotWrite, match="circle: a link that leads back to itself"):
        write(tmp_path / "circle", door)
    assert (tmp_path / "circle").is_symlink()


def test_permissions_of_what_is_replaced_are_kept(tmp_path):
    for name, bits in (("mine", 0o600), ("ours", 0o664)):
        (tmp_path / name).write_text("old")
        (tmp_path / name).chmod(bits)
        write(tmp_path / name, "whole_file")
        assert mode(tmp_path / name) == bits
    with whole_file(tmp_path / "ours", private=True) as part:
        part.write_text("secret")
    assert mode(tmp_path / "ours") == 0o600


@DOORS
def test_a_name_of_any_length_is_a_name(tmp_path, door):
    for name in ("n" * 255, "ü" * 120 + ".jsonl"):
        write(tmp_path / name, door)
    assert len(names(tmp_path)) == 2


# ---- before the work ----


def test_every_kind_of_wrong_place_is_named_before_the_work(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder" / "thesis").mkdir(parents=True)
    (tmp_path / "empty").mkdir()
    for said, files, folders, filled in [
        ("file/x.jsonl: file is a file, not a folder", ["file/x.jsonl"], {}, {}),
        ("file/a/b: file is a file, not a folder", [], {"file/a/b": "notes.jsonl"}, {}),
        ("folder: is a folder; name a file in it", ["x", "folder"], {}, {}),
        ("file: is there already and is no folder", [], {"file": "notes.jsonl"}, {}),
        ("folder: is there already and holds no config.json", [], {"folder": "config.json"}, {}),
        ("folder: is there already and holds no training.json", [], {}, {"folder": "training.json"}),
        (".: is the folder you are in", [], {"empty": "a", ".": "file"}, {}),
        ("empty: named for two outputs", [], {"empty": "a"}, {Path("empty"): "b"}),
        ("new: named for two outputs", ["empty/../new", "new"], {}, {}),
        ("new/kept: lies in new, which is replaced as a whole", [], {"new": "a"}, {"new/kept": "b"}),
        ("cannot be written", ["/proc/nothing/here"], {}, {}),
    ]:
        with pytest.raises(CannotWrite) as refused:
            check_outputs(*files, folders=folders, filled=filled)
        assert str(refused.value).startswith(said) or said in str(refused.value) and said[0] == "c"
    check_outputs("file", "/dev/null", "/dev/null", None, "a/b/c", folders={"empty": "x", None: "y"}, filled={"d": "z"})
    assert names(tmp_path) == ["empty", "file", "folder"], "looking makes nothing"


@NOT_ROOT
def test_a_place_without_permission_is_named_before_the_work(tmp_path):
    (tmp_path / "closed").mkdir(mode=0o500)
    (tmp_path / "gold.jsonl").write_text("mine")
    (tmp_path / "gold.jsonl").chmod(0o400)
    with pytest.raises(CannotWrite, match="closed/x: cannot be written, since nothing can be made in .*closed"):
        check_outputs(tmp_path / "closed" / "x")
    with pytest.raises(CannotWrite, match="gold.jsonl: is there and protected"):
        check_outputs(tmp_path / "gold.jsonl")


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_disk_that_takes_nothing_is_named_before_the_work(tmp_path, monkeypatch, number):
    def refuse(path, data):
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(Path, "write_bytes", refuse)
    with pytest.raises(CannotWrite) as refused:
        check_outputs(tmp_path / "new" / "x.jsonl")
    assert str(refused.value).startswith(f"{tmp_path}/new/x.jsonl: ") and ".part" not in str(refused.value)
    assert names(tmp_path) == []


def test_what_will_not_fit_is_not_begun(tmp_path):
    with pytest.raises(CannotWrite, match=r"x.pt: needs 9.0 EB|x.pt: needs 9000000.0 TB, and .* are free"):
        check_room(tmp_path / "a" / "x.pt", 9 * 10**18)
    with pytest.raises(CannotWrite, match="needs"), whole_file(tmp_path / "x.pt", needs=9 * 10**18):
        raise AssertionError("begun all the same")
    assert names(tmp_path) == []


# ---- while it is written ----


FAILURES = {
    "python": OSError(errno.ENOSPC, "No space left on device"),
    "a quota": OSError(errno.EDQUOT, "Disk quota exceeded"),
    "pyarrow": OSError("[Errno 28] Error writing bytes to file. Detail: [errno 28] No space left on device"),
    "safetensors": Exception("Error while serializing: I/O error: No space left on device (os error 28)"),
}


@DOORS
@pytest.mark.parametrize("who", FAILURES)
def test_a_disk_that_fills_up_is_one_line_about_the_path_that_was_named(tmp_path, door, who):
    write(tmp_path / "out", door)
    for named in (tmp_path / "out", tmp_path / "new"):
        more = ("notes.jsonl",) if door == "whole_folder" else ()
        with pytest.raises(CannotWrite) as refused, getattr(outputs, door)(named, *more) as part:
            (part / "notes.jsonl" if door == "whole_folder" else part).write_text("x" * 1500)
            raise FAILURES[who]
        assert re.fullmatch(rf"{named}: no space left on the disk after 1.5 kB of it; .*", str(refused.value))
    assert names(tmp_path) == ["out"]
    held = tmp_path / "out" / "notes.jsonl" if door == "whole_folder" else tmp_path / "out"
    assert held.read_text() == "whole"


def test_a_failure_without_a_number_is_asked_again(tmp_path):
    "PyTorch says that a position is unexpected; the file says that it may not grow"
    script = (
        "import sys, test_outputs as t\nt.small_files()\n"
        "with t.whole_file('x.pt') as part:\n"
        "    part.write_bytes(bytes(20_000))\n"
        "    raise RuntimeError('unexpected pos 3520 vs 3414')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=os.environ | dict(PYTHONPATH=f"{ROOT}:{ROOT / 'tests'}"),
        capture_output=True,
        text=True,
    )
    assert "CannotWrite: x.pt: grows larger than a file may be here" in done.stderr and names(tmp_path) == []


def test_other_failures_are_left_as_they_are(tmp_path):
    for failure in (
        FileNotFoundError(errno.ENOENT, "No such file or directory", "input.csv"),
        ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"),
        RuntimeError("a shape is wrong"),
        BadInput("notes.jsonl, line 3: no field 'text'"),
    ):
        with pytest.raises(type(failure)) as raised, whole_file(tmp_path / "x"):
            raise failure
        assert raised.value is failure
    assert names(tmp_path) == []


def test_a_complaint_from_inside_a_folder_names_the_folder(tmp_path):
    with pytest.raises(CannotWrite) as refused, whole_folder(tmp_path / "coder", "config.json") as part:
        with whole_file(part / "weights"):
            raise OSError(errno.ENOSPC, "No space left on device")
    assert str(refused.value).startswith(f"{tmp_path}/coder/weights: no space left")


def test_a_limit_on_files_is_said_in_one_line(tmp_path):
    corpus = synthesise(60, progress=False)
    save_corpus(corpus, tmp_path / "corpus")
    done = icdrat("data", "synth", "--notes", 60, "--out", "corpus", cwd=tmp_path, preexec_fn=small_files)
    in_one_line(done, "corpus/notes.jsonl: grows larger than a file may be here", "ulimit -f")
    words = ["train", "--corpus", "corpus", "--epochs", 1, "--min-notes", 5]
    in_one_line(icdrat(*words, "--out", "coder", cwd=tmp_path, preexec_fn=small_files), "coder: ", "ulimit -f")
    kept = icdrat(*words, "--out", "coder", "--checkpoints", "kept", cwd=tmp_path, preexec_fn=small_files)
    in_one_line(kept, "kept/checkpoint.pt: grows larger")
    assert names(tmp_path) == ["corpus", "kept"] and names(tmp_path / "kept") == ["training.json"]
    assert load_corpus(tmp_path / "corpus").table.equals(corpus.table)


@pytest.fixture
def small_disk(tmp_path):
    "A disk of 300 kB"
    (tmp_path / "full").mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "none", str(tmp_path / "full")])
    if done.returncode:
        pytest.skip("nothing can be mounted here")
    yield tmp_path / "full"
    subprocess.run(["umount", "-l", str(tmp_path / "full")], check=True)


@AS_ROOT
def test_a_small_disk_is_said_in_one_line_and_left_empty(small_disk):
    home = small_disk.parent
    save_corpus(synthesise(120, progress=False), home / "corpus")
    for words, said in [
        (
            ["data", "synth", "--notes", 300, "--out", "full/big"],
            "full/big/notes.jsonl: no space left on the disk after",
        ),
        (["data", "vignettes", "--out", "full/v"], "full/v/"),
        (["annotate", "export", "--corpus", "corpus", "--out", "full/p"], "full/p/"),
        (["train", "--corpus", "corpus", "--epochs", 1, "--out", "full/coder"], "full/coder: needs "),
        (
            ["train", "--corpus", "corpus", "--out", "coder", "--checkpoints", "full/kept"],
            "full/kept/checkpoint.pt: needs ",
        ),
    ]:
        in_one_line(icdrat(*words, cwd=home), said)
    assert names(small_disk) == ["kept"] and names(small_disk / "kept") == ["training.json"]
    assert not (home / "coder").exists()


# ---- what a killed run leaves ----


@DOORS
def test_what_a_killed_run_leaves_is_for_its_owner_and_the_next_run_removes_it(tmp_path, door):
    before = os.umask(0o022)
    try:
        killed(half_written(tmp_path, door))
    finally:
        os.umask(before)
    [left] = tmp_path.iterdir()
    assert [mode(p) for p in (left, *left.rglob("*")) if p.name != ".writing"][0] in (0o700, 0o600)
    assert all(mode(p) == 0o600 for p in (left, *left.rglob("*")) if p.is_file())
    with pytest.warns(Leftover, match=f"corpus: removed {left.name} beside it, which a run that was killed had left"):
        write(tmp_path / "corpus", door)
    assert names(tmp_path) == ["corpus"]


def test_a_check_finds_what_a_killed_run_left(tmp_path):
    killed(half_written(tmp_path, "whole_folder"))
    with pytest.warns(Leftover, match="removed .part"):
        check_outputs(folders={tmp_path / "corpus": "notes.jsonl"})
    assert names(tmp_path) == []


@DOORS
def test_a_run_that_is_at_work_is_given_way_to(tmp_path, door):
    run = half_written(tmp_path, door)
    during = names(tmp_path)
    with pytest.raises(BeingWritten, match="corpus: another run is writing it"):
        write(tmp_path / "corpus", door)
    with pytest.raises(BeingWritten, match="corpus: another run is writing it"):
        check_outputs(tmp_path / "corpus")
    assert names(tmp_path) == during
    write(tmp_path / "other", door)  # another output beside it
    run.communicate("go on\n")
    assert run.returncode == 0 and names(tmp_path) == ["corpus", "other"]


@pytest.mark.filterwarnings("ignore:.*removed .part")
def test_only_what_was_left_of_the_same_output_is_removed(tmp_path):
    for name in (".part0-other", ".part12ab-corpus.bak", ".parting-corpus", ".part-corpus", "part0-corpus"):
        (tmp_path / name).write_text("not ours")
    for name in (f".part{os.getpid()}-corpus", ".part7-corpus", ".old7-corpus"):
        (tmp_path / name).mkdir()
    write(tmp_path / "corpus")
    assert names(tmp_path) == [
        ".part-corpus",
        ".part0-other",
        ".part12ab-corpus.bak",
        ".parting-corpus",
        "corpus",
        "part0-corpus",
    ]


@pytest.mark.filterwarnings("ignore:.*removed .part")
@pytest.mark.parametrize("whose", ["this process", "its parent"])
def test_a_leftover_with_the_number_of_a_living_process_is_no_obstacle(tmp_path, whose):
    number = os.getpid() if whose == "this process" else os.getppid()
    (tmp_path / f".part{number}-corpus").mkdir()
    write(tmp_path / "corpus")
    assert names(tmp_path) == ["corpus"]


SWAP = """
import os, signal
from icdrat.cli.main import app
from icdrat.data import outputs
replace = os.replace
def die(a, b):
    if str(b).endswith("/corpus"): os.kill(os.getpid(), signal.SIGKILL)
    replace(a, b)
os.replace = die
with outputs.whole_folder("corpus", "notes.jsonl") as part: (part/"notes.jsonl").write_text("new")
"""


def test_a_run_that_is_killed_between_two_renames_loses_nothing(tmp_path):
    write(tmp_path / "corpus")
    python(SWAP, tmp_path).communicate()
    assert not (tmp_path / "corpus").exists() and len(names(tmp_path)) == 2
    with pytest.warns(Leftover, match="corpus: a run was killed while it replaced it; put back as it was before"):
        check_outputs(folders={tmp_path / "corpus": "notes.jsonl"})
    assert (tmp_path / "corpus" / "notes.jsonl").read_text() == "whole" and names(tmp_path) == ["corpus"]


RACE = """
import sys
from icdrat.data.outputs import BeingWritten, whole_folder
input()
for _ in range(30):
    try:
        with whole_folder("corpus", "notes.jsonl") as part: (part/"notes.jsonl").write_text(sys.argv[0]*50_000)
    except BeingWritten as e: print(e)
    else: print("written")
"""


def test_of_many_writers_at_once_each_writes_the_whole_or_gives_way(tmp_path):
    runs = [python(RACE, tmp_path) for _ in range(4)]
    for run in runs:
        run.stdin.write("go\n")
        run.stdin.flush()
    said = [run.communicate() for run in runs]
    assert all(run.returncode == 0 for run in runs), said
    lines = [line for out, _ in said for line in out.splitlines()]
    assert set(lines) <= {"written", "corpus: another run is writing it; wait for it, or name another place"}
    assert "written" in lines and names(tmp_path) == ["corpus"]
    assert (tmp_path / "corpus" / "notes.jsonl").read_text() == "-c" * 50_000
    assert not any(err for _, err in said), "what a living run is doing is never swept"


def test_the_one_that_comes_last_says_that_another_was_there(tmp_path, recwarn):
    for door in ("whole_file", "whole_folder"):
        target = tmp_path / door
        check_outputs(*[target] * (door == "whole_file"), folders={target: "notes.jsonl"} if "folder" in door else {})
        script = f"import test_outputs as t; t.write({str(target)!r}, {door!r})"
        env = os.environ | dict(PYTHONPATH=f"{ROOT}:{ROOT / 'tests'}")
        subprocess.run([sys.executable, "-c", script], env=env, check=True)
        with pytest.warns(Leftover, match=f"{target}: another run has written it since this one began"):
            write(target, door)
        write(target, door)
        assert not recwarn.list


def test_a_run_that_is_asked_to_end_leaves_nothing(tmp_path):
    save_corpus(synthesise(60, progress=False), tmp_path / "corpus")
    (tmp_path / "before.py").write_text(
        "import os, signal\n"
        "from icdrat.data import exchange\n"
        "def end(*_): os.kill(os.getpid(), signal.SIGTERM); [None for _ in range(10**6)]\n"
        "exchange.write_rationales = end\n"
        "import sys; sys.argv = ['icdrat', 'data', 'synth', '--notes', '5', '--out', 'made']\n"
        "from icdrat.cli.main import main; main()\n"
    )
    done = python((tmp_path / "before.py").read_text(), tmp_path)
    done.communicate()
    assert done.returncode == 128 + signal.SIGTERM and names(tmp_path) == ["before.py", "corpus"]


# ---- folders that are filled bit by bit ----


class OtherRun(BadInput):
    "The folder holds another run"


FILLER = """
from icdrat.data.outputs import opened_folder
from icdrat.types import BadInput
opened_folder("kept", "run.json", dict(seed=0), BadInput)
print("ready", flush=True)
input()
"""


def test_one_run_is_at_work_in_a_folder_and_a_killed_one_is_followed(tmp_path):
    kept = tmp_path / "kept"
    run = python(FILLER, tmp_path)
    assert run.stdout.readline() == "ready\n", run.stderr.read()
    (kept / ".part1f-checkpoint.pt").write_text("half")
    for ask in (
        lambda: opened_folder(kept, "run.json", dict(seed=0), OtherRun),
        lambda: check_outputs(filled={kept: "run.json"}),
    ):
        with pytest.raises(BeingWritten, match="kept: another run is at work in it"):
            ask()
    assert names(kept) == [".part1f-checkpoint.pt", "run.json"]
    killed(run)
    for _ in range(2):  # also twice in one process
        opened_folder(kept, "run.json", dict(seed=0), OtherRun)
    assert names(kept) == ["run.json"]
    with let_go(kept):
        opened_folder(kept, "run.json", dict(seed=0), OtherRun)
    after = python(FILLER, tmp_path)
    assert after.stdout.readline() == "ready\n", after.stderr.read()
    after.communicate("end\n")


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "\0" * 20])
def test_a_folder_of_which_nobody_can_tell_is_refused_in_one_line(tmp_path, content):
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(OtherRun, match="run.json: damaged"):
        opened_folder(tmp_path, "run.json", dict(seed=0), OtherRun)


@pytest.mark.parametrize("content", [b"", b"half", bytes(500), b"PAR1" + bytes(100) + b"PAR1"])
def test_a_damaged_part_is_set_aside_said_and_asked_again(tmp_path, content):
    notes = [Note(f"n{i}", "BP 160/95.") for i in range(3)]
    row = pd.DataFrame([("n", "I10", "m", "x", 1.0, True, True)], columns=ROW)
    asked = []

    def ask(note):
        asked.append(note.id)
        return row.assign(note_id=note.id)

    kept_or_asked(range(3), notes, ask, tmp_path)
    part_file(tmp_path, 1).write_bytes(content)
    asked.clear()
    with pytest.warns(Notice, match="000001.parquet: damaged; set aside"):
        kept_or_asked(range(3), notes, ask, tmp_path)
    assert asked == ["n1"] and read_parts(tmp_path)["note_id"].tolist() == ["n0", "n1", "n2"]
    assert (tmp_path / "notes" / "000001.parquet.damaged").read_bytes() == content


# ---- the commands ----

INPUTS = {
    "corpus",
    "notes",
    "folder",
    "coder",
    "pred",
    "gold",
    "guide",
    "teacher",
    "examples",
    "batch_in",
    "checkpoint",
    "config",
    "labels",
    "words",
    "splits",
    "file",
    "first",
    "second",
}


READ = {  # written elsewhere
    (("annotate", "settle"), "settled"),
    (("annotate", "export"), "rationales"),
    (("rationales", "critic"), "scores"),
    (("reproduce",), "results"),
    (("reproduce",), "against"),
}


def paths_of_commands():
    "Every option of every command that names a place where something is written"
    for words, command in commands():
        for option in command.params:
            path = "Path" in str(get_type_hints(command.callback).get(option.name))
            read = option.name in INPUTS or (words, option.name) in READ
            if path and not read and option.name not in ("store", "notebook"):
                yield pytest.param(words, command, option.name, id=f"{' '.join(words)} {option.opts[0]}")


@pytest.mark.parametrize("words, command, name", list(paths_of_commands()))
def test_a_command_looks_at_where_it_writes_before_it_looks_at_anything_else(tmp_path, words, command, name):
    (tmp_path / "file").write_text("mine")
    given = []
    for option in command.params:
        if option.name == name:
            given += [option.opts[0], str(tmp_path / "file" / "x")]
        elif option.required:
            named = option.opts if option.opts[0].startswith("-") else []
            given += [*named[:1], str(tmp_path / "nowhere" / option.name)]
    for many in ("--source",) * ("view" in words):
        given[given.index(many) + 1] = f"a={tmp_path}/nowhere"
    done = CliRunner().invoke(app, [*words, *given])
    assert isinstance(done.exception, CannotWrite), (done.exception, done.output)
    assert str(done.exception).startswith(f"{tmp_path}/file/x: ")
    assert names(tmp_path) == ["file"]


ALSO_READ = {"store", "notebook", "encoder", "prompt", "critic", "note"}  # read too, if it is a path


def pairs_of_commands():
    "Every output of every command, with every input that it has"
    for case in paths_of_commands():
        words, command, output = case.values
        hints = get_type_hints(command.callback)
        for option in command.params:
            path = "Path" in str(hints.get(option.name))
            pairs = option.name == "source" and words == ("view",)
            read = path and (option.name in INPUTS or (words, option.name) in READ)
            if read or pairs or option.name in ALSO_READ:
                yield pytest.param(words, command, output, option.name, id=f"{case.id} {option.name}")


def test_what_a_command_may_read_or_write_is_known():
    pairs = [case.values for case in pairs_of_commands()]
    assert {("view",), ("predict",), ("train",), ("reproduce",)} < {words for words, *_ in pairs}
    assert {("encoder", "out"), ("guide", "log"), ("prompt", "record")} < {(i, o) for _, _, o, i in pairs}


@pytest.mark.parametrize("link", [None, os.symlink, os.link], ids=["the same name", "a link", "a hard link"])
@pytest.mark.parametrize("words, command, output, read", list(pairs_of_commands()))
def test_no_command_writes_over_what_it_reads(tmp_path, words, command, output, read, link):
    mine = tmp_path / "mine.txt"
    mine.write_text("mine")
    named = tmp_path / "other.txt" if link else mine
    if link:
        link(mine, named)
    given, before = [], {p: p.lstat().st_ino for p in tmp_path.iterdir()}
    for option in command.params:
        if option.name not in (output, read) and not option.required:
            continue
        where = named if option.name == output else mine if option.name == read else f"nowhere/{option.name}"
        pairs = option.name == "source" and words == ("view",)
        named_by = option.opts[:1] if option.opts[0].startswith("-") else []
        given += [*named_by, f"a={where}" if pairs else str(where)]
    done = CliRunner().invoke(app, [*words, *given])
    assert isinstance(done.exception, CannotWrite), (done.exception, done.output)
    assert str(done.exception) == f"{named}: is read by the same command and would be replaced; name another place"
    assert {p: p.lstat().st_ino for p in tmp_path.iterdir()} == before and mine.read_text() == "mine"


def test_what_belongs_to_a_folder_that_is_read_stays(tmp_path):
    corpus, theirs = tmp_path / "corpus", tmp_path / "theirs"
    write(corpus, "whole_folder")
    theirs.mkdir()
    for file in (corpus / "found.jsonl", theirs / "a.ann"):
        file.write_text("before")
    check_outputs(corpus / "found.jsonl", corpus / "new.jsonl", theirs / "new.jsonl", reads=[corpus, theirs, None, "-"])
    for file, folder in ((corpus / "notes.jsonl", corpus), (theirs / "a.ann", theirs)):
        with pytest.raises(CannotWrite, match=f"{file}: belongs to {folder}, which is read"):
            check_outputs(file, reads=[folder])
    with pytest.raises(CannotWrite, match=f"{corpus}: holds {corpus}/found.jsonl, which is read"):
        check_outputs(folders={corpus: "notes.jsonl"}, reads=[corpus / "found.jsonl"])
