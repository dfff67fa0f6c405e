"""The Dockerfile and .dockerignore, read: stages of instructions, and what COPY can see.

Only what this Dockerfile uses is understood; anything else is an error, never skipped.
"""

import fnmatch
import json
import re
from dataclasses import dataclass, field
from pathlib import Path

KEYWORDS = frozenset(
    [
        *("ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "HEALTHCHECK", "RUN"),
        *("STOPSIGNAL", "USER", "VOLUME", "WORKDIR"),
    ]
)
_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")


@dataclass
class Stage:
    """One FROM and what follows it; the base is another stage's name or an image."""

    name: str
    base: str
    instructions: list[tuple[str, str]] = field(default_factory=list)

    def all(self, keyword: str) -> list[str]:
        return [text for found, text in self.instructions if found == keyword]


def read_dockerfile(file: Path) -> tuple[dict[str, str], dict[str, Stage]]:
    """The arguments before the first FROM, with their defaults; the stages by name, in order."""
    arguments: dict[str, str] = {}
    stages: dict[str, Stage] = {}
    stage = None
    lines = [line for line in file.read_text().splitlines() if not line.startswith("#")]
    for line in "\n".join(lines).replace("\\\n", "").splitlines():
        if not line.strip():
            continue
        keyword, text = line.split(maxsplit=1)
        if keyword == "FROM":
            base, name = re.fullmatch(r"(\S+) AS (\S+)", text).groups()
            stage = stages[name] = Stage(name, expand(base, arguments))
        elif keyword not in KEYWORDS:
            raise ValueError(f"{keyword} is not understood")
        elif stage is None:
            arguments |= pairs(text)
        else:
            stage.instructions.append((keyword, text.strip()))
    return arguments, stages


def pairs(text: str) -> dict[str, str]:
    """`A=1 B=2` of an ARG or ENV; an ARG without a value has none."""
    return dict(word.split("=", 1) for word in text.split() if "=" in word)


def expand(text: str, values: dict[str, str]) -> str:
    return _VARIABLE.sub(lambda match: values[match[1] or match[2]], text)


def command_of(text: str) -> list[str]:
    """The words of an ENTRYPOINT, CMD or HEALTHCHECK in exec form."""
    return json.loads(text[text.index("[") :])


def in_context(ignore: Path, path: str) -> bool:
    """Whether .dockerignore lets a path of the repository into the build.

    As Docker reads it: the last line that matches the path, or a folder above it, decides.
    """
    inside = True
    above = [path, *(str(parent) for parent in Path(path).parents if str(parent) != ".")]
    for line in ignore.read_text().split():
        pattern = line.removeprefix("!")
        if any(_matches(candidate, pattern) for candidate in above):
            inside = line.startswith("!")
    return inside


def _matches(path: str, pattern: str) -> bool:
    if pattern.startswith("**/"):
        return any(fnmatch.fnmatchcase(part, pattern[3:]) for part in Path(path).parts)
    return len(Path(path).parts) == len(Path(pattern).parts) and fnmatch.fnmatchcase(path, pattern)
