"""`python -m api.client` is the command `bulk`."""

from api.client.command.main import main

if __name__ == "__main__":
    main()
