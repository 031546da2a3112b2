"""The house keeps its own rules: import directions, recipes that parse, README commands that exist, clean style."""

import ast
import importlib.util
import re
import shlex
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("data", "models", "training")  # none imports a sibling; each may import common/, which imports none
SOURCES = sorted([*ROOT.glob("*.py"), *(p for room in ("common", *PACKAGES) for p in (ROOT / room).rglob("*.py"))])
ROOT_SCRIPTS = sorted(p.stem for p in ROOT.glob("*.py"))
DATA_SCRIPTS = {p for p in (ROOT / "data").glob("*.py") if "def main(" in p.read_text(encoding="utf-8")}
MOST_UNTESTED = 10  # modules that have no test file of their name
RECIPES = sorted((ROOT / "scripts").glob("*.sh"))


def imported_modules(path: Path) -> set[str]:
    """Dotted names of every module that the file imports, wherever the import stands."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names.add("." * node.level + (node.module or ""))
    return names


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_keep_their_direction(path):
    room = path.relative_to(ROOT).parts[0]
    names = {name for name in imported_modules(path) if not name.startswith(".")}
    roots = {name.split(".")[0] for name in names}
    scripts = {*ROOT_SCRIPTS, *(f"data.{script.stem}" for script in DATA_SCRIPTS)}
    assert not (names | roots) & scripts, "no module or script imports a script"
    if room == "common":
        assert not roots & {*PACKAGES}, "common/ imports no other package"
    if room in PACKAGES and path not in DATA_SCRIPTS:
        assert not roots & (set(PACKAGES) - {room}), f"{room}/ must not import its sibling packages"


@pytest.mark.parametrize("path", sorted((ROOT / "models").glob("*.py")), ids=lambda p: p.name)
def test_model_files_can_travel_with_a_checkpoint(path):
    if path.name == "__init__.py":
        return
    relative = {name for name in imported_modules(path) if name.startswith(".")}
    assert all(re.fullmatch(r"\.\w+", name) for name in relative), "flat siblings only: save_pretrained copies them"


def commands(text: str) -> list[list[str]]:
    """Every `python X.py ...` or `torchrun ... X.py ...` of a shell text, backslash continuations joined, as words."""
    lines_of_words = []
    for line in text.replace("\\\n", " ").splitlines():
        line = line.strip()
        if re.match(r'^(\w+=\S* )*(exec )?("?\$\{?python\}?"?|python3?|torchrun|bash)\s', line):
            lines_of_words.append(shlex.split(line.split(" | ")[0], comments=True))
    return lines_of_words


def script_and_flags(words: list[str]) -> tuple[str, list[str]] | None:
    for position, word in enumerate(words):
        if re.search(r"\w+\.(py|sh)$", word):
            return word, [w.split("=")[0] for w in words[position + 1 :] if w.startswith("--")]
    return None


def help_text(script: Path) -> str:
    """The script's own --help, run in this process."""
    spec = importlib.util.spec_from_file_location(f"upkeep_{script.stem}", script)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    import contextlib
    import io

    text = io.StringIO()
    with contextlib.redirect_stdout(text), pytest.raises(SystemExit):
        module.main(["--help"])
    return text.getvalue()


_help_texts: dict[Path, str] = {}


def assert_flags_exist(script: Path, flags: list[str]) -> None:
    if script.suffix != ".py" or script.parts[-2] in ("benchmarks", "tests"):
        return
    known = _help_texts.setdefault(script, help_text(script))
    for flag in flags:
        assert re.search(rf"{re.escape(flag)}\b", known), f"{script.name} has no {flag}"


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda p: p.name)
def test_recipes_parse_with_the_script_they_call(recipe):
    assert subprocess.run(["bash", "-n", recipe], capture_output=True).returncode == 0
    text = recipe.read_text(encoding="utf-8")
    suggested = re.findall(r"--\w+", " ".join(re.findall(r"^#     (--.*)$", text, re.MULTILINE)))
    for words in commands(text):
        call = script_and_flags(words)
        if call and "setup_env" not in call[0]:
            script = ROOT / call[0].replace("$root/", "").replace("../", "")
            if not script.exists():
                script = ROOT / "data" / script.name
            assert script.exists(), f"{recipe.name} calls {call[0]}, which is not there"
            assert_flags_exist(script, [*call[1], *suggested])


PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_commands_and_links_of_the_pages_exist(page):
    text = page.read_text(encoding="utf-8")
    own = re.findall(r"```python\n# (\S+\.py)\n", text)  # files that the page has its reader write
    for block in re.findall(r"```(?:bash|sh)\n(.*?)```", text, flags=re.DOTALL):
        for words in commands(block):
            call = script_and_flags(words)
            if call and call[0] not in own:
                script = ROOT / call[0]
                if not script.exists():
                    script = ROOT / "data" / script.name
                assert script.exists(), f"{page.name} names {call[0]}, which is not there"
                assert_flags_exist(script, call[1])
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", text):
        file, _, anchor = target.partition("#")
        file = page.parent / file if file else page
        assert file.exists(), f"{page.name} links to {target}, which is not there"
        assert not anchor or anchor in anchors(file), f"{page.name} links to {target}, a heading that is not there"


def anchors(page: Path) -> set[str]:
    """What the headings of a page are linked by, as code hosts make it of their text."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_readme_fits_two_screens():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "```bash" in text, "README.md shows its commands"
    assert text.count("\n") <= 150 and max(map(len, text.splitlines())) <= 110 and len(text.encode()) <= 10_000


def test_no_folder_is_too_full_to_be_seen_at_a_glance():
    """14 modules at most; models/ keeps flat what travels with a checkpoint."""
    folders = ("benchmarks", "common", "data", "examples", "models", "training")
    parents = [path.parent for name in folders for path in (ROOT / name).rglob("*.py") if path.name != "__init__.py"]
    full = {str(folder.relative_to(ROOT)): count for folder, count in Counter(parents).items() if count > 14}
    assert full.pop("models") <= 18 and not full


def test_the_map_names_every_file():
    text = (ROOT / "docs/code.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^\| `([^`]+)`", text, flags=re.MULTILINE))
    folders = ("benchmarks", "common", "data", "examples", "models", "training")
    there = {
        *ROOT.glob("*.py"),
        *(ROOT / "scripts").iterdir(),
        *(p for f in folders for p in (ROOT / f).rglob("*.py")),
    }
    assert listed == {str(p.relative_to(ROOT)) for p in there}


def test_modules_have_a_test_file_of_their_name():
    """Of all but a few: what tests a module is found without searching."""
    modules = [path.relative_to(ROOT) for path in SOURCES if path.name != "__init__.py"]
    lacking = [str(path) for path in modules if not (ROOT / "tests" / path.parent / f"test_{path.name}").exists()]
    assert len(lacking) <= MOST_UNTESTED, lacking


def test_ruff_is_content():
    for mode in (["check"], ["format", "--check"]):
        done = subprocess.run([sys.executable, "-m", "ruff", *mode, str(ROOT)], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
