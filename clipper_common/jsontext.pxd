# cython: language_level=3
cpdef bytes embed(bytes output)
