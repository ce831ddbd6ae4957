"""`mdf`: the platform's tools under one command."""

from __future__ import annotations

from importlib import import_module

import click

# Name -> where the command is, and its line in `mdf --help`. Loaded when used: a board in a
# terminal should not wait for the imports of an embedded exchange.
_COMMANDS = {
    "stack": ("tools.stack.command:stack", "Run the whole platform on this machine."),
    "watch": ("tools.watch.command:watch", "Show a running gateway's ticks on a board."),
    "simulate": ("tools.simulator.command:simulate", "Run a simulated Coinbase exchange."),
    "replay": ("tools.replay.command:replay", "Publish recorded raw records to the log again."),
    "doctor": ("tools.doctor.command:doctor", "Check settings and reach of every dependency."),
    "loadtest": ("tools.loadtest.command:loadtest", "Put many verifying subscribers on a gateway."),
}


class _Tools(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(_COMMANDS)

    def get_command(
        self,
        ctx: click.Context,  # noqa: ARG002 - click's signature
        cmd_name: str,
    ) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, _, attribute = _COMMANDS[cmd_name][0].partition(":")
        command = getattr(import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(
        self,
        ctx: click.Context,  # noqa: ARG002 - click's signature
        formatter: click.HelpFormatter,
    ) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in _COMMANDS.items()])


@click.command(cls=_Tools, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="market-data-fanout", prog_name="mdf")
def main() -> None:
    """Market data fan-out: gap-proof ticks from an exchange to any number of subscribers."""


if __name__ == "__main__":
    main()
