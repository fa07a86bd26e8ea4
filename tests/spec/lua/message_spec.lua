-- turboci.core.encode and decode: tables <-> protobuf bytes. The golden bytes are those of Google's own protobuf
-- library (Python, deterministic serialization) for the same messages.
local core = require "turboci.core"

local root = os.getenv "TURBOCI_SOURCE" or "."

local function hex(bytes) return (bytes:gsub(".", function(c) return ("%02x"):format(c:byte()) end)) end
local function unhex(text) return (text:gsub("%x%x", function(c) return string.char(tonumber(c, 16)) end)) end

local function encode(name, value) return assert(core.encode(name, value)) end
local function round(name, value) return assert(core.decode(name, encode(name, value))) end

local function refused(name, value, ...)
  local bytes, err = core.encode(name, value)
  assert.is_nil(bytes)
  for _, part in ipairs { ... } do assert.truthy(err:find(part, 1, true), err) end
end

-- Messages of the contract as { name = { {name, type, repeated, map} ... } }, read from the .proto files themselves.
local function read_contract()
  local messages = {}
  for _, file in ipairs { "common", "workplan", "check", "stage", "stagerunner", "service" } do
    local handle = assert(io.open(root .. "/proto/turboci/v1/" .. file .. ".proto"))
    local current, in_oneof
    for line in handle:lines() do
      line = line:gsub("//.*", "")
      local name = line:match "^message (%w+)"
      if name then current = {}; messages[name] = current end
      if line:match "^enum" or line:match "^service" then current = nil end
      if line:match "oneof" then in_oneof = true elseif line:match "}" then in_oneof = false end
      local value_type, map = line:match "^%s*map<string,%s*([%w.]+)>%s+([%w_]+)%s*="
      local label, kind, field = line:match "^%s*(r?e?p?e?a?t?e?d?)%s*([%w.]+)%s+([%w_]+)%s*=%s*%d+;"
      if current and map then
        current[#current + 1] = { name = map, type = value_type, map = true }
      elseif current and field then
        current[#current + 1] = { name = field, type = kind, repeated = label == "repeated", oneof = in_oneof }
      end
    end
    handle:close()
  end
  return messages
end

local contract = read_contract()

-- A value with every field of the message set to something that is not its default.
local function sample(kind, seed)
  if kind == "string" then return "text " .. seed .. " é" end
  if kind == "bool" then return true end
  if kind == "int32" then return -seed end
  if kind == "int64" then return math.mininteger + seed end
  if kind == "uint64" then return math.maxinteger - seed end
  if kind == "google.protobuf.Timestamp" then return 1700000000.000001 + seed end
  if kind == "google.protobuf.Struct" then
    return { a = { 1, { b = core.null } }, n = seed + 0.5, s = "x", t = false }
  end
  if core.enums[kind] then
    for name, number in pairs(core.enums[kind]) do
      if number == 20 or number == 2 then return name end
    end
  end
  local value, one = {}, false
  for i, field in ipairs(assert(contract[kind], kind)) do
    local at = sample(field.type, i)
    if field.oneof and one then
      at = nil
    elseif field.map then
      at = { b = at, a = at, [""] = at }
    elseif field.repeated then
      at = { at, at, at }
    end
    if field.oneof then one = true end
    value[field.name] = at
  end
  return value
end

describe("encode and decode", function()
  it("round every message of the contract, with every field set", function()
    local count = 0
    for name, fields in pairs(contract) do
      count = count + 1
      local value = sample(name)
      local set = 0
      for _ in pairs(value) do set = set + 1 end
      assert.truthy(set >= #fields - 2, name) -- a oneof has one member of three
      local back = round(name, value)
      for key, expected in pairs(value) do assert.same(expected, back[key], name .. "." .. key) end
      assert.equal(encode(name, value), encode(name, back), name)
    end
    assert.truthy(count > 50)
  end)

  it("write the bytes that other implementations write", function()
    assert.equal("0a017012730a016310141a016b22490a170a016112122a100a0e0a016e120911000000000000e0bf0a250a0162122032" ..
      "1e0a0911000000000000f03f0a051a0374776f0a0208000a0220010a022a000a070a01651202320032140a06636c69656e7412026d" ..
      "6520012a040a026e6fa00681808080808080101a350a017322050a016310282a0c080212080801120163a00601380242057368656c" ..
      "6cb806fdffffffffffffffff01c206020804ca0600b00601",
      hex(encode("WriteNodesRequest", {
        work_plan_id = "p",
        checks = { {
          id = "c", state = "PLANNED", kind = "k",
          options = { b = { 1, "two", core.null, true, {} }, a = { n = -0.5 }, e = core.list {} },
          result = { owner_type = "client", owner_id = "me", finalize = true, failure = { message = "no" } },
          expected_version = 9007199254740993,
        } },
        stages = { {
          id = "s", assignments = { { target_check_id = "c", goal_state = "FINAL" } },
          dependencies = { predicate = "OR",
            dependencies = { { target_type = "CHECK", target_id = "c", condition = "ON_SUCCESS" } } },
          execution_mode = "ASYNC", runner_type = "shell", priority = -3, retry = { max_attempts = 4 }, timeouts = {},
        } },
        omit_nodes = true,
      })))
    assert.equal("0a040a0012000a060a01611201310a060a0162120132",
      hex(encode("CreateWorkPlanRequest", { metadata = { b = "2", a = "1", [""] = "" } })))
    assert.equal("0a0b0880e2cfaa06108094ef3a220410021801a006ffffffffffffffff7f", hex(encode("WorkPlanEvent", {
      timestamp = 1700000000.123456, sequence = math.maxinteger,
      completed_event = { stages_completed = 2, has_failures = true },
    })))
    assert.equal("2200", hex(encode("WorkPlanEvent", { completed_event = {} })))
    assert.equal("0a01701200120178220200283001", hex(encode("QueryNodesRequest", {
      work_plan_id = "p", check_ids = { "", "x" }, check_states = { "UNKNOWN", "FINAL" }, include_checks = true,
    })))
    assert.equal("0a05302e312e30121108ffffffffffffffffff0110988cebdc031a0e0a016110ffffffffffffffffff011a050a017a1000",
      hex(encode("GetServerInfoResponse", { version = "0.1.0", started_at = -0.000001, limits = { z = 0, a = -1 } })))
  end)

  it("write the same bytes whatever the order in which a table was filled", function()
    local keys = {}
    for i = 1, 200 do keys[i] = "key" .. i * 7919 % 1000 end
    local forward, backward = {}, {}
    for i = 1, #keys do forward[keys[i]] = i end
    for i = #keys, 1, -1 do backward[keys[i]] = forward[keys[i]] end
    assert.equal(encode("google.protobuf.Struct", forward), encode("google.protobuf.Struct", backward))
  end)

  it("take messages with and without the package", function()
    assert.equal(encode("GetWorkPlanRequest", { id = "x" }), encode("turboci.v1.GetWorkPlanRequest", { id = "x" }))
    assert.has_error(function() core.encode("GetWorkPlanReqest", {}) end,
      "bad argument #1 to 'encode' (no message is called 'GetWorkPlanReqest'; did you mean 'GetWorkPlanRequest'?)")
    assert.has_error(function() core.decode("turboci.v1.Chek", "") end,
      "bad argument #1 to 'decode' (no message is called 'Chek'; did you mean 'Check'?)")
  end)

  it("fill what is absent: scalars with defaults, lists and maps with {}, messages with nil", function()
    local check = assert(core.decode("Check", ""))
    assert.same({ id = "", work_plan_id = "", state = "UNKNOWN", kind = "", results = {}, version = 0,
      outcome = "UNKNOWN", reason = "UNKNOWN", omitted_fields = {} }, check)
    assert.same({ metadata = {}, policy = "" }, core.decode("CreateWorkPlanRequest", ""))
    assert.same({ sequence = 0, more_current = false }, core.decode("WorkPlanEvent", ""))
  end)
end)

describe("encode", function()
  it("names the path to what is wrong, and the nearest name", function()
    refused("WriteNodesRequest", { stages = { { argz = {} } } },
      "WriteNodesRequest.stages[1].argz: no such field; did you mean 'args'?")
    refused("WriteNodesRequest", { checks = { {}, { result = { failure = { kind = "TIMEOUTS" } } } } },
      "WriteNodesRequest.checks[2].result.failure.kind: no FailureKind is called 'TIMEOUTS'; did you mean 'TIMEOUT'?")
    refused("CheckWrite", { options = { deep = { { ["a b"] = print } } } },
      'CheckWrite.options.deep[1]["a b"]: JSON has nothing for a function')
    refused("CheckWrite", { zzz = 1, aaa = 1, mmm = 1 }, "CheckWrite.aaa: no such field")
    refused("CheckWrite", { completely_different = 1 }, "CheckWrite.completely_different: no such field")
    assert.falsy(select(2, core.encode("CheckWrite", { completely_different = 1 })):find "did you mean")
    refused("CheckWrite", { "x" }, "CheckWrite: the keys of a CheckWrite are field names, not a number")
  end)

  it("refuses values of a wrong type", function()
    refused("CheckWrite", "x", "CheckWrite: expected a table, got a string")
    refused("CheckWrite", nil, "CheckWrite: expected a table, got nil")
    refused("CheckWrite", { id = 7 }, "CheckWrite.id: expected a string, got 7")
    refused("CheckWrite", { id = core.null }, "CheckWrite.id: expected a string, got null")
    refused("CheckWrite", { expected_version = "7" }, "expected_version: expected an integer, got a string")
    refused("CheckWrite", { expected_version = 1.5 }, "expected_version: expected an integer, got 1.5")
    refused("CheckWrite", { result = { finalize = 1 } }, "result.finalize: expected true or false, got 1")
    refused("CheckWrite", { state = {} }, "CheckWrite.state: expected a string, got a table")
    refused("WriteNodesRequest", { checks = { id = "x" } }, "checks: expected a list, got a table with other keys")
    refused("WriteNodesRequest", { checks = { {}, nil, {} } }, "checks: expected a list")
    refused("WriteNodesRequest", { checks = true }, "checks: expected a list, got a boolean")
    refused("CreateWorkPlanRequest", { metadata = { a = 1 } }, "metadata.a: expected a string, got 1")
    refused("CreateWorkPlanRequest", { metadata = { "a" } }, "metadata: mixes a list with named values")
    refused("CreateWorkPlanRequest", { metadata = "a" }, "metadata: expected a table, got a string")
    refused("WorkPlanEvent", { check_event = {}, stage_event = {} },
      "WorkPlanEvent: 'check_event' and 'stage_event' exclude each other")
  end)

  it("refuses numbers that do not fit, and keeps all that do", function()
    refused("StageWrite", { priority = 2 ^ 31 }, "StageWrite.priority: 2147483648 is out of range")
    refused("StageWrite", { priority = -2 ^ 31 - 1 }, "is out of range (-2147483648 to 2147483647)")
    refused("WatchWorkPlanRequest", { after_sequence = -1 }, "after_sequence: -1 is out of range")
    refused("CheckWrite", { state = 2 ^ 40 }, "state: 1099511627776 is out of range")
    for _, n in ipairs { math.mininteger, -1, 0, 1, 2 ^ 53 | 0, math.maxinteger } do
      assert.equal(n, round("CheckWrite", { expected_version = n }).expected_version)
    end
    assert.equal(math.maxinteger, round("WatchWorkPlanRequest", { after_sequence = math.maxinteger }).after_sequence)
    assert.equal(-2147483648, round("StageWrite", { priority = -2147483648.0 }).priority)
  end)

  it("takes enums by short name, by full name and by number", function()
    local planned = encode("CheckWrite", { state = "PLANNED" })
    assert.equal(planned, encode("CheckWrite", { state = "CHECK_STATE_PLANNED" }))
    assert.equal(planned, encode("CheckWrite", { state = 20 }))
    assert.equal(777, round("CheckWrite", { state = 777 }).state)
    assert.same({ 777, "FINAL" }, round("QueryNodesRequest", { check_states = { 777, 40 } }).check_states)
    assert.equal("ON_FAILURE", round("Dependency", { condition = "ON_FAILURE" }).condition)
    assert.equal("NO_RETRIES_LEFT", round("Stage", { reason = "REASON_NO_RETRIES_LEFT" }).reason)
    refused("QueryNodesRequest", { check_states = { "FINAL", "FINISHED" } }, "check_states[2]: no CheckState is called")
  end)

  it("refuses text that is not UTF-8, also in keys", function()
    refused("CheckWrite", { id = "a\xff" }, "CheckWrite.id: not UTF-8")
    refused("CheckWrite", { options = { a = "\xed\xa0\x80" } }, "CheckWrite.options.a: not UTF-8")
    refused("CheckWrite", { options = { ["\xff"] = 1 } }, "this key is not UTF-8")
    assert.equal("a\0b€", round("CheckWrite", { id = "a\0b€" }).id)
  end)

  it("refuses tables that contain themselves", function()
    local loop = {}
    loop.again = loop
    refused("CheckWrite", { options = loop }, "nested deeper than 100 tables")
    local list = {}
    list[1] = list
    refused("CheckWrite", { options = { list = list } }, "nested deeper than 100 tables")
  end)
end)

describe("a Struct", function()
  local function rounded(value) return round("CheckWrite", { options = value }).options end

  it("keeps null, empty lists, empty tables and nesting apart", function()
    local value = rounded {
      null = core.null, list = core.list {}, table = {}, deep = { { {} }, core.list { 1, core.null } },
    }
    assert.equal(core.null, value.null)
    assert.is_true(core.is_list(value.list))
    assert.is_false(core.is_list(value.table))
    assert.is_true(core.is_list(value.deep))
    assert.same({ { {} }, { 1, core.null } }, value.deep)
    assert.equal(encode("CheckWrite", { options = value }), encode("CheckWrite", { options = rounded(value) }))
  end)

  it("keeps numbers: whole ones come back as integers", function()
    local numbers = { 0, 1, -1.5, 1e300, 2 ^ 53, -2 ^ 53, 5e-324, 0.1 }
    local back = rounded({ n = numbers }).n
    for i, number in ipairs(numbers) do assert.equal(number, back[i]) end
    assert.equal("integer", math.type(back[2]))
    assert.equal("7", tostring(rounded({ n = 7.0 }).n))
    assert.equal(-math.huge, 1 / rounded({ n = -0.0 }).n)
  end)

  it("is told from a list by its keys", function()
    refused("CheckWrite", { options = { 1, 2 } }, "CheckWrite.options: expected named values, got a list")
    refused("CheckWrite", { options = core.list {} }, "CheckWrite.options: expected named values, got a list")
    refused("CheckWrite", { options = { x = { 1, nil, 3, a = 1 } } }, "options.x: mixes a list with named values")
    refused("CheckWrite", { options = { x = { [2] = 1 } } }, "options.x: mixes a list with named values, or has holes")
    refused("CheckWrite", { options = { [true] = 1 } }, "options: keys are strings, or 1 to n")
    refused("CheckWrite", { options = { x = core.list { a = 1 } } }, "options.x: expected a list")
    refused("CheckWrite", { options = 1 }, "options: expected a table, got 1")
  end)

  it("refuses what JSON does not have", function()
    refused("CheckWrite", { options = { x = 0 / 0 } }, "options.x:", "nan is not a JSON number")
    refused("CheckWrite", { options = { x = math.huge } }, "options.x: inf is not a JSON number")
    refused("CheckWrite", { options = { x = -math.huge } }, "options.x: -inf is not a JSON number")
    refused("CheckWrite", { options = { x = 2 ^ 53 + 1 | 0 | 1 } }, "options.x: 9007199254740993 has too many digits")
    refused("CheckWrite", { options = { x = math.maxinteger } }, "options.x: 9223372036854775807 has too many digits")
    refused("CheckWrite", { options = { x = coroutine.create(print) } }, "options.x: JSON has nothing for a thread")
  end)

  it("may be 99 tables deep within its message, not 100", function()
    local function nest(levels)
      local value = {}
      for _ = 2, levels do value = { a = value } end
      return { options = value }
    end
    assert.truthy(core.decode("CheckWrite", encode("CheckWrite", nest(99))))
    refused("CheckWrite", nest(100), "nested deeper than 100 tables")
  end)

  it("encodes and decodes by itself, and so do its parts", function()
    assert.same({ a = 1 }, round("google.protobuf.Struct", { a = 1 }))
    assert.same({ 1, "b" }, round("google.protobuf.ListValue", { 1, "b" }))
    assert.equal(core.null, round("google.protobuf.Value", core.null))
    assert.equal("x", round("google.protobuf.Value", "x"))
    assert.same({ a = { 1 } }, round("google.protobuf.Value", { a = { 1 } }))
  end)
end)

describe("a Timestamp", function()
  local function rounded(time) return round("ProgressEntry", { timestamp = time }).timestamp end

  it("keeps microseconds", function()
    for _, time in ipairs { 0, 1, 1700000000.123456, 1700000000.999999, -0.000001, -1.5, 253402300799, -62135596800 } do
      assert.equal(time, rounded(time))
    end
    assert.equal(1700000000.123457, rounded(1700000000.1234567))
    assert.equal(1.0, rounded(0.9999999))
  end)

  it("refuses what is no time", function()
    refused("ProgressEntry", { timestamp = "now" }, "timestamp: expected a time (seconds since 1970), got a string")
    for _, time in ipairs { math.huge, 0 / 0, 253402300800, -62135596801 } do
      refused("ProgressEntry", { timestamp = time }, "is not a time between the years 1 and 9999")
    end
    for _, foreign in ipairs { "120b0880808080808080808001", "120610ffffffff07", "120b10ffffffffffffffffff01" } do
      local value, err = core.decode("ProgressEntry", unhex(foreign))
      assert.is_nil(value)
      assert.equal("ProgressEntry.timestamp: not a time between the years 1 and 9999", err)
    end
  end)
end)

describe("decode", function()
  local function fails(name, bytes, text)
    local value, err = core.decode(name, bytes)
    assert.is_nil(value)
    assert.truthy(err:find(text, 1, true), err)
  end

  it("skips unknown fields and fields of another type", function()
    local id = encode("GetWorkPlanRequest", { id = "x" })
    local surrounded = unhex "f83f07" .. id .. unhex "aa3f0161" .. unhex "c93f0000000000000000"
    assert.same({ id = "x" }, core.decode("GetWorkPlanRequest", surrounded))
    assert.same({ id = "" }, core.decode("GetWorkPlanRequest", unhex "0805"))
    assert.same("", core.decode("StageRunnerInfo", unhex "2a0101").address)
    assert.same({}, core.decode("QueryNodesRequest", unhex "2500000000").check_states)
    assert.same({}, core.decode("CreateWorkPlanRequest", unhex "0805").metadata)
  end)

  it("takes packed and unpacked lists", function()
    assert.same({ "PLANNING", "FINAL" }, core.decode("QueryNodesRequest", unhex "22020a28").check_states)
    assert.same({ "PLANNING", "FINAL" }, core.decode("QueryNodesRequest", unhex "200a2028").check_states)
    assert.same({ "PLANNING", "FINAL", 99 }, core.decode("QueryNodesRequest", unhex "200a22022863").check_states)
  end)

  it("takes the last of scalars and map entries, merges messages, keeps one member of a oneof", function()
    assert.same({ id = "b" }, core.decode("GetWorkPlanRequest", unhex "0a01610a0162"))
    assert.same({ a = "2" }, core.decode("CreateWorkPlanRequest", unhex "0a060a01611201310a060a0161120132").metadata)
    assert.same({ [""] = "" }, core.decode("CreateWorkPlanRequest", unhex "0a00").metadata)
    local plan = core.decode("GetWorkPlanResponse", unhex "0a030a01610a022007").work_plan
    assert.same({ "a", 7 }, { plan.id, plan.version })
    local event = core.decode("WorkPlanEvent", unhex "12030a01631a030a0173")
    assert.is_nil(event.check_event)
    assert.equal("s", event.stage_event.stage_id)
    local options = core.decode("CheckWrite", unhex "22090a070a0161120220012209" .. unhex "0a070a016212022000").options
    assert.same({ a = true, b = false }, options)
  end)

  it("takes a Value without a kind for null, and of several kinds the last", function()
    assert.equal(core.null, core.decode("google.protobuf.Value", ""))
    assert.equal(true, core.decode("google.protobuf.Value", unhex "1a01782001"))
    assert.equal("x", core.decode("google.protobuf.Value", unhex "20011a0178"))
    assert.truthy(core.decode("google.protobuf.Value", unhex "11000000000000f87f") ~= core.null) -- a NaN
  end)

  it("cuts int32 to 32 bits, as protobuf does, and refuses a uint64 that is no Lua integer", function()
    assert.equal(5, core.decode("Attempt", unhex "0885808080f0ffffffff01").idx)
    fails("WatchWorkPlanRequest", unhex "a006ffffffffffffffffff01", "after_sequence: does not fit an integer of Lua")
  end)

  it("refuses what is no message, with the path", function()
    fails("Check", "\x0a", "Check: malformed")
    fails("Check", "\x0a\x05abc", "Check: malformed")
    fails("Check", "\x0b", "Check: malformed")
    fails("Check", "\x50" .. ("\xff"):rep(10), "Check: malformed")
    fails("Check", "\x32\x02\x12\x05", "Check.results[1]: malformed")
    fails("Check", "\x42\x01\x08", "Check.created_at: malformed")
    fails("Check", "\x2a\x02\x0a\x05", "Check.options: malformed")
    fails("Check", "\x0a\x01\xff", "Check.id: not UTF-8")
    fails("QueryNodesRequest", "\x22\x01\xff", "QueryNodesRequest.check_states: malformed")
    fails("CreateWorkPlanRequest", "\x0a\x01\x0a", "CreateWorkPlanRequest.metadata: malformed")
    assert.has_error(function() core.decode("Check", 5) end)
  end)

  it("ends at a bomb of nested values", function()
    local function wrap(tag, body) -- lengths as varints
      local len, prefix = #body, ""
      repeat
        local byte = len & 127
        len = len >> 7
        prefix = prefix .. string.char(len > 0 and byte | 128 or byte)
      until len == 0
      return string.char(tag) .. prefix .. body
    end
    local value = ""
    for _ = 1, 2000 do value = wrap(0x32, wrap(0x0a, value)) end
    fails("CheckWrite", wrap(0x22, wrap(0x0a, "\x0a\x01a" .. wrap(0x12, value))), "nested deeper than 100 tables")
  end)

  it("survives every cut and every flipped byte of a real message", function()
    local bytes = encode("WriteNodesRequest", sample "WriteNodesRequest")
    local good = 0
    for i = 1, #bytes do
      if core.decode("WriteNodesRequest", bytes:sub(1, i - 1)) then good = good + 1 end
      local flipped = bytes:sub(1, i - 1) .. string.char(bytes:byte(i) ~ 0x41) .. bytes:sub(i + 1)
      local value, err = core.decode("WriteNodesRequest", flipped)
      assert.truthy(value or err)
      if value then assert.truthy(core.encode("WriteNodesRequest", value) or true) end
    end
    assert.truthy(good < #bytes / 10, "most cuts are malformed")
  end)
end)

describe("the module", function()
  it("knows every method by name and by path", function()
    local write = core.methods.WriteNodes
    assert.same({ name = "WriteNodes", path = "/turboci.v1.TurboCIOrchestrator/WriteNodes",
      service = "TurboCIOrchestrator", request = "turboci.v1.WriteNodesRequest",
      response = "turboci.v1.WriteNodesResponse", stream = false }, write)
    assert.equal(write, core.methods[write.path])
    assert.is_true(core.methods.WatchWorkPlan.stream)
    assert.equal("StageRunner", core.methods.Run.service)
    for _, method in pairs(core.methods) do
      assert.truthy(core.decode(method.request, ""))
      assert.truthy(core.decode(method.response, ""))
    end
  end)

  it("has the enums, the codes, the limits and a version", function()
    assert.equal(20, core.enums.CheckState.PLANNED)
    assert.equal(10, core.enums.FailureKind.POLICY)
    assert.equal("NOT_FOUND", core.codes[5])
    assert.equal(5, core.codes.NOT_FOUND)
    assert.equal("OK", core.codes[0])
    local limits = {}
    for _, limit in ipairs(core.limits()) do
      limits[limit.name] = limit.value
      assert.truthy(#limit.doc > 0)
    end
    assert.equal(5242880, limits.message_bytes_max)
    assert.truthy(core.version:match "^%d+%.%d+%.%d+")
  end)

  it("makes random hex", function()
    assert.truthy(core.random_hex(16):match(("%x"):rep(32)))
    assert.not_equal(core.random_hex(16), core.random_hex(16))
    assert.has_error(function() core.random_hex(0) end)
    assert.has_error(function() core.random_hex(1025) end)
  end)
end)
