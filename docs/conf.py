"""The site: ``make docs``. Its pages are the Markdown files of the repository, so that links work there and here.

Blocks of ``bash`` and ``python`` are run while the site is built, those of a page in order in a folder of its own; not
those that say ``# not run here: REASON``. ``<!-- files: NAMES -->`` puts files of ``docs/given.py`` into that folder.
"""

import importlib.metadata
import inspect
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import typer.main
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.typing import stringify_annotation

from scstore import errors
from scstore.cli.commands import app
from scstore.options import Parameter, parameters_of

project, author, release = "scstore", "The scstore developers", importlib.metadata.version("scstore")
project_copyright = author
ROOT = Path(__file__).parent.parent
BUILD = ROOT / "docs" / "_build"
MADE = BUILD / "work" / "made"  # files that tutorials made, to be opened
GIVEN = BUILD / "work" / "given"  # files that pages name
(MADE / "made").mkdir(parents=True, exist_ok=True)

extensions = ["myst_nb", "sphinx.ext.autodoc", "numpydoc"]
root_doc = "docs/index"
include_patterns = ["*.md", "docs/**.md", "stores/README.md", "changes/README.md"]
exclude_patterns = ["docs/_build", ".*", "tests", "stores/golden"]

html_theme = "sphinx_book_theme"
html_title = "scstore"
html_theme_options = {
    "show_navbar_depth": 1,
    "show_toc_level": 2,
    "use_download_button": False,
    "navbar_persistent": [],
}
html_copy_source = False
html_static_path = ["_static"]
html_css_files = ["site.css"]
smartquotes = False  # --dry-run has two hyphens
html_extra_path = [str(MADE)]

myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence", "deflist"]
nb_execution_mode = "force"
nb_execution_raise_on_error, nb_execution_show_tb = False, True  # each failure is a warning with its cause
nb_execution_in_temp = True  # each page starts in an empty folder, as its reader does
nb_execution_timeout = 300
nb_merge_streams = True
nb_code_prompt_show, nb_code_prompt_hide = "Show what this printed", "What this printed"

autodoc_typehints = "none"  # types stand beside the parameters
numpydoc_show_class_members = False

# Commands of the pages are those of this environment. Nothing is fetched, and nothing is left outside _build.
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
os.environ |= {"HF_HUB_OFFLINE": "1", "COLUMNS": "88", "OMP_NUM_THREADS": "1"}
for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "SCSTORE_CACHE"):
    os.environ[name] = str(BUILD / "work" / name.lower())
_profile = Path(os.environ["IPYTHONDIR"], "profile_default")
(_profile / "startup").mkdir(parents=True, exist_ok=True)
(_profile / "ipython_kernel_config.py").write_text("c.IPKernelApp.log_level = 'ERROR'\n")
shutil.copy(ROOT / "docs" / "startup.py", _profile / "startup")
os.environ["SCSTORE_GIVEN"] = str(GIVEN)
TOLD = r"""*This page's code was run when the page was made, in a folder with `\1`: some hundred blood cells of five
types, with made-up donors and tissues.*"""


def setup(app: Sphinx) -> None:
    """Connect what is done to the pages."""
    if not (GIVEN / "annotated.h5ad").exists():  # the last one
        shutil.rmtree(GIVEN, ignore_errors=True)
        subprocess.run([sys.executable, ROOT / "docs" / "given.py", GIVEN], check=True)
    app.connect("source-read", _read_page)
    app.connect("doctree-read", _show_shell)
    app.connect("autodoc-process-docstring", _add_types, priority=400)  # before numpydoc
    app.connect("build-finished", _begin_at_the_index)


def _read_page(app: Sphinx, docname: str, source: list[str]) -> None:
    source[0] = _executed(source[0], collapsed=not docname.startswith("docs/tutorials/"))
    if docname == "docs/commands":
        source[0] += "\n".join(_commands())
    elif docname == "docs/errors":
        source[0] += "\n".join(_errors())


def _executed(page: str, *, collapsed: bool) -> str:
    """Blocks of code as cells of a notebook; ``<!-- shows: FILE -->`` as a picture, ``opens:`` as a link."""

    def cell(block: re.Match[str]) -> str:
        language, code = block.groups()
        if re.search("^# not run here: .", code, flags=re.M):
            return block[0]
        if language == "python":
            return f"```{{code-cell}} ipython3\n{code}```"
        tags = ":tags: [hide-output]\n" if collapsed else ""
        return f"```{{code-cell}} ipython3\n{tags}%%shell\n{code}```"

    page = re.sub(r"^```(python|bash)\n(.*?)^```$", cell, page, flags=re.M | re.S)
    hidden = "```{code-cell} ipython3\n:tags: [remove-input]\n"
    page = re.sub(r"^<!-- files: (.+) -->$", rf"{hidden}%files \1\n```\n\n{TOLD}", page, flags=re.M)
    picture = rf"{hidden}from IPython.display import Image\nImage('\1')\n```"
    page = re.sub(r"^<!-- shows: (\S+) -->$", picture, page, flags=re.M)
    link = r'<p><a href="../../made/\1">Open the page that this run made</a></p>'
    kept = rf"{hidden}import shutil\nshutil.copy('\1', {str(MADE / 'made')!r});\n```\n\n{link}"
    page = re.sub(r"^<!-- opens: (\S+) -->$", kept, page, flags=re.M)
    if "{code-cell}" not in page:
        return page
    return f"---\nfile_format: mystnb\nkernelspec: {{name: python3, display_name: Python}}\n---\n{page}"


def _show_shell(app: Sphinx, doctree: nodes.document) -> None:
    """Commands as they are typed."""
    for block in doctree.findall(nodes.literal_block):
        if block.rawsource.startswith("%%shell\n") or block.astext().startswith("%%shell\n"):
            text = block.astext().removeprefix("%%shell\n")
            block.children = [nodes.Text(text)]
            block.rawsource, block["language"] = text, "bash"


HIDDEN = ("quiet", "as_json", "debug", "help_all")  # what every command has


def _commands(group: Any = None, words: str = "scstore") -> list[str]:
    """Every command with all of its options, from the parsers that the command line uses."""
    lines = [""]
    for name, one in (group or typer.main.get_command(app)).commands.items():
        if hasattr(one, "commands"):
            lines += _commands(one, f"{words} {name}")
            continue
        parser = one.make_context(name, [], resilient_parsing=True).command
        text, _, examples = parser.help.partition("\n\nExamples:")
        shown = [option for option in parser.params if option.name not in HIDDEN]
        lines += [
            f"## {words} {name}",
            "",
            text,
            "",
            *examples.replace("\n\n", "\n").splitlines(),
            "",
            *_options(shown),
        ]
    return lines


def _options(shown: list[Any]) -> list[str]:
    """Options as a list of definitions, those of ``--help-all`` last."""
    lines = []
    for one in sorted(shown, key=lambda option: getattr(option, "hidden", False)):
        is_argument = one.param_type_name == "argument"
        value = "" if is_argument or not one.metavar else f" {one.metavar}"
        names = [one.name.upper()] if is_argument else [*one.opts, *one.secondary_opts]
        default = "" if one.default in (None, False, [], ()) or not one.show_default else f" Default: `{one.default}`."
        lines += [", ".join(f"`{name}{value}`" for name in names), f": {one.help}{default}", ""]
    return lines


def _errors() -> list[str]:
    """Every class of error and warning."""
    lines = ["", "| kind | class | exit code | meaning |", "|---|---|---|---|"]
    classes = [one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, errors.ScstoreError)]
    for one in sorted(classes, key=lambda c: (c.exit_code, c.kind)):
        first = inspect.getdoc(one).splitlines()[0]
        lines.append(f"| `{one.kind}` | `{one.__name__}` | {one.exit_code} | {first} |")
    return lines


def _add_types(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Beside each parameter of a public function its type."""
    if what != "function":
        return
    known = {one.name: one for one in parameters_of(obj)}
    begin = lines.index("Parameters") if "Parameters" in lines else len(lines)
    for i in range(begin, len(lines)):
        if lines[i] in known:
            lines[i] = f"{lines[i]} : {_type_of(known[lines[i]])}"


def _type_of(one: Parameter) -> str:
    if one.choices:
        text = "{" + ", ".join(map(repr, one.choices)) + "}"
    else:
        text = re.sub(r"\b(?:\w+\.)+(?=\w)", "", stringify_annotation(one.type, "fully-qualified-except-typing"))
    return text if one.default is inspect.Parameter.empty else f"{text}, optional"


def _begin_at_the_index(app: Sphinx, failed: Exception | None) -> None:
    if not failed and app.builder.name == "html":
        page = '<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="0; url=docs/index.html">'
        (Path(app.outdir) / "index.html").write_text(page + "<title>scstore</title>", encoding="utf-8")
