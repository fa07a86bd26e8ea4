-- The client: every method of the orchestrator as a function, over gRPC or any other transport.
--
-- A transport is { call = function(self, method, request, timeout) -> response | nil, err,
-- watch = function(self, request) -> stream }; turboci.testing brings one for the virtual world.
-- Calls wait: the task in a task, the whole program elsewhere (turboci.loop).

local loop = require "turboci.loop"
local submit = require "turboci.submit"
local util = require "turboci.util"

local M = {}

local PAGE_SIZE = 1000 -- nodes or executions at a time

---------------------------------------------------------------------------------------------------
-- Errors

---@class turboci.Error what went wrong with a call
---@field code string name of a gRPC status, "NOT_FOUND"
---@field message string
local Error = {}
Error.__index = Error
Error.__tostring = function(self) return self.code .. ": " .. self.message end

---@param code string|integer
---@param message string
---@return turboci.Error
function M.error(code, message)
  if type(code) == "number" then code = require("turboci.core").codes[code] or ("STATUS_" .. code) end
  return setmetatable({ code = code, message = message }, Error)
end

---@param value any
---@return boolean
function M.is_error(value)
  return getmetatable(value) == Error
end

---------------------------------------------------------------------------------------------------
-- The stream of a watch

---@class turboci.client.Stream
local Stream = {}
Stream.__index = Stream

---Waits for the next event. nil: the stream has ended; nil and an error: it broke.
---@return table? event
---@return turboci.Error? err
function Stream:next()
  local event = self.queue:pop()
  if self.dropped then return nil end
  if event then return event end
  return nil, self.err
end

---Ends the stream and drops what was not read; a next() that waits returns nil.
function Stream:close()
  self.dropped = true
  if self.closed then return end
  self.closed = true
  self.queue:close()
  self.cancel()
end

---For those who write a transport: a stream, the function that feeds it (event) and the one that ends it (err or nil).
---@param cancel fun() called once, when the reader closes the stream
---@return turboci.client.Stream stream
---@return fun(event: table) feed
---@return fun(err: turboci.Error?) finish
function M.new_stream(cancel)
  local stream = setmetatable({ queue = loop.queue(), closed = false, cancel = cancel }, Stream)
  local function feed(event)
    if not stream.closed then stream.queue:push(event) end
  end
  local function finish(err)
    if stream.closed then return end
    stream.closed, stream.err = true, err
    stream.queue:close()
  end
  return stream, feed, finish
end

---------------------------------------------------------------------------------------------------
-- gRPC

local Grpc = {}
Grpc.__index = Grpc

function Grpc:call(name, request, timeout)
  local core = require "turboci.core"
  local method = core.methods[name]
  local bytes, err = core.encode(method.request, request)
  if not bytes then return nil, M.error("INVALID_ARGUMENT", err) end
  local done = loop.await(function(resume)
    loop.on_done(core.call(self.target, method.path, bytes, timeout), nil, resume)
  end)
  if done.code ~= 0 then return nil, M.error(done.code, done.message) end
  local response
  response, err = core.decode(method.response, done.bytes)
  if not response then return nil, M.error("INTERNAL", "unreadable response: " .. err) end
  return response
end

function Grpc:watch(request)
  local core = require "turboci.core"
  local method = core.methods.WatchWorkPlan
  local handle
  local stream, feed, finish = M.new_stream(function()
    if handle then core.cancel(handle) end
  end)
  local bytes, err = core.encode(method.request, request)
  if not bytes then
    finish(M.error("INVALID_ARGUMENT", err))
    return stream
  end
  handle = core.call(self.target, method.path, bytes)
  loop.on_done(handle, function(message)
    local event, problem = core.decode(method.response, message.bytes)
    if event then return feed(event) end
    finish(M.error("INTERNAL", "unreadable event: " .. problem))
    core.cancel(handle)
  end, function(done)
    finish(done.code ~= 0 and M.error(done.code, done.message) or nil)
  end)
  return stream
end

---------------------------------------------------------------------------------------------------
-- The client

---@class turboci.client.Client one function per method of the service, in snake_case: client:query_nodes{...}
---@field transport table
local Client = {}

local function method_of(name)
  local snake = name:gsub("%f[%u]%u", function(letter) return "_" .. letter:lower() end)
  return snake:gsub("^_", "")
end

-- snake_case -> method name, for the orchestrator's unary methods.
local methods
local function method_names()
  if methods then return methods end
  methods = {}
  for name, method in pairs(require("turboci.core").methods) do
    if name == method.name and method.service == "TurboCIOrchestrator" and not method.stream then
      methods[method_of(name)] = name
    end
  end
  return methods
end

Client.__index = function(_, key)
  if Client[key] then return Client[key] end
  local name = type(key) == "string" and method_names()[key]
  if not name then return nil end
  local function call(self, request, options) return Client.call(self, name, request, options) end
  Client[key] = call
  return call
end

---@param method string "WriteNodes"
---@param request table
---@param options {timeout: number?}? seconds; default: none
---@return table? response
---@return turboci.Error? err
function Client:call(method, request, options)
  util.check_options(options, { timeout = "number" }, method)
  local known = require("turboci.core").methods[method]
  if not known or known.name ~= method or known.stream then
    local names = {}
    for _, name in pairs(method_names()) do
      names[#names + 1] = name
    end
    error(("no method '%s'%s"):format(tostring(method), util.suggestion(tostring(method), names)), 2)
  end
  return self.transport:call(method, request or {}, options and options.timeout)
end

---Reads a list to its end, a page at a time: QueryNodes, ListStageExecutions. However large it is, it comes; a node
---that is too large for a page comes without what its omitted_fields names.
---@param method string
---@param request table
---@param options {timeout: number?}? of each call
---@return table? response as one would be that holds everything
---@return turboci.Error? err
function Client:pages(method, request, options)
  local whole
  local next_request = { page_size = PAGE_SIZE }
  for key, value in pairs(request) do next_request[key] = value end
  repeat
    local page, err = self:call(method, next_request, options)
    if not page then return nil, err end
    next_request.page_token, page.next_page_token = page.next_page_token, nil
    for name, list in pairs(whole and page or {}) do
      table.move(list, 1, #list, #whole[name] + 1, whole[name])
    end
    whole = whole or page
  until (next_request.page_token or "") == ""
  return whole
end

---Follows a plan. Errors come from stream:next().
---@param request table WatchWorkPlanRequest
---@return turboci.client.Stream
function Client:watch(request)
  return self.transport:watch(request)
end

---Creates the plan on the server, in as few writes as fit. See turboci.submit for the options.
---@param plan turboci.workflow.Plan
---@param options turboci.submit.Options?
---@return table? work_plan
---@return turboci.Error? err
function Client:submit(plan, options)
  return submit.submit(self, plan, options)
end

---A client over any transport.
---@param transport table
---@return turboci.client.Client
function M.new(transport)
  return setmetatable({ transport = transport }, Client)
end

---A client over gRPC. Connecting happens with the first call.
---@param target string "127.0.0.1:50051", "unix:/path"
---@return turboci.client.Client
function M.connect(target)
  local client = M.new(setmetatable({ target = target }, Grpc))
  rawset(client, "target", target)
  return client
end

return M
