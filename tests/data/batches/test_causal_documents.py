"""Documents as token ids: of prompts and texts, of a corpus, and some of them held out."""

import numpy as np
import pytest

from data.batches.causal_documents import CorpusDocuments, Frames, ShardDocuments, encode_documents, split
from data.corpus.arrow_shards import CorpusError
from data.corpus.store import Corpus
from tests.data.batches.documents import END, random_documents
from training.pretrained import load_tokenizer


def test_prompt_and_text_are_tokenised_apart_and_a_text_without_tokens_is_named():
    def encode(texts):
        return [[ord(letter) - 97 for letter in text if letter != " "] for text in texts]

    documents = encode_documents([("f:1", "ab", "cd"), ("f:2", "", "e")], encode, [50], END)
    assert documents.tokens(0, 0, 9).tolist()[:5] == [50, 0, 1, 2, 3]
    assert documents.prompts.tolist() == [3, 1] and documents.lengths.tolist() == [5, 2]
    with pytest.raises(CorpusError, match=r"^f:3: the text must have at least one token"):
        encode_documents([("f:3", "ab", "  ")], encode, [], END)


def test_a_corpus_gives_its_documents_back(tmp_path, bert_folder, write_corpus):
    folder = bert_folder()
    corpus = Corpus(write_corpus(tmp_path / "corpus", folder))
    backend = load_tokenizer(str(folder), "--tokenizer_name").backend_tokenizer
    for begin in ([], [7]):
        documents = CorpusDocuments(corpus, begin, END, backend)
        for number in range(len(documents.lengths)):
            rows = corpus.rows(np.flatnonzero(corpus.documents == number))
            whole = np.concatenate([begin, *(row["input_ids"][1:-1] for row in rows)])
            size = int(documents.lengths[number])
            assert np.array_equal(documents.tokens(number, 0, size), whole)
            for start, stop in ((0, 1), (1, 5), (size - 1, size), (5, size)):
                assert np.array_equal(documents.tokens(number, start, stop), whole[start:stop])


def test_held_out_documents_are_apart_and_always_the_same():
    documents = random_documents(20)
    train, held = split(documents, 0.25)
    assert (len(train.lengths), len(held.lengths)) == (15, 5)
    again = split(documents, 0.25)[1]
    assert [held.tokens(i, 0, 99).tolist() for i in range(5)] == [again.tokens(i, 0, 99).tolist() for i in range(5)]
    for share in (0, 1, 1.5):
        with pytest.raises(CorpusError, match="--validation_split"):
            split(documents, share)


def texts_of(*parts):
    return [tuple(part.tokens(i, 0, int(size)).tolist()) for part in parts for i, size in enumerate(part.lengths)]


@pytest.mark.parametrize("begin", [[], [7]])
@pytest.mark.parametrize("told", [True, False])
def test_documents_by_shard_are_those_of_the_corpus(large_corpus, begin, told):
    corpus, backend = large_corpus
    if not told:
        for shard in corpus.manifest["shards"]:
            del shard["tokens"]
    every = CorpusDocuments(corpus, begin, END, backend)
    by_shard = ShardDocuments(corpus, Frames.of(begin, END, backend))
    parts = [by_shard.shard(number) for number in range(len(corpus.maps))]
    assert texts_of(*parts) == texts_of(every) and by_shard.digest == every.digest
    assert by_shard.tokens().tolist() == [int(part.lengths.sum()) for part in parts]
    assert all(part.prompts.tolist() == [len(begin)] * len(part.lengths) for part in parts)

    train, held = by_shard.split(0.3)
    rest = [train.shard(number) for number in range(len(corpus.maps))]
    assert sorted(texts_of(*rest, held)) == sorted(texts_of(every)) and texts_of(by_shard.split(0.3)[1]) == texts_of(
        held
    )
    assert 0.1 < len(held.lengths) / len(every.lengths) < 0.5
    assert train.tokens().tolist() == [int(part.lengths.sum()) for part in rest]
