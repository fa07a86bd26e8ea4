-- class: memory
-- refused: memory
-- Takes the memory before there is a policy at all.

local list = { "x" }
while true do table.move(list, 1, #list, #list + 1) end
