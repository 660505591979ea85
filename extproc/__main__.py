"""`python -m extproc` is the command `extproc`."""

from __future__ import annotations

from extproc.cli.main import main

if __name__ == "__main__":
    main()
