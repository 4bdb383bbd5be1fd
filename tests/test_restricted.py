"A sentence that must stay home is fed through every command and every notebook, and looked for everywhere else."

import json
import stat
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import typer
from misbehaving import llm  # noqa: F401  a loopback server that plays replies
from test_cli import ROOT, icdrat
from test_mdace import a, chart, noteevents_file, write
from test_mimic import hospital

from icdrat.cli.main import app
from icdrat.data.corpus import build, codes_among
from icdrat.data.exchange import load_corpus, save_corpus
from icdrat.data.synth import synthesise

CANARY = "Quibblefarn told Mrs. Zyxwvutska about the xylocanary."
WORDS = [w.encode() for w in ("quibblefarn", "zyxwvutska", "xylocanary")]


def tells(data: bytes) -> bool:
    return any(w in data.lower() for w in WORDS)


def is_private(path: Path, root: Path) -> bool:
    "Whether only its owner can read a file, because of its own mode or that of a folder around it"
    inside = [path, *path.parents]
    return any(stat.S_IMODE(p.stat().st_mode) & 0o077 == 0 for p in inside[: inside.index(root)])


def leaks(root: Path) -> list:
    "Files that hold the canary and can be read by others"
    return [
        str(p.relative_to(root))
        for p in root.rglob("*")
        if p.is_file() and tells(p.read_bytes()) and not is_private(p, root)
    ]


def secret_corpus(name="secret", n=80):
    "Synthetic notes, each with the canary at its end, as if they came under a licence"
    made = synthesise(n, seed=1)
    rows = [
        dict(note_id=x.id, text=f"{x.text}\n{CANARY}", codes=made.codes[x.id], split=s)
        for x, s in zip(made.notes, made.table["split"].to_pylist())
    ]
    return build(name, rows, made.gold, restricted=True)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    "A repository of somebody's, with a restricted corpus in it"
    folder = tmp_path_factory.mktemp("home")
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    licensed = folder / "licensed"
    licensed.mkdir(mode=0o700)
    (licensed / ".gitignore").write_text("*\n")
    secret = secret_corpus()
    notes = [(f"{i}-DS-1", i, 1000 + i, "DS", 1, n.text) for i, n in enumerate(secret.notes)]
    coded = [
        (i, 1000 + i, k, c.value.replace(".", ""), 10)
        for i, n in enumerate(secret.notes)
        for k, c in enumerate(secret.codes[n.id], 1)
    ]
    hospital(licensed / "mimiciv", notes, coded)
    text = f"{CANARY} Has gout."
    write(
        folder / "mdace", [chart(i, (10 * i, "Discharge summary", [a("gout", "M10.9", text=text)])) for i in (1, 2, 3)]
    )
    noteevents_file(licensed / "NOTEEVENTS.csv.gz", {10 * i: text for i in (1, 2, 3)})
    save_corpus(secret, folder / "secret", arrow=True)
    (folder / "bad.jsonl").write_text(
        json.dumps(dict(note_id=secret.notes[0].id, code="I10", spans=[[0, 10**6]])) + "\n"
    )
    return folder


def commands(group=None, path=()):
    "Every command of the command line, by its words"
    group = group or typer.main.get_command(app)
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name)


ROAD = [
    ["data", "mimic", "--folder", "licensed/mimiciv", "--out", "mimic", "--min-notes", 2],
    ["data", "mdace", "--notes", "licensed/NOTEEVENTS.csv.gz", "--folder", "mdace", "--out", "evidence"],
    ["train", "--corpus", "secret", "--out", "coder", "--min-notes", 4, "--epochs", 2],
    ["train", "--corpus", "mimic", "--out", "coder2", "--min-notes", 4, "--epochs", 1],
    ["rationales", "mention", "--corpus", "secret", "--out", "mention.jsonl"],
    ["rationales", "mention", "--corpus", "secret", "--source", "training", "--out", "training.jsonl"],
    [
        "rationales",
        "mention",
        "--corpus",
        "secret",
        "--source",
        "tabular",
        "--source",
        "training",
        "--open",
        "--drop",
        "negated",
        "--places",
        "places.jsonl",
        "--out",
        "open.jsonl",
    ],
    [
        "rationales",
        "attribution",
        "--corpus",
        "secret",
        "--coder",
        "coder",
        "--scores",
        "attention_scores.jsonl",
        "--out",
        "attention.jsonl",
    ],
    [
        "rationales",
        "critic",
        "--corpus",
        "secret",
        "--pred",
        "attention.jsonl",
        "--scores",
        "attention_scores.jsonl",
        "--cut",
        0.01,
        "--verdicts",
        "verdicts.jsonl",
        "--out",
        "judged.jsonl",
    ],
    ["rationales", "student", "--corpus", "secret", "--coder", "coder", "--out", "student.jsonl"],
    [
        "train",
        "--corpus",
        "secret",
        "--out",
        "student",
        "--min-notes",
        4,
        "--epochs",
        1,
        "--guide",
        "secret/gold.jsonl",
    ],
    [
        "evaluate",
        "plausibility",
        "--notes",
        "secret",
        "--gold",
        "secret/gold.jsonl",
        "--pred",
        "mention.jsonl",
        "--draws",
        20,
        "--split",
        "test",
        "--out",
        "plausibility.json",
    ],
    [
        "evaluate",
        "faithfulness",
        "--notes",
        "secret",
        "--coder",
        "coder",
        "--pred",
        "attention.jsonl",
        "--random",
        2,
        "--draws",
        20,
        "--out",
        "faithfulness.json",
    ],
    [
        "agreement",
        "--corpus",
        "secret",
        "--source",
        "a=secret/gold.jsonl",
        "--source",
        "b=mention.jsonl",
        "--draws",
        20,
    ],
    ["data", "card", "--corpus", "secret", "--out", "card.md"],
    ["annotate", "export", "--corpus", "secret", "--rationales", "mention.jsonl", "--out", "studio"],
    ["annotate", "export", "--corpus", "secret", "--for", "brat", "--rationales", "mention.jsonl", "--out", "brat"],
    [
        "annotate",
        "import",
        "--corpus",
        "secret",
        "--for",
        "brat",
        "--file",
        "brat",
        "--annotator",
        "ana",
        "--out",
        "ana.jsonl",
    ],
    [
        "annotate",
        "disputes",
        "--corpus",
        "secret",
        "--first",
        "secret/gold.jsonl",
        "--second",
        "ana.jsonl",
        "--settled",
        "settled.jsonl",
        "--out",
        "disputes",
    ],
    [
        "view",
        "--notes",
        "secret",
        "--source",
        "gold=secret/gold.jsonl",
        "--source",
        "mention=mention.jsonl",
        "--out",
        "page.html",
    ],
    [
        "view",
        "--notes",
        "secret",
        "--source",
        "brat=brat",
        "--source",
        "studio=studio/tasks.json",
        "--worst",
        3,
        "--reference",
        "studio",
        "--predictions",
        "studio",
        "--out",
        "worst.html",
    ],
    [
        "evaluate",
        "plausibility",
        "--notes",
        "secret",
        "--gold",
        "secret/gold.jsonl",
        "--pred",
        "brat",
        "--skip-bad",
        "--draws",
        20,
        "--out",
        "skipped.json",
    ],
    ["evaluate", "list"],
]
MISTAKES = [
    [
        "evaluate",
        "plausibility",
        "--notes",
        "secret",
        "--gold",
        "secret/gold.jsonl",
        "--pred",
        "bad.jsonl",
        "--out",
        "x.json",
    ],
    [
        "evaluate",
        "plausibility",
        "--notes",
        "secret",
        "--gold",
        "licensed/mimiciv/note/discharge.csv.gz",
        "--pred",
        "bad.jsonl",
        "--out",
        "x.json",
    ],
    ["view", "--notes", "secret", "--source", "bad=bad.jsonl", "--out", "x.html"],
    ["rationales", "mention", "--corpus", "secret", "--source", "icd11", "--out", "x.jsonl"],
    ["train", "--corpus", "secret", "--out", "x", "--guide", "bad.jsonl"],
    ["data", "mimic", "--folder", "secret", "--out", "x"],
    ["data", "mdace", "--notes", "licensed/mimiciv/note/discharge.csv.gz", "--folder", "mdace", "--out", "x"],
    ["agreement", "--corpus", "secret", "--source", "a=secret/gold.jsonl", "--source", "b=bad.jsonl"],
    [
        "annotate",
        "settle",
        "--corpus",
        "secret",
        "--settled",
        "settled.jsonl",
        "--file",
        "disputes/tasks.json",
        "--out",
        "x.jsonl",
    ],
    [
        "annotate",
        "import",
        "--corpus",
        "mimic",
        "--file",
        "studio/tasks.json",
        "--annotator",
        "ana",
        "--out",
        "x.jsonl",
    ],
    [
        "annotate",
        "import",
        "--corpus",
        "mimic",
        "--for",
        "brat",
        "--file",
        "disputes",
        "--annotator",
        "ana",
        "--out",
        "x.jsonl",
    ],
    ["data", "card", "--corpus", "licensed", "--out", "x.md"],
    ["convert", "--checkpoint", "licensed/mimiciv/note/discharge.csv.gz", "--out", "x"],
    ["convert", "--checkpoint", "coder/model.safetensors", "--labels", "secret/notes.jsonl", "--out", "x"],
]
OPEN = {("data", "synth"), ("data", "codiesp"), ("data", "vignettes")}  # corpora without a secret
ALONE = {("rationales", "prompt"), ("reproduce",)}  # each has a test of its own below
OWN = {("predict",)}  # shows a text to the person who gave it; what it writes is looked at in test_predict.py


@pytest.fixture(scope="module")
def walked(home):
    "Everything that the commands said, on the road and off it"
    return [(words, icdrat(*words, cwd=home)) for words in [*ROAD, *MISTAKES]]


def test_every_command_is_walked():
    walked = {c for c in commands() if any(tuple(map(str, words[: len(c)])) == c for words in [*ROAD, *MISTAKES])}
    assert walked | OPEN | ALONE | OWN == set(commands())


def test_no_command_says_a_word_of_it(walked):
    for words, done in walked:
        assert not tells((done.stdout + done.stderr).encode()), words
        if words in MISTAKES:
            assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, (words, done.stderr)
        else:
            assert done.returncode == 0, (words, done.stderr)


def test_whatever_holds_it_is_for_its_owner_only(home, walked):
    assert tells((home / "mimic" / "notes.arrow").read_bytes()) and tells((home / "page.html").read_bytes()), (
        "the canary went in"
    )
    assert leaks(home) == []
    for folder in ("mimic", "evidence", "secret", "coder", "studio", "brat", "disputes"):
        assert stat.S_IMODE((home / folder).stat().st_mode) == 0o700
    assert load_corpus(home / "mimic").restricted and load_corpus(home / "evidence").restricted


def test_git_takes_no_file_that_holds_it(home, walked):
    subprocess.run(["git", "add", "-A"], cwd=home, check=True)
    staged = subprocess.run(["git", "ls-files"], cwd=home, capture_output=True, text=True, check=True).stdout.split(
        "\n"
    )
    assert "mention.jsonl" in staged
    assert [f for f in staged if f and tells((home / f).read_bytes())] == ["page.html", "worst.html"], (
        "a page is one file, where its owner asked for it"
    )


ASK = ["rationales", "prompt", "--corpus", "secret", "--split", "validation"]


@pytest.mark.parametrize(
    "reply",
    [
        (500, {}),
        json.dumps({"rationales": [{"code": "I10", "quotes": [CANARY, "not there"]}, {"code": CANARY, "quotes": []}]}),
        CANARY,
        CANARY.encode(),
    ],
    ids=["failed", "quoted", "chatty", "broken"],
)
@pytest.mark.parametrize(
    "words",
    [
        [],
        [
            "--one-code",
            "--window",
            3,
            "--shots",
            1,
            "--samples",
            2,
            "--scores",
            "scores.jsonl",
            "--record",
            "record.jsonl",
        ],
    ],
    ids=["plain", "all switches"],
)
def test_asking_a_model_on_this_machine_says_no_word_of_it(home, llm, reply, words, request, monkeypatch):  # noqa: F811
    monkeypatch.setattr("icdrat.rationale.llm.server.random.uniform", lambda low, high: 0.001)
    llm.script(reply)
    name = "".join(c for c in request.node.name if c.isalnum())
    done = icdrat(*ASK, "--out", f"{name}.jsonl", *words, cwd=home, ICDRAT_LLM_URL=llm.url, ICDRAT_LLM_MODEL="m")
    assert any(tells(json.dumps(r).encode()) for r in llm.requests), "the model was asked"
    answered = isinstance(reply, str) and "chatty" not in request.node.name  # talk is no answer
    assert done.returncode == (0 if answered else 2), done.stderr
    assert not tells((done.stdout + done.stderr).encode()) and leaks(home) == []
    if isinstance(reply, str):
        assert tells((home / f"{name}.answers" / "answers.jsonl").read_bytes()), (
            "the answers are kept, where only their owner reads"
        )
        assert stat.S_IMODE((home / f"{name}.answers").stat().st_mode) == 0o700
        assert not any(
            tells((home / f).read_bytes())
            for f in (f"{name}.jsonl", "scores.jsonl", "record.jsonl")
            if (home / f).exists()
        )


def test_the_answers_about_it_are_not_published(home, llm):  # noqa: F811
    llm.script(json.dumps({"rationales": []}))
    done = icdrat(
        *ASK, "--out", "p.jsonl", "--answers", "published.jsonl", cwd=home, ICDRAT_LLM_URL=llm.url, ICDRAT_LLM_MODEL="m"
    )
    assert done.returncode == 2 and "publish offsets" in done.stderr and not (home / "published.jsonl").exists()


@pytest.mark.parametrize("words", [[], ["--batch-out", "batch.jsonl"], ["--shots", 1]])
def test_a_model_elsewhere_is_not_asked(home, words):
    done = icdrat(
        "rationales",
        "prompt",
        "--corpus",
        "secret",
        "--out",
        "elsewhere.jsonl",
        *words,
        cwd=home,
        ICDRAT_LLM_URL="http://192.0.2.1/v1",
        ICDRAT_LLM_MODEL="m",
        ICDRAT_APPROVED_HOSTS="192.0.2.10",
    )
    assert (
        done.returncode == 2
        and "restricted" in done.stderr
        and "PhysioNet" in done.stderr
        and not tells(done.stderr.encode())
    )
    assert not (home / "elsewhere.jsonl").exists() and not (home / "batch.jsonl").exists()


def test_examples_of_it_are_not_shown_elsewhere(home):
    done = icdrat("data", "vignettes", "--out", "open", cwd=home)
    done = icdrat(
        "rationales",
        "prompt",
        "--corpus",
        "open",
        "--examples",
        "secret",
        "--shots",
        1,
        "--out",
        "o.jsonl",
        cwd=home,
        ICDRAT_LLM_URL="http://192.0.2.1/v1",
        ICDRAT_LLM_MODEL="m",
    )
    assert done.returncode == 2 and "worked example is restricted" in done.stderr and not tells(done.stderr.encode())


def test_a_batch_of_it_is_for_its_owner_only(home, tmp_path):
    done = icdrat(
        *ASK,
        "--out",
        "b.jsonl",
        "--batch-out",
        tmp_path / "batch.jsonl",
        cwd=home,
        ICDRAT_LLM_URL="http://127.0.0.1:9/v1",
        ICDRAT_LLM_MODEL="m",
    )
    assert (
        done.returncode == 0
        and tells((tmp_path / "batch.jsonl").read_bytes())
        and stat.S_IMODE((tmp_path / "batch.jsonl").stat().st_mode) == 0o600
    )


def test_no_notebook_leaves_it_where_others_read(home, walked):
    runs, results = home / "runs", home / "results"
    for notebook in [
        *sorted((ROOT / "nbs/experiments").glob("*.ipynb"), key=lambda p: int(p.stem[1:].split("_")[0])),
        *sorted((ROOT / "nbs/paper").glob("*.ipynb"), key=lambda p: (p.stem[:3] == "fig", p.stem)),  # 5 reads table 10
    ]:
        own = dict(
            e1_coder=["corpus=" + str(home / "secret"), "min_notes=4"],
            e5_faithfulness=["n_random=1", "shares=0.1 0.5"],
            e6_corpora=["corpora=vignettes prepared"],
            e7_linker=["n_draws=20"],
            e11_students=["epochs=1", "n_asked=2", "explainers=attingrad"],
            e12_lessons=["epochs=1", "annotated=0"],
            e9_explainers=["methods=random attention occlusion", "max_notes=2"],
        )
        words = [w for p in own.get(notebook.stem, []) for w in ("-p", p)]
        places = ["-p", f"results={results}", "-p", f"runs={runs}"]
        done = icdrat("reproduce", notebook, "--out", runs / notebook.name, *words, *places)
        assert not tells((done.stdout + done.stderr).encode()), notebook.stem
        assert done.returncode == 0 or notebook.stem in ("tab1_methods", "tab7_explainers"), (
            notebook.stem,
            done.stderr,
        )  # their claims need more notes
    assert tells((runs / "corpus" / "notes.arrow").read_bytes()) and (runs / "page1_notes.html").exists()
    assert not (results / "page1_notes.html").exists()
    assert leaks(home) == []
    assert not any(tells(p.read_bytes()) for p in [*results.rglob("*"), *runs.glob("*.ipynb")] if p.is_file())


def test_the_fields_of_what_travels_do_not_print_it():
    corpus = secret_corpus(n=10)
    note = corpus.notes[0]
    shown = [
        repr(corpus),
        repr(note),
        repr(corpus.notes),
        str(note),
        repr(corpus.gold[0]),
        repr(codes_among(corpus, [])),
        repr(replace(note, id="x")),
    ]
    assert not tells(" ".join(shown).encode())
