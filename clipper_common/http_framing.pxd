# cython: language_level=3
cimport cython


cdef class Head:
    cdef readonly bytes text
    cdef readonly Py_ssize_t length
    cdef bint is_chunked
    cdef readonly object plain_path
    cdef object app


cdef class Heads:
    cdef object _app_of
    cdef dict _known

    @cython.locals(known=Head)
    cpdef Head find(self, bytes text)
    cdef Head _recognise(self, bytes text)


cpdef Head read_head(bytes text)


cdef class ChunkReader:
    cdef Py_ssize_t _missing
    cdef bint _ends_chunk
    cdef bint _in_trailer
    cdef bytes _begun

    @cython.locals(before=Py_ssize_t, at=Py_ssize_t, size=Py_ssize_t, end=Py_ssize_t, text=bytes)
    cpdef Py_ssize_t find_end(self, bytes data) except -3
    cdef _check_begun(self)
