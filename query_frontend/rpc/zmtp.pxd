# cython: language_level=3
cimport cython

cdef int _MORE
cdef int _LONG
cdef int _COMMAND
cdef int _FRAME_COST
cdef int _SHORT_BYTES
cdef int _MAX_COMMAND_BYTES

cdef bytes _header(int flags, Py_ssize_t size)
cpdef list encode(frames)
cdef _add(list pieces, int flags, frame)


cdef class Conversation:
    cdef readonly object role
    cdef long long _max_bytes
    cdef readonly bint is_open
    cdef readonly bint knows_pings
    cdef readonly bint is_behind
    cdef readonly bytes pong
    cdef readonly str fault
    cdef bint _greeted
    cdef bytearray _rest
    cdef long long _needed
    cdef object _large
    cdef long long _missing
    cdef int _large_flags
    cdef list _frames
    cdef long long _bytes

    cpdef list receive(self, bytes data)
    @cython.locals(flags=int, size="long long", at="long long", many="long long", start="long long", end="long long", _=int, most=int, raw="const char *")
    cdef long long _read(self, bytearray data, list messages) except -1
    cdef _check(self, int flags, long long size)
    cdef long long _await_frame(self, int flags, long long size, long long at, long long start, bytearray data) except -1
    cdef bytes _fill(self, large, bytes data, list messages)
    cdef _add_frame(self, int flags, bytes frame, list messages)
