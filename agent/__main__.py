"""`python -m agent` is the command `plumbline`."""

from agent.cli import main

main()
