"""README's lines for one's own text and for Python run as they are pasted, in a folder where nothing has run yet."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
WORDS = ("今天天气很好", "我们去长江大桥", "北京大学的研究生", "手机多少钱", "the river is long", "生命的起源在海里")


def block(heading, language, page="README.md"):
    """The first block of this language below the heading."""
    part = (ROOT / page).read_text(encoding="utf-8").split(f"\n## {heading}\n")[1]
    return re.search(rf"```{language}\n(.*?)```", part, flags=re.DOTALL)[1]


def test_both_languages_show_the_same_lines():
    pairs = (("Your own text", "用自己的文本", "bash"), ("In Python", "在 Python 里", "python"))
    for english, chinese, language in pairs:
        blocks = block(english, language), block(chinese, language, "README.zh-CN.md")
        assert len({re.sub(r"  # .*", "", text) for text in blocks}) == 1


@pytest.mark.timeout(600)
def test_own_text_and_the_lines_of_python(tmp_path, monkeypatch):
    for name in ("common", "data", "models", "training", *(path.name for path in ROOT.glob("*.py"))):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "my_text").mkdir()
    documents = ("\n".join(WORDS[number * line % 6] + "。" for line in range(3, 9)) for number in range(1, 60))
    (tmp_path / "my_text" / "book.txt").write_text("\n\n".join(documents) + "\n", encoding="utf-8")
    path = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}  # in which python is this one
    threads = {"OMP_NUM_THREADS": "1"}  # more of them, spinning, take the cores of the tests beside this one
    command = ["bash", "-euxo", "pipefail", "-c", block("Your own text", "bash")]
    done = subprocess.run(
        command, cwd=tmp_path, env=threads | os.environ | path, capture_output=True, text=True, timeout=540
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "天" in done.stdout, "what fills the blank"
    (tmp_path / "outputs/quickstart").mkdir()
    (tmp_path / "outputs/quickstart/encoder").symlink_to(tmp_path / "outputs/mine/model")
    monkeypatch.chdir(tmp_path)
    variables = {}
    exec(block("In Python", "python"), variables)
    assert variables["logits"].shape[-1] == len(variables["tokenizer"])
