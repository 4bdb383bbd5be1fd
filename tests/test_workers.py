"A profile on Dask workers: the same files as without them, also when a worker is killed in the middle of a notebook."

import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import nbformat
import pytest

pytest.importorskip("distributed")

PROFILES = """
[rooms]
data = ["*.py"]
[needs]
e1_count = ["data"]
e2_count = ["data"]
tab1_sum = ["e1_count", "e2_count"]
[toy]
about = "three notebooks"
e2_count.n = 4
"""
COUNT = """
import os, time
from pathlib import Path
home = Path('../..', results)
home.mkdir(parents=True, exist_ok=True)
with open(home/f'{name}.begun', 'a') as log: log.write(f'{os.getpid()}\\n')
time.sleep(3)
(home/f'{name}.csv').write_text(f'n\\n{n}\\n')
"""
SUM = """
from pathlib import Path
home = Path('../..', results)
total = sum(int(p.read_text().split()[1]) for p in sorted(home.glob('e*.csv')))
(home/'tab1_sum.csv').write_text(f'n\\n{total}\\n')
"""


def notebook(path, declared, code):
    "A notebook that can be run"
    new = nbformat.v4.new_code_cell
    head = new(f'{declared}\nruns = "" # where\nresults = "" # where', metadata=dict(tags=["parameters"]))
    kernel = dict(kernelspec=dict(name="python3", display_name="python3", language="python"))
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(nbformat.v4.new_notebook(cells=[head, new(code)], metadata=kernel), path)


@pytest.fixture
def project(tmp_path):
    (tmp_path / "settings.ini").touch()
    (tmp_path / "icdrat").mkdir()
    (tmp_path / "icdrat/text.py").write_text("a = 1")
    for name in ("e1_count", "e2_count"):
        notebook(tmp_path / f"nbs/experiments/{name}.ipynb", f'n = 3 # how many\nname = "{name}" # its own', COUNT)
    notebook(tmp_path / "nbs/paper/tab1_sum.ipynb", "m = 1 # not used", SUM)
    (tmp_path / "nbs/profiles.toml").write_text(PROFILES)
    return tmp_path


RUN = """
import os, signal, sys, threading, time
from pathlib import Path
from icdrat.show.plan import plan, run_plan
from icdrat.show.profiles import read_profiles
from icdrat.show.workers import starter, workers

def kill_one(client, root):
    "Kill the worker that runs the first notebook, once it has begun"
    while not (root/'results/toy/e1_count.begun').exists(): time.sleep(.05)
    busy = next(a for a,tasks in client.processing().items() if tasks)
    os.kill(client.run(os.getpid, workers=[busy])[busy], signal.SIGKILL)

if __name__ == '__main__':
    root = Path(sys.argv[1])
    profiles = read_profiles(root)
    with workers(2) as client:
        threading.Thread(target=kill_one, args=(client, root), daemon=True).start()
        run_plan(plan(profiles, 'toy', root), profiles, root, 99, start=starter(client))
    assert [p.why for p in plan(profiles, 'toy', root)] == ['', '', '']
"""


def test_a_killed_worker_s_notebook_runs_again_and_the_results_are_those_of_one_machine(project, tmp_path_factory):
    script = tmp_path_factory.mktemp("script") / "run.py"
    script.write_text(textwrap.dedent(RUN))
    done = subprocess.run([sys.executable, script, project], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    home = project / "results/toy"
    begun = [len(p.read_text().split()) for p in sorted(home.glob("*.begun"))]
    assert sum(begun) == 3  # one of the two was begun twice
    assert [p.read_text() for p in sorted(home.glob("*.csv"))] == ["n\n3\n", "n\n4\n", "n\n7\n"]


def test_nobody_to_run_the_steps_is_one_line(tmp_path):
    words = ["reproduce", "--profile", "smoke", "--scheduler", "tcp://127.0.0.1:1"]
    done = subprocess.run(
        [sys.executable, "-m", "icdrat.cli.main", *words],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[1],
        timeout=120,
    )
    assert done.returncode == 2 and "no Dask scheduler answers" in done.stderr and "Traceback" not in done.stderr


def test_a_command_does_not_outlive_a_worker_that_is_killed(tmp_path):
    code = "import os, time; open('pid', 'w').write(str(os.getpid())); time.sleep(60)"
    worker = (
        "import sys, time; from icdrat.show.workers import guarded; "
        f"guarded([sys.executable, '-c', {code!r}], {str(tmp_path)!r}); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", worker])
    file = tmp_path / "pid"
    while not file.exists() or not file.read_text():
        time.sleep(0.05)
    process.kill()
    process.wait()
    for _ in range(100):
        try:
            os.kill(int(file.read_text()), 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    raise AssertionError("the command still runs ten seconds after its worker was killed")
