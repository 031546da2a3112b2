"""Real files, where they lie beside the repository: gold logits of their rows give gold answers and entities back."""

import numpy as np
import pytest

from data.features.build import combine
from data.scoring.metrics import score
from data.scoring.predictions import decode
from data.tasks.loading import load_task
from data.tasks.table import TASKS
from training.pretrained import load_tokenizer

pytestmark = pytest.mark.needs_shared


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory, shared):
    folder = tmp_path_factory.mktemp("bert")
    (folder / "vocab.txt").write_bytes((shared / "data/vocab/bert_zh_21128.txt").read_bytes())
    return load_tokenizer(str(folder), "--tokenizer")


def test_gold_logits_answer_every_question_whose_answer_ends_with_tokens(tokenizer, make, shared):
    task = TASKS["cmrc2018"]
    records = load_task(task, shared / "data/clue")["validation"].records
    features = make(task, records, tokenizer, 512, training=True)
    logits, answered = np.zeros((len(features), 2, features.lengths.max())), features.targets.any(1)
    logits[np.flatnonzero(answered)[:, None], [[0, 1]], features.targets[answered]] = 9
    scores = score(task, records, decode(task, records, combine(features, logits), max_answer=99))
    # One answer begins inside of a number, which is one token.
    assert len(records) == 3219 and scores["em"] == pytest.approx(100 * 3218 / 3219)


@pytest.mark.parametrize(("name", "folder", "max_length"), [("cluener", "clue", 32), ("msra_ner", "", 128)])
def test_gold_logits_give_every_entity_back(tokenizer, make, shared, name, folder, max_length):
    task = TASKS[name]
    records = load_task(task, shared / "data" / folder)["validation"].records
    features = make(task, records, tokenizer, max_length)
    assert features.truncated > 0
    logits = np.zeros((len(features), max_length, len(task.labels)), np.float32)
    for row, expected in zip(logits, features, strict=True):
        (here,) = np.nonzero(expected["labels"] != -100)
        row[here, expected["labels"][here]] = 1
    assert decode(task, records, combine(features, logits)) == [record["tags"] for record in records]
