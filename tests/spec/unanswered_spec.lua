-- world: grpc
-- A runner whose gRPC keeps no deadline: it takes RunAsync and never answers it, but calls back. Only the engine can
-- end that call. The peer here speaks just as much HTTP/2 as that takes.

local core = require "turboci.core"
local loop = require "turboci.loop"
local process = require "process"
local uv = require "luv"

local SETTINGS, SETTINGS_ACK = "\0\0\0\4\0\0\0\0\0", "\0\0\0\4\1\0\0\0\0"
local DATA, RST_STREAM, SETTINGS_TYPE = 0, 3, 4
local PREFACE_BYTES, FRAME_HEAD_BYTES, MESSAGE_HEAD_BYTES = 24, 9, 5

local folder, server, peer

local function must(response, err)
  return response or error(tostring(err), 2)
end

-- `request`: the message of the call that came; `reset`: the caller has given it up.
local function listen()
  local self = { tcp = uv.new_tcp(), clients = {} }
  assert(self.tcp:bind("127.0.0.1", 0))
  self.address = "127.0.0.1:" .. self.tcp:getsockname().port
  self.tcp:listen(8, function()
    local client, bytes, greeted, message = uv.new_tcp(), "", false, ""
    self.tcp:accept(client)
    self.clients[#self.clients + 1] = client
    client:write(SETTINGS)
    client:read_start(function(_, more)
      bytes = bytes .. (more or "")
      if not greeted and #bytes >= PREFACE_BYTES then greeted, bytes = true, bytes:sub(PREFACE_BYTES + 1) end
      while greeted and #bytes >= FRAME_HEAD_BYTES do
        local length = string.unpack(">I3", bytes)
        if #bytes < FRAME_HEAD_BYTES + length then break end
        local kind, flags = bytes:byte(4, 5)
        local payload = bytes:sub(FRAME_HEAD_BYTES + 1, FRAME_HEAD_BYTES + length)
        bytes = bytes:sub(FRAME_HEAD_BYTES + length + 1)
        if kind == SETTINGS_TYPE and flags & 1 == 0 then client:write(SETTINGS_ACK) end
        if kind == RST_STREAM then self.reset = true end
        if kind == DATA then message = message .. payload end
        if kind == DATA and #message >= MESSAGE_HEAD_BYTES + string.unpack(">I4", message, 2) then
          self.request = core.decode("RunAsyncRequest", message:sub(MESSAGE_HEAD_BYTES + 1))
        end
        process.wake()
      end
    end)
  end)
  return self
end

before_each(function()
  folder = process.new_folder()
  server = process.serve { folder = folder, args = { "--limit", "accept_timeout_ms=3000" } }
  peer = listen()
end)

after_each(function()
  for _, client in ipairs(peer.clients) do loop.close(client) end
  loop.close(peer.tcp)
  process.clean(folder)
end)

describe("a RunAsync that is never answered", function()
  it("is given up after accept_timeout, though its stage has ended well", function()
    must(server.client:register_stage_runner { runner_id = "mute", runner_type = "test", address = peer.address,
      supported_modes = { "ASYNC" }, ttl_seconds = 3600 })
    local plan = must(server.client:create_work_plan {}).work_plan.id
    must(server.client:write_nodes { work_plan_id = plan,
      stages = { { id = "s", runner_type = "test", execution_mode = "ASYNC", retry = { max_attempts = 1 } } } })
    process.wait(function() return peer.request end, "RunAsync")
    must(server.client:complete_stage_execution { execution_id = peer.request.execution_id, stage_state = "FINAL" })
    assert.is_nil(peer.reset)
    local bound = uv.hrtime() + 60 * 1000000000
    repeat -- the engine has something to do now and then
      must(server.client:get_server_info {})
    until peer.reset or uv.hrtime() > bound
    assert.is_true(peer.reset)
    assert.equal("SUCCEEDED",
      must(server.client:query_nodes { work_plan_id = plan, include_stages = true }).stages[1].outcome)
    assert.same({ code = 0, signal = 0 }, server:kill "sigterm")
  end)
end)
