"""Shared code of the mechanistic-interpretability notebooks: one topic a module, imported by name.

Importing the package itself costs next to nothing; ``mi_utils.models`` and the other topics are
loaded on first use, because they bring torch and TransformerLens with them.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_MODULES = (
    "atlas",
    "atlas_mlps",
    "atlas_world",
    "attention_only",
    "attribution",
    "attribution_patching",
    "circuit_acdc",
    "circuit_edges",
    "circuit_graph",
    "circuit_scores",
    "circuit_tasks",
    "circuits",
    "claims",
    "composition",
    "config",
    "corpus",
    "data_files",
    "feature_interventions",
    "feature_rules",
    "feature_view",
    "features",
    "grading",
    "graph_influence",
    "graph_io",
    "graph_view",
    "hand_wired",
    "harvest",
    "head_effects",
    "heads",
    "hooks",
    "jumprelu",
    "lens",
    "lens_causal",
    "lens_training",
    "lens_view",
    "local_model",
    "models",
    "patching",
    "patching_engine",
    "patching_view",
    "path_patching",
    "plots",
    "prompts",
    "prompts_ioi",
    "qk_attribution",
    "replacement",
    "sae",
    "sae_causal",
    "sae_files",
    "sae_training",
    "shipped_transcoders",
    "superposition",
    "superposition_geometry",
    "superposition_view",
    "transcoder_files",
    "transcoder_training",
    "transcoders",
)
__all__ = ["__version__", *_MODULES]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
