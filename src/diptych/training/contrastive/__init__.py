"""The contrastive recipe for dual encoders."""
