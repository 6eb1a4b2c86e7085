"""Whatever is thrown at `lrcsim trace`: exit 1, one clear line on standard error, nothing written, no traceback."""

import base64
import gzip
import io
import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet
from trace_files import make_trace

Make = Callable[[Path], list[object]]
"""Writes bad files into a folder and returns the arguments after ``lrcsim trace``."""

anywhere = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def bring_in(name: str, content: str | bytes, *options: object) -> Make:
    def make(folder: Path) -> list[object]:
        data = content.encode() if isinstance(content, str) else content
        (folder / name).write_bytes(data)
        return ["import", folder / name, "-o", folder / "out.h5", *options]

    return make


def npz(**arrays: object) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)  # type: ignore[arg-type]
    return file.getvalue()


def table(columns: dict[str, list[object]]) -> bytes:
    file = io.BytesIO()
    parquet.write_table(pa.table(columns), file)
    return file.getvalue()


def damaged(change: Callable[[h5py.File], object]) -> Make:
    def make(folder: Path) -> list[object]:
        make_trace(1).save(folder / "in.h5", version=1)
        with h5py.File(folder / "in.h5", "r+") as file:
            change(file)
        return ["check", folder / "in.h5"]

    return make


def from_trace(*arguments: object) -> Make:
    """Arguments where IN and OUT stand for a good trace and for a path in the folder."""

    def make(folder: Path) -> list[object]:
        make_trace(1).save(folder / "in.h5")
        return [
            str(a).replace("IN", str(folder / "in.h5")).replace("OUT", str(folder / "out")) if isinstance(a, str) else a
            for a in arguments
        ]

    return make


def response(**choice: object) -> str:
    return json.dumps({"choices": [choice], "usage": {"prompt_tokens": 1, "completion_tokens": 2}})


GOOD = "token,layer,expert\n0,0,1\n1,0,0\n"
IDS = np.array([[[1, 2]], [[0, 1]]])
ZIP_OF_TEXT = io.BytesIO()
with zipfile.ZipFile(ZIP_OF_TEXT, "w") as archive:
    archive.writestr("readme.txt", "no arrays here")

CASES: dict[str, tuple[Make, str]] = {
    "import: no such file": (lambda f: ["import", f / "none.csv", "-o", f / "out.h5"], "no such file"),
    "import: an empty file": (bring_in("t.csv", b""), "is empty"),
    "import: an empty folder": (lambda f: ["import", f, "-o", f / "out.h5"], "no known format"),
    "import: a picture": (bring_in("t.png", b"\x89PNG\r\n\x1a\n" + bytes(range(256))), "no known format"),
    "import: a trace": (bring_in("t.csv", b"\x89HDF\r\n\x1a\n"), "needs no import"),
    "import: unknown format": (bring_in("t.csv", GOOD, "--format", "tabel"), "did you mean 'table'"),
    "import: wrong format": (bring_in("t.csv", GOOD, "--format", "npz"), "no readable NumPy archive"),
    "import: text as Parquet": (bring_in("t.parquet", b"PAR1 but not really PAR1"), "Parquet"),
    "import: option without use": (bring_in("t.csv", GOOD, "--top-k", "2"), "no use for top-k"),
    "import: unknown phase": (bring_in("t.csv", GOOD, "--phase", "warmup"), "use 'prefill', 'decode' or 'none'"),
    "import: no experts": (bring_in("t.csv", GOOD, "--num-experts", "0"), "at least 1"),
    "import: too few experts": (bring_in("t.csv", GOOD, "--num-experts", "1"), "expert id 1, allowed 0..0"),
    "import: negative bytes": (bring_in("t.csv", GOOD, "--expert-bytes", "-5"), "at least 1"),
    "import: bad mapping": (bring_in("t.csv", GOOD, "--columns", "token"), "of the form OURS=THEIRS"),
    "import: unknown column of ours": (bring_in("t.csv", GOOD, "--columns", "tokn=token"), "did you mean 'token'"),
    "import: unknown column of theirs": (bring_in("t.csv", GOOD, "--columns", "token=tok"), "has no column 'tok'"),
    "import: output folder missing": (
        lambda f: [*bring_in("t.csv", GOOD)(f)[:3], f / "no" / "out.h5"],
        "there is no folder",
    ),
    "import: output is a folder": (lambda f: [*bring_in("t.csv", GOOD)(f)[:3], f], "is a folder"),
    "import: output is the input": (
        lambda f: [*bring_in("t.csv", GOOD)(f)[:3], f / "t.csv"],
        "would write over what is read",
    ),
    "csv: no header": (bring_in("t.csv", "0,0,1\n0,0,2\n"), "no column is named like 'token'"),
    "csv: header only": (bring_in("t.csv", "# n_expert=4\ntoken,layer,expert\n"), "no rows"),
    "csv: comments only": (bring_in("t.csv", "# n_expert=4\n# nothing\n"), "no rows"),
    "csv: words": (bring_in("t.csv", GOOD + "a,b,c\n"), "invalid value 'b'"),
    "csv: fractions": (bring_in("t.csv", GOOD + "2,0,1.5\n"), "1.5"),
    "csv: a short row": (bring_in("t.csv", GOOD + "2,0\n"), "Expected 3 columns"),
    "csv: an empty cell": (bring_in("t.csv", GOOD + "2,0,\n"), "has no expert"),
    "csv: a huge number": (bring_in("t.csv", GOOD + "2,0,99999999999999999999\n"), "99999999999999999999"),
    "csv: twice the same expert": (bring_in("t.csv", GOOD + "2,0,1\n2,0,1\n"), "stands twice"),
    "csv: latin-1": (bring_in("t.csv", "token,layer,expert\n0,0,\xff\n".encode("latin-1")), "t.csv"),
    "csv: gzip cut off": (bring_in("t.csv.gz", gzip.compress(GOOD.encode() * 999)[:60]), "t.csv.gz"),
    "csv: gzip of nothing": (bring_in("t.csv.gz", gzip.compress(b"")), "is empty"),
    "csv: broken zstd": (bring_in("t.csv.zst", b"\x28\xb5\x2f\xfd" + b"x" * 50), "t.csv.zst"),
    "jsonl: broken line": (bring_in("t.jsonl", '{"token": 0, "layer": 0, "expert": 1}\n{"token": 1,\n'), "t.jsonl"),
    "jsonl: a list instead": (bring_in("t.jsonl", '{"token": 0}\n[1]\n'), "t.jsonl"),
    "jsonl: a missing key": (
        bring_in("t.jsonl", '{"token": 0, "layer": 0, "expert": 1}\n{"token": 1, "layer": 0}\n'),
        "row 2",
    ),
    "jsonl: a word": (
        bring_in("t.jsonl", '{"token": 0, "layer": 0, "expert": 1}\n{"token": 1, "layer": 0, "expert": "x"}\n'),
        "t.jsonl",
    ),
    "parquet: floats": (bring_in("t.parquet", table({"token": [0], "layer": [0], "expert": [0.5]})), "t.parquet"),
    "parquet: strings": (bring_in("t.parquet", table({"token": ["a"], "layer": [0], "expert": [1]})), "t.parquet"),
    "parquet: no rows": (bring_in("t.parquet", table({"token": [], "layer": [], "expert": []})), "t.parquet"),
    "parquet: weights without lists": (
        bring_in("t.parquet", table({"token": [0], "layer": [0], "experts": [[1, 2]], "weights": [0.5]})),
        "must be a list",
    ),
    "npz: no experts": (bring_in("t.npz", npz(offsets=[0, 2])), "no array 'experts'"),
    "npz: two dimensions": (bring_in("t.npz", npz(experts=IDS[0])), "in 3 dimensions"),
    "npz: floats": (bring_in("t.npz", npz(experts=IDS / 2)), "must be integers"),
    "npz: objects": (bring_in("t.npz", npz(experts=np.array([[[None]]]))), "t.npz"),
    "npz: pickled domains": (bring_in("t.npz", npz(experts=IDS, domains=np.array([{}], object))), "t.npz"),
    "npz: offsets beyond the end": (bring_in("t.npz", npz(experts=IDS, offsets=[0, 3])), "number of tokens, 2"),
    "npz: offsets that fall": (bring_in("t.npz", npz(experts=IDS, offsets=[0, 2, 1, 2])), "falls from 2 to 1"),
    "npz: too few domains": (bring_in("t.npz", npz(experts=IDS, offsets=[0, 1, 2], domains=["a"])), "1 domains"),
    "npz: a short phase": (bring_in("t.npz", npz(experts=IDS, phase=[0])), "experts has 2"),
    "npz: an impossible phase": (bring_in("t.npz", npz(experts=IDS, phase=[0, 7])), "phase 7"),
    "npz: NaN weights": (bring_in("t.npz", npz(experts=IDS, weights=np.full(IDS.shape, np.nan))), "router weight nan"),
    "npz: no tokens": (bring_in("t.npz", npz(experts=np.zeros((0, 2, 2), int))), "0 tokens"),
    "npz: ids out of range": (bring_in("t.npz", npz(experts=IDS * 2**40)), "out of all range"),
    "npz: top-k above E": (bring_in("t.npz", npz(experts=IDS, num_experts=1)), "top-2 of only 1"),
    "npz: cut off": (bring_in("t.npz", npz(experts=IDS)[:-40]), "no readable NumPy archive"),
    "npz: another zip": (bring_in("t.npz", ZIP_OF_TEXT.getvalue()), "zip archive without arrays (readme.txt)"),
    "vllm: no routing": (bring_in("r.json", response(text="x")), "no 'routed_experts'"),
    "vllm: no base64": (bring_in("r.json", response(routed_experts="?")), "no base64"),
    "vllm: a pickle": (
        bring_in("r.json", response(routed_experts=base64.b64encode(b"\x80\x04N.").decode())),
        "no .npy array",
    ),
    "vllm: ragged lists": (bring_in("r.json", response(routed_experts=[[[1], [2, 3]]])), "ragged"),
    "vllm: ids below -1": (bring_in("r.json", response(routed_experts=[[[-2, 1]], [[0, 1]]])), "ids from -2"),
    "vllm: cut off": (bring_in("r.json", response(routed_experts=[[[1, 2]]])[:-5], "--format", "vllm"), "response 1"),
    "vllm: a number": (bring_in("r.json", "[1, 2]", "--format", "vllm"), "no JSON object"),
    "sglang: no shape": (bring_in("r.json", '{"meta_info": {"routed_experts": "AAAA"}}'), "give --num-layers"),
    "sglang: wrong shape": (
        bring_in("r.json", '{"meta_info": {"routed_experts": "AAAAAA=="}}', "--num-layers", 3, "--top-k", 2),
        "no multiple",
    ),
    "moe-lrc: not safetensors": (bring_in("m_00.safetensors", b"x" * 50), "m_00.safetensors"),
    "moe-lrc: nothing matches": (lambda f: ["import", f / "*.safetensors", "-o", f / "out.h5"], "holds no files"),
    "check: no such file": (lambda f: ["check", f / "none.h5"], "no such file"),
    "check: a folder": (lambda f: ["check", f], "is not a file"),
    "check: text": (lambda f: ["check", Path(shutil.copy(__file__, f / "t.h5"))], "is not an HDF5 file"),
    "check: other HDF5": (damaged(lambda file: file.attrs.pop("format")), "no lrcsim trace"),
    "check: later version": (damaged(lambda file: file.attrs.__setitem__("version", 9)), "format version 9"),
    "check: a group for a dataset": (
        damaged(lambda file: (file.pop("tokens/phase"), file.create_group("tokens/phase"))),
        "damaged",
    ),
    "check: bad id": (
        damaged(lambda file: file["routing/experts"].__setitem__((0, 0, 0), 99)),
        "token 0, layer 0: expert id 99",
    ),
    "info: bundled": (lambda _: ["info", "bundled"], "with lrcsim come bundled:generated, bundled:teacher-forced"),
    "info: no such file": (lambda f: ["info", f / "none.h5"], "no such file"),
    "info: unknown bundled trace": (lambda _: ["info", "bundled:generate"], "did you mean 'bundled:generated'"),
    "info: JSON into a missing folder": (from_trace("info", "IN", "--json", "OUT/x.json"), "cannot be written"),
    "export: unknown ending": (from_trace("export", "IN", "-o", "OUT.xlsx"), "no format is known by this ending"),
    "export: unknown format": (from_trace("export", "IN", "-o", "OUT", "--format", "oracle"), "did you mean"),
    "export: missing folder": (from_trace("export", "IN", "-o", "OUT/x.npz"), "there is no folder"),
    "export: onto itself": (from_trace("export", "IN", "-o", "IN", "--format", "npz"), "would write over what is read"),
    "export: option without use": (from_trace("export", "IN", "-o", "OUT.npz", "--layer", 1), "no use for layer"),
    "export: no such layer": (from_trace("export", "IN", "-o", "OUT.oracleGeneral", "--layer", 7), "0..2"),
    "export: unknown prefill": (
        from_trace("export", "IN", "-o", "OUT.oracleGeneral", "--prefill", "chunk:0"),
        "'chunk:N'",
    ),
}


def listing(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.mark.parametrize("name", CASES)
def test_one_line_and_nothing_written(name: str, lrcsim, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    make, message = CASES[name]
    arguments = make(tmp_path)
    before = listing(tmp_path)
    outcome = lrcsim("trace", *arguments)
    assert outcome.code == 1, outcome
    assert outcome.err.startswith("Error: ")
    assert len(outcome.err.splitlines()) == 1, outcome.err
    assert message in outcome.err
    assert len(outcome.err) < 500
    assert listing(tmp_path) == before


def test_there_are_enough_cases() -> None:
    assert len(CASES) >= 40


def assert_refused_or_good(outcome, folder: Path) -> None:  # type: ignore[no-untyped-def]
    """Random damage may go unnoticed where it changes nothing that matters; never may it show a traceback."""
    assert outcome.code in (0, 1)
    if outcome.code == 1:
        assert outcome.err.startswith("Error: ")
        assert len(outcome.err.splitlines()) == 1, outcome.err
        assert not (folder / "out.h5").exists()
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


@given(
    data=st.binary(min_size=1, max_size=300),
    format=st.sampled_from(["table", "npz", "vllm", "sglang", "moe-lrc", None]),
)
@anywhere
def test_random_bytes(data: bytes, format: str | None, lrcsim, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    source = tmp_path / "m_00.safetensors"
    source.write_bytes(data)
    (tmp_path / "out.h5").unlink(missing_ok=True)
    chosen = [] if format is None else ["--format", format]
    assert_refused_or_good(lrcsim("trace", "import", source, "-o", tmp_path / "out.h5", *chosen), tmp_path)
    assert lrcsim("trace", "check", source).code == 1


HEADERS = (
    "token,layer,expert\n",
    "request,phase,token,layer,rank,expert,weight\n",
    '{"token":',
    '{"choices":[',
    "#",
    "",
)


@given(head=st.sampled_from(HEADERS), body=st.text(alphabet='0123456789,-.\n"[]{}: eE#x', max_size=120))
@anywhere
def test_random_text(head: str, body: str, lrcsim, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "t.csv").write_text(head + body)
    (tmp_path / "out.h5").unlink(missing_ok=True)
    assert_refused_or_good(lrcsim("trace", "import", tmp_path / "t.csv", "-o", tmp_path / "out.h5"), tmp_path)


class Samples(dict[str, bytes]):
    """Good files of binary formats, by name; not shown in whole when a test fails."""

    def __repr__(self) -> str:
        return f"<{', '.join(self)}>"


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Samples:
    folder = tmp_path_factory.mktemp("samples")
    trace = make_trace(1, residency=True)
    trace.save(folder / "t.h5")
    rows = {"token": [0, 0, 1, 1], "layer": [0, 0, 0, 0], "expert": [1, 2, 3, 0]}
    content = {
        "t.h5": (folder / "t.h5").read_bytes(),
        "t.npz": npz(experts=IDS, num_experts=4, offsets=[0, 2]),
        "t.parquet": table(rows),  # type: ignore[arg-type]
        "t.csv.gz": gzip.compress(GOOD.encode()),
    }
    return Samples(content)


@given(
    name=st.sampled_from(["t.h5", "t.npz", "t.parquet", "t.csv.gz"]), place=st.floats(0, 1), flip=st.integers(0, 255)
)
@anywhere
def test_flipped_and_cut_bytes(name: str, place: float, flip: int, samples, lrcsim, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    data = bytearray(samples[name])
    at = int(place * (len(data) - 1))
    if flip == 0:
        del data[at:]
    else:
        data[at if name != "t.h5" else at % 4096] ^= flip  # the header of an HDF5 file stands first
    (tmp_path / name).write_bytes(data)
    (tmp_path / "out.h5").unlink(missing_ok=True)
    if name == "t.h5":
        assert_refused_or_good(lrcsim("trace", "check", tmp_path / name), tmp_path)
    else:
        assert_refused_or_good(lrcsim("trace", "import", tmp_path / name, "-o", tmp_path / "out.h5"), tmp_path)


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 2**40) | st.floats(allow_nan=False) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["data", "shape", "start"]), inner),
    max_leaves=6,
)
SERVERS: dict[str, dict[str, object]] = {
    "vllm": {
        "model": "m",
        "prompt_token_ids": [1],
        "prompt_routed_experts": [[[0, 1]]],
        "choices": [{"routed_experts": [[[1, 2]]], "token_ids": [5, 6]}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 2},
    },
    "sglang": {
        "model": "m",
        "meta_info": {"prompt_tokens": 1, "completion_tokens": 2, "routed_experts": "AAAAAAEAAAABAAAAAgAAAA=="},
    },
}


def places(value: object, path: tuple[object, ...] = ()) -> list[tuple[object, ...]]:
    """Every path into a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, part in inner for place in places(part, (*path, key)))][0 if path else 1 :]


@given(server=st.sampled_from(sorted(SERVERS)), where=st.integers(0, 99), value=ANY_JSON)
@anywhere
def test_responses_with_one_part_replaced(server: str, where: int, value: object, lrcsim, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    body = json.loads(json.dumps(SERVERS[server]))
    choices = places(body)
    *outer, last = choices[where % len(choices)]
    part = body
    for key in outer:
        part = part[key]
    part[last] = value
    (tmp_path / "r.json").write_text(json.dumps(body))
    (tmp_path / "out.h5").unlink(missing_ok=True)
    shape = ["--num-layers", 1, "--top-k", 2] if server == "sglang" else []
    arguments = ("trace", "import", tmp_path / "r.json", "-o", tmp_path / "out.h5", "--format", server, *shape)
    assert_refused_or_good(lrcsim(*arguments), tmp_path)
