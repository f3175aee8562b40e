"""topoface: train and judge face-recognition models whose embedding space has structure."""

__version__ = "0.1.0"
