-- class: chains
-- refused: policy_table_keys_max
-- A long chain before there is a policy at all.

local list = {}
for i = 1, 32769 do list[i * 65535] = true end

return { select = function(ctx) return ctx.runners[1] end }
