"""`mdf replay`: a recording served as if it were the exchange."""

from __future__ import annotations

from pathlib import Path

import click

from tools.simulator.command import simulate


@click.command(context_settings={"show_default": True})
@click.argument(
    "capture",
    envvar="CAPTURE",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
)
@click.option("--host", default="127.0.0.1", help="Address to listen on.")
@click.option("--port", default=8765, type=click.IntRange(0, 65_535), help="Port; 0 picks one.")
@click.option(
    "--speed",
    default=1.0,
    type=click.FloatRange(min=0),
    help="How many times faster than recorded; 0 is as fast as the clients read.",
)
@click.pass_context
def replay(ctx: click.Context, capture: Path, host: str, port: int, speed: float) -> None:
    """Serve a recording (one venue message a line) to ingestors, beginning with the first client.

    The same as `mdf simulate --capture`, which has more options.
    """
    ctx.invoke(simulate, capture=capture, host=host, port=port, speed=speed)
