# cython: language_level=3
cimport cython

@cython.locals(raw="const char *", begin=Py_ssize_t, end=Py_ssize_t, size=Py_ssize_t)
cpdef list split(bytes data, tuple sizes)
