"""``python -m scstore``."""

from scstore.cli import main

if __name__ == "__main__":
    main()
