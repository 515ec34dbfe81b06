-- What is new in the log.
--
-- ARGV: epoch, the epoch and the number that are known (or nothing), how many entries at most and how many
-- writes, how often in milliseconds a sign of life is written.
-- Returns the epoch, the number that is known from now on, the time, whether something was missed, and what
-- is new; or, where something was missed, the writes under way, each with until when. Then how many are left.
--
-- The sign of life fails on a master that was cut off from its replicas, where `min-replicas-to-write` is set:
-- nobody is to believe that nothing happens there.
local beat = tonumber(log[4] or 0)
if now - beat >= tonumber(ARGV[6]) or beat > now then
  redis.call('HSET', KEYS[1], 'beat', text(now))
end
local page, most = tonumber(ARGV[4]), tonumber(ARGV[5])
local missing = seq - (tonumber(ARGV[3]) or 0)
if ARGV[2] ~= epoch or missing < 0 or missing > redis.call('LLEN', KEYS[2]) then
  local from = '(' .. text(now)
  local left = math.max(0, redis.call('ZCOUNT', KEYS[3], from, '+inf') - most)
  local writes = redis.call('ZRANGEBYSCORE', KEYS[3], from, '+inf', 'WITHSCORES', 'LIMIT', 0, most)
  return { epoch, text(seq), now, 1, writes, left }
end
if missing == 0 then
  return { epoch, text(seq), now, 0, {}, 0 }
end
local entries = redis.call('LRANGE', KEYS[2], -missing, math.min(page - missing - 1, -1))
return { epoch, text(seq - missing + #entries), now, 0, entries, missing - #entries }
