-- world: grpc
-- A disk that changes what it was given: the damaged plan is refused, by name, and the others are served.

local process = require "process"

local folder, server

before_each(function() folder = process.new_folder() end)
after_each(function() process.clean(folder) end)

local function must(response, err)
  return response or error(tostring(err), 2)
end

-- A plan with a check that carries `mark`, a text of its own.
local function new_plan(mark, state)
  local id = must(server.client:create_work_plan {}).work_plan.id
  must(server.client:write_nodes {
    work_plan_id = id, checks = { { id = "c", state = state, options = { mark = mark } } },
  })
  return id
end

-- Turns one bit of the first place in the database where `mark` stands.
local function flip_bit(mark)
  local path = folder .. "/turboci.db"
  local file = assert(io.open(path, "r+b"))
  local bytes = file:read "a"
  local at = assert(bytes:find(mark, 1, true), "the mark is not in the file")
  file:seek("set", at - 1)
  file:write(string.char(bytes:byte(at) ~ 1))
  file:close()
end

local function read(plan)
  local response, err = server.client:get_work_plan { id = plan }
  return response and "OK" or err.code, err and err.message
end

describe("a damaged record", function()
  it("of a settled plan costs nobody but its readers", function()
    server = process.serve { folder = folder }
    local old, live = new_plan("MARK-OF-THE-OLD-ONE", "FINAL"), new_plan("live", "PLANNED")
    server:kill "sigterm"
    flip_bit "MARK-OF-THE-OLD-ONE"
    server = server:again()
    for _ = 1, 3 do
      local code, message = read(old)
      assert.equal("DATA_LOSS", code)
      assert.matches("checksum", message, 1, true)
      assert.equal("OK", (read(live)))
    end
    assert.equal(3, must(server.client:get_server_info {}).counters.damaged_plan_reads)
    assert.is_nil(server.exit)
  end)

  it("of an open plan refuses the start, naming plan and remedy, until the plan is set aside", function()
    server = process.serve { folder = folder }
    local lost, live = new_plan("MARK-OF-THE-LOST-ONE", "PLANNED"), new_plan("live", "PLANNED")
    server:kill "sigterm"
    flip_bit "MARK-OF-THE-LOST-ONE"
    local refused = process.start { "serve", "--listen", "127.0.0.1:0", "--db", folder .. "/turboci.db" }
    assert.equal(2, refused:ended().code)
    assert.matches(("turboci serve --quarantine '%s'"):format(lost), refused.err, 1, true)

    server.given.args = { "--quarantine", lost }
    server = server:again()
    assert.matches("plan_set_aside plan=\"" .. lost, server.err, 1, true)
    local code, message = read(lost)
    assert.equal("DATA_LOSS", code)
    assert.matches("was set aside", message, 1, true)
    assert.equal("OK", (read(live)))
    server:kill "sigkill"

    server.given.args = {}
    server = server:again() -- what was set aside once stays so
    assert.equal("DATA_LOSS", (read(lost)))
    assert.equal("OK", (read(live)))
    assert.equal(1, must(server.client:get_server_info {}).counters.quarantined_plans)
  end)

  it("cannot be used to set a sound plan aside", function()
    server = process.serve { folder = folder }
    local live = new_plan("live", "PLANNED")
    server:kill "sigterm"
    local refused = process.start {
      "serve", "--listen", "127.0.0.1:0", "--db", folder .. "/turboci.db", "--quarantine", live,
    }
    assert.equal(2, refused:ended().code)
    assert.matches("there is no damaged plan of that name", refused.err, 1, true)
    server = server:again()
    assert.equal("OK", (read(live)))
  end)
end)
