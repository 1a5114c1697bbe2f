"""Sample data: photographs that packages carry, and drawn scenes."""
