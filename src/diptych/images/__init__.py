"""Image files: decoding, hashing, metadata, walking folders, augmentation and contact sheets."""
