"Where tests find oracle cases and open corpora; both are optional and a test without them says so."

import json
import os
from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"
LONG = ("test_restricted", "test_outputs", "test_attribution")


def pytest_collection_modifyitems(items):
    "Files that take minutes come first, so that no core waits for another at the end"
    items.sort(key=lambda item: item.path.stem not in LONG)


@pytest.fixture(scope="session")
def oracle():
    "Numbers that other projects' own code gives for small inputs, by file stem"

    def read(stem):
        file = Path(os.environ.get("ICDRAT_ORACLE", SHARED / "oracle")) / f"{stem}.json"
        if not file.exists():
            pytest.skip(f"no {file.name}: set ICDRAT_ORACLE to the folder of oracle cases")
        return json.loads(file.read_text(encoding="utf-8"))

    return read


@pytest.fixture(scope="session")
def data_folder():
    "The folder that holds codiesp/, mdace/, icd10cm/"
    folder = Path(os.environ.get("ICDRAT_DATA", SHARED / "data"))
    if not (folder / "codiesp").is_dir():
        pytest.skip("no corpora: set ICDRAT_DATA to the folder that holds codiesp/")
    return folder
