"""Checkpoints are whole or absent, and old ones go."""

from training.loop.checkpoints import all_checkpoints, publish, rotate


def test_checkpoints_appear_whole_and_old_ones_go_but_the_best(tmp_path):
    for step in (5, 10, 20, 100):
        partial = tmp_path / f"incomplete-checkpoint-{step}"
        partial.mkdir()
        (partial / "file").write_text(str(step))
        (partial / "file").chmod(0o600)
        publish(partial, tmp_path / f"checkpoint-{step}")
    assert (tmp_path / "checkpoint-5" / "file").stat().st_mode & 0o044
    (tmp_path / "checkpoint-notes").mkdir()
    rotate(tmp_path, 2, str(tmp_path / "checkpoint-5"))
    assert [folder.name for folder in all_checkpoints(tmp_path)] == ["checkpoint-5", "checkpoint-20", "checkpoint-100"]
    assert not list(tmp_path.glob("incomplete-*"))
    rotate(tmp_path, 1, None, newest=20)  # just written, where another course had come to step 100
    assert [folder.name for folder in all_checkpoints(tmp_path)] == ["checkpoint-20", "checkpoint-100"]
