"""`fcs verify RECEIPT IMAGE`: check a receipt's signature, then compute it again."""

import json
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from service.cli.progress import progress_bar
from service.config import load_settings
from service.errors import invalid

if TYPE_CHECKING:  # the commands must start without loading torch
    from service.receipts.reading import Saved
    from service.receipts.receipt import Receipt
    from service.replay import Replay


def verify(
    receipt: Annotated[
        Path, typer.Argument(help="A receipt, a saved response of /embed, or an audit log.")
    ],
    image: Annotated[Path | None, typer.Argument(help="The picture it is about.")] = None,
    public_key: Annotated[
        str | None, typer.Option(help="Key to trust: hex, or a file (hex, PEM, GET /info).")
    ] = None,
    signature_only: Annotated[
        bool,
        typer.Option(
            "--signature-only", help="Replay nothing; no IMAGE is needed, one is compared."
        ),
    ] = False,
    item: Annotated[
        int | None, typer.Option(help="Which item of a saved response, or record of a request.")
    ] = None,
    request: Annotated[
        str | None, typer.Option(help="Which request of an audit log: its x-request-id.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Where its model is: package, hub id or folder.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda; else the receipt's.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON line.")] = False,
) -> None:
    """Check a receipt's signature, then compute it again from the picture.

    Ends with 0 only if everything agrees.
    """
    from service.receipts.reading import contradictions
    from service.receipts.signing import read_public_key

    if image is None and not signature_only:
        raise typer.BadParameter("name the picture, or say --signature-only", param_hint="IMAGE")
    saved = _read(receipt, item, request)
    found = saved.receipt
    trusted = None if public_key is None else read_public_key(public_key)
    if not found.signed_by(trusted or found.public_key):
        raise invalid("signature does not match: the receipt was changed, or another key signed it")
    if others := contradictions(saved):
        raise invalid(f"{receipt}: {'; '.join(others)}")
    data = None if image is None else _read_picture(found, image)
    again = None if data is None or signature_only else _replay(found, data, model, device)
    if as_json:
        _write_json(found, trusted, data is not None, again)
    else:
        _print(found, trusted, data is not None, again)
    if again is not None and again.differences:
        raise typer.Exit(1)


def _read(file: Path, item: int | None, request: str | None) -> "Saved":
    from service.audit.reading import find, is_audit_log
    from service.receipts.reading import read

    if request is not None:
        return find(file, request, item)
    if is_audit_log(file):
        raise invalid(
            f"{file} is an audit log: name the request, --request ID, or check all of it: fcs audit"
            " check"
        )
    return read(file, item)


def _read_picture(receipt: "Receipt", image: Path) -> bytes:
    """The file, if it is the receipt's; no model is needed to know."""
    from service.pictures.decode import decode
    from service.pictures.preprocess import check_size, preprocess
    from service.receipts.receipt import picture_digest

    try:
        data = image.read_bytes()
    except OSError as error:
        raise invalid(f"cannot read {image}: {error.strerror or error}") from error
    how, limit = receipt.preprocessing.value(), load_settings().max_pixels
    picture = decode(data, limit, None, lambda size: check_size(size, how, limit))
    if picture_digest(preprocess(picture, how)) != receipt.picture:
        raise invalid(f"the picture is not the one of this receipt: {image}")
    return data


def _replay(receipt: "Receipt", data: bytes, model: str | None, device: str | None) -> "Replay":
    certificate = receipt.certificate
    with progress_bar() as progress:
        # And those without noise, of which there are one or two.
        total = 2 + certificate.samples.selection + certificate.samples.estimation
        task = progress.add_task("replaying", total=total)

        def advance(count: int) -> None:
            # Sampling that stops early may have drawn a few samples more than it used.
            progress.advance(task, min(count, progress.tasks[0].remaining or 0))

        from service.replay import replay  # torch: seconds, with the bar to be seen

        return replay(receipt, data, advance, model, device)


def _write_json(
    receipt: "Receipt", trusted: str | None, compared: bool, again: "Replay | None"
) -> None:
    line: dict[str, Any] = {
        "public_key": receipt.public_key,
        "key_trusted": trusted is not None,
        "issued_at": receipt.issued_at,
        "picture_compared": compared,
        "replayed": again is not None,
        "differences": None if again is None else [asdict(d) for d in again.differences],
        "notes": [] if again is None else again.notes,
    }
    sys.stdout.write(json.dumps(line) + "\n")


def _print(receipt: "Receipt", trusted: str | None, compared: bool, again: "Replay | None") -> None:
    console = Console(highlight=False)
    when = datetime.fromtimestamp(receipt.issued_at, UTC).isoformat(sep=" ")
    lines = [f"receipt    of {receipt.model.name}, fcs-serve {receipt.service}, {when}"]
    if trusted is None:
        lines.append(
            f"signature  unchanged since the key {receipt.public_key} signed it; anybody may have"
            " made that key: give the service's own (GET /info) as --public-key"
        )
    else:
        lines.append("signature  matches the trusted key")
    if receipt.certificate.client_seed:
        lines.append("seed       chosen by the client: nobody else should rely on the bounds")
    if compared:
        lines.append("picture    is the one of this receipt")
    if again is None:
        left = "the bounds were" if compared else "the picture and the bounds were"
        lines.append(f"replay     not asked for: {left} not looked at")
    else:
        lines += [f"note       {note}" for note in again.notes]
        if again.notes:
            lines.append("note       equality to the last bit cannot be expected here")
        count = len(again.differences)
        lines.append(f"replay     {f'{count} values differ' if count else 'every value agrees'}")
    console.print(escape("\n".join(lines)), soft_wrap=True)
    if again is not None and again.differences:
        table = Table("field", "receipt", "replay")
        for d in again.differences:
            table.add_row(escape(d.field), escape(f"{d.receipt}"), escape(f"{d.replay}"))
        console.print(table)
