-- Takes this Redis for a cluster, unless another one holds it. What a cluster leaves behind is taken over by the next,
-- but for the number of workers: an argument of its start.
-- ARGV: the id of the cluster, and its lease in milliseconds. Answers the owner.
local MAX_CLUSTER_ID_BYTES = 1024
local owner = text(key.cluster)
local is_id = owner and #owner > 0 and #owner <= MAX_CLUSTER_ID_BYTES and not string.find(owner, '%c')
if is_id and owner ~= ARGV[1] then return owner end
redis.call('SET', key.cluster, ARGV[1], 'PX', ARGV[2])
local last = text(key.last_cluster)
redis.call('SET', key.last_cluster, ARGV[1])
if last and last ~= ARGV[1] and redis.call('DEL', key.workers) == 1 then
  next_revision({{layout.home, key.workers}})
end
return ARGV[1]
