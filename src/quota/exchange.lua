-- What one node reports about one tenant and wants of it: see account.rs and portion.rs, which decide the
-- same for a store of one's own. Numbers stay below 2^53. Times are microseconds of this server's clock.
--
-- KEYS: the tenant's portions, where asked about, then one account each for `ops`.
-- ARGV: node, nodes, portion (0 or 1), ops; then what the portion takes, then what each account does.
-- Returns numbers: of the portion tokens, wait, left, places; of each account given (2), taken (2),
-- extra (2), crossed (2), epoch, version.
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local at, key = 0, 0
local function arg()
  at = at + 1
  return tonumber(ARGV[at])
end
local function nextkey()
  key = key + 1
  return KEYS[key]
end
local function text(number)
  return string.format('%.0f', number)
end
local node = ARGV[1]
at = 1
local nodes, portion, ops = arg(), arg(), arg()
local answer = {}

local function tokens(name, known)
  local count, period, burst, seen = arg(), arg(), arg(), arg()
  local back, debt, want, keep = arg(), arg(), arg(), arg()
  if count == 0 then
    return 0, 0, 0, keep
  end
  local each = period / count
  local most = burst * each
  local full = tonumber(redis.call('HGET', name, 'full'))
  if not full then
    -- This server has lost it: it may have been emptied a moment ago.
    full = seen == 1 and now + most or 0
  end
  if not known then
    full = math.max(0, full + (debt - back) * each)
  end
  local from = math.max(full, now)
  local given = math.min(want, math.max(0, math.floor((now + most - from) / each)))
  if given > 0 then
    full = from + math.ceil(given * each)
    from = full
  end
  redis.call('HSET', name, 'full', text(full))
  local wait = 0
  if given < want then
    wait = math.max(0, math.ceil(from + each - now - most))
  end
  local left = math.max(0, math.floor((now + most - from) / each))
  return given, wait, left, math.max(keep, most)
end

local function places(name)
  local most, want, time = arg(), arg(), arg()
  if most == 0 then
    return 0
  end
  local held, untils, others = {}, {}, 0
  local all = redis.call('HGETALL', name)
  for i = 1, #all, 2 do
    local kind, who = string.sub(all[i], 1, 2), string.sub(all[i], 3)
    if kind == 'c:' then held[who] = tonumber(all[i + 1]) end
    if kind == 'u:' then untils[who] = tonumber(all[i + 1]) end
  end
  for who, count in pairs(held) do
    if (untils[who] or 0) <= now then
      redis.call('HDEL', name, 'c:' .. who, 'u:' .. who)
    elseif who ~= node then
      others = others + count
    end
  end
  local mine = math.max(0, math.min(want, most - others))
  if mine > 0 then
    redis.call('HSET', name, 'c:' .. node, text(mine), 'u:' .. node, text(now + time))
  else
    redis.call('HDEL', name, 'c:' .. node, 'u:' .. node)
  end
  return mine
end

if portion == 1 then
  local name, seq = nextkey(), arg()
  local known = tonumber(redis.call('HGET', name, 's:' .. node) or -1) >= seq
  local given, wait, left, keep = tokens(name, known)
  local mine = places(name)
  redis.call('HSET', name, 's:' .. node, text(seq))
  redis.call('PEXPIRE', name, text(math.ceil(keep / 1000)))
  for _, number in ipairs({ given, wait, left, mine }) do
    answer[#answer + 1] = number
  end
end

for _ = 1, ops do
  local name, seq, warn_at, keep = nextkey(), arg(), arg(), arg()
  local limit = { arg(), arg() }
  local back, debt, grant = { arg(), arg() }, { arg(), arg() }, { arg(), arg() }
  local want, need = { arg(), arg() }, { arg(), arg() }
  local epoch, version = arg(), arg()
  local seen_taken, seen_extra = { arg(), arg() }, { arg(), arg() }
  local tally = arg()

  local stored = redis.call('HMGET', name, 'e', 'v', 'r', 'b', 'x', 'y', 'w', 'z', 's:' .. node)
  local function number(place)
    return tonumber(stored[place] or 0)
  end
  local here = stored[1] and tonumber(stored[1]) or now
  local taken, extra = { number(3), number(4) }, { number(5), number(6) }
  local warned, crossed, given = { number(7), number(8) }, { 0, 0 }, { 0, 0 }
  if epoch > 0 and (epoch ~= here or number(2) < version) then
    -- This server has lost what the node has seen.
    for i = 1, 2 do
      taken[i] = math.max(taken[i], seen_taken[i])
      extra[i] = math.max(extra[i], seen_extra[i])
    end
  end
  local known = stored[9] and tonumber(stored[9]) >= seq
  for i = 1, 2 do
    if not known then
      taken[i] = math.max(0, taken[i] - back[i]) + debt[i]
      extra[i] = extra[i] + grant[i]
    end
    if limit[i] >= 0 then
      local all = limit[i] + extra[i]
      local left = math.max(0, all - taken[i])
      local fair = math.max(need[i], math.floor(left / (2 * nodes)))
      given[i] = math.min(want[i], fair, left)
      taken[i] = taken[i] + given[i]
      local soft = taken[i] >= math.ceil(all * warn_at / 100)
      if soft and warned[i] == 0 then crossed[i] = 1 end
      warned[i] = soft and 1 or 0
    end
  end
  version = number(2) + 1
  redis.call('HSET', name, 'e', text(here), 'v', text(version), 'r', text(taken[1]), 'b', text(taken[2]),
    'x', text(extra[1]), 'y', text(extra[2]), 'w', warned[1], 'z', warned[2], 's:' .. node, text(seq))
  for i = 1, tally do
    local more = arg()
    if not known and more > 0 then
      redis.call('HINCRBY', name, 't' .. i, text(more))
    end
  end
  redis.call('EXPIRE', name, text(keep))
  for _, pair in ipairs({ given, taken, extra, crossed, { here, version } }) do
    answer[#answer + 1] = pair[1]
    answer[#answer + 1] = pair[2]
  end
end
return answer
