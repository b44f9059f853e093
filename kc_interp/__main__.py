"""`python -m kc_interp`: the command line, also from a source tree that is not installed."""

from kc_interp.cli import main

main()
