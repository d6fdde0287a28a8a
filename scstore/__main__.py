"""``python -m scstore``, and the command ``scstore``."""

import os


def main() -> None:
    """Run the command line; a Ctrl-C before it can answer one ends without a traceback."""
    try:
        from scstore.cli import main as run
    except KeyboardInterrupt:
        os._exit(130)
    run()


if __name__ == "__main__":
    main()
