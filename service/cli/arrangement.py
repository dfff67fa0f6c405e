"""How a model runs here, in one line of `fcs serve` and `fcs models`."""

from service.types import Arrangement, ModelInfo, Tuning

_SOURCES = {
    "measured": "measured once, kept",
    "cached": "measured at an earlier start",
    "pinned": "as set",
    "package": "the package's own",
}


def in_words(arrangement: Arrangement | ModelInfo, tuning: Tuning) -> str:
    """`bfloat16, 2 lanes of 8, channels_last: 2.9 ms a sample (measured once, kept)`."""
    count, threads = arrangement.lanes, arrangement.threads
    lanes = f"{count} {'lane' if count == 1 else 'lanes'} of {arrangement.batch_size}"
    inside = "" if threads == 1 else f" on {threads} threads"
    measured = "" if tuning.ms_per_sample is None else f": {tuning.ms_per_sample:.2g} ms a sample"
    source = "measured" if tuning.note and tuning.source == "measured" else _SOURCES[tuning.source]
    said = f"{source}; {tuning.note}" if tuning.note else source
    shape = f"{arrangement.dtype}, {lanes}{inside}, {arrangement.memory_format}"
    return f"{shape}{measured} ({said})"
