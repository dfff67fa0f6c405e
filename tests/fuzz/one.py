"""`python -m tests.fuzz.one TARGET CORPUS [libFuzzer's options]`: one target under atheris."""

import importlib
import sys
import warnings

import atheris

REST = ("bodies", "forms")  # these alone wait for torch
INSTRUMENTED = [
    *("PIL", "service.pictures", "service.receipts", "service.locations", "service.rpc.convert"),
    *("service.rest.parsing", "service.rest.schemas", "service.conversations"),
]

if __name__ == "__main__":
    name = sys.argv[1]
    with atheris.instrument_imports(include=INSTRUMENTED):
        module = importlib.import_module(
            "tests.fuzz.rest" if name in REST else "tests.fuzz.targets"
        )
    warnings.simplefilter("ignore")  # Pillow's, of odd metadata
    atheris.Setup([sys.argv[0], *sys.argv[2:]], getattr(module, name))
    atheris.Fuzz()
