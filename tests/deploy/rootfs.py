"""A stand-in for a Docker engine: a Debian root made by debootstrap, in which the Dockerfile's own
instructions run, chrooted, in mount and network namespaces of their own. It needs root.

What differs from an engine: Debian's Python stands in for the official image's, and there are no
cgroups and no seccomp profile.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from tests.deploy.dockerfile import Stage, command_of, expand, in_context, pairs

# What python:3.11-slim-bookworm has and the smallest Debian has not.
PACKAGES = "python3,python3-venv,python-is-python3,ca-certificates"
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_CERTIFICATES = "/etc/ssl"
_LOCAL = re.compile(r"(?:file://)?(/[^\s'\"\\]+)")


def bookworm(folder: Path) -> Path:
    """A plain Debian 12, made once."""
    if not (folder / ".whole").exists():
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run(
            ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", "bookworm", folder],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        (folder / ".whole").touch()
    return folder


class Image:
    """A root file system and the configuration that the instructions left."""

    def __init__(self, root: Path, base: Path, context: Path) -> None:
        self.root, self._context = root, context
        subprocess.run(["cp", "--archive", "--reflink=auto", base, root], check=True)
        self.environment = {"PATH": _PATH}
        self.folder, self.user = "/", "0:0"
        self.volumes: list[str] = []
        self.command: dict[str, list[str]] = {}

    def run_stage(self, stage: Stage, earlier: dict[str, "Image"]) -> None:
        """Every instruction of a stage, in order."""
        arguments: dict[str, str] = {}
        for keyword, text in stage.instructions:
            match keyword:
                case "ARG":
                    arguments |= pairs(text)
                case "ENV":
                    self.environment |= pairs(expand(text, self.environment | arguments))
                case "WORKDIR":
                    self.folder = text
                    self.host(text).mkdir(parents=True, exist_ok=True)
                case "COPY":
                    self._copy(text, earlier)
                case "RUN":
                    self._run(text, arguments)
                case "VOLUME":
                    self.volumes = command_of(text)
                case "USER":
                    self.user = text
                case "ENTRYPOINT" | "CMD" | "HEALTHCHECK":
                    self.command[keyword] = command_of(text)
                case "EXPOSE" | "STOPSIGNAL":
                    pass

    def host(self, path: str) -> Path:
        """Where a path of the image lies on this machine."""
        return self.root / path.lstrip("/")

    def _copy(self, text: str, earlier: dict[str, "Image"]) -> None:
        words = text.split()
        source = self._context
        if words[0].startswith("--from="):
            source = earlier[words.pop(0).removeprefix("--from=")].root
        *names, target = words
        for name in names:
            if source == self._context and not in_context(source / ".dockerignore", name):
                raise FileNotFoundError(f"COPY {name}: .dockerignore keeps it out")
            found, into = source / name.strip("/"), self.host(str(Path(self.folder) / target))
            if found.is_dir():
                skip = shutil.ignore_patterns("__pycache__") if source == self._context else None
                shutil.copytree(found, into, symlinks=True, ignore=skip, dirs_exist_ok=True)
            else:
                shutil.copy2(found, into / name if target.endswith("/") else into)

    def _run(self, text: str, arguments: dict[str, str]) -> None:
        mounts = [_bind("/dev", self.host("/dev")), f"mount -t proc proc {self.host('/proc')}"]
        environment = self.environment | {k: v for k, v in arguments.items() if v} | _machine()
        for path in ["/etc/resolv.conf", _CERTIFICATES, *_package_paths()]:
            inside = self.host(path)
            if Path(path).is_dir():
                inside.mkdir(parents=True, exist_ok=True)
            else:
                inside.parent.mkdir(parents=True, exist_ok=True)
                inside.touch()
            mounts.append(_bind(path, inside, "ro"))
        command = [
            "env",
            "-i",
            *_words(environment),
            "/bin/sh",
            "-c",
            f"cd {self.folder} && {text}",
        ]
        script = [*mounts, f"exec chroot {self.root} {shlex.join(command)}"]
        done = subprocess.run(
            ["unshare", "--mount", "sh", "-ec", "\n".join(script)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"RUN {text}\n{done.stdout[-4000:]}")

    def start(self, volumes: dict[str, Path], **settings: str) -> subprocess.Popen:
        """ENTRYPOINT and CMD as an engine would run them: read-only, without root or capabilities.

        Args:
            volumes: folders of this machine by their paths in the image; every other place but
                /tmp is read-only.
            settings: environment variables beside the image's.
        """
        self.environment_at_start = self.environment | settings
        words = self._as_user(self.command["ENTRYPOINT"] + self.command["CMD"])
        script = [
            "ip link set lo up",
            _bind(self.root, self.root),
            f"mount -o remount,bind,ro {self.root}",
            f"mount -t tmpfs -o size=64m,mode=1777 tmpfs {self.host('/tmp')}",
            f"mount -t proc proc {self.host('/proc')}",
            _bind("/dev", self.host("/dev")),
            *(_bind(folder, self.host(path)) for path, folder in volumes.items()),
            f"exec chroot {self.root} {shlex.join(words)}",
        ]
        return subprocess.Popen(
            ["unshare", "--mount", "--net", "sh", "-ec", "\n".join(script)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def execute(self, process: subprocess.Popen, command: list[str]) -> subprocess.CompletedProcess:
        """`docker exec`: a command in the namespaces of a running service, as its user."""
        return subprocess.run(
            [
                *("nsenter", f"--target={process.pid}", "--mount", "--net"),
                *("chroot", self.root, *self._as_user(command)),
            ],
            capture_output=True,
            text=True,
            check=False,
            timeout=240,  # the language is converted in half a minute, on a quiet machine
        )

    def _as_user(self, command: list[str]) -> list[str]:
        uid, gid = self.user.split(":")
        return [
            *("setpriv", f"--reuid={uid}", f"--regid={gid}", "--clear-groups", "--no-new-privs"),
            *("--bounding-set=-all", "--inh-caps=-all"),
            *("env", "-i", f"--chdir={self.folder}", *_words(self.environment_at_start), *command),
        ]


def _words(environment: dict[str, str]) -> list[str]:
    return [f"{name}={value}" for name, value in environment.items()]


def _bind(source: str | Path, target: Path, mode: str = "rw") -> str:
    return f"mount --rbind -o {mode} {shlex.quote(str(source))} {shlex.quote(str(target))}"


def _machine() -> dict[str, str]:
    """How pip reaches its index on this machine, which is no part of the image."""
    ours = {k: v for k, v in os.environ.items() if re.match(r"(?i)(PIP|SSL)_|\w+_PROXY$", k)}
    for name, value in re.findall(r"^global\.(\S+)='(.*)'$", _pip_configuration(), re.MULTILINE):
        ours.setdefault("PIP_" + name.upper().replace("-", "_"), value.replace(r"\n", " "))
    return ours


def _package_paths() -> list[str]:
    """Files and folders that pip's configuration names; an index lies beside what it links to."""
    found = {Path(path) for path in _LOCAL.findall(_pip_configuration())}
    paths = {path.parent if path.name == "simple" else path for path in found if path.exists()}
    return sorted(str(path) for path in paths if not path.is_relative_to(_CERTIFICATES))


def _pip_configuration() -> str:
    return subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    ).stdout
