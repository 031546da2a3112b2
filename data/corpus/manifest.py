"""The files beside the shards of a corpus: the manifest that says how it was made, and two that `datasets` reads.

The manifest has the CRC-32 of every shard; while a corpus is made, a journal in the folder of the shards has them.
"""

import hashlib
import json
import os
import zlib
from pathlib import Path

import pyarrow as pa

from data.corpus.arrow_shards import JOURNAL, CorpusError, shard_name
from data.outputs import atomic_output

FORMAT = 1  # raised whenever the same input and settings give other bytes
MANIFEST = "manifest.json"
_CHECKSUMS = "crc32"  # key of a manifest: of all but itself and `complete`, and of files
_MOST = 1 << 24  # entries of a vocabulary and tokens of a row: what is more comes from a damaged manifest
_FORM = {  # of the keys of a manifest; more of them may be there
    "complete": bool,
    "tokenizer": {"name": str, "hash": str, "size": int},
    "inputs": [{"file": str, "bytes": int, "sha256": str}],
    "settings": {},
    "shards": [{"file": str, "bytes": int}],
}


def write_manifest(folder: Path, manifest: dict, checksums: dict[str, int] | None = None) -> None:
    """checksums: of files in the folder, by their names there."""
    checksums = checksums or {}
    manifest = manifest | {_CHECKSUMS: {"manifest": _manifest_checksum(manifest, checksums), "files": checksums}}
    with atomic_output(folder / MANIFEST, parents=False) as partial:
        text = json.dumps(manifest, ensure_ascii=False, indent=1) + "\n"
        partial.write_text(text, "utf-8", "backslashreplace")  # JSON's escapes for names of files that are not UTF-8


def _manifest_checksum(manifest: dict, checksums: dict[str, int]) -> int:
    return zlib.crc32(json.dumps([manifest | {"complete": True}, checksums], sort_keys=True).encode())


def read_manifest(folder: Path, flag: str) -> dict:
    """Read a manifest. CorpusError naming `flag` when the folder holds none, a damaged one or another format's."""
    return load_manifest(folder, flag)[0]


def load_manifest(folder: Path, flag: str) -> tuple[dict, dict[str, int]]:
    """The manifest, and the checksums of files by name, which are no part of it: those made before have none."""
    path = folder / MANIFEST
    if not path.is_file():
        raise CorpusError(
            f"{flag} must name a corpus folder, got {str(folder)!r}; make one with "
            "run_chinese_ref.py or data/create_data.py"
        )
    try:
        manifest = json.loads(path.read_bytes())
        fault = None if isinstance(manifest, dict) else f"a {type(manifest).__name__}"
    except (ValueError, RecursionError) as error:
        fault = str(error)
    if fault is None and manifest.get("format") != FORMAT:
        raise CorpusError(
            f"{flag} {path} must have corpus format {FORMAT}, got {manifest.get('format')!r:.60}; prepare the corpus "
            "again"
        )
    sums = {}
    if fault is None and _CHECKSUMS in manifest:
        sums = manifest.pop(_CHECKSUMS)
        fault = _misfit(sums, {"manifest": int, "files": {}}, _CHECKSUMS)
        if fault is None and sums["manifest"] != _manifest_checksum(manifest, sums["files"]):
            fault = "another one than was written"
        sums = sums["files"] if fault is None else {}
    fault = fault or _fault_of(manifest)
    if fault is not None:
        raise CorpusError(
            f"{flag} {path} must be the manifest of a corpus, got a damaged one ({fault}); copy it again, or prepare "
            "the corpus again in a new folder"
        )
    return manifest, sums


def _fault_of(manifest: dict) -> str | None:
    """What is wrong in a manifest, None for nothing."""
    needed = {"complete", "tokenizer", *(["shards"] if manifest.get("complete") else [])}
    for key in needed - manifest.keys():
        return f"without {key}"
    for key in _FORM.keys() & manifest.keys():
        if fault := _misfit(manifest[key], _FORM[key], key):
            return fault
    for index, shard in enumerate(manifest.get("shards", [])):
        if shard["file"] != shard_name(index):
            return f"shards[{index}].file is not {shard_name(index)}"
        if type(rows := shard.get("blocks", 0)) is not int or not 0 <= rows < 1 << 40:
            return f"shards[{index}].blocks is {rows!r:.60}"
    for where, value in (
        ("tokenizer.size", manifest["tokenizer"]["size"]),
        ("settings.max_seq_length", manifest.get("settings", {}).get("max_seq_length", 1)),
    ):
        if type(value) is not int or not 0 < value <= _MOST:
            return f"{where} is {value!r:.60}"
    return None


def _misfit(value, form, where: str) -> str | None:
    """Where a JSON value has another form: a type, or a container whose keys are needed or whose items are alike."""
    if isinstance(form, type):
        fits = type(value) is form and (form is not int or 0 <= value < 1 << 63)
        return None if fits else f"{where} is {value!r:.60}"
    if type(value) is not type(form):
        return f"{where} is {value!r:.60}"
    if isinstance(form, list):
        faults = (_misfit(item, form[0], f"{where}[{index}]") for index, item in enumerate(value))
    else:
        faults = (
            _misfit(value[key], form[key], f"{where}.{key}") if key in value else f"{where} without {key}"
            for key in form
        )
    return next(filter(None, faults), None)


def known_checksums(folder: Path) -> dict[Path, set[int]]:
    """By file, what its checksum may be, of the manifest and the journals; files that they do not name are absent."""
    known: dict[Path, set[int]] = {}
    for name, crc in load_manifest(folder, "--output_dir")[1].items():
        known.setdefault(folder / name, set()).add(crc)
    for journal in (folder / JOURNAL, *folder.glob(f"*/{JOURNAL}")):
        for line in journal.read_bytes().split(b"\n") if journal.is_file() else ():
            name, _, crc = line.decode(errors="replace").partition(" ")
            if crc.isdecimal():
                known.setdefault(journal.parent / name, set()).add(int(crc))
    return known


def drop_journals(folder: Path) -> None:
    """Remove the journals of a corpus whose manifest has the checksums."""
    for journal in (folder / JOURNAL, *folder.glob(f"*/{JOURNAL}")):
        journal.unlink(missing_ok=True)


def dataset_info(folder: Path, shards: list[str]) -> None:
    """Write the two small files with which datasets.load_from_disk opens the shards as a Dataset."""
    features = {}
    if shards:
        with pa.OSFile(os.fsencode(folder / shards[0])) as source, pa.ipc.open_stream(source) as stream:
            features = {field.name: _feature(field.type) for field in stream.schema}
    state = {
        "_data_files": [{"filename": name} for name in shards],
        "_fingerprint": hashlib.sha256(json.dumps(shards).encode()).hexdigest()[:16],
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": None,
    }
    for name, content in (("dataset_info.json", {"features": features}), ("state.json", state)):
        with atomic_output(folder / name) as partial:
            partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _feature(kind: pa.DataType) -> dict:
    if pa.types.is_list(kind):
        return {"feature": _feature(kind.value_type), "_type": "List"}
    return {"dtype": str(kind), "_type": "Value"}
