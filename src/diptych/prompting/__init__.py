"""Image to prompt: predicts the text embedding of an image's prompt, and turns it into words."""
