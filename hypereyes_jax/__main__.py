"""`python -m hypereyes_jax` is `hypereyes`."""

import sys

from hypereyes_jax.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
