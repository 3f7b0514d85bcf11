-- leave v1: a node goes away.
-- KEYS  nodes
-- ARGV  node
return redis.call('HDEL', KEYS[1], ARGV[1])
