"""`tools.javascript`: the pages' scripts are checked as the page loads them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.javascript import STATIC, check, scripts

PAGE = '<script src="central/z.js"></script><script src="central/a.js"></script>'
SOUND = {"z.js": "const z = 1;\n", "a.js": "(() => { window.centralLive(z); })();\n"}


@pytest.mark.parametrize(
    ("name", "line", "messages"),
    [
        ("a.js", "(() => { window.centralLive(z); })();", []),
        ("a.js", "(() => { window.centralLive('z'); })();", ["not assignable", "a.js:2:"]),
        ("b.js", "(() => { const b = z; })();", ["`b` is never used", "b.js:1:"]),
    ],
    ids=["sound", "wrong type", "unused"],
)
def test_messages_name_the_place(name: str, line: str, messages: list[str], tmp_path: Path) -> None:
    """Scripts know the ones that the page loads before them, and a message names the original."""
    central = tmp_path / "central"
    central.mkdir()
    (central / "central.html").write_text(PAGE)
    for script, text in SOUND.items():
        (central / script).write_text(text)
    with (central / name).open("a") as file:
        file.write(line + "\n")
    found = check(tmp_path)
    assert bool(found) == bool(messages)
    assert [message for message in messages if message not in found] == []


def test_every_script_is_checked() -> None:
    """Those of the page in its order, then all others, but not the libraries."""
    names = [path.name for path in scripts(STATIC)]
    assert names.index("logic.js") < names.index("base.js") < names.index("main.js")
    assert sorted(names) == sorted(
        path.name for path in STATIC.rglob("*.js") if "vendor" not in path.parts
    )
