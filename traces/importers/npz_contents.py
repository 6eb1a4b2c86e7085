"""The arrays of a .npz archive or a .npy file by name: headers, and what lies under a name."""

from __future__ import annotations

import zipfile
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lrcsim.traces.importers.files import damaged, npy_header, open_archive


class Contents:
    """The arrays of a .npz archive, or the one of a .npy file, by name; nothing is read but headers.

    Attributes:
        names: of the arrays.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._archive: zipfile.ZipFile | None = None
        self._headers: dict[str, tuple[tuple[int, ...], np.dtype[Any], bool]] = {}
        with damaged("is no readable NumPy archive", 160):
            with open(path, "rb") as file:
                self._single = file.read(6) == b"\x93NUMPY"
            if self._single:
                self.names = ["experts"]
            else:
                with open_archive(path) as archive:  # looks at every member; the openings below need not again
                    self._sizes = {info.filename: info.file_size for info in archive.infolist()}
                self.names = [name.removesuffix(".npy") for name in self._sizes if name.endswith(".npy")]

    def other(self) -> str:
        """Say what an archive without arrays is."""
        if "xl/workbook.xml" in self._sizes:
            return "is an Excel workbook; save the sheet as CSV"
        return f"is a zip archive without arrays ({', '.join(self._sizes)[:120]}); unpack it, and import what is in it"

    def __enter__(self) -> Contents:
        with damaged("is no readable NumPy archive", 160):
            self._archive = None if self._single else zipfile.ZipFile(self.path)
        return self

    def __exit__(self, *_: object) -> None:
        if self._archive is not None:
            self._archive.close()
            self._archive = None

    def open(self, name: str) -> Any:
        """Open an array's bytes."""
        if self._single:
            return open(self.path, "rb")
        if self._archive is not None:
            return self._archive.open(f"{name}.npy")
        with zipfile.ZipFile(self.path) as archive:
            return archive.open(f"{name}.npy")

    def header(self, name: str) -> tuple[tuple[int, ...], np.dtype[Any], bool]:
        """Return the shape and type of an array, and whether it is stored column after column."""
        if name not in self._headers:
            with self.damaged(name), self.open(name) as file:
                shape, by_column, dtype = npy_header(file)
                size = int(np.prod(shape, dtype=object)) * dtype.itemsize
                held = self.path.stat().st_size if self._single else self._sizes[f"{name}.npy"]
                if dtype.hasobject:
                    raise ValueError("it holds Python objects, which are not read")
                if size > held or any(length < 0 for length in shape):
                    raise ValueError(f"its header says {list(shape)}, which is more than it holds")
            self._headers[name] = shape, dtype, by_column
        return self._headers[name]

    def whole(self, name: str) -> npt.NDArray[Any]:
        """Read an array to its end."""
        self.header(name)
        with self.damaged(name), self.open(name) as file:
            array: npt.NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
        return array

    def damaged(self, name: str) -> AbstractContextManager[None]:
        """Say of an array that it is damaged, whatever goes wrong in the block."""
        return damaged(f"array {name!r} is damaged", 160)
