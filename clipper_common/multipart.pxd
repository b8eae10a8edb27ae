# cython: language_level=3
cdef list _receive(socket)
