-- class: errors
-- refused: error_at_load.lua
-- Raises a table before there is a policy at all.

error { "no" }
