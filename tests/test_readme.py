"""The first page keeps its word: its ten lines run, and every command of the docs is one that exists."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import anndata
import pytest
import typer.main
from support import ROOT, Run, make_cells, read_xlsx

import scstore
from scstore.cli import app

README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "docs" / "tutorials").glob("*.md")])
OTHERS = [ROOT / name for name in ("CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "stores/README.md")]
TUTORIAL = (ROOT / "docs" / "tutorials" / "label_blood_cells.md").read_text(encoding="utf-8")


def commands(text: str) -> list[list[str]]:
    """The words of the commands in blocks of code, each without its remark."""
    text = re.sub(r"\\\n *", "", text)
    lines = re.findall(r"^scstore ([a-z].*)$", text, re.MULTILINE)
    return [shlex.split(line, comments=True) for line in lines]


def section(heading: str) -> str:
    return README.split(f"\n## {heading}")[1].split("\n## ")[0]


def test_the_ten_lines_run(tmp_path: Path, scstore_command: Run, capsys: pytest.CaptureFixture[str]) -> None:
    make_cells().write_h5ad(tmp_path / "reference.h5ad")
    new = make_cells(9, seed=1)  # too few for a UMAP, which takes time
    new.write_h5ad(tmp_path / "new.h5ad")
    text = section("Label your cells")
    for words in commands(text):
        scstore_command(*words)
    labels = anndata.read_h5ad(tmp_path / "annotated.h5ad").obs["scstore_best_label"]
    assert list(labels) == list(new.obs["cell_type"])
    assert read_xlsx(tmp_path / "doubtful.xlsx")[0][:2] == ["cell_id", "label"]
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    names: dict[str, object] = {}
    exec(code, names)  # noqa: S102
    assert isinstance(found := names["adata"], anndata.AnnData)
    assert list(found.obs["scstore_best_label"]) == list(labels)
    assert "scstore_reason" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore")  # scanpy's, about the age of its cells
def test_the_ten_minutes_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scstore_command: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    """The tutorial's commands, in their order, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    for block in re.findall(r"^```bash\n(.*?)^```$", TUTORIAL, re.MULTILINE | re.DOTALL):
        for script in re.findall(r"^python - <<'END'\n(.*?)^END$", block, re.MULTILINE | re.DOTALL):
            exec(script, {})  # noqa: S102
        for words in commands(block):
            scstore_command(*words)
    found = anndata.read_h5ad("annotated.h5ad").obs
    assert (found["scstore_best_label"].astype(str) == found["bulk_labels"].astype(str)).mean() > 0.75
    assert (found["scstore_status"] == "ok").mean() > 0.8
    assert len(Path("doubtful.csv").read_text().splitlines()) == 1 + (found["scstore_status"] != "ok").sum()
    for made in re.findall(r"^<!-- (?:shows|opens): (\S+) -->$", TUTORIAL, re.MULTILINE):
        assert Path(made).stat().st_size > 10_000


@pytest.mark.parametrize("page", [*PAGES, *OTHERS], ids=lambda page: page.stem)
def test_every_block_is_run_or_says_why_not(page: Path) -> None:
    """The site's build runs blocks of `bash` and `python` but those with a reason; no command stands elsewhere."""
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r"^```(.*)\n((?:.*\n)*?)```$", text, re.MULTILINE)
    for language, block in blocks:
        assert language in ("bash", "python", "text", "json") or language.startswith("{"), block
        if language in ("bash", "python"):
            assert "not run" not in block or re.search(r"^# not run here: \w", block, re.MULTILINE), block
        else:
            assert not re.search(r"^(scstore|python|make) ", block, re.MULTILINE), block
    assert len(re.findall(r"^ *```", text, re.MULTILINE)) == 2 * len(blocks)
    assert not re.search(r"^$\n {4}\w", text, re.MULTILINE), "an indented block: mark it `bash` or `text`"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_command_exists(page: Path) -> None:
    for step in commands(page.read_text(encoding="utf-8")):
        command = typer.main.get_command(app)
        while step and step[0] in getattr(command, "commands", {}):
            name, *step = step
            command = command.commands[name]
        command.make_context(command.name, step)


def test_links_inside_the_docs_lead_somewhere() -> None:
    for page in PAGES:
        for target, anchor in re.findall(r"\]\(([\w./-]*)(?:#([\w-]+))?\)", page.read_text(encoding="utf-8")):
            file = page.parent / target if target else page
            assert file.exists(), f"{page.name}: {target}"
            if anchor:
                headings = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
                slugs = [re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings]
                assert anchor in slugs, f"{page.name}: {target}#{anchor}"


def test_the_reference_names_all_that_is_public() -> None:
    named = re.findall(r"^\.\. auto\w+:: scstore\.([\w.]+)$", (ROOT / "docs" / "api.md").read_text(), re.MULTILINE)
    assert {name for name in named if not name.startswith("pl.")} == set(scstore.__all__) - {"pl"}
    assert {name for name in named if name.startswith("pl.")} == {f"pl.{name}" for name in scstore.pl.__all__}
