-- Gives this Redis up, if the cluster whose id is ARGV holds it.
if text(key.cluster) == ARGV[1] then redis.call('DEL', key.cluster) end
