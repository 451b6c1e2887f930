"""Check the types and the style of the pages' JavaScript (part of `make lint`).

The pages load scripts, not modules, so that they open from disk. A type checker takes each file for
a module, which knows nothing of the others. So all are checked as one file, in the order in which
the page loads them, and each message names the place in the original.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parents[1]
STATIC = ROOT / "stageflow/pulse/static"
_DECLARED = "javascript.d.ts"
_COMPILER = {"allowJs": True, "checkJs": True, "strict": False, "noImplicitReturns": True}
_STYLE = {
    "tags": ["recommended"],
    "include": ["eqeqeq", "no-self-compare", "no-throw-literal", "no-useless-rename"],
    # The rules about `window` are for servers. Scripts around asv's page look like asv's.
    "exclude": ["no-window", "no-window-prefix", "no-var"],
}
_SETTINGS = {
    "compilerOptions": {**_COMPILER, "lib": ["esnext", "dom", "dom.iterable"]},
    "lint": {"rules": _STYLE},
}


def scripts(static: Path) -> list[Path]:
    """Return the scripts of the pages, each after those that it needs."""
    page = (static / "central/central.html").read_text(encoding="utf-8")
    loaded = [static / name for name in re.findall(r'src="(central/\w+\.js)"', page)]
    return [*loaded, *sorted({*static.glob("*.js"), *static.glob("central/*.js")} - {*loaded})]


def check(static: Path) -> str:
    """Return what is wrong with the scripts of a folder; empty if nothing is.

    Args:
        static: The folder with the pages' files.
    """
    lines, origins = [f'/// <reference path="./{_DECLARED}" />'], ["(begin)"]
    for path in scripts(static):
        own = path.read_text(encoding="utf-8").splitlines()
        lines += own
        origins += [f"{path}:{number}" for number in range(1, len(own) + 1)]
    with TemporaryDirectory() as folder:
        place = Path(folder)
        shutil.copy(Path(__file__).with_name(_DECLARED), place)
        (place / "all.js").write_text("\n".join(lines) + "\n", encoding="utf-8")
        (place / "deno.json").write_text(json.dumps(_SETTINGS), encoding="utf-8")
        quiet = {"NO_COLOR": "1", "DENO_DIR": folder, "DENO_NO_UPDATE_CHECK": "1"}
        found = []
        for action in ("check", "lint"):
            done = subprocess.run(
                [sys.executable, "-m", "deno", action, "--quiet", "all.js"],
                cwd=folder,
                env={**os.environ, **quiet},
                capture_output=True,
                text=True,
                check=False,
            )
            found += [done.stdout + done.stderr] if done.returncode else []
    return re.sub(r"\S*all\.js:(\d+)", lambda at: origins[int(at[1]) - 1], "\n".join(found))


def main(arguments: list[str] | None = None) -> int:
    """Print what is wrong; exit code 1 if something is."""
    argparse.ArgumentParser(prog="python -m tools.javascript", description=__doc__).parse_args(
        arguments
    )
    found = check(STATIC)
    print(found or "The pages' JavaScript is sound", file=sys.stderr if found else sys.stdout)
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
