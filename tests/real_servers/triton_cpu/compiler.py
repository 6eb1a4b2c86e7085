"""The half of the backend that would compile."""

from typing import Any

from triton.backends.compiler import BaseBackend, GPUTarget


class CpuCompiler(BaseBackend):
    """Is never asked to compile: kernels are interpreted."""

    @staticmethod
    def supports_target(target: GPUTarget) -> bool:
        return target.backend == "cpu"

    def hash(self) -> str:
        return "interpreted"

    def parse_options(self, options: dict[str, Any]) -> object:
        raise NotImplementedError("kernels are interpreted, set TRITON_INTERPRET=1")

    def add_stages(self, stages: dict[str, Any], options: object, language: object) -> None:
        raise NotImplementedError("kernels are interpreted, set TRITON_INTERPRET=1")

    def load_dialects(self, context: object) -> None:
        pass

    def get_module_map(self) -> dict[str, Any]:
        return {}
