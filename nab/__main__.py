"""``python -m nab`` is the ``nab`` command."""

from nab.cli import main

main()
