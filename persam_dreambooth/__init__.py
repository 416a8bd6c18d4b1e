"""Photos and one mask in; a text-to-image model that knows the subject, not the sofa, out."""

import os

__version__ = "0.1.0"

# By default MKL's results depend on where an array lies in memory, on some processors (AMD's): a resumed run would
# not end bit for bit as an uninterrupted one. MKL reads this at its first call, so before or after torch's import.
os.environ.setdefault("MKL_CBWR", "AUTO")
