"""Files and corpora as users make them, for the tests of the data scripts and of what these are made of."""

from pathlib import Path

from data import create_data
from data.corpus.store import Corpus

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def create(tokenizer, output, *flags):
    """Run data/create_data.py; return its documents as text."""
    more = ["--output_dir", output, "--line_by_line", "true", "--preprocessing_num_workers", 1]
    create_data.main(list(map(str, ["--tokenizer_name", tokenizer, *more, *flags])))
    vocabulary = (tokenizer / "vocab.txt").read_text(encoding="utf-8").split("\n")
    rows = Corpus(output).rows(range(len(Corpus(output))))
    return [" ".join(vocabulary[token] for token in row["input_ids"][1:-1]).replace(" ##", "") for row in rows]


def written(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}
