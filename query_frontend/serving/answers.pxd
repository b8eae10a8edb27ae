# cython: language_level=3
cpdef bytes render_one(query_id, answer)
