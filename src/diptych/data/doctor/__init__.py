"""The data doctor: finds broken images, faulty captions, duplicates and split leaks in a data set."""
