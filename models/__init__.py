"""Model geometries as data, from a Hugging Face config too, and the bytes of their weights in many formats."""

from lrcsim.models.attention import AttentionShape
from lrcsim.models.geometry import Geometry
from lrcsim.models.geometry_values import read_geometry
from lrcsim.models.load import full_name, load_geometry, model_names
from lrcsim.models.matching import matching_dtype
from lrcsim.models.of_trace import check_trace, geometry_of
from lrcsim.models.quantisation import (
    bits_per_weight,
    dense_bytes,
    dtype_names,
    embedding_bytes,
    expert_bytes,
    output_bytes,
    said_dtype,
    storage,
    stored_dtype,
)

__all__ = [
    "AttentionShape",
    "Geometry",
    "bits_per_weight",
    "check_trace",
    "dense_bytes",
    "dtype_names",
    "embedding_bytes",
    "expert_bytes",
    "full_name",
    "geometry_of",
    "load_geometry",
    "matching_dtype",
    "model_names",
    "output_bytes",
    "read_geometry",
    "said_dtype",
    "storage",
    "stored_dtype",
]
