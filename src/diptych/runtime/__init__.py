"""Cache folder, devices, progress, background work and atomic writes."""
