"""Raw text and what trans_to_json.py makes of it."""

import json
import random
import re

from data import trans_to_json


def run(*flags, **options):
    options = [f"--{name}={value}" for name, value in options.items()]
    trans_to_json.main([*map(str, flags), *options, "--log_interval=60"])


def read(path, key="text"):
    return [json.loads(line)[key] for line in path.read_bytes().removesuffix(b"\n").split(b"\n")]


def make_corpus(folder, count=300):
    """Write documents of one to four lines to three files; return them in order, with repeats among them."""
    draw = random.Random(0)
    folder.mkdir()
    texts = []
    for name in ("b.txt", "a/x", "a/y.md"):
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        documents = [
            f"第{draw.randrange(count // 2)}篇文章的第一行字\n" + "又一行。\n" * draw.randrange(4)
            for _ in range(count)
        ]
        path.write_text("\n".join(documents), encoding="utf-8", newline="\n")
        texts.append(documents)
    return texts[1] + texts[2] + texts[0]  # sorted: a/x, a/y.md, b.txt


def closing_line(capsys):
    return [int(n.replace(",", "")) for n in re.findall(r"\b\d[\d,]*(?= )", capsys.readouterr().out.split("\n")[-2])]
