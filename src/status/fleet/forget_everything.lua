-- Begins a new epoch: nobody believes anything of the one before. Which writes are under way stays known.
redis.call('HSET', KEYS[1], 'epoch', ARGV[1])
redis.call('DEL', KEYS[2])
return 1
