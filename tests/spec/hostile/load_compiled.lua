-- class: bytecode
-- refused: _compiled.lua
-- Requires a file of bytecode.

local compiled = require "_compiled"

return { select = compiled }
