"""The files of the original run_chinese_ref.py: refids.txt, reftext.txt and a dataset of `text` and `chinese_ref`.

chinese_ref lists the positions of the tokens that continue a word, with [CLS] at 0, as the whole-word-mask collators
of transformers 4 read them. Word pieces that start with ## are left out: those collators join them by themselves.
Source: transformers' examples/research_projects/mlm_wwm and JunnYu/FLASHQuad_pytorch.

Letters: R rows.
"""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
from tokenizers import Tokenizer

from data.corpus.arrow_shards import CorpusError, check_sum, list_array, read_arrow, shard_name, write_arrow
from data.corpus.blocks import Blocks
from data.corpus.manifest import dataset_info
from data.outputs import atomic_output

REFERENCE = "reference"


class ReferenceWriter:
    """Writes one shard of the dataset for each unit, below the corpus folder, and the text files at the end."""

    def __init__(self, folder: Path, backend: Tokenizer):
        self.folder = folder / REFERENCE
        self.folder.mkdir(exist_ok=True)
        vocabulary = backend.get_vocab()
        self._is_piece = np.zeros(max(vocabulary.values()) + 1, bool)
        self._is_piece[[token for word, token in vocabulary.items() if word.startswith("##")]] = True

    def rows(self, blocks: Blocks, text: str) -> tuple[list[str], np.ndarray, np.ndarray]:
        """Texts [R] without line breaks, flat positions (int64) and their number in each row [R]."""
        texts = [text[start:end].replace("\n", " ").replace("\r", " ") for start, end in blocks.spans.tolist()]
        marked = blocks.continuation & ~self._is_piece[blocks.ids]
        begins = np.cumsum(blocks.lengths) - blocks.lengths
        positions = np.arange(len(marked)) - np.repeat(begins, blocks.lengths) + 1
        counts = np.add.reduceat(np.append(marked, False).astype(np.int64), begins) if len(begins) else begins
        return texts, positions[marked], counts

    def write(self, number: int, batches: list[tuple[list[str], np.ndarray, np.ndarray]]) -> None:
        nothing = np.zeros(0, np.int64)
        texts = [text for batch in batches for text in batch[0]]
        positions = np.concatenate([nothing, *(batch[1] for batch in batches)])
        counts = np.concatenate([nothing, *(batch[2] for batch in batches)])
        columns = {"text": pa.array(texts, pa.string()), "chinese_ref": list_array(positions, counts)}
        write_arrow(self.folder / shard_name(number), columns, {})

    def check(self, number: int, known: dict[Path, set[int]]) -> None:
        """CorpusError when the shard of this unit is damaged or not there; known: of known_checksums."""
        path = self.folder / shard_name(number)
        if not path.is_file():
            raise CorpusError(f"{path} must be beside the shard of the corpus, got no such file")
        read_arrow(path)
        check_sum(path, known.get(path))

    def finish(self, count: int) -> None:
        """Write the two text files beside the corpus, and what datasets.load_from_disk needs, from `count` shards."""
        names = [shard_name(number) for number in range(count)]
        ids_path, text_path = self.folder.parent / "refids.txt", self.folder.parent / "reftext.txt"
        with (
            atomic_output(ids_path) as ids_partial,
            atomic_output(text_path) as text_partial,
            ids_partial.open("w", encoding="utf-8") as ids,
            text_partial.open("w", encoding="utf-8") as texts,
        ):
            for name in names:
                _, batch, _ = read_arrow(self.folder / name)
                texts.writelines(f"{text}\n" for text in batch.column("text").to_pylist())
                ids.writelines(f"{json.dumps(row)}\n" for row in batch.column("chinese_ref").to_pylist())
        dataset_info(self.folder, names)
