"""`fcs keys new|list`: API keys, of which the service knows the digests alone."""

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from service.access.keys import ApiKey, check_name, digest, new_key, read_keys
from service.errors import ConfigurationError

app = typer.Typer(help="API keys: who may ask, and how much.", no_args_is_help=True)
_LIMITS = ("requests_per_minute", "samples_per_minute", "concurrent_requests")


@app.command("new")
def new(
    name: Annotated[str, typer.Argument(help="Of whom it is for, in logs and budgets.")],
    file: Annotated[Path | None, typer.Option(help="Append the digest to this TOML file.")] = None,
    requests_per_minute: Annotated[int | None, typer.Option(min=1)] = None,
    samples_per_minute: Annotated[int | None, typer.Option(min=1)] = None,
    concurrent_requests: Annotated[int | None, typer.Option(min=1)] = None,
    expires: Annotated[
        datetime | None,
        typer.Option(formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"], help="UTC; None: never."),
    ] = None,
) -> None:
    """Make a key, and print it: it is kept nowhere, and cannot be shown again.

    The key alone goes to standard output, what belongs into the file to standard error.
    """
    check_name(name)
    key = new_key()
    entry = ApiKey(
        sha256=digest(key),
        requests_per_minute=requests_per_minute,
        samples_per_minute=samples_per_minute,
        concurrent_requests=concurrent_requests,
        expires=None if expires is None else expires.replace(tzinfo=UTC),
    )
    table = _table(name, entry)
    if file is None:
        typer.echo(f"the service reads this from its api_keys file:\n\n{table}", err=True)
    else:
        _append(file, name, table)
        typer.echo(f"its digest stands in {file}; the key, now and never again:", err=True)
    typer.echo(key)


@app.command("list")
def list_(
    file: Annotated[Path | None, typer.Option(help="None: the setting api_keys.")] = None,
) -> None:
    """List the keys of a file: their names and limits."""
    if file is None:
        from service.config import load_settings

        file = load_settings().api_keys
    if file is None:
        raise ConfigurationError("no file of API keys: give --file, or set FCS_API_KEYS")
    shown = Table("name", *(limit.replace("_", " ") for limit in _LIMITS), "expires")
    now = datetime.now(UTC)
    for name, key in read_keys(file).items():
        limits = ("" if (n := getattr(key, limit)) is None else str(n) for limit in _LIMITS)
        end = "" if key.expires is None else key.expires.isoformat()
        shown.add_row(name, *limits, f"{end} (expired)" if key.expired(now) else end)
    Console().print(shown)


def _table(name: str, key: ApiKey) -> str:
    lines = [f'[keys."{name}"]', f'sha256 = "{key.sha256}"']
    lines += [f"{n} = {getattr(key, n)}" for n in _LIMITS if getattr(key, n) is not None]
    if key.expires is not None:
        lines.append(f"expires = {key.expires.isoformat()}")
    return "\n".join(lines) + "\n"


def _append(file: Path, name: str, table: str) -> None:
    """In one write, so that a service that reads the file sees all of it or nothing."""
    known = read_keys(file) if file.exists() else None
    if known is not None and name in known:
        raise ConfigurationError(
            f"{file} has a key {name!r} already: a second one needs a name of its own"
        )
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        stream.write(table if known is None else f"\n{table}")
