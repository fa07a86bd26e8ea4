-- class: loops
-- refused: policy_instructions_max
-- An endless loop before there is a policy at all.

while true do end
