import json
import os
import subprocess
import sys
import threading
import time

import pytest

from training.sweep import claims as module
from training.sweep.claims import Claims, process_start


@pytest.fixture
def ended():
    """[id, start] of a process that has run and ended."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    start = process_start(process.pid)
    process.communicate(b"\n")
    return [process.pid, start]


def claim_of(folder, processes, machine=None, number=0):
    path = folder / f"claim-{number}"
    path.write_text(json.dumps({"machine": machine or module.machine(), "processes": processes}))
    return path


def test_one_holder_at_a_time(tmp_path):
    first, second = Claims(), Claims()
    assert first.take(tmp_path)
    assert not second.take(tmp_path)
    assert second.holder(tmp_path)
    first.release(tmp_path)
    assert second.holder(tmp_path) is None
    assert second.take(tmp_path)
    second.clear(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_claim_of_an_ended_process_is_taken_over_at_once(tmp_path, ended):
    claim_of(tmp_path, [ended])
    assert Claims().take(tmp_path)


def test_a_claim_lives_on_in_the_child(tmp_path, ended):
    claim_of(tmp_path, [ended, [os.getpid(), process_start(os.getpid())]])
    assert not Claims().take(tmp_path)


def test_a_reused_process_id_is_not_the_owner(tmp_path):
    if not process_start(os.getpid()):
        pytest.skip("this system does not tell when a process began")
    claim_of(tmp_path, [[os.getpid(), "1"]])
    assert Claims().take(tmp_path)


@pytest.mark.parametrize("text", ["", json.dumps({"machine": "elsewhere x", "processes": [[1, "1"]]})])
def test_elsewhere_and_half_written_claims_live_while_their_time_changes(tmp_path, monkeypatch, text):
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    path = tmp_path / "claim-0"
    path.write_text(text)
    claims = Claims()
    for beat in range(3):
        os.utime(path, (beat, beat))
        assert not claims.take(tmp_path)
        now[0] += module.STALE_SECONDS - 1
    assert not claims.take(tmp_path)
    now[0] += 1
    assert claims.take(tmp_path)


def test_beats_change_the_time_and_tell_what_was_lost(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    kept, lost = tmp_path / "kept", tmp_path / "lost"
    claims = Claims()
    for folder in (kept, lost):
        folder.mkdir()
        assert claims.take(folder)
    os.utime(kept / "claim-0", (1, 1))
    assert claims.beat() == []
    assert (kept / "claim-0").stat().st_mtime == 1
    claim_of(lost, [], "elsewhere x", number=1)
    now[0] += module.BEAT_SECONDS
    assert claims.beat() == [lost]
    assert (kept / "claim-0").stat().st_mtime > 1


def test_of_many_who_find_a_dead_claim_one_takes_over(tmp_path, ended):
    folders = [tmp_path / str(number) for number in range(30)]
    for folder in folders:
        folder.mkdir()
        claim_of(folder, [ended])
    won = []
    barrier = threading.Barrier(8)

    def race():
        claims = Claims()
        barrier.wait()
        for folder in folders:
            if claims.take(folder):
                won.append(folder)
            time.sleep(0)

    threads = [threading.Thread(target=race) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(won) == sorted(folders)
