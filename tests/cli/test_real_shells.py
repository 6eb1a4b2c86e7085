"""Completion at the prompt of a real bash, zsh and fish: a <TAB> is pressed, and the program says what it was given."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pty = pytest.importorskip("pty", reason="there are pseudo-terminals on POSIX systems only")

START = {
    "bash": (["--norc", "--noprofile", "-i"], "source c.bash; PS1='> '"),
    "zsh": (["-f", "-i"], "autoload -Uz compinit; compinit -D -u; source c.zsh; PS1='> '"),
    "fish": (["--no-config", "-i"], "source c.fish"),
}
"""How each shell starts without anybody's settings, and what it is told first."""

SHELLS = [
    pytest.param(name, marks=pytest.mark.skipif(shutil.which(name) is None, reason=f"needs {name}")) for name in START
]

TYPED = [
    ("lrcsim compl", ["completion"]),
    ("lrcsim trace imp", ["trace", "import"]),
    ("lrcsim run --scope m", ["run", "--scope", "model"]),
    ("lrcsim compare --policy lru,belady-b", ["compare", "--policy", "lru,belady-bypass"]),
    ("lrcsim run bundled:gen", ["run", "bundled:generated"]),
    ("lrcsim run --hardware 5060-ti-8", ["run", "--hardware", "rtx-5060-ti-8gb"]),
    ("lrcsim run --hardware 4080-s", ["run", "--hardware", "rtx-4080-super"]),
    ("lrcsim run --hardware 12gb", ["run", "--hardware", "12gb"]),  # several with nothing of it in common
    ("lrcsim run 'my tr", ["run", "my trace.h5"]),
    ("lrcsim run my", ["run", "my trace.h5"]),
]
"""What is typed before the <TAB>, and what the program is given."""


class Prompt:
    """A shell in a pseudo-terminal."""

    def __init__(self, shell: str, folder: Path) -> None:
        arguments, first = START[shell]
        self.child, self.master = pty.fork()
        if self.child == 0:
            os.chdir(folder)
            known = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "FISH", "ZSH"))}
            known |= {"HOME": str(folder), "TERM": "xterm", "LANG": "C", "XDG_CACHE_HOME": str(folder / "cache")}
            known["PATH"] = f"{folder / 'bin'}:{os.environ['PATH']}"
            os.execvpe(shell, [shell, *arguments], known)
        self.seen = ""
        self.send(f"{first}; echo READY | tr a-z A-Z; clear\r")

    def send(self, text: str) -> None:
        os.write(self.master, text.encode())

    def wait(self, text: str, seconds: float = 60) -> bool:
        """Read until a text is there."""
        end = time.monotonic() + seconds
        while text not in self.seen and time.monotonic() < end:
            if select.select([self.master], [], [], 0.1)[0]:
                part = os.read(self.master, 65536).decode(errors="replace")
                if "\x1b[c" in part or "\x1b[0c" in part:  # fish asks what terminal this is
                    self.send("\x1b[?1;2c")
                self.seen += part
        return text in self.seen

    def close(self) -> None:
        os.close(self.master)
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.child, 9)
        os.waitpid(self.child, 0)


@pytest.fixture
def at_prompt(request: pytest.FixtureRequest, tmp_path: Path, lrcsim: Any) -> Iterator[Prompt]:
    shell = request.param
    program = tmp_path / "bin" / "lrcsim"
    program.parent.mkdir()
    program.write_text(
        f"#!{sys.executable}\nimport os, sys\n"
        "if '_LRCSIM_COMPLETE' in os.environ:\n    from lrcsim.cli.main import main\n    main(sys.argv[1:])\n"
        "else:\n    print('GIVEN', sys.argv[1:], 'END')\n"
    )
    program.chmod(0o755)
    (tmp_path / f"c.{shell}").write_text(lrcsim("completion", shell).out)
    (tmp_path / "my trace.h5").touch()
    prompt = Prompt(shell, tmp_path)
    yield prompt
    prompt.close()


@pytest.mark.parametrize("at_prompt", SHELLS, indirect=True)
def test_a_tab_completes(at_prompt: Prompt) -> None:
    for typed, given in TYPED:
        at_prompt.seen = ""
        at_prompt.send(f"{typed}\t")
        time.sleep(0.1)
        at_prompt.send("\r")
        assert at_prompt.wait(" END"), at_prompt.seen
        assert f"GIVEN {given} END" in at_prompt.seen.replace("\r\n", ""), (typed, at_prompt.seen)
