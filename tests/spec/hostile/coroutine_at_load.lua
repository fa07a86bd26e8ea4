-- class: coroutines
-- refused: coroutine
-- A coroutine before there is a policy at all.

local co = coroutine.wrap(function() end)

return { select = function() return co() end }
