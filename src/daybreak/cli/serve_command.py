"""`daybreak serve`: a run or a bundle as a web page and a service."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from daybreak.cli.options import USE, Debug, Json, NetOption, Quiet, RunDir, app, print_result
from daybreak.cli.run_commands import open_bundle
from daybreak.core.extras import needing

NETWORK = "Network"


@app.command(rich_help_panel=USE, epilog="Example: daybreak serve runs/20261122-101502-cifar10-sprint-s0 --port 8000")
def serve(
    run: RunDir,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 picks a free one.")] = 8000,
    reject: Annotated[
        float | None, typer.Option(metavar="P", help="Answer `unknown` where no class has this probability.")
    ] = None,
    net: NetOption = None,
    host: Annotated[
        str,
        typer.Option(
            metavar="ADDRESS",
            rich_help_panel=NETWORK,
            help="Address to listen on. Any but this machine's own needs a token; if none is given, one is made and "
            "printed with the address.",
        ),
    ] = "127.0.0.1",
    token_file: Annotated[
        Path | None,
        typer.Option(rich_help_panel=NETWORK, help="File with the token; or set the variable DAYBREAK_TOKEN."),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            rich_help_panel=NETWORK,
            help="A name under which it may be asked, such as that of a proxy before it; repeatable.",
        ),
    ] = None,
    log: Annotated[
        str, typer.Option(metavar="none|text|json", rich_help_panel=NETWORK, help="A line on stderr for each request.")
    ] = "none",
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Start a local web page over a run or a bundle: drop images, see their classes and maps. Ctrl-C stops it."""

    def show_address(address: str) -> None:
        print_result({"url": address, "run": str(run)}, as_json, lambda: print(address))
        sys.stdout.flush()

    with needing("serve", "serve"):
        from daybreak.serve.options import ServeOptions
        from daybreak.serve.server import serve
    options = ServeOptions(port, host, token_file, tuple(allow_host or ()), reject, log)  # type: ignore[arg-type]
    serve(_subject(run, net), options, show_address)


def _subject(run: Path, net: str | None) -> Any:
    from daybreak.export.bundle import is_bundle

    if is_bundle(run):
        from daybreak.serve.of_bundle import ServedBundle

        return ServedBundle(open_bundle(run, net))
    from daybreak import api
    from daybreak.serve.of_run import ServedRun

    return ServedRun(api.load(run, net).directory)
