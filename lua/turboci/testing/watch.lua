-- watch: follows a plan by WatchWorkPlan and keeps every event, for specs to look at afterwards.

---@class turboci.testing.Recorder
---@field events table[] WorkPlanEvents, in the order of their arrival
---@field settled boolean the last event was the completed event
---@field err any why the stream broke
local Recorder = {}
Recorder.__index = Recorder

---@param world turboci.testing.World
---@param stream table
---@return turboci.testing.Recorder
local function new(world, stream)
  local self = setmetatable({ world = world, stream = stream, events = {}, settled = false }, Recorder)
  world:spawn(function()
    while true do
      local event, err = stream:next()
      if not event then
        self.ended, self.err = true, err
        return world:wake()
      end
      self.events[#self.events + 1] = event
      self.settled = event.completed_event ~= nil
      world:wake()
    end
  end)
  return self
end

-- The node's part of an event, when the event is about this node.
local function of_node(event, kind, id)
  local part = kind == "stage" and event.stage_event or kind == "check" and event.check_event
  if part and (part.stage_id or part.check_id) == id then return part end
end

---The states a node went through, the first included: { "PLANNED", "ATTEMPTING", "FINAL" }.
---@param kind "stage"|"check"
---@param id string
---@return string[]
function Recorder:transitions(kind, id)
  local states = {}
  for _, event in ipairs(self.events) do
    local part = of_node(event, kind, id)
    if part and part.old_state ~= part.new_state then states[#states + 1] = part.new_state end
  end
  return states
end

---The states an attempt of a stage was seen in: { "PENDING", "SCHEDULED", "RUNNING", "COMPLETE" }.
---@param id string
---@param idx integer? default 1
---@return string[]
function Recorder:attempt_states(id, idx)
  local states = {}
  for _, event in ipairs(self.events) do
    local part = of_node(event, "stage", id)
    local attempt = part and part.stage and part.stage.attempts[idx or 1]
    if attempt and attempt.state ~= states[#states] then states[#states + 1] = attempt.state end
  end
  return states
end

---The messages of the progress that an attempt of a stage was seen to make.
---@param id string
---@param idx integer? default 1
---@return string[]
function Recorder:progress(id, idx)
  local messages = {}
  for _, event in ipairs(self.events) do
    local part = of_node(event, "stage", id)
    local attempt = part and part.stage and part.stage.attempts[idx or 1]
    -- Each event shows all there was until then.
    for i = #messages + 1, attempt and #attempt.progress or 0 do messages[i] = attempt.progress[i].message end
  end
  return messages
end

---The sequence number of the event in which a node reached a state; nil: it never did.
---@param kind "stage"|"check"
---@param id string
---@param state string
---@return integer?
function Recorder:sequence_of(kind, id, state)
  for _, event in ipairs(self.events) do
    local part = of_node(event, kind, id)
    if part and part.new_state == state and part.old_state ~= state then return event.sequence end
  end
end

---How often the plan was complete.
---@return integer
function Recorder:completions()
  local n = 0
  for _, event in ipairs(self.events) do
    if event.completed_event then n = n + 1 end
  end
  return n
end

function Recorder:close()
  self.stream:close()
end

return { new = new }
