-- graph: finds a cycle among the nodes of a plan. An edge a -> b means that a waits for b; a check also waits for
-- the stages that finalize it.

local M = {}

local function label(node)
  return ("%s '%s'"):format(node.type, node.id)
end

-- The nodes from the first `node` on the stack to its top, and `node` again.
local function path_of(stack, node)
  local from = 1
  while stack[from].node ~= node do from = from + 1 end
  local names = {}
  for i = from, #stack do names[#names + 1] = label(stack[i].node) end
  names[#names + 1] = label(node)
  return table.concat(names, " -> ")
end

---@param nodes turboci.workflow.Node[]
---@param edges_of fun(node: turboci.workflow.Node): turboci.workflow.Node[]
---@return string? path "stage 'a' -> check 'b' -> stage 'a'"
---@return turboci.workflow.Node? first
function M.cycle(nodes, edges_of)
  local done, on_stack = {}, {}
  for _, root in ipairs(nodes) do
    local stack = {}
    local function push(node)
      on_stack[node] = true
      stack[#stack + 1] = { node = node, edges = edges_of(node), next = 1 }
    end
    if not done[root] then push(root) end
    -- Iterative: a chain of a hundred thousand stages must not overflow the C stack.
    while #stack > 0 do
      local top = stack[#stack]
      local target = top.edges[top.next]
      top.next = top.next + 1
      if not target then
        done[top.node], on_stack[top.node] = true, nil
        stack[#stack] = nil
      elseif on_stack[target] then
        return path_of(stack, target), target
      elseif not done[target] then
        push(target)
      end
    end
  end
  return nil
end

return M
