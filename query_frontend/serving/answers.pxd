# cython: language_level=3
cpdef bytes before_output(query_id)
cpdef bytes render_one(query_id, answer)
