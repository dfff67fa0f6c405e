"""The `fcs` command. Commands import what they need when they run, so that `--help` is instant."""

import sys

import typer

from service import __version__
from service.cli import (
    ask,
    audit,
    bench,
    certify,
    data,
    evaluate,
    keys,
    models,
    prove,
    serve,
    train,
    verify,
)
from service.errors import ConfigurationError, ServiceError

app = typer.Typer(
    help="Robust image embeddings with certified bounds.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.command("serve")(serve.serve)
app.command("certify")(certify.certify)
app.command("ask")(ask.ask)
app.command("prove")(prove.prove)
app.command("verify")(verify.verify)
app.add_typer(audit.app, name="audit")
app.add_typer(models.app, name="models")
app.add_typer(keys.app, name="keys")
app.add_typer(bench.app, name="bench")
app.add_typer(data.app, name="data")
app.add_typer(evaluate.app, name="evaluate")
app.add_typer(train.app, name="train")


@app.callback(invoke_without_command=True)
def version(show: bool = typer.Option(False, "--version", help="Print the version.")) -> None:
    """Robust image embeddings with certified bounds."""
    if show:
        typer.echo(__version__)
        raise typer.Exit


def main() -> None:
    """Run a command; a known failure ends it with one clear line."""
    try:
        app()
    except ConfigurationError as error:
        sys.stderr.write(f"fcs: {error}\n")
        sys.exit(2)
    except (FloatingPointError, OSError) as error:
        sys.stderr.write(f"fcs: {error}\n")
        sys.exit(1)
    except ServiceError as error:
        sys.stderr.write(f"fcs: {error.message}\n")
        sys.exit(1)
