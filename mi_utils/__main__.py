"""``python -m mi_utils COMMAND``."""

import sys

from mi_workshop.cli import main

sys.exit(main())
