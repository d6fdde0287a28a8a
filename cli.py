"""Launcher: ``python cli.py extract …``, ``accelerate launch cli.py extract …``."""

from scstore.__main__ import main

if __name__ == "__main__":
    main()
