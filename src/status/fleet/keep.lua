-- Keeps what a read has found, unless something happened since it was looked up.
--
-- ARGV: epoch, the tenant, its salt, the epoch that was seen, the number that was (or nothing), when; for how
-- many milliseconds what happens is remembered; the value, its time, until when it is kept.
-- Returns whether it is.
local known = redis.call('HMGET', KEYS[5], 'g', 'e', 's', 'x')
local since, guard = now - tonumber(ARGV[6]), tonumber(ARGV[7])
if ARGV[4] ~= epoch or (known[1] or '') ~= ARGV[5] or doubts() > 0
  or redis.call('HGET', KEYS[4], ARGV[2]) ~= ARGV[3] then
  return 0
end
-- It was on its way for so long that what happened may be forgotten.
if since < 0 or since * 2 > guard or tonumber(ARGV[10]) <= now then
  return 0
end
-- Another one has read later.
if known[2] == epoch and tonumber(known[4] or 0) > now and tonumber(known[3]) > tonumber(ARGV[9]) then
  return 0
end
redis.call('HSET', KEYS[5], 'v', ARGV[8], 's', ARGV[9], 'e', epoch, 'x', ARGV[10])
redis.call('PEXPIRE', KEYS[5], text(math.max(guard, ARGV[10] - now)))
return 1
