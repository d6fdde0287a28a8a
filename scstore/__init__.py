"""Pay for the large language model once, on a GPU; annotate single cells on a laptop.

``extract`` runs a frozen language model over cells and writes its hidden states to a store; ``fit``, ``predict`` and
``query`` work on stores, and on any AnnData with ``obsm`` matrices, without the model and without torch.
"""

import ast
import importlib
from pathlib import Path
from typing import Any

# Public names, as the stub beside this file has them: the module, imported when one is first used, and the name there.
_STUB = ast.parse(Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
_PUBLIC = {
    one.asname or one.name: (line.module or "", one.name)
    for line in _STUB.body
    if isinstance(line, ast.ImportFrom)
    for one in line.names
}

__all__ = sorted(_PUBLIC.keys() - {"pl"})


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("scstore")
    if name not in _PUBLIC:
        raise AttributeError(f"module 'scstore' has no attribute {name!r}")
    module, own = _PUBLIC[name]
    return importlib.import_module("scstore.pl") if name == "pl" else getattr(importlib.import_module(module), own)


def __dir__() -> list[str]:
    return [*_PUBLIC, "__version__"]
