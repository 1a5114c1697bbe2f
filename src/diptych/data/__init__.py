"""Data sets of images and captions: reading, splitting, checking, downloading, and samples."""
