"""`python -m daybreak`, and the command `daybreak`."""

import signal


def main() -> None:
    """Run the command line and exit with the contract's code.

    Until it hears signals itself (`core.signals`), Ctrl-C ends the process as the system does: Python's own way, an
    exception, is swallowed by some of the packages that are imported first.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from daybreak.cli import main as run

    run()


if __name__ == "__main__":
    main()
