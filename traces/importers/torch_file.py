"""Read what ``torch.save`` wrote without torch and without running any of it: plain values and tensors only.

The file is a zip of a pickle and of the tensors' bytes. Of the pickle only the opcodes of plain values are allowed, and
of the names in it only the four that rebuild a tensor; they are looked up in a table here, and nothing is imported.
"""

from __future__ import annotations

import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lrcsim.base.errors import TraceError
from lrcsim.traces.importers.files import one_line, open_archive

STORAGES = {
    "BoolStorage": "?",
    "ByteStorage": "u1",
    "CharStorage": "i1",
    "ShortStorage": "<i2",
    "IntStorage": "<i4",
    "LongStorage": "<i8",
    "HalfStorage": "<f2",
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "BFloat16Storage": "<u2",
}
"""NumPy types by torch's names of storages; bfloat16 comes as its bits."""


def is_torch_file(path: Path) -> bool:
    """Tell whether a file is a zip archive as ``torch.save`` writes them."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/data.pkl") for name in archive.namelist())
    except Exception:
        return False


def load(path: Path) -> Any:
    """Return the plain values in a file, its tensors as arrays.

    Raises:
        TraceError: the file is damaged, or holds anything but plain values and tensors.
    """
    archive = open_archive(path)
    try:
        with archive:
            name = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
            with archive.open(name) as file:
                return _Plain(file, archive, name.removesuffix("data.pkl")).load()
    except StopIteration:
        raise TraceError(f"{path}: is no file of torch.save (it has no data.pkl)") from None
    except TraceError as error:
        raise TraceError(f"{path}: {error}") from None
    except Exception as error:
        raise TraceError(f"{path}: is damaged, or no file of torch.save ({one_line(error)[:160]})") from None


class _Storage:
    """The name of a storage's type, as the pickle has it."""

    def __init__(self, dtype: str) -> None:
        self.dtype = np.dtype(dtype)


class _Plain(pickle._Unpickler):
    """An unpickler that knows tensors, and refuses every other name.

    It is the one written in Python: its memo is a dict, which a small file cannot make huge.
    """

    def __init__(self, file: Any, archive: zipfile.ZipFile, prefix: str) -> None:
        super().__init__(file)
        self._archive, self._prefix = archive, prefix
        self._storages: dict[str, npt.NDArray[Any]] = {}

    def find_class(self, module: str, name: str) -> Any:
        """Return a stand-in for a name; nothing is imported."""
        if module in ("torch", "torch.storage") and name in STORAGES:
            return _Storage(STORAGES[name])
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) in (("torch._utils", "_rebuild_tensor_v2"), ("torch._utils", "_rebuild_tensor")):
            return _tensor
        raise TraceError(f"holds {module}.{name}, which is not read: only plain values and tensors are")

    def persistent_load(self, pid: Any) -> npt.NDArray[Any]:
        """Return the numbers of a storage."""
        kind, storage, key, _device, count = pid
        if kind != "storage" or not isinstance(storage, _Storage):
            raise TraceError("holds a reference that is no tensor's")
        if key not in self._storages:
            data = self._archive.read(f"{self._prefix}data/{key}")
            if len(data) < count * storage.dtype.itemsize:
                raise TraceError(f"the bytes of tensor {key} are truncated")
            self._storages[key] = np.frombuffer(data, storage.dtype, int(count))
        return self._storages[key]


def _tensor(storage: npt.NDArray[Any], offset: int, size: Any, stride: Any, *_: object) -> npt.NDArray[Any]:
    """Rebuild a tensor from its storage, refusing what lies outside."""
    shape, steps = tuple(map(int, size)), tuple(map(int, stride))
    if not isinstance(storage, np.ndarray) or len(shape) != len(steps) or offset < 0 or min((*shape, *steps, 0)) < 0:
        raise TraceError("holds a tensor of no possible shape")
    last = offset + sum((n - 1) * step for n, step in zip(shape, steps, strict=True))
    if 0 in shape:
        return np.zeros(shape, storage.dtype)
    if (
        last >= len(storage)
        or int(np.prod(shape, dtype=object)) > len(storage)
        or any(step == 0 and n > 1 for n, step in zip(shape, steps, strict=True))
    ):
        raise TraceError(f"holds a tensor {list(shape)} beyond its {len(storage)} numbers")
    strides = [step * storage.itemsize for step in steps]
    return np.lib.stride_tricks.as_strided(storage[offset:], shape, strides, writeable=False).copy()
