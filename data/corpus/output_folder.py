"""The folder of a corpus while it is made: held by one run, begun, gone on with, finished."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common.errors import UserError
from data.corpus.arrow_shards import CorpusError, check_sum, shard_name
from data.corpus.chinese_ref_files import REFERENCE
from data.corpus.manifest import (
    FORMAT,
    MANIFEST,
    dataset_info,
    drop_journals,
    known_checksums,
    read_manifest,
    write_manifest,
)
from data.corpus.preparation import COUNTS
from data.outputs import clear_left, held, is_temporary, resolve_output, telling

_LOCK = ".lock"
_LOCK_SECONDS = 10.0  # that a run which is ending may still hold the folder


@contextmanager
def locked_output(folder: Path, flag: str = "--output_dir", patience: float | None = None) -> Iterator[None]:
    """Hold the output folder for this run and its workers, and clear what a killed run left half written.

    patience: seconds to wait for another run that holds it, instead of those that one takes to end.

    CorpusError naming `flag` when the folder holds other things, or another run does not release it. What files and
    memory do to the inside ends in a UserError that says that the finished shards stay.
    """
    folder = resolve_output(folder)
    if folder.exists() and not folder.is_dir():
        raise CorpusError(f"{flag} must name a folder, got the file {str(folder)!r}; choose another name")
    folder.mkdir(parents=True, exist_ok=True)
    others = [path.name for path in sorted(folder.iterdir()) if path.name != _LOCK and not is_temporary(path)]
    if others and not (folder / MANIFEST).is_file():
        raise CorpusError(
            f"{flag} must be new, empty or a corpus, got {str(folder)!r} with {others[0]!r} in it; "
            "choose another folder"
        )
    busy = CorpusError(f"{flag} must be free, got {str(folder)!r} held by another run; wait for it to end")
    with held(folder / _LOCK, busy, _LOCK_SECONDS if patience is None else patience):  # no new run beside an orphan
        for part in filter(Path.is_dir, (folder, folder / REFERENCE)):
            clear_left(part)
        try:
            with telling(f"finished shards are kept in {folder}; mend that and run the same command again to go on"):
                yield
        except UserError as error:
            if folder.is_dir():
                raise
            raise CorpusError(
                f"{flag} must stay while it is written, got {str(folder)!r} removed; run the same command again to "
                "begin anew"
            ) from error


def begin(folder: Path, inputs: list[dict], tokenizer: dict, settings: dict, flags: tuple[str, str]) -> dict:
    """Return the manifest of an unfinished corpus: the one in the folder, or a new one, which is written.

    flags: those that name the input and the tokenizer; the keys of `settings` are flags too.
    CorpusError naming the flag when the folder was begun with other inputs, another tokenizer or other settings.
    """
    fresh = {"format": FORMAT, "complete": False, "inputs": inputs, "tokenizer": tokenizer, "settings": settings}
    if not (folder / MANIFEST).is_file():
        write_manifest(folder, fresh)
        return fresh
    manifest = read_manifest(folder, "--output_dir")
    differences = [(flags[0], _describe(manifest["inputs"]), _describe(inputs), manifest["inputs"] != inputs)]
    old, new = manifest["tokenizer"], tokenizer
    described = [f"{each['name']} ({each['size']} entries)" for each in (old, new)]
    differences.append((flags[1], *described, old["hash"] != new["hash"]))
    for name, value in settings.items():
        differences.append(
            (f"--{name}", manifest["settings"].get(name), value, manifest["settings"].get(name) != value)
        )
    for flag, before, now, differs in differences:
        if differs:
            raise CorpusError(
                f"{flag} must be the same as when {folder} was begun, {before}, got {now}"
                f"{' with other content' if before == now else ''}; go back to it or choose another --output_dir"
            )
    return manifest


def _describe(inputs: list[dict]) -> str:
    return f"{len(inputs)} files of {sum(file['bytes'] for file in inputs):,} bytes"


def finish(folder: Path, manifest: dict, records: list[dict], sums: dict[str, int] | None = None) -> dict:
    """Write what makes the folder a finished corpus, the manifest last; return the manifest. Reads all shards again.

    sums: the checksums of all shards, by name, where they were read already. CorpusError when one is damaged or gone.
    """
    counts = {name: sum(record[name] for record in records) for name in COUNTS}
    shards = []
    for record in records:
        path = folder / shard_name(record["unit"])
        if not path.is_file():
            raise CorpusError(f"{path} must stay while the corpus is made, got it removed; run the same command again")
        shards.append({"file": path.name, "bytes": path.stat().st_size, **{name: record[name] for name in COUNTS}})
    if sums is None:
        paths, known = (
            (*folder.glob("data-*.arrow"), *folder.glob(f"{REFERENCE}/data-*.arrow")),
            known_checksums(folder),
        )
        sums = {path.relative_to(folder).as_posix(): check_sum(path, known.get(path)) for path in paths}
    dataset_info(folder, [shard["file"] for shard in shards])
    manifest = {**manifest, "complete": True, "counts": counts, "shards": shards}
    write_manifest(folder, manifest, dict(sorted(sums.items())))
    drop_journals(folder)
    return manifest
