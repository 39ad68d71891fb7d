"""The operators' speed against other ways to compute the same. Not installed with the packages."""
