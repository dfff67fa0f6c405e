"""`fcs audit check FILE`: every line of an audit log, its signatures and its chain."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from service.errors import invalid

if TYPE_CHECKING:
    from service.audit.reading import Report

app = typer.Typer(help="The audit log of certificates.", no_args_is_help=True)


@app.callback()
def audit() -> None:
    """The audit log of certificates."""


@app.command("check")
def check(
    file: Annotated[Path, typer.Argument(help="The log; its full files are checked before it.")],
    public_key: Annotated[
        list[str] | None, typer.Option(help="Key to trust, as for fcs verify; repeat for several.")
    ] = None,
    complete: Annotated[
        bool, typer.Option("--complete", help="Fail where older files are gone.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON line.")] = False,
) -> None:
    """Check every line's signature, and that none was edited, moved or taken out.

    Ends with 0 only if all are in order; else the first line at fault is named. What was cut off at
    the end shows only if the last digest told here was kept elsewhere.
    """
    from service.audit.reading import check as checked
    from service.receipts.signing import read_public_key

    report = checked(file, {read_public_key(key) for key in public_key or ()})
    if complete and report.first != 1:
        raise invalid(f"{file}: it begins at record {report.first}: what came before is not here")
    if as_json:
        line = asdict(report) | {"keys": sorted(report.keys), "key_trusted": bool(public_key)}
        sys.stdout.write(json.dumps(line) + "\n")
    else:
        typer.echo("\n".join(_told(report, bool(public_key))))


def _told(report: "Report", trusted: bool) -> list[str]:
    told = [
        f"records    {report.records} ({report.first} to {report.last}) in {report.files} files,"
        f" {report.receipts} with a receipt",
        f"end        {report.end}",
    ]
    if report.first > 1:
        told.append("note       what came before the first of them is not here")
    if report.torn:
        told.append(f"note       {report.torn} lines were cut off by a crash")
    if report.missed:
        told.append(f"note       {report.missed} could not be written; their answers were refused")
    if trusted:
        told.append("signature  every line matches a trusted key")
    else:
        told += [
            f"signature  unchanged since the key {key} signed it; anybody may have made that key:"
            " give the service's own (GET /info) as --public-key"
            for key in sorted(report.keys)
        ]
    return told
