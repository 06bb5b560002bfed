"""``python -m mi_utils COMMAND``."""

import sys

from mi_utils.cli import main

sys.exit(main())
