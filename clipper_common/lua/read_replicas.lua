-- Reads the records of all replicas.
return read(layout.replicas, keys_of(layout.replicas))
