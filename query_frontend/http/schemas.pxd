# cython: language_level=3
cpdef bytes parse_doubles(bytes body)
