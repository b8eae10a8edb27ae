# cython: language_level=3
from clipper_common.frames cimport split
