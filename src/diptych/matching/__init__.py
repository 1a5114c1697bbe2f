"""Does a text describe a picture: pairs and negatives to learn it from, heads that look at both sides, matchers."""
