"""Several models measured on the same images, in one report."""
