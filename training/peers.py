"""Files that processes of a run hand each other where they share no disk: the first one's folder decides for all.

Everything goes over gloo, so that it needs no memory of a device, and from one process to one other at a time.
"""

import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import distributed

from common.errors import ArgumentError
from training.files import CHECKSUMS, PARTIAL

_CHUNK = 64 << 20


class Peers:
    """The processes that run with these arguments; all make one at the same time, when the first has its output_dir.

    Attributes: apart, the numbers of those that do not find the first one's output folder under their own name for it.
    """

    def __init__(self, args):
        self.number, self.count = args.process_index, args.world_size
        self.apart: list[int] = []
        self._output_dir, self._received = Path(args.output_dir), []
        if self.count > 1:
            self._group = distributed.new_group(backend="gloo")
            self._look_around()
            if self.apart and (args.deepspeed or args.fsdp):
                raise ArgumentError(
                    f"--output_dir {args.output_dir} must lie on a disk that all machines share, because DeepSpeed's "
                    f"and FSDP's checkpoints are written by all processes; process {self.apart[0]} does not see that "
                    f"of the first one"
                )

    def _look_around(self) -> None:
        token = self._told(f"{PARTIAL}token-{secrets.token_hex(8)}")
        mark = self._output_dir / token  # a name that no cache of a network's file system can have missed before
        if self.number == 0:
            mark.parent.mkdir(parents=True, exist_ok=True)
            mark.touch()
        distributed.barrier(self._group)
        seen = [False] * self.count
        distributed.all_gather_object(seen, mark.is_file(), self._group)
        self.apart = [number for number, sees in enumerate(seen) if not sees]
        if self.number == 0:
            mark.unlink()

    def _told(self, value):
        """What the first process says."""
        said = [value]
        distributed.broadcast_object_list(said, 0, self._group)
        return said[0]

    @contextmanager
    def delivery(self, folder: Path) -> Iterator[Path]:
        """A folder for this process to write a few files into, which are then in the first one's `folder`."""
        if self.number not in self.apart:
            yield folder
            if self.number == 0:
                for other in self.apart:
                    self._receive(folder, other)
            return
        with tempfile.TemporaryDirectory() as own:
            yield Path(own)
            self._send(Path(own), _files(Path(own)), 0)

    def fetch(self, folder: Path) -> Path:
        """Where this process can read a folder that the first one names; where it cannot, it is sent a copy.

        Copies lie in the output folder until `clear`.
        """
        if self.count == 1:
            return folder
        inside = folder.resolve().parent == self._output_dir.resolve()
        inside, name, files, seal = self._told((inside, folder.name, _files(folder), _seal(folder)))
        copy = self._output_dir / f"{PARTIAL}{name}"
        places = (self._output_dir / name if inside else folder, copy)
        readable = folder
        for other in range(1, self.count):  # one after the other: the first one of a machine receives for all there
            if self.number == other:
                readable = next((place for place in places if (_files(place), _seal(place)) == (files, seal)), None)
                distributed.send_object_list([readable is None], 0, self._group)
                if readable is None:
                    shutil.rmtree(copy, ignore_errors=True)
                    self._receive(copy, 0)
                    readable = copy
            elif self.number == 0:
                wanted = [None]
                distributed.recv_object_list(wanted, other, self._group)
                if wanted[0]:
                    self._send(folder, files, other)
        distributed.barrier(self._group)
        if readable == copy:
            self._received.append(copy)
        return readable

    def clear(self) -> None:
        """Remove the copies, when all have read them."""
        if self.count > 1 and self.apart:
            distributed.barrier(self._group)
        for copy in self._received:
            shutil.rmtree(copy, ignore_errors=True)
        self._received = []

    def _send(self, folder: Path, files: dict[str, int], to: int) -> None:
        distributed.send_object_list([files], to, self._group)
        for name, size in files.items():
            with open(folder / name, "rb") as file:
                for start in range(0, size, _CHUNK):
                    chunk = bytearray(file.read(min(_CHUNK, size - start)))
                    distributed.send(torch.frombuffer(chunk, dtype=torch.uint8), to, self._group)

    def _receive(self, folder: Path, sender: int) -> None:
        files = [None]
        distributed.recv_object_list(files, sender, self._group)
        for name, size in files[0].items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            with open(folder / name, "wb") as file:
                for start in range(0, size, _CHUNK):
                    chunk = torch.empty(min(_CHUNK, size - start), dtype=torch.uint8)
                    distributed.recv(chunk, sender, self._group)
                    file.write(memoryview(chunk.numpy()))


def _files(folder: Path) -> dict[str, int]:
    """Sizes of all files of a folder by their names in it."""
    return {
        os.path.relpath(Path(place, name), folder): Path(place, name).stat().st_size
        for place, _, names in sorted(os.walk(folder))
        for name in sorted(names)
    }


def _seal(folder: Path) -> bytes:
    """What tells a folder of such files from another: their checksums, or of old ones what every step changes."""
    for name in (CHECKSUMS, "trainer_state.json"):
        if (folder / name).is_file():
            return (folder / name).read_bytes()
    return b""
