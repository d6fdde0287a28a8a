from __future__ import annotations

from scstore.errors import CellsError, MissingExtraError, printable, show, show_some


def test_names_are_escaped_and_shortened():
    """RELIABILITY 15: an id cannot break out of a message."""
    assert show("a\nb\x1b[2J") == r"'a\nb\x1b[2J'"
    assert show("näßt 细胞") == "'näßt 细胞'"
    assert len(show("x" * 10_000)) < 80
    assert show("x" * 10_000).endswith("(10,000 characters)")
    assert show(5) == "'5'"
    assert show_some(["a", "b"]) == "'a', 'b'"
    assert show_some(iter("abcd")) == "'a', 'b', 'c', …"
    assert show_some([]) == ""


def test_no_message_shows_control_characters():
    """RELIABILITY 67: wherever a Python caller prints it."""
    assert str(CellsError("a\x1b[2J\nb\tc 细胞")) == "a\\x1b[2J\nb\tc 细胞"
    assert "\x1b" not in str(MissingExtraError("a\x1b[2J", "extract"))
    assert printable("\u202e\x9b\x7f") == r"\u202e\x9b\x7f"
