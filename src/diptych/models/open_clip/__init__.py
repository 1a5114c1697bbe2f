"""open_clip models as dual encoders."""
