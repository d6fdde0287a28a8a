from __future__ import annotations

import pytest

from scstore.reporting.markdown import as_table, escaped


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("T_CD4+ cells (naïve)", "T_CD4+ cells (naïve)"),
        ("<img src=x>&amp;", "&lt;img src=x&gt;&amp;amp;"),
        ("![x](http://e.org)", r"!\[x\](http:&#47;&#47;e.org)"),
        ("see https://e.org or WWW.e.org, a@b.org", "see https:&#47;&#47;e.org or WWW&#46;e.org, a&#64;b.org"),
        ("_B_ *T* ~x~ `c` $\\x$", r"\_B\_ \*T\* \~x\~ \`c\` \$\\x\$"),
        ("a|b\n| c\r\x1b[2J", r"a\|b \| c \x1b\[2J".replace(r"\x1b", r"\\x1b").replace(" \\\\x", "\\\\r\\\\x")),
    ],
)
def test_names_stay_text(text: str, written: str) -> None:
    """RELIABILITY 67: no HTML, link, image, emphasis, formula, code or further cell."""
    assert escaped(text) == written
    lines = as_table([text], [[text]]).splitlines()
    assert lines == [f"| {written} |", "| --- |", f"| {written} |"]
