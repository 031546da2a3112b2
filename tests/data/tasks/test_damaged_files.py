"""Damaged task files: every one is read or refused in one line that names the file; see tests/fuzzing.py."""

import json

import pytest

from data.tasks.loading import load_task
from data.tasks.own_files import adhoc_task
from data.tasks.table import TASKS
from tests.fuzzing import LONG, SHORT, damaged_files, storm

FILES = {
    "classification.tsv": "id\ttext\tlabel\n" + "".join(f"{n}\t今天 {n}\t{'ab'[n % 2]}\n" for n in range(6)),
    "classification.csv": "text,label\n" + "".join(f'"a, ""{n}""",{n % 2}\n' for n in range(6)),
    "classification.json": [{"text": f"今{n}", "label": n % 2} for n in range(4)],
    "regression.json": {"data": [{"sentence1": "a", "sentence2": "b", "label": n / 2} for n in (0, 1, 2)]},
    "multiple_choice.json": [{"question": "q", "choices": ["a", "b"], "label": n % 2} for n in range(3)],
    "question_answering.json": {
        "data": [
            {
                "paragraphs": [
                    {
                        "context": "在北京",
                        "qas": [
                            {"id": "Q", "question": "哪？", "answers": [{"text": "北京", "answer_start": 1}]},
                            {"id": "R", "question": "谁？", "answers": {"text": ["在"], "answer_start": [0]}},
                        ],
                    }
                ]
            }
        ]
    },
    "question_answering.csv": """question,context,answers
a,bc,"{'text': array(['b'], dtype=object), 'answer_start': array([0])}"\n""",
    "tagging.csv": "tokens,tags\n\"['EU', 'x']\",\"['B-ORG', 'O']\"\na b,O I-LOC\n",
    "tagging.json": [{"text": "张三来", "label": {"PER": {"张三": [[0, 1]]}}}, {"text": "来", "label": {}}],
    "cluewsc2020/dev.json": [
        {
            "text": "他说她",
            "label": "true",
            "id": 1,
            "target": {"span1_text": "他", "span1_index": 0, "span2_text": "她", "span2_index": 2},
        }
    ],
    "csl/dev.json": [{"id": 1, "abst": "本文", "keyword": ["图像", "分割"], "label": "0"}],
    "c3/d-dev.json": [[["男：你好。"], [{"question": "谁？", "choice": ["甲", "乙"], "answer": "乙"}], "1-1"]],
    "chid/dev.json": [{"content": ["他#idiom1#"], "candidates": ["一心", "二心"], "answers": [{"candidate_id": 1}]}],
    "swag/val.csv": "sent1,sent2,ending0,ending1,label\na,b,c,d,0\n",
    "stsb/dev.tsv": "index\tsentence1\tsentence2\tscore\n0\ta\tb\t3.2\n1\tc\td\t0\n",
}


@pytest.fixture
def blow(tmp_path):
    """(name, count) -> how many damaged files of that name were taken and refused."""

    def run(name, count):
        content, file = FILES[name], tmp_path / name
        text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False, indent=1)
        kind = name.split("/")[0].split(".")[0]
        file.parent.mkdir(exist_ok=True)
        read = {True: lambda: load_task(TASKS[kind], tmp_path), False: lambda: adhoc_task(kind, file, file, file)}
        file.write_text(text, encoding="utf-8")
        read[kind in TASKS]()
        return storm(read[kind in TASKS], file, damaged_files(text.encode(), count))

    return run


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_read_or_named(name, blow):
    counts = blow(name, SHORT)
    assert counts["refused"] > 0 and sum(counts.values()) == SHORT


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_thousands_of_damaged_files_are_read_or_named(name, blow):
    assert blow(name, LONG)["refused"] > LONG // 10
