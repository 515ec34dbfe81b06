-- A write of a customer begins: what is kept of it goes, and it is in doubt until the end, or for so long.
--
-- ARGV: epoch, customer, token, for how many milliseconds, the tenant (or nothing), a new salt for it.
-- Returns the epoch, the time, the number of the announcement, and the tenant's salt.
local member, till = ARGV[2] .. ARGV[3], now + tonumber(ARGV[4])
redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', text(now))
local until_now, count = doubts()
count = count + redis.call('ZADD', KEYS[3], text(till), member)
announce('b' .. member .. text(till))
till = math.max(till, until_now)
redis.call('HDEL', KEYS[5], 'v', 's', 'e', 'x')
redis.call('HSET', KEYS[5], 'g', text(seq), 'd', text(till), 'n', count)
redis.call('PEXPIRE', KEYS[5], text(till - now))
local salt = ''
if ARGV[5] ~= '' then
  salt = redis.call('HGET', KEYS[4], ARGV[5])
  if not salt then
    salt = ARGV[6]
    redis.call('HSET', KEYS[4], ARGV[5], salt)
  end
end
return { epoch, now, text(seq), salt }
