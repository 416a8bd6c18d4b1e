"""Photos and one mask in; a text-to-image model that knows the subject, not the sofa, out."""

__version__ = "0.1.0"
