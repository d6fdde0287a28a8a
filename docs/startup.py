"""What each page's kernel runs first: no paths of this machine in warnings, no progress bars, and two words of a page.

``%%shell`` runs the commands of a block of ``bash``; ``%files`` brings the small files that a page names.
"""

import contextlib
import os
import shlex
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import rich.console
from IPython.core.magic import register_cell_magic, register_line_magic
from tqdm import tqdm

warnings.formatwarning = lambda message, kind, *_: f"{kind.__name__}: {message}\n"
for color in ("FORCE_COLOR", "CLICOLOR_FORCE", "CLICOLOR"):
    os.environ.pop(color, None)
os.environ |= {"TERM": "dumb", "TQDM_DELAY": "3600"}
tqdm.display = lambda *_, **__: None
warnings.filterwarnings("ignore", "IProgress not found")
rich.console._is_jupyter = lambda: False  # commands print as in a terminal


@register_cell_magic
def shell(_: str, block: str) -> None:
    """Run a block, what it prints in its order; scstore's own commands in this process, which imports it once."""
    lines = block.replace("\\\n", "").strip().splitlines()
    if all(line.startswith(("scstore ", "#")) and not set(line) & set("|<>;&$`") for line in lines):
        from scstore.cli import run

        for words in filter(None, (shlex.split(line, comments=True) for line in lines)):
            with contextlib.redirect_stderr(sys.stdout):
                code = run(words[1:])
            if code:
                raise RuntimeError(f"{shlex.join(words)}: exit code {code}")
        return
    plain = {name: value for name, value in os.environ.items() if name != "MPLBACKEND"}
    done = subprocess.run(["bash", "-ec", block], stdout=-1, stderr=subprocess.STDOUT, text=True, env=plain)
    sys.stdout.write(done.stdout)
    done.check_returncode()


@register_line_magic
def files(names: str) -> None:
    """Copy files that were made for the pages, and what lies beside each under the same name."""
    given = Path(os.environ["SCSTORE_GIVEN"])
    for name in names.split():
        found = list(given.glob(f"{name.partition('.')[0]}*"))
        if not found:
            raise FileNotFoundError(f"docs/given.py makes no {name}")
        for path in found:
            target = path.relative_to(given)
            target.parent.mkdir(exist_ok=True)
            (shutil.copytree if path.is_dir() else shutil.copy)(path, target)
