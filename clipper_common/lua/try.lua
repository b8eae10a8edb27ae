-- Changes nothing, by what a Redis that refuses to serve Clipper does not allow: another database, and a write.
enter(layout.links.database)
go_home()
redis.call('DEL', key.nothing)
