"""`python -m builder`."""

import sys

try:
    from builder.cli import main
except KeyboardInterrupt:
    sys.exit(130)

main()
