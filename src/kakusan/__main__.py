"""``python -m kakusan`` is ``kakusan``; torchrun starts it so."""

from kakusan.app.cli import main

main()
