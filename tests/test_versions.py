"""What versions this repository asks for; folders of Transformer-XL, whose code travels along, load in any of them."""

import ast
import importlib.metadata
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

import convert_checkpoint
from models import TransformerXLConfig, TransformerXLForCausalLM

ROOT = Path(__file__).resolve().parents[1]
# Interpreters of environments to try against each other; scripts/test_versions.sh sets it.
PYTHONS = os.environ.get("TEST_PYTHONS", "").split(os.pathsep)
OLDER = "f28c21c"  # the last commit whose Transformer-XL knows past_key_values alone
SIZES = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "attention_window": 12}
SIZES |= {"mem_len": 8, "segment_length": 8, "eos_token_id": 1, "pad_token_id": 1}
SAVE = """
import json, sys
from models import TransformerXLConfig, TransformerXLForCausalLM
model = TransformerXLForCausalLM(TransformerXLConfig(**json.loads(sys.argv[1]))).eval()
model.save_pretrained(sys.argv[2])
"""
LOAD = """
import sys, torch, transformers
from safetensors.torch import load_file, save_file
root, *folders = sys.argv[1:]
assert root not in sys.path
for folder in folders:
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
    assert type(model).__module__.startswith("transformers_modules"), type(model)
    ids = torch.arange(2, 40).unsqueeze(0)
    made = model.generate(ids, max_new_tokens=4, do_sample=False, eos_token_id=None)
    with torch.no_grad():
        logits = model(made, use_cache=False).logits
        memory = model(made[:, :20], output_mems=True).mems
        after = model(made[:, 20:], mems=memory).logits
        cached = model(made[:, :20], use_cache=True).past_key_values
        after_cache = model(made[:, 20:], past_key_values=cached).logits
    assert made[0, 38:].tolist() == logits[0, 37:-1].argmax(-1).tolist()
    assert torch.allclose(after_cache, logits[:, 20:], atol=1e-5)
    assert after.shape == after_cache.shape and torch.isfinite(after).all()
    try:
        before = load_file(folder + "/logits.safetensors")["logits"]
        assert torch.allclose(logits, before, atol=1e-5), (logits - before).abs().max()
    except FileNotFoundError:
        save_file({"logits": logits.contiguous()}, folder + "/logits.safetensors")
print(transformers.__version__)
"""

REQUIREMENT = re.compile(r"([\w-]+)>=([\d.]+),<([\d.]+)(?:\s+# (.+))?")
FOLDERS = ("benchmarks", "common", "data", "examples", "models", "tests", "training")
OPTIONAL = {"bert4torch", "deepspeed", "flash_pytorch"}  # looked for first, or opponents of benchmarks


def requirements(file: str) -> dict[str, re.Match]:
    lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
    matches = [REQUIREMENT.fullmatch(line) for line in lines if not line.startswith(("#", "-r "))]
    assert all(matches), f"{file}: each line is NAME>=LOWEST,<HIGHEST  # what needs it"
    return {match[1]: match for match in matches}


def ordered(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def imports(path: Path) -> set[str]:
    """Dotted names of all modules that the file imports."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add(node.module)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.importorskip":
            names.update(name.value for name in node.args[:1] if isinstance(name, ast.Constant))
    return names


def test_the_lock_is_within_the_ranges_and_of_no_machine():
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    lines = [line for line in lines if not line.startswith("#")]
    pins = [re.fullmatch(r'([\w-]+)==([\w.]+)(?: ; platform_system == "Linux")?', line) for line in lines]
    assert all(pins), "each line is NAME==VERSION, without +local, address or hash; bash scripts/lock.sh writes it"
    pinned = {match[1]: match[2] for match in pins}
    assert len(pinned) == len(lines)
    wanted = requirements("requirements.txt") | requirements("requirements-dev.txt")
    for name, match in wanted.items():
        version = pinned[name.replace("_", "-")]
        assert ordered(match[2]) <= ordered(version) < ordered(match[3]), f"{name}: bash scripts/lock.sh"


def test_requirements_name_every_import_and_its_users():
    files = [*ROOT.glob("*.py"), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))]
    imported = {path: imports(path) for path in files}
    ours = {path.stem for path in ROOT.glob("*.py")} | {*FOLDERS}
    roots = {name.split(".")[0] for names in imported.values() for name in names}
    packages = {
        module: {name.lower().replace("_", "-") for name in names}
        for module, names in importlib.metadata.packages_distributions().items()
    }
    runtime = requirements("requirements.txt").keys()
    wanted = requirements("requirements.txt") | requirements("requirements-dev.txt")
    wanted = {name.replace("_", "-"): match for name, match in wanted.items()}
    optional = requirements("requirements-extras.txt") | requirements("requirements-distributed.txt")
    optional = OPTIONAL | {name.replace("-", "_") for name in optional}
    for root in roots - ours - optional - sys.stdlib_module_names:
        assert packages.get(root, set()) & wanted.keys(), f"{root} is imported and not in requirements*.txt"
    for name, match in wanted.items():
        modules = {module for module, names in packages.items() if name in names}
        for pattern in re.findall(r"[\w/*]+\.py", match[4] or ""):
            users = list(ROOT.glob(pattern))
            assert users, f"{name}: there is no {pattern}"
            used = {part for path in users for module in imported[path] for part in module.split(".")}
            assert used & modules or name == "ruff", f"{name}: {pattern} does not import it"
        places = re.findall(r"[\w/*]+(?:\.py|/)", match[4] or "")
        for path in imported if name in runtime else ():
            user = path.relative_to(ROOT)
            if user.parts[0] in ("tests", "benchmarks") or not modules & {
                part.split(".")[0] for part in imported[path]
            }:
                continue
            is_named = any(user.match(place) or str(user).startswith(place) for place in places)
            assert is_named, f"{name}: {user} imports it and is not named"


def run(python: str, code: str, *words, where: Path) -> str:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(where / "modules"), "OMP_NUM_THREADS": "1"}
    command = [python, "-c", code, *map(str, words)]
    done = subprocess.run(command, cwd=where, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{python}: {done.stderr}"
    return done.stdout


def test_folders_load_elsewhere_and_old_code_is_refreshed(tmp_path, capsys):
    model = TransformerXLForCausalLM(TransformerXLConfig(**SIZES))
    model.save_pretrained(tmp_path / "today")
    shutil.copytree(tmp_path / "today", tmp_path / "older")
    (tmp_path / "older" / "relative.py").write_text("raise TypeError('written for another transformers')")
    TransformerXLForCausalLM.from_pretrained(tmp_path / "older")  # with `import models` the folder's code is not run
    weights = (tmp_path / "older" / "model.safetensors").stat()
    convert_checkpoint.main(["--refresh_code", str(tmp_path / "older")])
    assert capsys.readouterr().out.endswith("older: 5 files of code\n")
    assert (tmp_path / "older" / "model.safetensors").stat() == weights
    assert {file.name for file in (tmp_path / "older").iterdir()} == {
        file.name for file in (tmp_path / "today").iterdir()
    }
    run(sys.executable, LOAD, ROOT, tmp_path / "today", tmp_path / "older", where=tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(PYTHONS == [""], reason="TEST_PYTHONS names no environments; scripts/test_versions.sh sets it")
def test_folders_of_every_version_load_under_every_other(tmp_path):
    folders = []
    for number, python in enumerate(PYTHONS):
        folders.append(tmp_path / f"saved-{number}")
        save = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n" + SAVE
        run(python, save, json.dumps(SIZES), folders[-1], where=tmp_path)
    for python in PYTHONS:
        print(run(python, LOAD, ROOT, *folders, where=tmp_path))


@pytest.mark.slow
def test_folders_saved_by_older_code_load_after_a_refresh(tmp_path):
    """Saved with the code of OLDER, which this clone's history must hold."""
    archive = subprocess.run(["git", "-C", ROOT, "archive", OLDER, "models"], capture_output=True)
    if archive.returncode:
        pytest.skip(f"this clone's history lacks {OLDER}")
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as tree:
        tree.extractall(tmp_path / "tree", filter="data")
    save = f"import sys; sys.path.insert(0, {str(tmp_path / 'tree')!r})\n" + SAVE
    run(sys.executable, save, json.dumps(SIZES), tmp_path / "saved", where=tmp_path)
    assert "past_key_values: DynamicCache | None = None\n" in (tmp_path / "saved" / "transformer_xl.py").read_text()
    TransformerXLForCausalLM.from_pretrained(tmp_path / "saved")
    convert_checkpoint.main(["--refresh_code", str(tmp_path / "saved")])
    for python in PYTHONS if PYTHONS != [""] else [sys.executable]:
        print(run(python, LOAD, ROOT, tmp_path / "saved", where=tmp_path))
