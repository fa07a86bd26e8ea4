-- fair_share: nobody takes it all. Plans that share a value of a metadata key (a team, a user, a product) together
-- run at most so many stages at once; the rest of them wait while others go on. The key that is held is "fair:VALUE".
--
-- Knobs, metadata of the plan: `fair_by` names the key (default "team"); `fair_limit` (default 4; at least 1) is how
-- many. Plans without the key share one place, "fair:-"; those whose value cannot be a key (longer than 200 bytes)
-- "fair:(no name)". A plan that says another limit than its fellows is held to its own.
--
--     turboci serve --policy fair_share
--     turboci.plan { name = "build", metadata = { team = "web", fair_limit = "10" } }

local KEY, LIMIT, LIMIT_MAX = "team", 4, 1000000

-- A key has its bounds: at most 256 bytes, no control characters. Half of a value would be another one's.
local function fits(value)
  if #value > 200 then return false end
  for i = 1, #value do
    local byte = value:byte(i)
    if byte < 32 or byte == 127 then return false end
  end
  return true
end

return {
  description = "at most so many stages at once for each team",

  admit = function(ctx)
    local metadata = ctx.plan.metadata
    local value = metadata[metadata.fair_by or KEY] or "-"
    if not fits(value) then value = "(no name)" end
    local limit = tonumber(metadata.fair_limit or LIMIT) or LIMIT
    limit = math.max(1, math.min(limit, LIMIT_MAX)) // 1 | 0
    return { key = "fair:" .. value, limit = limit }, ("at most %d at once share fair:%s"):format(limit, value)
  end,
}
