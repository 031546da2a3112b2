"""Outputs that go elsewhere: what a path with a scheme (s3://, ...) names is made here, and sent when it is whole."""

import shutil
import tempfile
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path, PurePosixPath

from common.errors import UserError
from data.text.streams import file_system, is_url, local_path, reachable

_BLOCK = 1 << 20
_LAST = "manifest.json"  # says that a corpus is complete
_OF_SHARES = ("num_shards", "merge", "step")


@contextmanager
def sent_away(args: Namespace, output: str) -> Iterator[str | None]:
    """Let the flag of this name say a local path inside; what is there at the end is sent to where the flag pointed.

    Yields that address, None where nothing is to be sent. Without --work_dir the path lies in a temporary folder. Runs
    that share the work need one, and the last of them sends what it holds.
    """
    url = local_path(getattr(args, output))
    work, shared = getattr(args, "work_dir", None), any(getattr(args, name, None) for name in _OF_SHARES)
    if not is_url(url):
        if work:
            raise UserError(f"--work_dir is for an --{output} with a scheme, got the local {url!r}; leave it out")
        setattr(args, output, url)
        yield None
        return
    if shared and not work:
        raise UserError(
            f"--{output} elsewhere needs a folder that all runs of shared work see, got {url!r} alone; add --work_dir"
        )
    name = PurePosixPath(url.rstrip("/")).name
    with nullcontext(Path(work, f"{name}.sending")) if work else tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        if not (work and folder.is_dir()):  # what these runs have begun to send may be there
            _check_target(url, f"--{output}")
        folder.mkdir(parents=True, exist_ok=True)
        setattr(args, output, str(folder / name))
        yield url
        if getattr(args, "shard_index", None) is None:
            _send(folder, url, f"--{output}")
            if work:
                shutil.rmtree(folder)


def _check_target(url: str, flag: str) -> None:
    """UserError for an output that is a folder with something in it."""
    with reachable(url, flag):
        fs, root = file_system(url)
        taken = fs.isdir(root) and bool(fs.find(root))
    if taken:
        raise UserError(f"{flag} must name a new folder or a file, got {url!r}, a folder with files; choose another")


def _send(work: Path, url: str, flag: str) -> None:
    """Copy all that lies in a folder to where `url` lies, whole files, what says that it is complete last."""
    files = sorted((path for path in work.rglob("*") if path.is_file()), key=lambda path: (path.name == _LAST, path))
    with reachable(url, flag):
        fs, root = file_system(url.rstrip("/"))
        parent = PurePosixPath(root).parent
        for file in files:
            target = str(parent / file.relative_to(work).as_posix())
            fs.makedirs(str(PurePosixPath(target).parent), exist_ok=True)
            with fs.transaction, file.open("rb") as source, fs.open(target, "wb") as sink:
                shutil.copyfileobj(source, sink, _BLOCK)
    if files:
        print(f"sent to {url}: {len(files):,} file{'s' if len(files) > 1 else ''} from {work}, which is gone")
