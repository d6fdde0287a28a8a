"""HDF5 files of other people: what they may ask for, and a look at them from a process that may be lost."""
