import pytest

from common.errors import ArgumentError
from training.sweep.grid import parse_grid, parse_init_from_task, parse_seeds, plan_jobs, varying

NAMES = {"lr": "lr", "learning_rate": "lr", "batch_size": "batch_size", "fgm": "fgm", "model": "model"}


def test_a_grid_is_read_as_numbers_and_words():
    grid = parse_grid("lr=1e-5, 2e-5;batch_size=16,32 ; model=out/a,out/b;fgm=true,false;", NAMES)
    assert grid == {"lr": [1e-5, 2e-5], "batch_size": [16, 32], "model": ["out/a", "out/b"], "fgm": [True, False]}
    assert parse_grid("learning_rate=0.00001", NAMES) == parse_grid("--lr=1e-5", NAMES)
    assert parse_grid(None, NAMES) == parse_grid("", NAMES) == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lr", "--grid must read flag=value,value;flag=value, got 'lr'"),
        ("lr=1e-5,,2e-5", "must read flag=value"),
        ("=3", "must read flag=value"),
        ("speed=3", "--grid must name flags that a job takes, got 'speed'; choose among batch_size, fgm, lr, model"),
        ("lr=1;learning_rate=2", "--grid must name each flag once, got 'learning_rate' twice"),
        ("lr=1e-5,0.00001", "--grid must give each value once"),
    ],
)
def test_a_bad_grid_is_named(text, message):
    with pytest.raises(ArgumentError) as error:
        parse_grid(text, NAMES)
    assert message in str(error.value)


def test_seeds_are_distinct_numbers():
    assert parse_seeds("1, 2,42") == [1, 2, 42]
    for text in ("1,1", "1,01", "a", "1,,2", "-1", "1.5", ""):
        with pytest.raises(ArgumentError, match="--seeds must be distinct numbers"):
            parse_seeds(text)


def test_jobs_are_the_product_of_tasks_grid_and_seeds(tmp_path):
    grid = {"lr": [1e-5, 2e-5], "batch_size": [16, 32]}
    jobs = plan_jobs(["cola", "rte"], {"model": "m", "epochs": None}, grid, [1, 2, 3], tmp_path)
    assert len(jobs) == len({job.folder for job in jobs}) == 2 * 4 * 3
    assert all(job.folder.parts[-3:] == (job.task, job.config, f"seed{job.seed}") for job in jobs)
    assert {tuple(job.settings) for job in jobs} == {("model", "lr", "batch_size")}, "flags not given stay away"
    assert {job.config for job in jobs if job.task == "cola"} == {job.config for job in jobs if job.task == "rte"}


def test_the_same_flags_find_the_same_folders_in_any_order(tmp_path):
    one = plan_jobs(["cola"], {"model": "m"}, {"lr": [1e-5], "batch_size": [16]}, [1], tmp_path)
    other = plan_jobs(["cola"], {"batch_size": 16, "lr": 1e-5, "epochs": None}, {"model": ["m"]}, [1], tmp_path)
    assert one[0].folder == other[0].folder
    assert one[0].folder != plan_jobs(["cola"], {"model": "m"}, {"lr": [1e-5]}, [1], tmp_path)[0].folder


def test_tasks_that_start_from_another_wait_for_its_job_of_the_same_configuration_and_seed(tmp_path):
    sources = parse_init_from_task("rte, mrpc,stsb=mnli;afqmc=cmnli")
    assert sources == {"rte": "mnli", "mrpc": "mnli", "stsb": "mnli", "afqmc": "cmnli"}
    jobs = plan_jobs(["rte", "mnli", "cola"], {}, {"lr": [1e-5, 2e-5]}, [1, 2], tmp_path, sources)
    assert [job.task for job in jobs[:4]] == ["mnli"] * 4, "what others wait for comes first"
    by_folder = {job.folder: job for job in jobs}
    for job in jobs:
        assert (job.init_from is not None) == (job.task == "rte")
        if job.init_from is not None:
            before = by_folder[job.init_from]
            assert (before.task, before.settings, before.seed) == ("mnli", job.settings, job.seed)
    alone = plan_jobs(["rte"], {}, {"lr": [1e-5]}, [1], tmp_path)
    assert alone[0].folder not in by_folder, "another start is another configuration"


def test_a_bad_init_from_task_is_named(tmp_path):
    with pytest.raises(ArgumentError, match="must name a task of --tasks; add mnli there"):
        plan_jobs(["rte"], {}, {}, [1], tmp_path, {"rte": "mnli"})
    with pytest.raises(ArgumentError, match="starts from the model, got one that starts from rte"):
        plan_jobs(["rte", "mnli"], {}, {}, [1], tmp_path, {"rte": "mnli", "mnli": "rte"})
    for text in ("rte", "rte=", "=mnli", "a=b=c", "rte,,mrpc=mnli"):
        with pytest.raises(ArgumentError, match="--init_from_task must read"):
            parse_init_from_task(text)
    with pytest.raises(ArgumentError, match="--init_from_task must name 'rte' once"):
        parse_init_from_task("rte=mnli;rte=qnli")


def test_varying_names_the_flags_that_differ():
    assert varying([{"lr": 1, "model": "m"}, {"lr": 2, "model": "m", "fgm": True}]) == ["lr", "fgm"]
    assert varying([{"lr": 1}]) == []
