"""How each data file is made of the files of its origin: addresses, checksums and code."""
