-- Posts the file that WRK_BODY names, and prints what was measured as one line of JSON. Ten digits MARK in the body are
-- replaced by another number in each request, from WRK_FIRST on, so that no two inputs are the same.
local MARK = "0123456789"
local number = tonumber(os.getenv("WRK_FIRST"))
local head, tail

local file = assert(io.open(os.getenv("WRK_BODY"), "rb"))
wrk.method = "POST"
wrk.body = file:read("*a")
wrk.headers["Content-Type"] = "application/json"
file:close()

local function distinct()
  number = number + 1
  return head .. string.format("%d", number) .. tail
end

if wrk.body:find(MARK, 1, true) then
  request = distinct -- a global function of wrk's; it is slower than the same request again
end

function init()
  local whole = wrk.format()
  local first, last = whole:find(MARK, 1, true)
  if not first then return end
  -- LuaJIT tells long strings apart by a few bytes, four of them in the middle: the last digits have to be there.
  local missing = 2 * (math.floor(#whole / 2) - last) + 4
  if missing > 5 then
    wrk.headers["X"] = string.rep("x", missing - 5) -- and ": " and the end of the line
    whole = wrk.format()
    first, last = whole:find(MARK, 1, true)
  end
  head, tail = whole:sub(1, first - 1), whole:sub(last + 1)
end

function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    '\nJSON {"requests": %d, "micros": %d, "p50": %d, "p99": %d, "bad_status": %d, "failed": %d}\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    errors.status, errors.connect + errors.read + errors.write + errors.timeout))
end
