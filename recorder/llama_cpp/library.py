"""llama.cpp as a library: objects that call it and free what they hold.

The prebuilt library is the one inside the wheel ``xllamacpp``, called through cffi by what `declarations` says of it.
"""

from __future__ import annotations

import importlib
import re
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from lrcsim.base.errors import ConfigError
from lrcsim.recorder.llama_cpp.declarations import (
    CONTEXT_DEFAULTS,
    DECLARATIONS,
    MODEL_DEFAULTS,
    check_defaults,
    library_path,
)

REPACKED = r"CPU_REPACK model buffer size\s*=\s*([0-9.]+) MiB"

Floats = npt.NDArray[np.float32]

_loggers: list[Any] = []
_log: deque[str] = deque(maxlen=400)
"""Of the whole process, as the library has one logger: the last that was set."""


class Library:
    """The library, loaded and checked.

    Attributes:
        ffi: cffi's object for the declarations.
        c: the functions.
        log: the last lines that the library wrote; nothing goes to standard error.

    Raises:
        ConfigError: a package is not installed, is of another version, or its structs are not those declared here.
    """

    def __init__(self) -> None:
        path = library_path()
        self.ffi: Any = importlib.import_module("cffi").FFI()
        self.ffi.cdef(DECLARATIONS)
        self.c: Any = self.ffi.dlopen(str(path))
        self.log = _log
        self._callback = self.ffi.callback("void(int32_t, const char *, void *)", self._logged, onerror=_swallow)
        _loggers.append(self._callback)  # the library goes on calling it when this object is gone
        self.c.llama_log_set(self._callback, self.ffi.NULL)
        self.c.llama_backend_init()
        check_defaults("llama_model_params", self.c.llama_model_default_params(), MODEL_DEFAULTS)
        check_defaults("llama_context_params", self.c.llama_context_default_params(), CONTEXT_DEFAULTS)
        tokens = self.ffi.new("int32_t[2]")
        alone = dict.fromkeys(("embedding", "position", "sequences", "sequence", "output"), self.ffi.NULL)
        check_defaults("llama_batch", self.c.llama_batch_get_one(tokens, 2), {"tokens": 2, "token": tokens} | alone)

    @property
    def instructions(self) -> str:
        """The instruction sets it was built for and found, ``"SSE3, AVX2, REPACK"``."""
        text = _text(self.ffi, self.c.llama_print_system_info())
        return ", ".join(part.split("=")[0].split(":")[-1].strip() for part in text.split("|") if "= 1" in part)

    def model(self, path: str | Path, *, repack: bool = True) -> Model:
        """Load a GGUF file for the CPU.

        Args:
            path: of the file.
            repack: whether weights may be stored another way in memory, as the library does by default.

        Raises:
            ConfigError: it cannot be loaded; with the library's last words.
        """
        return Model(self, Path(path), repack=repack)

    def quantise(self, values: Floats, number: int) -> npt.NDArray[np.uint8]:
        """Return rows of weights in one of ggml's formats.

        Args:
            values: float32 [rows, length]; a length of whole blocks.
            number: of the format, as ``gguf.GGMLQuantizationType`` has it.

        Returns:
            uint8 [rows, bytes of a row].
        """
        rows, length = values.shape
        target = np.zeros((rows, self.c.ggml_row_size(number, length)), np.uint8)
        source = self.ffi.cast("const float *", self.ffi.from_buffer(np.ascontiguousarray(values)))
        room = self.ffi.from_buffer(target)
        written = self.c.ggml_quantize_chunk(number, source, room, 0, rows, length, self.ffi.NULL)
        assert written == target.size
        return target

    def _logged(self, level: int, text: Any, data: Any) -> None:
        self.log.append(_text(self.ffi, text))


class Model:
    """A loaded model; a context manager that frees it. See `Library.model`.

    Attributes:
        repacked: MiB of weights that are stored another way in memory, as the library's log says.
    """

    def __init__(self, library: Library, path: Path, *, repack: bool) -> None:
        self.library = library
        params = library.c.llama_model_default_params()
        params.use_extra_bufts, params.gpu_layers = repack, 0
        library.log.clear()
        self.pointer = library.c.llama_model_load_from_file(str(path).encode(), params)
        if not self.pointer:
            said = " ".join("".join(library.log).split())[-300:]
            raise ConfigError(f"{path}: llama.cpp does not load it: {said or 'it does not say why'}")
        self.repacked = sum(float(size) for size in re.findall(REPACKED, "".join(library.log)))

    @property
    def size(self) -> int:
        """Bytes of all its tensors."""
        return int(self.library.c.llama_model_size(self.pointer))

    @property
    def params(self) -> int:
        """Numbers in all its tensors."""
        return int(self.library.c.llama_model_n_params(self.pointer))

    @property
    def layers(self) -> int:
        """Transformer layers, without those that predict further tokens."""
        return int(self.library.c.llama_model_n_layer(self.pointer))

    @property
    def is_diffusion(self) -> bool:
        """Whether it denoises a whole text instead of predicting the next token."""
        return bool(self.library.c.llama_model_is_diffusion(self.pointer))

    @property
    def is_encoder(self) -> bool:
        """Whether it, or a part of it, encodes a text in which every token sees all others."""
        c = self.library.c
        return bool(c.llama_model_has_encoder(self.pointer)) or not c.llama_model_has_decoder(self.pointer)

    @property
    def hidden(self) -> int:
        """Width of the residual stream."""
        return int(self.library.c.llama_model_n_embd(self.pointer))

    @property
    def vocab(self) -> int:
        """Tokens of the vocabulary."""
        return int(self.library.c.llama_vocab_n_tokens(self._vocab()))

    def tokenise(self, text: str, *, special: bool) -> list[int]:
        """Return the token ids of a text, written-out special tokens read as such.

        Args:
            text: the text.
            special: add what the model wants around a text, as a token that begins it.
        """
        c, vocab, data = self.library.c, self._vocab(), text.encode()
        room = self.library.ffi.new("int32_t[]", len(data) + 8)
        count = c.llama_tokenize(vocab, data, len(data), room, len(data) + 8, special, True)
        if count < 0:
            room = self.library.ffi.new("int32_t[]", -count)
            count = c.llama_tokenize(vocab, data, len(data), room, -count, special, True)
        return list(room[0:count])

    @property
    def has_tokenizer(self) -> bool:
        """Whether it can read text."""
        return int(self.library.c.llama_vocab_type(self._vocab())) != 0

    @property
    def chat_template(self) -> str | None:
        """The template of its conversations, a Jinja text; None: it has none."""
        given = self.library.c.llama_model_chat_template(self.pointer, self.library.ffi.NULL)
        return _text(self.library.ffi, given) if given else None

    def templated(self, messages: Sequence[Mapping[str, str]], *, answer: bool) -> str:
        """Write a conversation by the model's template, of those that the library itself knows.

        Args:
            messages: each with ``role`` and ``content``.
            answer: begin the assistant's next one.

        Raises:
            ValueError: the library does not know the template.
        """
        ffi, c = self.library.ffi, self.library.c
        template = c.llama_model_chat_template(self.pointer, ffi.NULL)
        texts = [(ffi.new("char[]", m["role"].encode()), ffi.new("char[]", m["content"].encode())) for m in messages]
        given = ffi.new("struct message[]", [{"role": role, "content": content} for role, content in texts])
        size = 0
        for _ in range(2):  # the first time to learn how long it is
            target = ffi.new("char[]", max(size, 1))
            size = c.llama_chat_apply_template(template, given, len(messages), answer, target, size)
            if size < 0:
                raise ValueError("llama.cpp does not know this template by itself: give the conversation as text")
        return bytes(ffi.buffer(target, size)).decode("utf-8", "replace")

    @property
    def end(self) -> int | None:
        """The token that ends a text, by the file or else by the kind of its tokenizer; None: there is none."""
        token = int(self.library.c.llama_vocab_eos(self._vocab()))
        return token if token >= 0 else None

    def ends(self, token: int) -> bool:
        """Whether a token ends what is generated."""
        return bool(self.library.c.llama_vocab_is_eog(self._vocab(), token))

    def _vocab(self) -> Any:
        return self.library.c.llama_model_get_vocab(self.pointer)

    @property
    def positions(self) -> int:
        """Tokens of the longest text that it was trained for."""
        return int(self.library.c.llama_model_n_ctx_train(self.pointer))

    def context(
        self, tokens: int, threads: int = 1, *, step: int | None = None, exact: bool = False, watch: Any = None
    ) -> Context:
        """Return a context for so many tokens of one request.

        Args:
            tokens: room for them.
            threads: of the CPU.
            step: tokens run at once at most; None: all.
            exact: keys and values in float32, and no flash attention.
            watch: called for every node of a graph, see `lrcsim.recorder.llama_cpp.routing`.

        Raises:
            ConfigError: the library makes none.
        """
        return Context(self, tokens, threads, step=step, exact=exact, watch=watch)

    def close(self) -> None:
        """Free it."""
        if self.pointer:
            self.library.c.llama_model_free(self.pointer)
            self.pointer = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


class Context:
    """A request's KV cache and threads; a context manager that frees them. See `Model.context`."""

    def __init__(
        self,
        model: Model,
        tokens: int,
        threads: int,
        *,
        step: int | None = None,
        exact: bool = False,
        watch: Any = None,
    ) -> None:
        self.library, self.model = model.library, model
        params = self.library.c.llama_context_default_params()
        params.n_ctx = tokens
        params.n_batch = params.n_ubatch = step or tokens
        params.n_threads = params.n_threads_batch = threads
        if exact:
            params.type_k = params.type_v = params.flash_attention = 0  # float32, off
        if watch is not None:
            params.eval = self.library.ffi.cast("void *", watch)
        self.pointer = self.library.c.llama_init_from_model(model.pointer, params)
        if not self.pointer:
            raise ConfigError(f"llama.cpp makes no context of {tokens} tokens: give fewer, or free some memory")

    @property
    def threads(self) -> tuple[int, int]:
        """Threads that decode, and that work on prompts."""
        c = self.library.c
        return int(c.llama_n_threads(self.pointer)), int(c.llama_n_threads_batch(self.pointer))

    @property
    def tokens(self) -> int:
        """Tokens that it has room for."""
        return int(self.library.c.llama_n_ctx(self.pointer))

    def run(self, tokens: Sequence[int], *, every: bool = False) -> None:
        """Run one step over tokens that follow those already there; returns when it is computed.

        Args:
            tokens: their ids, no more than the context's step.
            every: compute what follows each of them, not the last alone; else the last layer runs only that one.

        Raises:
            RuntimeError: the library refuses, with its number for why.
        """
        ffi, c = self.library.ffi, self.library.c
        given = ffi.new("int32_t[]", list(tokens))
        batch = c.llama_batch_get_one(given, len(tokens))
        if every:
            wanted = ffi.new("int8_t[]", [1] * len(tokens))
            batch.output = wanted
        status = c.llama_decode(self.pointer, batch)
        if status:
            raise RuntimeError(f"llama_decode returns {status}: {' '.join(''.join(self.library.log).split())[-300:]}")
        c.llama_synchronize(self.pointer)

    def logits(self, which: int = -1) -> Floats:
        """Return those of the last token, or of one of the last step where all were wanted, float32 [vocab]."""
        pointer = self.library.c.llama_get_logits_ith(self.pointer, which)
        size = self.model.vocab * 4
        return np.frombuffer(bytes(self.library.ffi.buffer(pointer, size)), np.float32)

    def favoured(self, tokens: int) -> npt.NDArray[np.int32]:
        """Return the token that the output favours after each of the last step's, which were all wanted; int32."""
        pointer = self.library.c.llama_get_logits(self.pointer)
        buffer = self.library.ffi.buffer(pointer, tokens * self.model.vocab * 4)
        rows: Floats = np.frombuffer(buffer, np.float32).reshape(tokens, -1)
        favoured: npt.NDArray[np.int32] = rows.argmax(axis=1).astype(np.int32)
        return favoured

    def clear(self) -> None:
        """Forget all tokens."""
        c = self.library.c
        c.llama_memory_clear(c.llama_get_memory(self.pointer), True)

    def close(self) -> None:
        """Free it."""
        if self.pointer:
            self.library.c.llama_free(self.pointer)
            self.pointer = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def _swallow(kind: object, error: object, at: object) -> None:
    """Let no error of the callback go on into the library, which could not take it."""


def _text(ffi: Any, pointer: Any) -> str:
    text: bytes = ffi.string(pointer)
    return text.decode("utf-8", "replace")
