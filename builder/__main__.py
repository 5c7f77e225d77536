"""`python -m builder`."""

import sys

from builder.search_path import leave_out_working_directory

leave_out_working_directory()

try:
    from builder.cli import main
except KeyboardInterrupt:
    sys.exit(130)

main()
