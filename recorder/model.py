"""Load a model and its tokenizer from a folder or a hub, for recording."""

from __future__ import annotations

import inspect
import pickle
from dataclasses import dataclass
from logging import ERROR, getLogger
from typing import Any

from lrcsim.base.errors import ConfigError, brief, did_you_mean
from lrcsim.base.installing import from_checkout
from lrcsim.recorder import checkpoint, families

DTYPES = {"auto": "auto", "bf16": "bfloat16", "fp16": "float16", "fp32": "float32", "fp64": "float64"}
"""Names that ``--dtype`` takes; auto is what the model's files say."""

OLDEST = (5, 20)
"""The oldest transformers that the tests passed with; earlier ones build some families in other ways."""


@dataclass(frozen=True)
class Loaded:
    """A model ready to run, its tokenizer (None: it has none), what to call it, and what to know of it."""

    model: Any
    tokenizer: Any
    name: str
    notices: tuple[str, ...] = ()


def require_torch() -> None:
    """Raise when torch or transformers is absent, or too old.

    Raises:
        ConfigError: with the command that installs them.
    """
    try:
        import torch  # noqa: F401
        import transformers
    except ImportError as error:
        raise ConfigError(
            f"recording needs torch and transformers ({brief(error)}): {from_checkout('record')}"
        ) from None
    version = transformers.__version__
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        raise ConfigError(
            f"recording needs transformers {oldest} or later, here is {version}: {from_checkout('record')}"
        )


def resolve_device(device: str) -> str:
    """Turn ``auto`` into cuda where there is one, else cpu.

    Raises:
        ConfigError: the device is unknown, or not there.
    """
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    kind = device.partition(":")[0]
    if kind not in ("cuda", "cpu"):
        raise ConfigError(
            f"--device {device!r} is not known, use auto, cuda or cpu{did_you_mean(kind, ('cuda', 'cpu'))}"
        )
    if kind == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda: torch finds no CUDA device here; use cpu, or install torch with CUDA")
    return device


def load(name: str, *, device: str = "auto", dtype: str = "auto") -> Loaded:
    """Load a model by the class that its config names, and its tokenizer if it has one.

    Nothing that stands beside the weights is executed, and every weight of the model comes from the checkpoint.

    Args:
        name: a local folder, or a model id of the hub that transformers is set up for.
        device: ``auto``, ``cuda`` (also ``cuda:1``) or ``cpu``.
        dtype: one of `DTYPES`.

    Raises:
        ConfigError: torch is absent, the model is not found or cannot be loaded, needs code of its own, lacks weights
            or has others than its class uses, or is known not to be recordable.
    """
    require_torch()
    import torch
    import transformers

    if dtype not in DTYPES:
        raise ConfigError(f"--dtype {dtype!r} is not known, use {', '.join(DTYPES)}{did_you_mean(dtype, DTYPES)}")
    device = resolve_device(device)
    logging: Any = transformers.utils.logging
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    getLogger("huggingface_hub").setLevel(ERROR)  # each retry of a network that is not there would be a line
    checkpoint.refuse_name(name)
    try:
        raw = checkpoint.read_config(name)
    except Exception as error:  # whatever files and networks raise
        raise ConfigError(f"model {name}: its config cannot be loaded ({brief(error)})") from None
    checkpoint.refuse_code(name, raw)
    checkpoint.refuse_sizes(name, raw)
    checkpoint.refuse_outside(name)
    try:
        config = transformers.AutoConfig.from_pretrained(name, trust_remote_code=False)
    except Exception as error:
        raise ConfigError(f"model {name}: its config cannot be loaded ({brief(error)})") from None
    families.refuse(config)
    model_class = _model_class(transformers, config)
    wanted = "auto" if dtype == "auto" else getattr(torch, DTYPES[dtype])
    try:
        whole, info = model_class.from_pretrained(
            name,
            config=config,
            dtype=wanted,
            trust_remote_code=False,
            weights_only=True,  # a pickled file may hold tensors, and nothing that runs
            ignore_mismatched_sizes=True,  # they are named and refused below
            output_loading_info=True,
        )
    except pickle.UnpicklingError:
        raise ConfigError(
            f"model {name}: its pickled weights (.bin, .pt) hold more than tensors, or are damaged, and are not loaded "
            "since that may run code: take its .safetensors"
        ) from None
    except Exception as error:
        raise ConfigError(f"model {name}: cannot be loaded as {model_class.__name__} ({brief(error)})") from None
    notices = [*checkpoint.unknown_options(raw, config), *checkpoint.check_weights(name, whole, info, raw)]
    try:
        model = families.text_part(whole).to(device).eval()
    except Exception as error:  # most of all too little memory on the device
        raise ConfigError(f"model {name}: cannot be put on {device} ({brief(error)})") from None
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except Exception as error:  # prompts given as token ids need none; texts are refused later, with the reason
        tokenizer = None
        if "trust_remote_code" in str(error):
            notices.append("the tokenizer needs code of its own, which lrcsim does not run: prompts must be token_ids")
    return Loaded(model, tokenizer, name, tuple(notices))


def _model_class(transformers: Any, config: Any) -> Any:
    """Return the class that the config names where it is one of this type's, or the automatic one for its kind."""
    names = config.architectures
    for architecture in names if isinstance(names, list) else []:
        found: Any = getattr(transformers, str(architecture), None)
        if not (isinstance(found, type) and issubclass(found, transformers.PreTrainedModel)):
            continue
        own = getattr(found, "config_class", None)
        if isinstance(own, type) and isinstance(config, own):
            return found
    if config.is_encoder_decoder:
        return transformers.AutoModelForSeq2SeqLM
    return transformers.AutoModelForCausalLM


def accepts(model: Any, argument: str) -> bool:
    """Tell whether the model's forward has an argument of that name."""
    return argument in inspect.signature(type(model).forward).parameters
