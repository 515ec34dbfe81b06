-- A write of a customer has ended, or what is kept of it is to be forgotten, which is the end of a write that
-- nobody began.
--
-- ARGV: epoch, customer, token; for how many milliseconds it is in doubt from now on (0: it is settled),
-- for how many this is remembered; the value that was learnt (or nothing), then of what epoch, number and salt
-- its beginning was, the tenant, and the value's time and until when it is kept.
-- Returns whether something was kept until now.
local member, doubt, guard = ARGV[2] .. ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', text(now))
local till, count = doubts()
local known = redis.call('HMGET', KEYS[5], 'g', 'e', 'x')
local kept = known[2] == epoch and tonumber(known[3] or 0) > now
redis.call('HDEL', KEYS[5], 'v', 's', 'e', 'x')
if doubt > 0 then
  count = count + redis.call('ZADD', KEYS[3], text(now + doubt), member)
  till = math.max(till, now + doubt)
  announce('b' .. member .. text(now + doubt))
  redis.call('HSET', KEYS[5], 'g', text(seq), 'd', text(till), 'n', count)
  redis.call('PEXPIRE', KEYS[5], text(math.max(guard, till - now)))
  return kept and 1 or 0
end
local mine = redis.call('ZREM', KEYS[3], member)
count = count - mine
announce('e' .. member)
redis.call('HSET', KEYS[5], 'g', text(seq))
if count > 0 then
  redis.call('HSET', KEYS[5], 'n', count)
  guard = math.max(guard, till - now)
else
  redis.call('HDEL', KEYS[5], 'd', 'n')
end
-- Only where nothing else happened since it began.
if ARGV[6] ~= '' and count == 0 and ARGV[7] == epoch and ARGV[8] == known[1]
  and redis.call('HGET', KEYS[4], ARGV[10]) == ARGV[9] and tonumber(ARGV[12]) > now then
  redis.call('HSET', KEYS[5], 'v', ARGV[6], 's', ARGV[11], 'e', epoch, 'x', ARGV[12])
  guard = math.max(guard, ARGV[12] - now)
end
redis.call('PEXPIRE', KEYS[5], text(guard))
return kept and 1 or 0
