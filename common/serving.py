"""A page for a browser, by gradio, for --serve: it is shown on this machine alone and asks nothing of any other."""

import os
from collections.abc import Callable, Iterator

from common.errors import ArgumentError, UserError

SERVE_HELP = "show a page to type into, for a browser on this machine (gradio); Ctrl-C ends it"


def load_gradio():
    """The package, which tells nobody that it is used. ArgumentError where it is missing."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # it asks for its newest version when it is imported
    try:
        import gradio
    except ImportError as error:
        raise ArgumentError("--serve needs the package gradio, which is not here; pip install gradio") from error
    return gradio


def told(function: Callable[..., Iterator]) -> Callable[..., Iterator]:
    """The generator function with its expected errors as messages on the page."""

    def run(*arguments):
        try:
            yield from function(*arguments)
        except UserError as error:
            load_gradio().Warning(str(error))

    return run


def show(page) -> None:
    """Print where gradio's Blocks are to be seen, and show them until Ctrl-C.

    GRADIO_SERVER_PORT and GRADIO_SERVER_NAME choose another place than the first free port from 7860 and 127.0.0.1.
    """
    plain = load_gradio().themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"])  # none to fetch
    options = {"share": False, "ssr_mode": False, "footer_links": [], "theme": plain, "quiet": True}
    page.launch(prevent_thread_lock=True, **options)
    print(f"{page.local_url} shows the page; Ctrl-C ends it", flush=True)
    page.block_thread()
