"""open_clip models as towers of dual encoders."""
