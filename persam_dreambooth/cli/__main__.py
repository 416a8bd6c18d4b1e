"""`python -m persam_dreambooth.cli`, the same as the installed `persam-dreambooth`."""

import sys

from persam_dreambooth.cli import main

sys.exit(main())
