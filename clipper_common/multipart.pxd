# cython: language_level=3
cdef _open(frame)
