"""Pages of --serve in a real browser."""

import os
import re
import select
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BROWSER = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
# Put before a script: names of other machines that it looks up or connects to go into a file.
WATCH = """
import os, sys
def hook(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo"):
        place = arguments[1] if event == "socket.connect" else arguments[0]
        host = place[0] if isinstance(place, tuple) else place
        if host not in (None, "", "localhost", "127.0.0.1", "::1", "0.0.0.0") and not str(host).startswith("/"):
            with open(os.environ["WATCH_FILE"], "a") as file:
                file.write(f"{event} {host}\\n")
sys.addaudithook(hook)
"""


@contextmanager
def served(script, folder, tmp_path, *words):
    """The page of a script in a browser; it ends by Ctrl-C. Neither asks anything of another machine."""
    pytest.importorskip("gradio", reason="gradio: pip install -r requirements-extras.txt")
    driver = pytest.importorskip("playwright.sync_api", reason="playwright: pip install -r requirements-extras.txt")
    if BROWSER is None:
        pytest.skip("needs a browser: apt-get install chromium")
    (tmp_path / "sitecustomize.py").write_text(WATCH)
    watched = tmp_path / "connections"
    variables = {"PYTHONPATH": str(tmp_path), "WATCH_FILE": str(watched), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / f"{script}.py"), str(folder), *map(str, words), "--serve"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "start_new_session": True}
    with (
        subprocess.Popen(command, env=os.environ | variables, **pipes) as process,
        driver.sync_playwright() as browsers,
    ):
        try:
            assert select.select([process.stdout], [], [], 120)[0], "nothing printed in two minutes"
            address = re.match(r"http://127\.0\.0\.1:\d+/", process.stdout.readline())
            assert address, process.communicate(timeout=60)
            browser = browsers.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
            page, asked = browser.new_page(), []
            page.on("request", lambda request: asked.append(request.url))
            page.goto(address[0])
            yield page
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=60)
            assert process.returncode == 0 and "Traceback" not in errors, errors
            browser.close()
        finally:
            process.kill()
    assert not watched.exists(), watched.read_text()
    assert [url for url in asked if not url.startswith((address[0], "data:", "blob:"))] == []
