"""scripts/prepare_clue_corpus.sh: refuses missing and damaged zips, runs every step, and goes on where it stopped."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

from tests.processes import search_path

ROOT = Path(__file__).parents[1]
SCRIPT = "scripts/prepare_clue_corpus.sh"
NAMES = [f"{name}_corpus" for name in ("comment2019zh", "news2016zh", "webText2019zh", "wiki2019zh")]

pytestmark = pytest.mark.skipif(not shutil.which("md5sum"), reason="needs md5sum")


@pytest.fixture
def project(tmp_path):
    """A copy of the script that expects the md5 sums of small zips made here, beside the repository's own code."""
    (tmp_path / "zips").mkdir()
    text = (ROOT / SCRIPT).read_text(encoding="utf-8")
    for i, name in enumerate(NAMES):
        path = tmp_path / "zips" / f"{name}.zip"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(f"{name}/1.txt", f"第{i}部分的第一篇文章。\n够长了吧。\n\n第{i}部分的第二篇文章。\n")
            archive.writestr(f"__MACOSX/{name}/._1.txt", b"\xff\xfe")
        text, changed = re.subn(rf"({name}) [0-9a-f]{{32}}", rf"\1 {hashlib.md5(path.read_bytes()).hexdigest()}", text)
        assert changed == 1
    (tmp_path / "scripts").mkdir()
    (tmp_path / SCRIPT).write_text(text, encoding="utf-8")
    for name in ("data", "training", "run_chinese_ref.py"):
        (tmp_path / name).symlink_to(ROOT / name)
    tokenizer = tmp_path / "tokenizer"
    tokenizer.mkdir()
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *sorted(set("第0123部分的一二篇文章。够长了吧"))]
    (tokenizer / "vocab.txt").write_text("\n".join(tokens) + "\n", encoding="utf-8")
    return tmp_path


def run(project, *flags):
    environment = os.environ | {
        "PATH": search_path(),
        "CLUE_ZIPS": "zips",
        "CLUE_OUTPUT": "out",
        "CLUE_MODEL": "tokenizer",
        "CLUE_WORKERS": "1",
    }
    command = ["bash", SCRIPT, *flags]
    return subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True)


def test_all_steps_run_once(project):
    done = run(project, "--max_seq_length", "16")
    assert done.returncode == 0, done.stderr
    lines = (project / "out/clue_corpus_small_14g.jsonl").read_text(encoding="utf-8").splitlines()
    texts = {json.loads(line)["text"] for line in lines}
    assert texts == {f"第{i}部分的第一篇文章。\n够长了吧。\n" for i in range(4)} | {
        f"第{i}部分的第二篇文章。\n" for i in range(4)
    }
    manifest = (project / "out/corpus/manifest.json").read_bytes()
    assert json.loads(manifest)["settings"]["max_seq_length"] == 16
    (project / "zips" / f"{NAMES[0]}.zip").unlink()  # no longer needed
    done = run(project, "--max_seq_length", "16")
    assert done.returncode == 0, done.stderr
    assert (project / "out/corpus/manifest.json").read_bytes() == manifest


def test_missing_and_damaged_zips_are_named(project):
    path = project / "zips" / f"{NAMES[2]}.zip"
    path.write_bytes(path.read_bytes() + b"x")
    done = run(project)
    assert done.returncode == 1
    assert f"{NAMES[2]}.zip must have the md5" in done.stderr
    path.unlink()
    done = run(project)
    assert done.returncode == 1
    assert f"CLUE_ZIPS must hold {NAMES[2]}.zip" in done.stderr
    assert not (project / "out/corpus").exists()


def test_sums_are_those_that_were_published():
    sums = re.findall(
        r"^check_and_unzip \S+ ([0-9a-f]{32})$", (ROOT / SCRIPT).read_text(encoding="utf-8"), re.MULTILINE
    )
    assert sums == [
        "8a8be341ebce39cfe9524fb0b46b08c5",
        "4bdc2c941a7adb4a061caf273fea42b8",
        "fc582409f078b10d717caf233cc58ddd",
        "157dacde91dcbd2e52a60af49f710fa5",
    ]
