"""`python -m kdtutor …` is the same as `kdtutor …`, also under `accelerate launch -m kdtutor …`."""

import sys

from kdtutor.cli import main

if __name__ == "__main__":
    sys.exit(main())
