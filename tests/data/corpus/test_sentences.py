"""Where sentences begin, in rows of token ids."""

import pytest

from data.corpus.sentences import sentence_tables
from data.tokens.tokenizer_files import load_backend


@pytest.fixture(scope="module")
def backend(bert_folder):
    return load_backend(str(bert_folder()), None)


def test_sentences_end_where_a_reader_says_so(backend):
    kinds, opens = sentence_tables(backend)
    kind = {
        token: int(kinds[backend.token_to_id(token)]) for token in ("。", "！", ".", "”", ")", "，", "我", "[SEP]")
    }
    assert kind == {"。": 1, "！": 1, ".": 1, "”": 2, ")": 2, "，": 0, "我": 0, "[SEP]": 0}
    opening = {token: bool(opens[backend.token_to_id(token)]) for token in ("我", "a", "##a", "3", "“", "[CLS]", "。")}
    assert opening == {"我": True, "a": True, "##a": False, "3": False, "“": True, "[CLS]": False, "。": False}
