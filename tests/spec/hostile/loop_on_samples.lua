-- class: loops
-- refused: policy_instructions_max
-- An endless loop in every call, so in the trial on sample views too.

return {
  retry = function()
    while true do end
  end,
}
