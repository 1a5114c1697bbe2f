"""How a caption comes word by word: the ways to choose the next word, and a small decoder that reads a patch grid."""
