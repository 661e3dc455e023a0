"""``python -P -m paddock.supervisor.cli``: the command line where no script is installed."""

from paddock.supervisor.cli.main import main

if __name__ == "__main__":
    main()
