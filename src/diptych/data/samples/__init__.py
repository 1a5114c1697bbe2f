"""Sample data: photographs from installed packages, and synthetic scenes."""
