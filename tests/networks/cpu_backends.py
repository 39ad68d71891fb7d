"""The operator's backends that serve the CPU, as the operator's own tests enumerate them."""

import importlib.util
from pathlib import Path

_PATH = Path(__file__).parents[1] / "kernels" / "conftest.py"
_SPEC = importlib.util.spec_from_file_location("operator_backends", _PATH)  # `conftest` may name another one here
_BACKENDS = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(_BACKENDS)

backend = _BACKENDS.backend
"""The fixture; give it VARIANTS by an indirect parametrization."""
VARIANTS = [variant for variant in _BACKENDS.variants() if variant.values[0][2] == "cpu"]
