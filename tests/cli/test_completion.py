"""Completion: what a shell is told, and a real bash that asks."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.shell_completion import ShellComplete

from lrcsim.cli.main import cli


@pytest.fixture(autouse=True, scope="module")
def kept_here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the words of all commands in a folder of the tests, not the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("kept")))
        yield


def offered(*words: str) -> list[str]:
    """Return what may stand for the last word; a file is ``<file>``."""
    found = ShellComplete(cli, {}, "lrcsim", "_LRCSIM_COMPLETE").get_completions(list(words[:-1]), words[-1])
    return ["<file>" if item.type == "file" else item.value for item in found]


def test_commands() -> None:
    assert offered("mi") == ["miss-actions"]
    assert offered("tra") == ["trace"]
    assert "import" in offered("trace", "")


def test_options_and_their_values() -> None:
    assert offered("run", "--pol") == ["--policy"]
    assert offered("run", "--policy", "lr") == [
        name for name in offered("run", "--policy", "") if name.startswith("lr")
    ]
    assert "lru" in offered("run", "--policy", "l")
    assert offered("run", "--scope", "") == ["layer", "model"]
    assert offered("run", "--scope", "m") == ["model"]
    assert offered("run", "--prefill", "") == ["step", "token"]  # chunk:N has to be written
    assert "rtx-4090" in offered("run", "--hardware", "rtx-4")
    assert "rtx-4090" in offered("hardware", "rtx-4")
    assert "mixtral-8x7b" in offered("models", "mix")
    assert "llama.cpp" in offered("run", "--runtime", "lla")
    assert "next-gate" in offered("run", "--prefetch", "")
    assert offered("run", "--miss", "sp") == ["split"]
    assert offered("routes", "pri") == ["prior"]


def test_the_next_of_a_list() -> None:
    assert "lru,s3-fifo" in offered("compare", "--policy", "lru,s3")
    assert offered("compare", "--miss", "load,sp") == ["load,split"]
    assert offered("compare", "--hardware", "rtx-3090,RTX 5090 l") == ["rtx-3090,rtx-5090-laptop"]
    assert offered("curve", "--policy", "lru,belady-b") == ["lru,belady-bypass"]
    assert offered("compare", "--scope", "layer;mo") == ["layer;model"]
    assert offered("run", "--policy", "lru,s3") == []  # one value


def test_what_goes_on_behind_a_comma() -> None:
    assert offered("compare", "--miss", "cpu,ad") == ["cpu,admit:"]
    assert offered("compare", "--miss", "load,cpu,admit:2,to") == ["load,cpu,admit:2,touches:"]
    assert offered("compare", "--miss", "cpu,admit:2,ad") == []
    assert "split,load" in offered("compare", "--miss", "split,")
    assert "split,admit:" not in offered("compare", "--miss", "split,")


def test_a_name_by_the_beginnings_of_its_words() -> None:
    names = offered("run", "--hardware", "40")
    assert {"rtx-4090", "rtx-4060-ti", "a40"} <= set(names)
    assert "rtx-3090" not in names
    assert names[-1] == "40"  # so that no shell replaces it by what they have in common
    assert "qwen3-30b-a3b" in offered("plan", "Qwen3 30b a")
    assert offered("run", "--hardware", "4090") == ["<file>", "rtx-4090", "rtx-4090-laptop"]  # in common: rtx-4090
    assert offered("run", "--scope", "x") == []


def test_files() -> None:
    assert offered("run", "")[:1] == ["<file>"]
    assert "bundled:generated" in offered("run", "bun")
    assert offered("sweep", "lin") == ["<file>"]
    assert offered("run", "--plot", "") == ["<file>"]
    assert offered("trace", "import", "rou") == ["<file>"]


def test_every_value_that_is_offered_can_be_given() -> None:
    """No placeholder of the help is taken for a value."""
    for name in cli.list_commands(click.Context(cli)):
        for words in ([name, ""], [name, "--"]):
            assert not any("|" in value or value.isupper() for value in offered(*words))


def test_a_question_imports_no_simulator_for_names_of_commands() -> None:
    code = (
        "import sys; from click.shell_completion import ShellComplete; from lrcsim.cli.main import cli; "
        "ShellComplete(cli, {}, 'lrcsim', 'X').get_completions([], 'r'); "
        "print([name for name in sys.modules if name in ('numba', 'numpy', 'lrcsim.simulator')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(("shell", "word"), [("bash", "COMPREPLY"), ("zsh", "compdef"), ("fish", "complete ")])
def test_scripts(lrcsim: Any, shell: str, word: str) -> None:
    done = lrcsim("completion", shell)
    assert done.code == 0
    assert word in done.out
    assert "_LRCSIM_COMPLETE" in done.out


def asked(folder: Path, shell: str, script: str) -> list[str]:
    """Return the lines that a shell's script prints, ``lrcsim`` being ours."""
    program = folder / "bin" / "lrcsim"
    program.parent.mkdir(exist_ok=True)
    program.write_text(
        f"#!{sys.executable}\nimport sys\nfrom lrcsim.cli.main import main\nmain(sys.argv[1:])\n", encoding="utf-8"
    )
    program.chmod(0o755)
    done = subprocess.run(
        [shell, "-c", f'PATH={shlex.quote(str(program.parent))}:"$PATH"\n{script}'],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.skipif(sys.platform == "win32" or shutil.which("bash") is None, reason="needs bash")
def test_a_real_bash(tmp_path: Path, lrcsim: Any) -> None:
    (tmp_path / "c.bash").write_text(lrcsim("completion", "bash").out)

    def answers(line: str) -> list[str]:
        script = (
            "source c.bash\ncompopt() { echo 'option' \"$@\"; }\n"
            f"COMP_LINE={shlex.quote(line)}\nCOMP_POINT=${{#COMP_LINE}}\n"
            '_lrcsim_completion lrcsim "" ""\nprintf "%s\\n" "${COMPREPLY[@]}"\n'
        )
        return asked(tmp_path, "bash", script)

    assert answers("lrcsim compl") == ["completion"]
    assert answers("lrcsim run --scope ") == ["layer", "model"]
    assert answers("lrcsim run --scope=m") == ["model"]
    assert answers("lrcsim compare --miss load,sp") == ["load,split"]
    assert answers("lrcsim run bundled:gen") == [
        "option -o default",
        "generated",
    ]  # bash replaces what follows the colon
    assert answers("lrcsim sweep ") == ["option -o default", ""]
