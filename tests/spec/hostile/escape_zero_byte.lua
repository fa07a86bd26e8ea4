-- class: escapes
-- refused: zero bytes
-- Requires a name with a zero byte in it: texts of policies have none.

local secret = require "default\0/../../secret"

return { select = secret.select }
