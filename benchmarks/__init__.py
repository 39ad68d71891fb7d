"""How fast the operators are, against other ways to compute the same. Not installed with the packages."""
