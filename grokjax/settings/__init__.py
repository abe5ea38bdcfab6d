"""Every setting of a run, experiment files, and the rows of a sweep."""
